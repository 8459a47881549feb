"""Growth of the resident memory over 100,000 updates of training: python benchmarks/memory.py torch.

An update is that of `pgcore train`: signals, gradient and optimizer step on a rollout, here of 16 steps.
Each update has a batch of its own. Backends run one after the other, each in a process of its own. The
exit status is 1 if one of them grew by a megabyte or more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import pgcore as pg
from pgcore_train.learning.updates import Plan, update

BACKENDS = ("numpy", "torch", "tensorflow", "jax")
WARM_UP = 5_000  # updates before the first measurement: caches, pools and arenas are full then
STEPS, EPISODES, OBSERVATIONS = 16, 4, 4
LIMIT = 1e6  # bytes of growth


def resident() -> int:
    """Return the process's resident memory, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def rollout(rng: np.random.Generator) -> pg.Batch:
    """Return random steps with recorded log-probabilities."""
    return pg.Batch(
        observations=rng.standard_normal((STEPS, OBSERVATIONS)).astype(np.float32),
        actions=rng.integers(0, 2, STEPS),
        rewards=rng.standard_normal(STEPS),
        episode_lengths=[STEPS // EPISODES] * EPISODES,
        terminated=[True] * EPISODES,
        log_probs=np.full(STEPS, -np.log(2.0)),
    )


def grow(backend: str, updates: int, report: int) -> int:
    """Run the updates and return the growth after the warm-up, bytes."""
    spec = pg.PolicySpec(pg.MLP(OBSERVATIONS, (16,)), pg.Categorical(2), critic="separate")
    policy, estimator = pg.policy(spec, backend=backend), pg.estimator("ppo")
    optimizer = pg.optimizer("adam", learning_rate=1e-6, max_grad_norm=0.5)
    rng, plan = pg.generator(0), Plan(epochs=1, minibatch=None)
    before, started = 0, time.perf_counter()
    # One thread, as in `pgcore train`; a framework that is not imported yet would not be limited.
    with threadpool_limits(1):
        for number in range(1, WARM_UP + updates + 1):
            update(policy, estimator, optimizer, rollout(rng), plan, rng)
            if number == WARM_UP:
                before = resident()
            if number >= WARM_UP and (number - WARM_UP) % report == 0:
                sys.stdout.write(
                    f"{backend:<10} {number - WARM_UP:>7,} updates  {resident() / 1e6:8.3f} MB  "
                    f"growth {(resident() - before) / 1e3:+8.0f} KB  "
                    f"{number / (time.perf_counter() - started):6.0f} updates/s\n"
                )
                sys.stdout.flush()
        return resident() - before


def main() -> int:
    """Measure one backend here, or several in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backends", nargs="*", default=BACKENDS)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--report", type=int, default=10_000, help="updates from line to line")
    arguments = parser.parse_args()
    if len(arguments.backends) == 1:
        return int(grow(arguments.backends[0], arguments.updates, arguments.report) >= LIMIT)
    options = ["--updates", str(arguments.updates), "--report", str(arguments.report)]
    runs = [
        subprocess.run([sys.executable, __file__, backend, *options], check=False)
        for backend in arguments.backends
    ]
    return int(any(run.returncode for run in runs))


if __name__ == "__main__":
    raise SystemExit(main())
