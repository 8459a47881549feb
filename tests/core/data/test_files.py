import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pgcore.data import files
from pgcore.errors import FileError


def test_arrays_and_metadata_come_back(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3).T,
        "b": np.array([True, False]),
        "c": np.zeros((0, 2), np.int64),
    }
    files.write(tmp_path / "x", "kind", arrays, {"note": "größer"})
    read, metadata = files.read(str(tmp_path / "x"), "kind")
    assert metadata == {"format": "kind", "note": "größer"}
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    files.replace(tmp_path / "x", b"old" * 1000)
    files.replace(tmp_path / "x", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"new"}


@pytest.mark.skipif(os.name == "nt", reason="no permissions of a group")
@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_a_file_has_the_permissions_of_open(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write(tmp_path / "arrays", "kind", {"a": np.ones(2)}, {})
        files.replace(tmp_path / "bytes", b"new")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"arrays": 0o666 & ~umask, "bytes": 0o666 & ~umask}


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    (tmp_path / "x").write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(
        FileError,
        match=r"x: expected a place to write to, got No space left on device; choose a folder",
    ):
        files.replace(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/x", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("folder", "Is a directory"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, path, reason):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        FileError,
        match=f"expected a place to write to, got {reason}; choose a folder you can write to",
    ):
        files.write(tmp_path / path, "kind", {}, {})
    assert {found.name for found in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("path", ["", "/"])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(FileError, match="expected a place to write to, got "):
        files.write(path, "kind", {}, {})


@pytest.mark.parametrize("path", ["missing", "."])
def test_a_file_that_is_not_there_is_named(tmp_path, path):
    with pytest.raises(
        FileError, match="expected a kind file, got nothing of that name; check the path"
    ):
        files.read(tmp_path / path, "kind")


@pytest.mark.parametrize(
    ("path", "got"),
    [
        ("null\0byte", r"'null\\x00byte' \(embedded null byte\); leave that character out"),
        (
            "n" * 5000,
            r"one of 5,000 characters, n{77}\.\.\. \(File name too long\); choose a shorter",
        ),
        (b"bytes", "b'bytes'; pass a string"),
        (None, "None; pass a string"),
        (3, "3; pass a string"),
    ],
)
@pytest.mark.parametrize(
    "use", [lambda path: files.read(path, "kind"), lambda path: files.write(path, "kind", {}, {})]
)
def test_a_path_that_no_file_can_have_is_refused_in_one_line(path, got, use):
    with pytest.raises(FileError, match=f"file: expected a path that a file can have, got {got}"):
        use(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    files.write(tmp_path / "x", "pgcore.batch", {}, {})
    with pytest.raises(
        FileError,
        match=r"expected a pgcore\.policy file, got format 'pgcore\.batch'; pass the file",
    ):
        files.read(tmp_path / "x", "pgcore.policy")


def test_a_strangers_safetensors_file_is_refused(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "x")
    with pytest.raises(FileError, match="expected a kind file, got format None"):
        files.read(tmp_path / "x", "kind")


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"PK\x03\x04" * 9, b'{"a": 1}'])
def test_what_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FileError, match="expected a kind file, got one that is not safetensors"):
        files.read(tmp_path / "x", "kind")


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    np.save(tmp_path / "y.npy", np.array([Evil(tmp_path / "ran")], object), allow_pickle=True)
    for name in ("x", "y.npy"):
        with pytest.raises(FileError, match="not safetensors"):
            files.read(tmp_path / name, "kind")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [1, 8, 40, 100])
def test_a_file_that_was_cut_short_is_refused(tmp_path, cut):
    files.write(tmp_path / "x", "kind", {"a": np.arange(20.0)}, {})
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-cut])
    with pytest.raises(FileError, match="not safetensors"):
        files.read(tmp_path / "x", "kind")


def test_numbers_that_numpy_does_not_have_are_refused(tmp_path):
    header = b'{"__metadata__":{"format":"kind"},"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(
        FileError, match="expected a kind file, got one with numbers that NumPy does not have"
    ):
        files.read(tmp_path / "x", "kind")
