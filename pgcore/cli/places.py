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
    rule, got, advice = "a place to write to", "", "choose another"
    try:
        if not folder.is_dir():
            rule, got = "a file in a folder that exists", str(page)
            advice = "make the folder first"
        elif page.is_dir():
            rule, got, advice = "a file", f"the folder {page}", "add a file name"
        else:
            # Permissions do not tell of a file system that is read-only.
            with TemporaryFile(dir=folder):
                return
    except OSError as error:
        got = f"{error.strerror} for {page}"
    raise typer.BadParameter(f"{option}: expected {rule}, got {got}; {advice}")
