"""Signals that end a run without leaving an update half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

__all__ = ["Interrupt", "Stopped"]

# Ctrl-C; what Slurm, Docker and Kubernetes send; and the end of a terminal, which Windows lacks.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stopped(KeyboardInterrupt):
    """The end of a run by a signal.

    Attributes:
        signal: Which.
    """

    def __init__(self, number: int) -> None:
        """Keep the signal."""
        super().__init__()
        self.signal = signal.Signals(number)


class Interrupt:
    """A context in which SIGINT, SIGTERM and SIGHUP raise `Stopped` at once, or at the end of `deferred`.

    A second one in the same deferred block raises at once. SIGTERM and SIGHUP stay ignored where they
    are, as under `nohup`. Off the main thread, where no signal arrives, it does nothing.
    """

    def __init__(self) -> None:
        """Install nothing yet."""
        self._deferring = False
        self._pending: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handler."""
        # `signal.signal` raises on any other thread.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                ignored = signal.getsignal(number) == signal.SIG_IGN
                if number == signal.SIGINT or not ignored:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold a signal back until the end of the block; the block's own error goes first."""
        self._deferring, self._pending = True, None
        try:
            yield
        finally:
            self._deferring = False
        if self._pending is not None:
            raise Stopped(self._pending)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # The second one is for a block that hangs.
        if self._deferring and self._pending is None:
            self._pending = number
            return
        raise Stopped(number)
