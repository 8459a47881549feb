"""Files that a command is to write, tried before it does its work."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

import typer

__all__ = ["refuse_no_place"]


def refuse_no_place(page: Path, option: str) -> None:
    """Raise BadParameter unless a file can be written.

    Args:
        page: The file.
        option: The command's option, for errors.
    """
    folder = page.absolute().parent
    try:
        if page.is_dir():
            problem = f"a file, got the folder {page}; add a file name"
        elif not folder.is_dir():
            problem = f"a file in a folder that exists, got {page}; make the folder first"
        else:
            # Permissions do not tell of a file system that is read-only.
            with TemporaryFile(dir=folder):
                return
    except OSError as error:
        problem = f"a place to write to, got {error.strerror} for {page}; choose another"
    raise typer.BadParameter(f"{option}: expected {problem}")
