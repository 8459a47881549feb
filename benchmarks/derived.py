"""Time derived cotangents beside hand-written ones: PPO at batch 64.

Both are timed alone and within a whole gradient; the figures are medians.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

import numpy as np

import pgcore as pg
from pgcore_estimators.preset_classes import PPO

STEPS, CALLS, ROUNDS = 64, 500, 31


class Derived(PPO):
    """PPO without its closed form."""


# A closed form is inherited with the surrogate; this takes it out.
Derived.cotangents = pg.Estimator.cotangents


def medians(*functions: Callable[[], object]) -> list[float]:
    """Return microseconds a call, the functions taking turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        # In turns, so that a slow moment of the machine meets all of them.
        for record, function in zip(times, functions, strict=True):
            record.append(timeit.timeit(function, number=CALLS) / CALLS * 1e6)
    return [statistics.median(record) for record in times]


def main() -> None:
    """Print both comparisons."""
    rng = np.random.default_rng(0)
    written, derived = PPO(entropy_coefficient=0.01), Derived(entropy_coefficient=0.01)
    values = {name: rng.uniform(-0.3, 0.3, STEPS).astype(np.float32) for name in written.keywords}
    spec = pg.PolicySpec(
        network=pg.MLP(4, (64, 64), "tanh"), head=pg.Categorical(2), critic="separate"
    )
    policy = pg.policy(spec, backend="numpy")
    observations = rng.standard_normal((STEPS, 4)).astype(np.float32)
    actions, log_probs = policy.act(observations, pg.generator(0))
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(STEPS),
        episode_lengths=[STEPS],
        terminated=[True],
        log_probs=log_probs,
    )
    signals = pg.signals(policy, written, batch)
    rows = {
        "cotangents": medians(
            lambda: written.cotangents(**values), lambda: derived.cotangents(**values)
        ),
        "gradient": medians(
            lambda: pg.gradient(policy, written, batch, signals=signals),
            lambda: pg.gradient(policy, derived, batch, signals=signals),
        ),
    }
    for name, (hand, machine) in rows.items():
        print(
            f"{name:<10}  written {hand:6.1f} us  derived {machine:6.1f} us  "
            f"ratio {machine / hand:.2f}"
        )


if __name__ == "__main__":
    main()
