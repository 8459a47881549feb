"""PPO's inner loop: pgcore's gradient of each minibatch of a batch beside an expert's.

The batch stays where it is, and minibatches are gathered from it. pgcore's loop is the public one:

    for index in batch.minibatches(size, rng):
        pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))

The expert holds native arrays and gets each minibatch's step numbers as one. One step of the loop
counts, from the minibatch's numbers to its gradient in the framework's arrays. Networks are tanh
and the advantages are normalised beforehand, all in float32.

pgcore's batch is in one of three places:

    host     NumPy's arrays on the host, and each gradient is checked at once. The expert's is waited
             for as well.
    moved    The same batch, and a policy on another device, which the host stands in for: it moves
             the batch there once, gathers there, and waits for nothing.
    native   A batch of the framework's arrays on such a device.

Each side's gradient of a minibatch is first compared with NumPy's in float64. Then the two take
turns of 131,072 steps, epoch after epoch as PPO's loop goes on. Where nothing is checked at once, a
side waits for its gradients at the end of its turn. Every row has its own process on one thread.

    python benchmarks/inner_loop.py [--backend NAME] [--network NAME] [--size STEPS] [--data PLACE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from experts.rows import CLIP, ENTROPY_COEFFICIENT, MODES, arguments_of, difference, in_own_process
from rich.console import Console
from rich.progress import track
from rich.table import Table

import pgcore as pg
from pgcore.data.native import arrays_of

SIZES = (2048, 65536)
PLACES = ("host", "moved", "native")
MINIBATCHES = 2  # of an epoch
STEPS_OF_TURN = 131072  # or one epoch
LEAST_TURNS = 3
SIGNALS = ("old_log_prob", "advantage", "return_")
NETWORKS: dict[str, tuple[int, pg.MLP, pg.Head]] = {
    "4-64-64-2": (4, pg.MLP(4, (64, 64), "tanh"), pg.Categorical(2)),
    "376-256-256-17": (376, pg.MLP(376, (256, 256), "tanh"), pg.DiagonalGaussian(17)),
}


@dataclass(frozen=True)
class Row:
    """One row of the table, and the options of its process."""

    backend: str
    mode: str
    network: str
    size: int
    data: str  # one of PLACES
    seconds: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row's first cells."""
        return self.backend, self.mode, self.network, f"{self.size:,}", self.data


@dataclass(frozen=True)
class Case:
    """Both sides of a row, with the same parameters and steps.

    Attributes:
        batch: pgcore's.
        on_host: The same batch as NumPy arrays.
        data: The expert's observations, actions and signals, NumPy's.
        by_pgcore: Returns the gradient of the steps at some numbers.
        by_expert: See `experts`.
    """

    row: Row
    spec: pg.PolicySpec
    policy: pg.Policy
    estimator: pg.Estimator
    batch: pg.Batch
    on_host: pg.Batch
    data: dict[str, np.ndarray]
    by_pgcore: Callable[[np.ndarray], Any]
    expert: ModuleType
    by_expert: Callable[..., Any]
    rng: np.random.Generator

    def differences(self) -> dict[str, float]:
        """Return each side's difference from NumPy's gradient in float64, or raise."""
        size = self.row.size
        on_numpy = pg.policy(self.spec, backend="numpy")
        on_numpy.load(self.policy.parameters())
        index = self.rng.permutation(MINIBATCHES * size)[:size]
        values = {name: self.data[name][index] for name in SIGNALS}
        signals = pg.Signals(values, np.full(size, 1 / size), padded=False)
        steps = self.on_host.steps(index)
        reference = pg.gradient(on_numpy, self.estimator, steps, signals=signals).numpy()
        by_expert = self.by_expert(self.expert.native(index))
        gradients = {
            "pgcore": self.by_pgcore(index).numpy(),
            "expert": self.expert.to_numpy(by_expert),
        }
        return {
            side: difference(side, gradient, reference, "float32", size)
            for side, gradient in gradients.items()
        }

    @property
    def epochs(self) -> int:
        """Epochs of a turn."""
        return max(1, STEPS_OF_TURN // (MINIBATCHES * self.row.size))

    def turn_of_pgcore(self) -> None:
        """Compute the gradients of a turn's minibatches."""
        gradient: Any = None
        for _ in range(self.epochs):
            for index in self.batch.minibatches(self.row.size, self.rng):
                gradient = self.by_pgcore(index)
        # A device that is not the host goes on by itself.
        self.expert.wait(gradient.leaves)

    def turn_of_expert(self) -> None:
        """Compute the gradients of a turn's minibatches."""
        size, result = self.row.size, None
        for _ in range(self.epochs):
            order = self.rng.permutation(MINIBATCHES * size)
            for start in range(0, len(order), size):
                result = self.by_expert(self.expert.native(order[start : start + size]))
                if self.row.data == "host":
                    self.expert.wait(result)
        self.expert.wait(result)


def make_case(row: Row) -> Case:
    """Return both sides of a row."""
    rng = np.random.default_rng(row.size)
    width, network, head = NETWORKS[row.network]
    spec = pg.PolicySpec(network=network, head=head, critic="separate")
    module, compiles, options = MODES[row.backend, row.mode]
    expert = importlib.import_module(f"experts.{module}")
    policy: Any = pg.policy(spec, backend=row.backend, seed=0, dtype="float32", **options)
    steps = MINIBATCHES * row.size
    observations = rng.standard_normal((steps, width), np.float32)
    actions, log_probs = policy.act(observations, pg.generator(0))
    policy.resident = row.data != "host"
    # Old log-probabilities are off by 0.2, so that some ratios are clipped.
    recorded: dict[str, np.ndarray] = {
        "observations": observations,
        "actions": actions if head.discrete else actions.astype(np.float32),
        "rewards": rng.standard_normal(steps).astype(np.float32),
        "log_probs": (log_probs + 0.2 * rng.standard_normal(steps)).astype(np.float32),
    }
    episodes = steps // 32
    ends: dict[str, Any] = {"episode_lengths": [32] * episodes, "terminated": [True] * episodes}
    batch = on_host = pg.Batch(**recorded, **ends)
    if row.data == "native":
        native = {name: expert.native(value) for name, value in recorded.items()}
        arrays: Any = type(arrays_of(native["rewards"]))
        arrays.resident = lambda *_: True  # its host counts as a device
        batch = pg.Batch(**native, **ends)
    estimator = pg.estimator(
        "ppo", clip=CLIP, entropy_coefficient=ENTROPY_COEFFICIENT, normalise="batch"
    )
    signals = pg.signals(policy, estimator, batch)
    data = {name: np.asarray(signals.values[name]) for name in SIGNALS}
    data |= {name: recorded[name] for name in ("observations", "actions")}

    def by_pgcore(index: np.ndarray) -> pg.Gradient:
        return pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))

    by_expert = expert.make(policy.parameters(), data, compiled=compiles)
    return Case(
        row,
        spec,
        policy,
        estimator,
        batch,
        on_host,
        data,
        by_pgcore,
        expert,
        by_expert,
        rng,
    )


