"""One PPO gradient: pgcore on each framework beside an expert's loss in that framework.

Policy and critic are 4-64-64-2 and 4-64-64-1 tanh networks in float32; advantages are normalised
beforehand. Both sides end with the gradient in the framework's own arrays. The expert's inputs are
such arrays already. pgcore's is a new `Batch` of NumPy arrays at each call, as in PPO's inner loop,
so its conversion is pgcore's cost.

Both gradients, in float32 and in float64, are first checked against the NumPy backend's in float64.
Then the two take turns of 20 calls. A turn counts as its median; "ratio" is the median over turns of
pgcore's time over the expert's.

Every row has its own process, whose settings ask the framework for one thread.

    python benchmarks/backends.py [--backend NAME] [--batch SIZE] [--json FILE] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from experts.rows import (
    CLIP,
    ENTROPY_COEFFICIENT,
    MODES,
    WIDE,
    arguments_of,
    difference,
    in_own_process,
)
from rich.console import Console
from rich.progress import track
from rich.table import Table

import pgcore as pg

SIZES = (64, 2048)
CALLS_PER_TURN = 20


@dataclass(frozen=True)
class Row:
    """One row of the table, and the options of its process."""

    backend: str
    mode: str
    size: int
    dtype: str = "float32"
    turns: int = 0
    profile: bool = False


@dataclass(frozen=True)
class Case:
    """The same gradient three times: by pgcore on the backend, NumPy's in float64, the expert's."""

    policy: pg.Policy
    estimator: pg.Estimator
    batch: pg.Batch
    signals: pg.Signals
    reference: dict[str, np.ndarray]
    expert: ModuleType
    by_expert: Callable[[], Any]

    def inputs(self) -> tuple[pg.Batch, pg.Signals]:
        """Return a new batch, without anything that pgcore keeps for one, and its signals."""
        everything = np.arange(self.batch.num_steps)
        return self.batch.steps(everything), self.signals.steps(everything)

    def by_pgcore(self, batch: pg.Batch, signals: pg.Signals) -> pg.Gradient:
        """Return pgcore's gradient."""
        return pg.gradient(self.policy, self.estimator, batch, signals=signals)


def make_case(row: Row) -> Case:
    """Return policy, batch and expert, all with the same parameters and steps."""
    rng = np.random.default_rng(row.size)
    spec = pg.PolicySpec(
        network=pg.MLP(4, (64, 64), "tanh"), head=pg.Categorical(2), critic="separate"
    )
    on_numpy = pg.policy(spec, backend="numpy", seed=0, dtype=row.dtype)
    on_numpy.load(
        {
            name: value + 0.1 * rng.standard_normal(value.shape)
            for name, value in on_numpy.parameters().items()
        }
    )
    in_float64 = pg.policy(spec, backend="numpy", dtype="float64")
    in_float64.load(on_numpy.parameters())
    module, compiles, options = MODES[row.backend, row.mode]
    policy = pg.policy(spec, backend=row.backend, seed=0, dtype=row.dtype, **options)
    policy.load(on_numpy.parameters())
    # Old log-probabilities off by 0.2, so that some ratios are clipped.
    observations = rng.standard_normal((row.size, 4)).astype(row.dtype)
    actions, log_probs = on_numpy.act(observations, pg.generator(0))
    episodes = row.size // 32
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(row.size),
        episode_lengths=[32] * episodes,
        terminated=[True] * episodes,
        log_probs=log_probs + 0.2 * rng.standard_normal(row.size),
    )
    estimator = pg.estimator(
        "ppo", clip=CLIP, entropy_coefficient=ENTROPY_COEFFICIENT, normalise="batch"
    )
    signals = pg.signals(on_numpy, estimator, batch)
    data = {name: signals.values[name] for name in ("old_log_prob", "advantage", "return_")}
    data |= {"observations": batch.observations, "actions": batch.actions}
    expert = importlib.import_module(f"experts.{module}")
    return Case(
        policy,
        estimator,
        batch,
        signals,
        pg.gradient(in_float64, estimator, batch, signals=signals).numpy(),
        expert,
        expert.make(on_numpy.parameters(), data, compiled=compiles),
    )


def check_equal(case: Case) -> dict[str, float]:
    """Return each side's difference from the reference, or raise."""
    dtype, steps = case.policy.dtype.name, case.batch.num_steps
    gradients = {
        "pgcore": case.by_pgcore(*case.inputs()).numpy(),
        "expert": case.expert.to_numpy(case.by_expert()),
    }
    return {
        side: difference(side, gradient, case.reference, dtype, steps)
        for side, gradient in gradients.items()
    }


