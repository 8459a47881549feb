"""Files that a command is to write, tried before it does its work."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

import typer

__all__ = ["refuse_no_place"]


def refuse_no_place(page: Path, option: str) -> None:
    """Raise where no file can be written, before anything is run; the option is named in the message."""
    folder = page.absolute().parent
    try:
        if not folder.is_dir():
            raise typer.BadParameter(
                f"{option}: expected a file in a folder that exists, got {page}; make the folder first"
            )
        if page.is_dir():
            raise typer.BadParameter(
                f"{option}: expected a file, got the folder {page}; add a file name"
            )
        with TemporaryFile(
            dir=folder
        ):  # Permissions do not tell of a file system that is read-only.
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{option}: expected a place to write to, got {error.strerror} for {page}; choose another"
        ) from error