def measure(row: Row) -> dict[str, Any]:
    """Return differences and, in seconds, a minibatch's time in each turn, in this process."""
    case = make_case(row)
    errors = case.differences()
    minibatches = MINIBATCHES * case.epochs
    ours, theirs = (
        [taken / minibatches for taken in times]
        for times in turns([case.turn_of_pgcore, case.turn_of_expert], row.seconds)
    )
    return {"errors": errors, "pgcore": ours, "expert": theirs}


def turns(loops: list[Callable[[], None]], seconds: float) -> list[list[float]]:
    """Return each loop's seconds, turn by turn."""
    # Compilation, moving the batch and the first allocations are no part of a step.
    for loop in loops:
        loop()
    times: list[list[float]] = [[] for _ in loops]
    end = time.perf_counter() + seconds
    while len(times[0]) < LEAST_TURNS or time.perf_counter() < end:
        # The first finds the other's data in the caches, so they take turns at that too.
        order = [0, 1] if len(times[0]) % 2 else [1, 0]
        for number in order:
            start = time.perf_counter()
            loops[number]()
            times[number].append(time.perf_counter() - start)
    return times


def report(results: list[tuple[Row, dict[str, Any]]], console: Console) -> list[dict[str, Any]]:
    """Print the table and return its rows."""
    table = Table(title="PPO's inner loop, float32, one thread, a minibatch's gradient")
    for name in ("backend", "mode", "network"):
        table.add_column(name, no_wrap=True)
    for name in ("minibatch", "data", "pgcore us", "expert us", "ratio", "quartiles"):
        table.add_column(name, justify="right")
    rows: list[dict[str, Any]] = []
    for row, result in results:
        ours, theirs = (statistics.median(result[side]) * 1e6 for side in ("pgcore", "expert"))
        pairs = zip(result["pgcore"], result["expert"], strict=True)
        low, ratio, high = statistics.quantiles((left / right for left, right in pairs), n=4)
        table.add_row(
            *row.cells, f"{ours:.0f}", f"{theirs:.0f}", f"{ratio:.2f}", f"{low:.2f}-{high:.2f}"
        )
        rows.append(
            dict(zip(("backend", "mode", "network", "size", "data"), row.cells, strict=True))
            | {"pgcore_us": ours, "expert_us": theirs, "ratio": ratio, "quartiles": [low, high]}
            | {"errors": result["errors"]}
        )
    console.print(table)
    return rows


def steps(text: str) -> int:
    """Return a minibatch's number of steps, or raise."""
    if (number := int(text)) < 32 or number % 32:
        raise argparse.ArgumentTypeError(f"expected a multiple of 32, an episode, got {number}")
    return number


def main() -> None:
    """Check and time every usable backend, each row in its own process, and print the table."""
    parser = argparse.ArgumentParser(
        description="PPO's inner loop: pgcore on each framework beside an expert's."
    )
    parser.add_argument(
        "--network", action="append", choices=NETWORKS, help="only this; can be repeated"
    )
    parser.add_argument(
        "--size", type=steps, action="append", help="steps of a minibatch; can be repeated"
    )
    parser.add_argument(
        "--data", action="append", choices=PLACES, help="only this; can be repeated"
    )
    parser.add_argument(
        "--seconds", type=float, default=8, help="turns go on for these (default: 8)"
    )
    arguments = arguments_of(parser, lambda row: measure(Row(**row)))
    if arguments is None:
        return

    console = Console(width=None if sys.stdout.isatty() else 120)
    rows = [
        Row(backend, mode, network, size, data, arguments.seconds)
        for backend, mode in arguments.modes
        for network in arguments.network or NETWORKS
        for size in arguments.size or SIZES
        for data in arguments.data or ("host", "native")
    ]
    # One after the other: two rows at once would share caches and turbo.
    results = [
        (row, in_own_process(__file__, row))
        for row in track(rows, description="checking and timing", console=console)
    ]
    failed = [(row, result["error"]) for row, result in results if "error" in result]
    for row, error in failed:
        console.print(f"{' '.join(row.cells)}:\n{error}", markup=False)
    table = report([entry for entry in results if "error" not in entry[1]], console)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