def turn_of_pgcore(case: Case) -> float:
    """Return the median seconds of some calls, each with a new batch, made off the clock."""
    times: list[float] = []
    for _ in range(CALLS_PER_TURN):
        batch, signals = case.inputs()
        start = time.perf_counter()
        case.by_pgcore(batch, signals)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def turn_of_expert(case: Case) -> float:
    """Return the median seconds of some calls, with the same work in between as pgcore's."""
    times: list[float] = []
    for _ in range(CALLS_PER_TURN):
        case.inputs()
        start = time.perf_counter()
        case.expert.wait(case.by_expert())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(row: Row) -> dict[str, Any]:
    """Return differences and, in seconds, each turn's time, in this process."""
    # A wrong gradient is not timed.
    case = make_case(row)
    errors = check_equal(case)
    # Compilation and the first allocations are no part of a call.
    for _ in range(3 if row.turns else 0):
        turn_of_pgcore(case)
        turn_of_expert(case)
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(row.turns):
        # The first finds the other's data in the caches, so they take turns at that too.
        if turn % 2:
            ours.append(turn_of_pgcore(case))
            theirs.append(turn_of_expert(case))
        else:
            theirs.append(turn_of_expert(case))
            ours.append(turn_of_pgcore(case))
    return {
        "errors": errors,
        "pgcore": ours,
        "expert": theirs,
        "profile": profile(case) if row.profile else [],
    }


def profile(case: Case, calls: int = 1000) -> list[tuple[str, float, float, float]]:
    """Return the most costly functions of pgcore's call.

    Returns:
        Rows of name and, per call, number of calls, inner and cumulative microseconds.
    """
    inputs = [case.inputs() for _ in range(calls)]
    profiler = cProfile.Profile()
    profiler.enable()
    for batch, signals in inputs:
        case.by_pgcore(batch, signals)
    profiler.disable()
    rows: list[tuple[str, float, float, float]] = []
    # typeshed does not know `stats`.
    entries: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, count, inner, total, _) in entries.items():
        label = f"{Path(file).name}:{line} {name}" if line else name
        rows.append((label, count / calls, inner * 1e6 / calls, total * 1e6 / calls))
    return sorted(rows, key=lambda entry: -entry[2])[:30]


def report(results: list[tuple[Row, dict[str, Any]]], console: Console) -> list[dict[str, Any]]:
    """Print the tables and return their rows."""
    table = Table(title="One PPO gradient, float32, one thread")
    for name in ("backend", "mode"):
        table.add_column(name, no_wrap=True)
    for name in ("batch", "pgcore us", "expert us", "ratio", "quartiles"):
        table.add_column(name, justify="right")
    rows: list[dict[str, Any]] = []
    for row, result in results:
        if "error" in result:
            table.add_row(
                row.backend,
                row.mode,
                str(row.size),
                *["-"] * 2,
                result["error"].splitlines()[-1][:60],
            )
            continue
        ours, theirs = (statistics.median(result[side]) * 1e6 for side in ("pgcore", "expert"))
        pairs = zip(result["pgcore"], result["expert"], strict=True)
        ratios = [left / right for left, right in pairs]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        table.add_row(
            row.backend,
            row.mode,
            str(row.size),
            f"{ours:.0f}",
            f"{theirs:.0f}",
            f"{ratio:.2f}",
            f"{low:.2f}-{high:.2f}",
        )
        rows.append(
            {
                "backend": row.backend,
                "mode": row.mode,
                "batch": row.size,
                "pgcore_us": ours,
                "expert_us": theirs,
            }
            | {"ratio": ratio, "quartiles": [low, high], "errors": result["errors"]}
        )
    console.print(table)
    for row, result in results:
        if result.get("profile"):
            entries = Table(
                "function",
                "calls",
                "inner, us",
                "cumulative, us",
                title=f"{row.backend} {row.mode} {row.size}",
            )
            for name, *numbers in result["profile"]:
                entries.add_row(name, *(f"{number:.1f}" for number in numbers))
            console.print(entries)
    return rows


def several(text: str) -> int:
    """Return a number of turns, or raise: quartiles need two."""
    if (turns := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2, got {turns}")
    return turns


def main() -> None:
    """Check and time every usable backend, each row in its own process, and print the table."""
    parser = argparse.ArgumentParser(
        description="One PPO gradient: pgcore on each framework beside an expert's."
    )
    parser.add_argument(
        "--batch", type=int, action="append", help="only this size; can be repeated"
    )
    parser.add_argument(
        "--turns", type=several, default=100, help="of each side, 20 calls each (default: 100)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="show where pgcore's own calls spend their time"
    )
    arguments = arguments_of(parser, lambda row: measure(Row(**row)))
    if arguments is None:
        return

    console = Console()
    rows = [
        Row(name, mode, size, turns=arguments.turns, profile=arguments.profile)
        for name, mode in arguments.modes
        for size in arguments.batch or SIZES
    ]
    # Each mode is checked in float64 too, where a wrong formula stands out from rounding.
    checks = [Row(name, mode, SIZES[0], "float64") for name, mode in arguments.modes]
    # One after the other: two rows at once would share caches and turbo.
    results = [
        (row, in_own_process(__file__, row, **(WIDE if row.dtype == "float64" else {})))
        for row in track([*checks, *rows], description="checking and timing", console=console)
    ]
    for row, result in results:
        if "error" in result:
            console.print(
                f"{row.backend} {row.mode} {row.size} {row.dtype}:\n{result['error']}", markup=False
            )
    console.print("Differences from NumPy's gradient in float64, beside its largest entry:")
    for row, result in results:
        if "error" not in result:
            off = ", ".join(f"{side} {error:.1e}" for side, error in result["errors"].items())
            console.print(f"  {row.dtype} {row.backend} {row.mode} {row.size}: {off}")
    table = report(results[len(checks) :], console)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n")
    if any("error" in result for _, result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
