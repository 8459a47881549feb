"""Environments in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

from gymnasium.vector import AsyncVectorEnv

__all__ = ["START", "Quiet", "await_signal", "kill", "start_tracker"]

# How a process starts. Not by a fork: a framework's threads would not survive it, and the other
# processes would inherit the pipes whose end tells a process that its parent was killed.
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

# Seconds, our choice: the longest between one process's end by a signal and the parent's own signal.
SIGNAL_DELAY = 0.5


@dataclass(frozen=True, slots=True)
class Quiet:
    """A wrapper of environments that leaves Ctrl-C, and a terminal's end, to the process that steps them.

    Attributes:
        parent: That process's number.
    """

    parent: int

    def __call__(self, environment: Any) -> Any:
        """Return the environment itself, made in a process of its own or in the parent."""
        # A terminal sends these to all processes, and the parent finishes its update first.
        if os.getpid() != self.parent:
            for name in ("SIGINT", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
        return environment


def start_tracker() -> None:
    """Start Python's process that tracks shared memory so that a terminal's end does not reach it.

    It ignores the other signals. Where it ends before its parent, another one takes its
    place, which knows nothing of the memory that is given back.
    """
    if not hasattr(signal, "SIGHUP"):
        return
    # A process starts with the signals blocked that its parent has blocked.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def await_signal() -> None:
    """Let a signal that ended another process of the job arrive here, where it raises."""
    time.sleep(SIGNAL_DELAY)


def kill(vector: AsyncVectorEnv) -> None:
    """End the processes at once, whatever they do."""
    for process in vector.processes:
        process.kill()
    for process in vector.processes:
        process.join()
    for pipe in vector.parent_pipes:
        # That of a process that failed is gone.
        if pipe is not None:
            pipe.close()
    vector.closed = True
