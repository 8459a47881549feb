"""One backend, in one mode, on one case or kink: how far it is from the reference, and where it first departs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from pgcore import api
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.policy import Policy
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.design import Choice
from pgcore_check.cases.kinks import worst_at
from pgcore_check.compare import Row, stages
from pgcore_check.proof import Kink
from pgcore_check.proofs import told
from pgcore_check.stages.truth import Truth

__all__ = ["DISTANCE", "Cell", "Outcome", "case_outcome", "kink_outcome"]

# How far from a kink every choice must be, in units of roundoff.
DISTANCE = 1000.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One backend on one case.

    Attributes:
        backend: Its name.
        mode: One of the backend's.
        estimator: Registered name.
        variant: Label of the hyper-parameters.
        head: Registered name.
        label: Of the whole case.
        dtype: "float32" or "float64".
        fixture: "random", "extreme" or "kink".
        ratio: Worst error in units of what rounding allows, u e: of the gradient, or of the first stage that disagrees.
        largest: The same over all stages that were reached.
        limit: What the ratio may be.
        stage: The first stage that disagrees, or None.
        where: The array and the entry that the ratio is of.
        error: The message where something was raised, or None.
        seconds: It took.
        power: The share of the gradient's components other than 0 in which an error of a millionth (in float32 a thousandth) would be seen.
        nearest: How far the nearest choice between two branches is from its kink, in units of roundoff.
    """

    backend: str
    mode: str
    estimator: str
    variant: str
    head: str
    label: str
    dtype: str
    fixture: str
    ratio: float
    largest: float
    limit: float
    stage: str | None
    where: str
    error: str | None
    seconds: float
    power: float = 1.0
    nearest: float = np.inf

    @property
    def agrees(self) -> bool:
        """Whether the backend agrees with the reference at every stage."""
        return self.stage is None and self.error is None

    @property
    def blind(self) -> bool:
        """Whether agreement means little: no component of the gradient has power, or rounding may choose another branch."""
        return self.agrees and (self.power == 0 or self.nearest < DISTANCE)


@dataclass(frozen=True, slots=True)
class Cell:
    """One backend, in one mode, on one fixture."""

    backend: str
    mode: str
    fixture: str


def case_outcome(
    cell: Cell, choice: Choice, truth: Truth, policies: dict[tuple[str, str], Policy]
) -> Outcome:
    """Run a case on a backend, with the policy that it had before or a new one that is kept."""
    start = time.perf_counter()
    case = choice.case
    rows: list[Row] = []
    error: str | None = None
    try:
        policy = policies.get((cell.backend, cell.mode)) or built(cell, case.spec, case.dtype)
        policies[cell.backend, cell.mode] = policy
        policy.load(truth.parameters)
        rows.extend(stages(policy, truth, cell.backend))  # where one raises, those before it stay
    except Exception as problem:  # noqa: BLE001 - whatever a framework raises is this cell's outcome, and the others go on
        error = told(problem)
    diverged = next((row for row in rows if not row.agrees), None)
    last = rows[-1] if rows else Row(cell.backend, "", np.inf, "")
    shown = diverged or next((row for row in rows if row.stage == "gradient"), last)
    return Outcome(
        cell.backend,
        cell.mode,
        case.estimator.name,
        choice.variant,
        case.spec.head.name,
        case.label,
        case.dtype,
        cell.fixture,
        shown.ratio,
        max((row.ratio for row in rows), default=np.inf),
        shown.limit,
        diverged and diverged.stage,
        f"{shown.stage}: {shown.where}",
        error,
        time.perf_counter() - start,
        truth.power,
        truth.nearest,
    )


def kink_outcome(cell: Cell, kink: Kink, dtype: str) -> Outcome:
    """Compute the gradient at a kink and compare it with the one that the conventions give."""
    start = time.perf_counter()
    error = None
    try:
        ratio, where = worst_at(kink, partial(kept, cell, dtype=dtype), np.dtype(dtype))
    except Exception as problem:  # noqa: BLE001 - see `case_outcome`
        ratio, where, error = np.inf, "", told(problem)
    stage = None if ratio <= FACTOR or error else "gradient"
    what = (
        cell.backend,
        cell.mode,
        kink.estimator or kink.head,
        "kinks",
        kink.head,
        kink.name,
        dtype,
        "kink",
    )
    return Outcome(*what, ratio, ratio, FACTOR, stage, where, error, time.perf_counter() - start)


@lru_cache(maxsize=16)
def kept(cell: Cell, spec: PolicySpec, dtype: str) -> Policy:
    """Return a policy that kinks share, so that what it compiles serves several; each loads all of its parameters."""
    return built(cell, spec, dtype)


def built(cell: Cell, spec: PolicySpec, dtype: str) -> Policy:
    """Return a policy on the cell's backend, in its mode."""
    return api.policy(
        spec,
        backend=cell.backend,
        dtype=dtype,
        compiled=cell.mode == "compiled" and len(api.backend(cell.backend).modes) > 1,
    )


def blindness(outcome: Outcome) -> str:
    """Return why agreement means little."""
    if outcome.power == 0:
        return "rounding may be as large as an error in every component of its gradient"
    return f"a choice is {outcome.nearest:.0f} u from its kink"


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome to look at first: errors, then what is not finite, then the largest share of the limit."""
    return max(outcomes, key=lambda each: (not each.agrees, each.error is not None, share(each)))


def share(outcome: Outcome) -> float:
    """Return the ratio as a share of the limit, infinite for NaN."""
    return math.inf if math.isnan(outcome.ratio) else outcome.ratio / outcome.limit


def shown(outcome: Outcome) -> str:
    """Return a ratio with two digits, or why there is none."""
    if outcome.error is not None:
        return "error"
    return f"{float(f'{outcome.ratio:.2g}'):g}" if math.isfinite(outcome.ratio) else "not finite"


def description(outcome: Outcome) -> str:
    """Return a ratio, and whose it is."""
    where = "" if outcome.error is not None else f", {outcome.where.removesuffix('[]')}"
    return f"{shown(outcome)} ({outcome.backend} {outcome.mode}, {outcome.label}{where})"


def reason(outcome: Outcome) -> str:
    """Return why an outcome disagrees, on one line."""
    if outcome.error is not None:
        return " ".join(outcome.error.split()) or "an error without a message"
    ratio = f"{outcome.ratio:.3g} times what rounding allows, {outcome.limit:g} is the limit"
    far = ratio if math.isfinite(outcome.ratio) else "not finite, or of a wrong shape or dtype"
    # The stage stands before the array's name, except at kinks; the entry of a scalar is [].
    where = outcome.where.removeprefix(f"{outcome.stage}: ").removesuffix("[]")
    return f"departs at {outcome.stage}, {where}: {far}"
