"""Safetensors files: arrays by name with a format mark, written whole or not at all; no pickle is ever read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgcore.errors import FileError

__all__ = ["read", "replace", "write"]

Array = NDArray[Any]


def write(
    path: str | Path, kind: str, arrays: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write arrays and metadata to a safetensors file marked as `kind`.

    Raises:
        FileError: the folder or the file cannot be written; what was there before stays.
    """
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    replace(path, save(contiguous, {"format": kind, **metadata}))


def read(path: str | Path, kind: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and metadata of a file that `write` wrote with this `kind`.

    Raises:
        FileError: the file cannot be read, or is of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileError(f"{path}: expected a {kind} file, got nothing of that name; check the path")
    try:
        opened: Any = safe_open(path, framework="numpy")
        with opened as handle:
            metadata: dict[str, str] = dict(handle.metadata() or {})
            names: list[str] = list(handle.keys())
            arrays: dict[str, Array] = {name: handle.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"{path}: expected a {kind} file, got one that is not safetensors ({error}); write it again"
        ) from error
    except (
        TypeError,
        AttributeError,
    ) as error:  # what safetensors raises on dtypes that NumPy does not have
        raise FileError(
            f"{path}: expected a {kind} file, got one with numbers that NumPy does not have ({error}); write it again"
        ) from error
    if metadata.get("format") != kind:
        raise FileError(
            f"{path}: expected a {kind} file, got format {metadata.get('format')!r}; pass the file that was saved as {kind}"
        )
    return arrays, metadata


def replace(path: str | Path, content: bytes) -> None:
    """Write the content beside the file first and then put it in the file's place.

    Raises:
        FileError: the folder or the file cannot be written; what was there before stays.
    """
    target = Path(path)
    beside = target.parent / f".{target.name}.{os.getpid()}"
    try:
        beside.write_bytes(content)
        beside.replace(target)
    except (OSError, ValueError) as error:  # ValueError for a path that no file can have
        with contextlib.suppress(OSError, ValueError):
            beside.unlink()
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"{path}: expected a place to write to, got {reason}; choose a folder you can write to"
        ) from error
