"""Memory that a run needs at least, beside that which the machine has left."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgcore.errors import SpecError

__all__ = ["available_memory", "check_memory", "measured", "written"]

# The limit of a container and its present use, of both versions of Linux's control groups.
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> float:
    """Return the bytes that a process can still take; infinity where the system does not say."""
    free = [limit - used for limit, used in (map(number_in, pair) for pair in GROUPS)]
    for line in lines_of("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(1024 * float(line.split()[1]))
            break
    else:
        # Other systems tell what they have in all.
        names = getattr(os, "sysconf_names", {})
        if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
            free.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min((size for size in free if size > 0), default=float("inf"))


def lines_of(path: str) -> list[str]:
    """Return a file's lines; none of a file that cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def number_in(path: str) -> float:
    """Return the number in a file; infinity where there is none, as for no limit."""
    text = "".join(lines_of(path))
    return float(text) if text.isdigit() else float("inf")


def check_memory(where: str, value: int, size: float) -> None:
    """Raise SpecError unless a number of things fits into memory.

    Args:
        where: The setting's name.
        value: The number.
        size: Bytes that each of them takes at least.
    """
    free = available_memory()
    if value * size <= free:
        return
    raise SpecError(
        f"{where}: expected a number that fits into memory, got {value:,}, which needs at least "
        f"{written(value * size)} where {written(free)} are free; "
        f"lower it to {int(free // size):,} or less"
    )


def measured(make: Callable[[], Any]) -> int:
    """Return the bytes of an object of Python that a function makes, at least 1.

    Memory that a library of C takes is not seen.
    """
    # The first one imports its modules, which all others share.
    first = make()
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        second = make()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        if not tracing:
            tracemalloc.stop()
    for item in (first, second):
        item.close()
    return max(after - before, 1)


def written(size: float) -> str:
    """Return a number of bytes in a unit of which there are few, such as "1.5 GiB"."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:,.3g} {units[power]}" if size < 1000 else f"{size:,.0f} {units[power]}"
