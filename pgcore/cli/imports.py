"""Imports of plugins and of their targets, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pgcore.cli.progress import progress
from pgcore.registry.entry_points import Plugin, noun_of

__all__ = ["Fault", "Imported", "import_plugins"]

# Seconds for one process, our choice: several times the slowest framework's import.
PATIENCE = 120.0


class Fault(NamedTuple):
    """Something wrong with a plugin or with one of its targets."""

    kind: str  # one of `KINDS`, or "plugins"
    name: str  # the provider's or the entry point's
    distribution: str
    reason: str  # the rule, the finding and the next thing to do

    def __str__(self) -> str:
        """Return the line for a terminal."""
        kind = noun_of(self.kind)
        return f"{kind} {self.name!r} of {self.distribution}: {self.reason}"


class Imported(NamedTuple):
    """A plugin's import in a new process."""

    seconds: float | None = None  # for the plugin's module, without its targets
    faults: tuple[Fault, ...] = ()


def import_plugins(plugins: Sequence[Plugin]) -> list[Imported]:
    """Import each plugin and all its usable targets, two plugins at a time."""
    imported: list[Imported] = []
    with progress("importing", len(plugins)) as advance, ThreadPoolExecutor(2) as pool:
        for plugin, result in zip(plugins, pool.map(import_plugin, plugins), strict=True):
            imported.append(result)
            advance(plugin.entry_point)
    return imported


def import_plugin(plugin: Plugin) -> Imported:
    """Import a plugin and its targets; after one that ends the process, in another process."""
    name, distribution = plugin.entry_point, plugin.distribution
    seconds, faults, done, total = None, list[Fault](), 0, 1
    while done < total:
        (head, *results), ending = _run(name, distribution, done)
        if head is None:
            reason = f"expected a module to import, got {ending}; correct the plugin"
            return Imported(seconds, (*faults, Fault("plugins", name, distribution, reason)))
        # The first process's time: a later one reads files that are in memory.
        seconds = seconds or head["seconds"]
        targets, total = head["targets"], len(head["targets"])
        rows: list[Any] = [*zip(targets[done:], results, strict=False)]
        if done == 0:
            rows.insert(0, (("plugins", name), head["faults"]))
        done += len(results)
        if done < total:
            # The process ended in the midst of this target; the next process begins after it.
            reason = f"expected an importable target, got {ending}; correct it"
            rows.append((targets[done], [reason]))
            done += 1
        for (kind, target), reasons in rows:
            faults += [Fault(kind, target, distribution, reason) for reason in reasons]
    return Imported(seconds, tuple(faults))


def _run(entry_point: str, distribution: str, skipped: int) -> tuple[list[Any], str]:
    """Run `pgcore.targets`; return its lines, [None] for none, and how it ended."""
    module = "pgcore.targets"
    # Without -P a file of the working directory could stand in for a package.
    command = [sys.executable, "-P", "-m", module, entry_point, distribution, str(skipped)]
    # This process's path, which differs from a new one's in a notebook or a test.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Files, since a process started by a target could hold a pipe open for ever.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.run(  # noqa: S603 - the words are ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env=environment,
                timeout=PATIENCE,
                check=False,
            )
            ending = _ending(process.returncode)
        except subprocess.TimeoutExpired:
            ending = f"no end within {PATIENCE:g} s"
        out.seek(0)
        errors.seek(0)
        # The last line of a crash often has its cause.
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return [json.loads(line) for line in out] or [None], ending + (f" ({last})" if last else "")


def _ending(status: int) -> str:
    """Return how a process ended; Ctrl-C reached both, and is this process's too."""
    if status == -signal.SIGINT:
        raise KeyboardInterrupt
    return f"exit status {status}" if status >= 0 else f"{signal.strsignal(-status)}"
