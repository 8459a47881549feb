"""Count the alarms of `pgcore check` on backends that are right, over fresh seeds.

Every case of the standard run is drawn anew on networks of the usual size, on large ones, with
extreme parameters, and with parameters near their initial values, whose policies are nearly
uniform. A backend in its usual mode on one draw is one cell. Results are kept for each case, so
that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from rich.progress import track

import pgcore as pg
from pgcore.data.networks import MLP, Linear, Network, Table
from pgcore.errors import BatchError, NonFiniteError
from pgcore_check.cases.builders import builder_of
from pgcore_check.cases.cases import EXTREME, make_case
from pgcore_check.cases.design import Choice, covering
from pgcore_check.compare import RATE
from pgcore_check.conformance import MOST_DISTORTION, usable_backends
from pgcore_check.outcomes import DISTANCE, Cell, Outcome, case_outcome
from pgcore_check.proofs import variants
from pgcore_check.stages.truth import Truth

# The factor on the parameters' spread, by kind of draw.
SCALES = {"usual": 1.0, "large": 1.0, "extreme": EXTREME, "near uniform": 0.01}


def main() -> None:
    """Draw, compare, and print the number of cells, of alarms, and the largest error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=17, help="draws of each kind and case")
    parser.add_argument("--first", type=int, default=10**9, help="first seed, far from the kit's")
    parser.add_argument("--share", type=int, default=0, help="which share of the cases to run")
    parser.add_argument("--shares", type=int, default=1, help="number of shares")
    parser.add_argument("--out", type=Path, default=Path("false_alarms.jsonl"))
    arguments = parser.parse_args()
    done = [json.loads(line) for line in lines_of(arguments.out)]
    labels = {row["case"] for row in done}
    backends, _ = usable_backends(None)
    choices = covering(variants("estimators"), variants("heads"))[
        arguments.share :: arguments.shares
    ]
    for choice in track(choices, "drawing"):
        if choice.case.label not in labels:
            row = counted(
                choice, backends, range(arguments.first, arguments.first + arguments.seeds)
            )
            done.append(row)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    alarms = [alarm for row in done for alarm in row["alarms"]]
    largest = max(row["largest"] for row in done)
    print(f"{sum(row['cells'] for row in done)} cells, {len(alarms)} alarms, largest {largest:.2f}")
    for alarm in alarms:
        print(alarm)


def lines_of(path: Path) -> list[str]:
    """Return a file's lines, none if there is no file."""
    return path.read_text().splitlines() if path.exists() else []


def counted(choice: Choice, backends: tuple[str, ...], seeds: range) -> dict[str, object]:
    """Return the number of cells of a case, the largest error and the alarms."""
    outcomes: list[Outcome] = []
    for kind in SCALES:
        case = dataclasses.replace(choice.case, spec=spec_of(choice, kind))
        drawn = dataclasses.replace(choice, case=case)
        for seed in seeds:
            truth = drawn_truth(drawn, kind, seed)
            if truth is None:
                continue
            for name in backends:
                mode = pg.backend(name).modes[0]
                outcomes.append(case_outcome(Cell(name, mode, kind), drawn, truth))
    return {
        "case": choice.case.label,
        "cells": len(outcomes),
        "largest": max((outcome.largest for outcome in outcomes if outcome.agrees), default=0.0),
        "alarms": [str(outcome) for outcome in outcomes if not outcome.agrees],
    }


def spec_of(choice: Choice, kind: str) -> pg.PolicySpec:
    """Return the case's spec, with a large network where the kind says so."""
    spec = choice.case.spec
    return dataclasses.replace(spec, network=enlarged(spec.network)) if kind == "large" else spec


def enlarged(network: Network) -> Network:
    """Return a larger network of the same kind."""
    if isinstance(network, MLP):
        return dataclasses.replace(network, hidden=(64, 64))
    return Table(64) if isinstance(network, Table) else Linear(64)


def drawn_truth(choice: Choice, kind: str, seed: int) -> Truth | None:
    """Return the reference of a draw; None where `pgcore check` would draw again."""
    case, optimizer = choice.case, pg.optimizer(choice.optimizer, learning_rate=RATE).spec
    options = {"scale": SCALES[kind], "extras": case.estimator.used_extras}
    steps = (1,) if kind == "usual" else ()
    try:
        with np.errstate(all="ignore"):
            policy, batch = make_case(case.spec, builder_of(case.spec), case.dtype, seed, **options)
            truth = Truth(case.spec, policy.parameters(), case.estimator, batch, optimizer, steps)
            truth.products = kind != "large"
            return truth if is_accepted(truth) else None
    except (NonFiniteError, BatchError):
        return None


def is_accepted(truth: Truth) -> bool:
    """Return whether a reference passes the rules of `pgcore_check.conformance.truth_of`."""
    telling = truth.power > 0 and truth.nearest >= DISTANCE
    return telling and truth.within_range and truth.distortion <= MOST_DISTORTION


if __name__ == "__main__":
    main()
