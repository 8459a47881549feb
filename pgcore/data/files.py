"""Safetensors files: arrays by name with a format mark, written whole or not at all, unpickled."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from pgcore.errors import FileError
from pgcore.validation.arrays import Array
from pgcore.wording import abbreviated, shown

__all__ = ["checked_path", "read", "read_texts", "replace", "replacing", "sync_folder", "write"]

CHECKSUM = "xxh3_64"  # the name of a checksum among a file's texts


def checked_path(where: str, path: object) -> Path:
    """Return a path, or raise FileError unless the system can have a file of that name.

    Args:
        where: The argument's or the setting's name.
        path: A string or a `pathlib.Path`.
    """
    rule = f"{where}: expected a path that a file can have, got"
    try:
        checked = Path(cast("Any", path))
        # The system's own limits, such as 255 characters of a name; whether it exists is no matter.
        checked.lstat()
    except TypeError as error:
        raise FileError(f"{rule} {shown(path)}; pass a string or a pathlib.Path") from error
    except ValueError as error:
        raise FileError(f"{rule} {shown(path)} ({error}); leave that character out") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileError(
                f"{rule} one of {len(str(path)):,} characters, {abbreviated(str(path))} "
                f"({error.strerror}); choose a shorter one"
            ) from error
        return Path(cast("Any", path))
    return checked


def write(
    path: str | Path, kind: str, arrays: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write arrays and metadata to a safetensors file.

    Args:
        path: The file.
        kind: Its format mark.
        arrays: By name.
        metadata: Further strings by name.

    Raises:
        FileError: the folder or the file cannot be written; its old content stays.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import (
        save_file,  # pyright: ignore[reportUnknownVariableType] - of an unnamed path
    )

    # Safetensors stores an array's bytes in C order.
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    texts = {"format": kind, **metadata}
    texts |= {CHECKSUM: checksum(contiguous, texts)}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, texts)
        except SafetensorError as error:
            # The system's error is in its words alone.
            number = re.search(r"os error (\d+)", str(error))
            code = 0 if number is None else int(number[1])
            raise OSError(code, os.strerror(code) if code else str(error)) from error


def read(path: str | Path, kind: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and metadata of a file that `write` wrote with this `kind`.

    Raises:
        FileError: the file cannot be read, is of another kind, or is damaged.
    """
    arrays, metadata = load(path, kind, every_array)
    # Files of earlier versions have none.
    expected_sum = metadata.pop(CHECKSUM, None)
    if expected_sum not in (None, checksum(arrays, metadata)):
        raise FileError(
            f"{path}: expected a {kind} file as it was written, got a damaged one; use another copy"
        )
    return arrays, metadata


def read_texts(path: str | Path, kind: str) -> dict[str, str]:
    """Return the metadata alone of a file that `write` wrote; damage is not looked for.

    Raises:
        FileError: the file cannot be read or is of another kind.
    """
    return load(path, kind, lambda _: {})[1]


def every_array(handle: Any) -> dict[str, Array]:
    """Return all arrays of an open safetensors file."""
    names: list[str] = list(handle.keys())
    return {name: handle.get_tensor(name) for name in names}


def load(
    path: str | Path, kind: str, take: Callable[[Any], dict[str, Array]]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays that `take` reads from the open file, and its metadata; see `read`."""
    from safetensors import SafetensorError, safe_open

    path = checked_path("file", path)
    expected = f"{path}: expected a {kind} file"
    if not path.is_file():
        raise FileError(f"{expected}, got nothing of that name; check the path")
    try:
        opened: Any = safe_open(path, framework="numpy")
        with opened as handle:
            metadata: dict[str, str] = dict(handle.metadata() or {})
            arrays = take(handle)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        # The last two are for dtypes that NumPy does not have.
        foreign = isinstance(error, TypeError | AttributeError)
        reason = "with numbers that NumPy does not have" if foreign else "that is not safetensors"
        raise FileError(f"{expected}, got one {reason} ({error}); write it again") from error
    if (mark := metadata.get("format")) != kind:
        raise FileError(f"{expected}, got format {mark!r}; pass the file that was saved as {kind}")
    return arrays, metadata


def checksum(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> str:
    """Return a hash of names, arrays and texts, which finds damage and no forgery."""
    from xxhash import xxh3_64

    state = xxh3_64(repr(sorted(texts.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(cast("Any", array.reshape(-1).view(np.uint8)))
    return state.hexdigest()


def replace(path: str | Path, content: bytes) -> None:
    """Write the content to a file; see `replacing`.

    Raises:
        FileError: the folder or the file cannot be written; its old content stays.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """Give a temporary path, to write to; then put it on the disk itself and move it to `path`.

    The file has the permissions of one that `open` makes, whatever its writer gave it.

    Raises:
        FileError: the folder or the file cannot be written; its old content stays.
    """
    target = checked_path("file", path)
    # The process's number in the name keeps two writers apart. A folder, since writers of a format may
    # have temporary files of their own.
    folder = target.parent / f".{target.name}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        temporary = folder / target.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        # Else a machine that fails may keep the new name and lose the content.
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except (OSError, ValueError) as error:  # ValueError for a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"{path}: expected a place to write to, got {reason}; choose a folder you can write to"
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: str | Path) -> None:
    """Put the names in a folder on the disk itself, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
