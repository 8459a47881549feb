"""A bar on stderr while a command works through many parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["progress"]


@contextmanager
def progress(word: str, total: int, *, started: int = 0) -> Generator[Callable[[str], None]]:
    """Give a function that moves the bar on by one and shows a label, if stderr is a terminal.

    Args:
        word: The activity, such as "checking".
        total: Number of parts.
        started: Parts counted before the first call; -1 if a call begins a part, not ends it.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Imported here, since rich is slow to import and a terminal alone shows the bar.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    label = TextColumn("{task.fields[at]}")
    columns = (TextColumn(word), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), label)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(word, total=total, completed=started, at="")
        yield lambda at: bar.update(task, advance=1, at=at)
