"""CartPole-v1 to 475 on every usable backend in float64: are the curves the same numbers?

Compares episodes and returns of every update, prints for how many updates they are the same and by
how much the losses differ, and with `--picture FILE` draws the curves of the first seed over each
other.

    python benchmarks/four_curves.py [--seeds 0 1 2] [--picture docs/images/four_curves.svg]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from pgcore.registry.registry import registry

PGCORE = str(Path(sys.executable).with_name("pgcore"))
Metrics = list[dict[str, Any]]

# Wide and pale below, thin and dark above, so that lines that lie on each other all show.
STYLES = (
    (9.0, "#c6dbef", "-"),
    (5.5, "#fdae6b", "-"),
    (2.6, "#31a354", "-"),
    (1.1, "#252525", (0, (4, 3))),
)


def train(backend: str, seed: int, folder: Path) -> tuple[float, Metrics]:
    """Return the processor seconds of one run, and its metrics."""
    before = os.times()
    arguments = [
        "train",
        "CartPole-v1",
        "--backend",
        backend,
        "--seed",
        str(seed),
        "--stop-at",
        "475",
    ]
    # Many threads for small products are slower, and no part of the comparison.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [PGCORE, *arguments, "--dtype", "float64", "--out", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    after = os.times()
    used = (
        after.children_user - before.children_user + after.children_system - before.children_system
    )
    return used, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_updates(left: Metrics, right: Metrics) -> int:
    """Return the number of first updates with equal steps, episodes and mean return."""
    names = ("steps", "episodes", "mean_return")
    for number, (first, second) in enumerate(zip(left, right, strict=False)):
        if any(first[name] != second[name] for name in names):
            return number
    return min(len(left), len(right))


def draw(runs: dict[str, Metrics], path: Path) -> None:
    """Write the curves of one seed as SVG, the same bytes for the same numbers."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids by a fixed salt and no date: the file changes only with its numbers.
    with mpl.rc_context({"svg.hashsalt": "pgcore", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for (backend, metrics), (width, colour, dashes) in zip(runs.items(), STYLES, strict=False):
            axes.plot(
                [row["steps"] for row in metrics],
                [row["mean_return"] for row in metrics],
                color=colour,
                linewidth=width,
                linestyle=dashes,
                label=backend,
                solid_capstyle="round",
            )
        axes.set_title(
            "PPO on CartPole-v1, seed 0, float64: one curve on every backend",
            loc="left",
            fontsize=11,
        )
        axes.set_xlabel("environment steps")
        axes.set_ylabel("mean return of the last 20 episodes")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})


def main() -> None:
    """Train, compare and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    backends = [
        entry.provider.name
        for entry in registry().providers("backends")
        if entry.status == "usable"
    ]
    backends.sort(key=lambda name: name != "numpy")
    headings = (
        "seed",
        "backend",
        "updates",
        "the same as the first",
        "loss differs by (first, last)",
        "processor seconds",
    )
    table = Table(*headings, title="CartPole-v1 to 475, PPO, float64")
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            runs: dict[str, Metrics] = {}
            for backend in track(backends, description=f"seed {seed}"):
                used, runs[backend] = train(backend, seed, Path(folder) / f"{backend}{seed}")
                reference, metrics = runs[backends[0]], runs[backend]
                # A run on another backend may take longer or end sooner.
                pairs = zip(reference, metrics, strict=False)
                off = [abs(first["loss"] - second["loss"]) for first, second in pairs]
                same = f"{same_updates(reference, metrics)} of {len(reference)}"
                table.add_row(
                    str(seed),
                    backend,
                    str(len(metrics)),
                    same,
                    f"{off[0]:.1e}, {off[-1]:.1e}",
                    f"{used:.1f}",
                )
            if arguments.picture is not None and seed == arguments.seeds[0]:
                draw(runs, arguments.picture)
    Console().print(table)


if __name__ == "__main__":
    main()
