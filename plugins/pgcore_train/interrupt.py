"""Ctrl-C that never leaves an update half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupt"]


class Interrupt:
    """A context in which SIGINT raises KeyboardInterrupt at once, or at the end of `deferred`.

    A second SIGINT in the same deferred block raises at once. Off the main thread, where no signal
    arrives, it does nothing.
    """

    def __init__(self) -> None:
        """Install nothing yet."""
        self._deferring = False
        self._pending = False
        self._previous: Any = None
        self._installed = False

    def __enter__(self) -> Self:
        """Install the handler."""
        # `signal.signal` raises on any other thread.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handler."""
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)
            self._installed = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold an interrupt back until the end of the block; the block's own error goes first."""
        self._deferring, self._pending = True, False
        try:
            yield
        finally:
            self._deferring = False
        if self._pending:
            raise KeyboardInterrupt

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        # The second one is for a block that hangs.
        if self._deferring and not self._pending:
            self._pending = True
            return
        raise KeyboardInterrupt
