"""Time of a process that imports pgcore, computes a first gradient, or lists the registry.

Each figure is the median of several fresh processes, beside an empty Python process and one that
imports NumPy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

# Processes of each kind, some seconds in all.
ROUNDS = 15

FIRST_GRADIENT = """
import numpy as np
import pgcore as pg
policy = pg.policy(pg.PolicySpec(network=pg.MLP(4, (64, 64), "tanh"), head=pg.Categorical(2)))
batch = pg.Batch(
    observations=np.ones((64, 4)),
    actions=[0] * 64,
    rewards=[1.0] * 64,
    episode_lengths=[64],
    terminated=[True],
)
assert pg.gradient(policy, pg.estimator("reinforce"), batch).norm() > 0
"""
PGCORE = str(Path(sys.executable).with_name("pgcore"))
# The first two are the floor that no import of pgcore can go below.
COMMANDS = {
    "an empty process": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import pgcore": [sys.executable, "-c", "import pgcore"],
    "first gradient": [sys.executable, "-c", FIRST_GRADIENT],
    "pgcore list": [PGCORE, "list"],
    "pgcore list --json": [PGCORE, "list", "--json"],
}


def wall_seconds(command: list[str], environment: Mapping[str, str]) -> float:
    """Return the wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    """Take turns over the commands and print the medians."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        # Modules are compiled once, as they are where pgcore is installed.
        caching = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for turn in track(range(ROUNDS + 1), description="starting"):
            for name, command in COMMANDS.items():
                seconds = wall_seconds(command, os.environ | caching)
                if turn:  # the first writes the cache
                    times[name].append(seconds)
    table = Table("process", "median, s", title=f"Wall time of a whole process, {ROUNDS} each")
    for name, values in times.items():
        table.add_row(name, f"{statistics.median(values):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
