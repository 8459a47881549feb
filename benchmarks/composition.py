"""PPO as a composition of parts beside PPO as a class, on NumPy, in turn.

Prints the ratio of the medians at batches of 64 and 2,048 steps.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import pgcore as pg

TURNS, CALLS = 60, {64: 25, 2048: 3}


def batch_of(steps: int, rng: np.random.Generator) -> pg.Batch:
    """Return a batch of one episode of random numbers."""
    return pg.Batch(
        observations=rng.standard_normal((steps, 4)),
        actions=rng.integers(0, 2, steps),
        rewards=rng.standard_normal(steps),
        episode_lengths=[steps],
        terminated=[True],
        log_probs=np.full(steps, np.log(0.5)) + 0.1 * rng.standard_normal(steps),
    )


def run_of(policy: pg.Policy, estimator: pg.Estimator, batch: pg.Batch) -> Callable[[], object]:
    """Return a call that computes one gradient, with signals that were computed once."""
    signals = pg.signals(policy, estimator, batch)
    return lambda: pg.gradient(policy, estimator, batch, signals=signals)


def seconds(call: Callable[[], object], times: int) -> float:
    """Return the time of one of some calls."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def main() -> None:
    """Compare both at each size."""
    policy = pg.policy(pg.PolicySpec(pg.MLP(4), pg.Categorical(2), "separate"), dtype="float32")
    parts = pg.estimator("policy_gradient", normalise="minibatch")
    for steps, calls in CALLS.items():
        batch = batch_of(steps, np.random.default_rng(0))
        runs = {"class": run_of(policy, pg.estimator("ppo"), batch)}
        runs["parts"] = run_of(policy, parts, batch)
        times = {name: [] for name in runs}
        for _ in range(TURNS):
            for name, run in runs.items():
                times[name].append(seconds(run, calls))
        medians = {name: statistics.median(values) for name, values in times.items()}
        micro = ", ".join(f"{name} {median * 1e6:.1f} us" for name, median in medians.items())
        sys.stdout.write(
            f"batch {steps}: {micro}, ratio {medians['parts'] / medians['class']:.3f}\n"
        )


if __name__ == "__main__":
    main()
