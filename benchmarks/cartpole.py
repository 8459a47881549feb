"""Processor time of `pgcore train CartPole-v1` to a mean return of 475, as in the README.

The figure is of whole processes, seeds 0 to 4: imports, environment, updates, evaluation, picture
and checkpoint.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

SEEDS = range(5)
PGCORE = str(Path(sys.executable).with_name("pgcore"))


def train(seed: int, folder: Path) -> tuple[float, dict[str, float]]:
    """Return processor seconds, user and system, of one run, and its last line of metrics."""
    arguments = [
        "train",
        "CartPole-v1",
        "--estimator",
        "ppo",
        "--backend",
        "numpy",
        "--seed",
        str(seed),
        "--stop-at",
        "475",
        "--out",
        str(folder),
    ]
    # Children's times are added when they end, so the difference is this run's.
    before = os.times()
    subprocess.run([PGCORE, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = (
        after.children_user - before.children_user + after.children_system - before.children_system
    )
    return used, json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def main() -> None:
    """Train on every seed and print a table."""
    table = Table(
        "seed",
        "processor seconds",
        "environment steps",
        "mean return of the last 20",
        title="CartPole-v1 to 475, PPO on NumPy",
    )
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in track(SEEDS, description="training"):
            used, metrics = train(seed, Path(folder) / str(seed))
            seconds.append(used)
            table.add_row(
                str(seed),
                f"{used:.2f}",
                str(int(metrics["steps"])),
                f"{metrics['mean_return']:.1f}",
            )
    table.add_row("median", f"{statistics.median(seconds):.2f}", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
