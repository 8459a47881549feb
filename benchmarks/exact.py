"""Time the exact oracle on `exact.random(states=3, actions=2, horizon=4, seed=0)`: 1,296 episodes.

Every registered estimator with its default options runs on all single episodes, except those that
leave one out. Then each that mixes a batch's episodes runs on all 840,456 pairs. Seconds are of a
single run, on the clock and of the processor, which other processes do not lengthen.

    python benchmarks/exact.py [--batch SIZE] [--json FILE]
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

# Seconds by batch size, our goal: for all single episodes, and for all pairs.
LIMITS = {1: 5.0, 2: 60.0}

console = Console(stderr=True)


def fitting_policy(estimator: pg.Estimator) -> pg.Policy:
    """Return the policy of the estimator's audit."""
    specs = policies(PROCESS)
    attempt = partial(try_once, estimator, probe_batch(estimator, PROCESS, 2))
    return audit_policy(specs[first_fitting(estimator, specs, attempt)], 0)


def timed(name: str, batch: int) -> dict[str, object] | None:
    """Return the seconds of all batches of a size, or None if the estimator needs more episodes."""
    estimator = pg.estimator(name)
    policy = fitting_policy(estimator)
    clock, processor = time.perf_counter(), time.process_time()
    try:
        result = exact.moments(PROCESS, policy, estimator, batch=batch)
    except BatchError:
        return None
    return {
        "estimator": name,
        "batch": batch,
        "coupled": result.coupled,
        "runs": result.runs,
        "seconds": time.perf_counter() - clock,
        "processor": time.process_time() - processor,
    }


def main() -> None:
    """Time all, and print one line for each and the sums."""
    parser = argparse.ArgumentParser(
        description="Time the exact oracle on 1,296 episodes and on all their pairs."
    )
    parser.add_argument(
        "--batch", type=int, action="append", choices=LIMITS, help="only this size; repeatable"
    )
    parser.add_argument("--json", type=Path, help="write every figure here too")
    arguments = parser.parse_args()
    names = registry().names("estimators")
    rows = [
        row
        for batch in arguments.batch or LIMITS
        for name in track(names, description=f"batches of {batch}", console=console)
        if (row := timed(name, batch)) is not None
    ]
    # If episodes stay apart, pairs are single episodes again.
    rows = [row for row in rows if row["batch"] == 1 or row["coupled"]]
    table = Table("estimator", "episodes", "runs", "seconds", "processor", box=None)
    for row in rows:
        seconds = (f"{row[name]:.3g}" for name in ("seconds", "processor"))
        table.add_row(str(row["estimator"]), str(row["batch"]), f"{row['runs']:,}", *seconds)
    Console().print(table)
    for batch in arguments.batch or LIMITS:
        batch_rows = [row for row in rows if row["batch"] == batch]
        clock = sum(float(str(row["seconds"])) for row in batch_rows)
        processor = sum(float(str(row["processor"])) for row in batch_rows)
        print(
            f"batches of {batch}: {clock:.1f} s, {processor:.1f} s of the processor; "
            f"goal {LIMITS[batch]:.0f} s"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
