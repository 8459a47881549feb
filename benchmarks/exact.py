"""Time the exact oracle on `exact.random(states=3, actions=2, horizon=4, seed=0)`: 1,296 episodes.

Every registered estimator, as it is by default, runs on all single episodes, those that leave one out excepted. Then each that mixes a batch's
episodes runs on all 840,456 pairs. Seconds are a single run's, on the clock and of the processor, which others' work does not lengthen.

    python benchmarks/exact.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import BatchError
from pgcore.registry.registry import registry
from pgcore_exact.claims import probe_batch, try_once
from pgcore_exact.expectation.needs import audit_policy, first_fitting, policies

PROCESS = exact.random(states=3, actions=2, horizon=4, seed=0)

# Seconds that all single episodes, and all pairs, may take together.
LIMITS = {1: 5.0, 2: 60.0}

console = Console(stderr=True)


def fitting_policy(estimator: pg.Estimator) -> pg.Policy:
    """Return the policy that the estimator is audited with."""
    specs = policies(PROCESS)
    return audit_policy(
        specs[
            first_fitting(estimator, specs, partial(try_once, estimator, probe_batch(PROCESS, 2)))
        ],
        0,
    )


def timed(name: str, batch: int) -> dict[str, object] | None:
    """Return how long all batches of that size took, or None where the estimator needs more episodes."""
    estimator = pg.estimator(name)
    policy = fitting_policy(estimator)
    clock, processor = time.perf_counter(), time.process_time()
    try:
        found = exact.moments(PROCESS, policy, estimator, batch=batch)
    except BatchError:
        return None
    return {
        "estimator": name,
        "batch": batch,
        "coupled": found.coupled,
        "runs": found.runs,
        "seconds": time.perf_counter() - clock,
        "processor": time.process_time() - processor,
    }


def main() -> None:
    """Time all, and print one line for each and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every figure here too")
    arguments = parser.parse_args()
    names = registry().names("estimators")
    rows = [
        row
        for batch in LIMITS
        for name in track(names, description=f"batches of {batch}", console=console)
        if (row := timed(name, batch)) is not None
    ]
    # Where episodes stay apart, pairs are single episodes again.
    rows = [row for row in rows if row["batch"] == 1 or row["coupled"]]
    table = Table("estimator", "episodes", "runs", "seconds", "processor", box=None)
    for row in rows:
        table.add_row(
            *(
                f"{row[name]:.3g}"
                if isinstance(row[name], float)
                else f"{row[name]:,}"
                if name == "runs"
                else f"{row[name]}"
                for name in ("estimator", "batch", "runs", "seconds", "processor")
            )
        )
    Console().print(table)
    for batch, limit in LIMITS.items():
        sums = [
            sum(float(str(row[name])) for row in rows if row["batch"] == batch)
            for name in ("seconds", "processor")
        ]
        print(
            f"batches of {batch}: {sums[0]:.1f} s, {sums[1]:.1f} s of the processor; wanted below {limit:.0f} s"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
