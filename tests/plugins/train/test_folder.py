import json

import pytest

from pgcore.errors import FileError
from pgcore_train.run.folder import RunFolder


def test_metrics_are_in_the_file_line_by_line(tmp_path):
    with RunFolder(tmp_path / "a" / "b").open("[run]\n", updates=None) as folder:
        folder.write_metrics({"update": 1, "loss": 0.5})
        assert folder.metrics.read_text() == '{"update": 1, "loss": 0.5}\n'
        folder.write_metrics({"update": 2, "loss": float("nan"), "kl": float("inf")})
        assert json.loads(folder.metrics.read_text().splitlines()[1]) == {
            "update": 2,
            "loss": None,
            "kl": None,
        }
    assert folder.config.read_text().endswith("[run]\n")


def test_a_new_run_replaces_an_earlier_ones_results_and_nothing_else(tmp_path):
    with RunFolder(tmp_path).open("", updates=None) as folder:
        folder.write_metrics({"update": 1})
    folder.picture.write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path).open("", updates=None):
        assert folder.metrics.read_text() == ""
        assert not folder.picture.exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    with RunFolder(tmp_path).open("", updates=None) as folder:
        folder.write_metrics({"update": 1})
    folder.picture.write_bytes(b"old")
    with RunFolder(tmp_path).open("", updates=1) as folder:
        folder.write_metrics({"update": 2})
    assert folder.metrics.read_text() == '{"update": 1}\n{"update": 2}\n'
    assert folder.picture.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.toml", "checkpoint.safetensors"])
def test_another_programs_files_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(FileError, match=f"got another program's {name}; choose another"):
        RunFolder(tmp_path).open("", updates=None)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "theirs"


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FileError, match=r"expected a folder to write to, got .*; choose one you can write to"
    ):
        RunFolder(tmp_path / below).open("", updates=None)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(FileError, match="got Permission denied; choose a folder you can write to"):
        RunFolder(tmp_path).open("", updates=None)
