"""Outcomes of one backend, in one mode, on one case or kink."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import numpy as np

from pgcore import api
from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.interfaces.policy import Policy
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.builders import RefusalError
from pgcore_check.cases.cases import NETWORKS, Case
from pgcore_check.cases.design import Choice
from pgcore_check.cases.kinks import worst_entry
from pgcore_check.cases.probes import PROBES
from pgcore_check.compare import Row, difference, function_stages, stages
from pgcore_check.kinds import message_of
from pgcore_check.proof import Kink
from pgcore_check.stages.probing import ESSENTIAL, probe_errors
from pgcore_check.stages.truth import Truth

__all__ = [
    "DISTANCE",
    "FUNCTION",
    "IDENTITY",
    "OF_HEADS",
    "PROBE_LABELS",
    "Cell",
    "Outcome",
    "case_outcome",
    "kink_outcome",
    "notes",
    "probe_outcome",
    "shared_policy",
]

# The least distance of a branch's choice from its kink, in units of roundoff: nearer ones may go
# either way by rounding. It equals the 1,000 u of `pgcore_check.bounds.running_error.ERROR_SHARE`.
DISTANCE = 1000.0


# The fixture of a head's identities, which are no backend's.
IDENTITY = "identity"

# The fixtures that a run without any estimator that fits may have.
OF_HEADS = frozenset({IDENTITY, "kink"})

# The estimator, variant, head and label of a probe's outcome.
PROBE_LABELS = ("xp", "probes", "xp", "xp")


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
        fixture: "random", "extreme", "kink", "probe" or "identity".
        ratio: The largest error of the gradient, or of the first stage that disagrees, in units of
            the rounding-error bound u e.
        largest: The largest error of all stages that were reached, in the same units.
        limit: The largest ratio that agrees.
        stage: The first stage that disagrees, or None.
        where: The array and the entry of the ratio.
        error: The message of an exception, or None.
        seconds: Duration.
        power: The share of the gradient's nonzero components in which an error of a millionth (in
            float32 a thousandth) would be seen.
        nearest: The distance of the nearest choice between two branches from its kink, in units of
            roundoff.
        values: How the entry differs; see `pgcore_check.compare.Row`.
        unchecked: Why nothing was compared; "" where something was.
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
    values: str = ""
    unchecked: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the backend agrees with the reference at every stage."""
        return self.stage is None and self.error is None

    @property
    def blind(self) -> bool:
        """Whether agreement means little.

        Either no component of the gradient has power, or rounding may choose another branch.
        """
        return self.agrees and (self.power == 0 or self.nearest < DISTANCE)


# The mode of `pgcore.loss` on a framework's own arrays, beside a backend's modes of policies.
FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Cell:
    """One backend, in one mode, on one fixture."""

    backend: str
    mode: str
    fixture: str


def rows_of(cell: Cell, case: Case, truth: Truth) -> Iterator[Row]:
    """Yield the rows of a case on a backend: those of its policy, or of its arrays."""
    if cell.mode == FUNCTION:
        yield from function_stages(api.backend(cell.backend), truth, cell.backend)
        return
    policy = shared_policy(cell.backend, cell.mode, case.spec, case.dtype)
    policy.load(truth.parameters)
    yield from stages(policy, truth, cell.backend)


def case_outcome(cell: Cell, choice: Choice, truth: Truth) -> Outcome:
    """Return the outcome of a case on a backend.

    Args:
        cell: The backend, mode and fixture.
        choice: The case.
        truth: The case's reference.
    """
    start = time.perf_counter()
    case = choice.case
    rows: list[Row] = []
    error: str | None = None
    unchecked = ""
    try:
        # Extended row by row: where a stage raises, the rows before it stay.
        rows.extend(rows_of(cell, case, truth))
    except RefusalError as problem:
        unchecked = str(problem)
    except Exception as problem:  # noqa: BLE001 - any framework's error is this cell's outcome
        error = message_of(problem)
    # The row that is shown: the first divergence, else the gradient, else the last one reached.
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
        shown.values,
        unchecked,
    )


def kink_outcome(cell: Cell, kink: Kink, dtype: str) -> Outcome:
    """Return the outcome of a kink: the gradient beside the one that the conventions give."""
    start = time.perf_counter()
    where, values, error, unchecked = "", "", None, ""
    try:
        gradient = kink.compute(partial(shared_policy, cell.backend, cell.mode, dtype=dtype))
        ratio, name, position = worst_entry(kink, gradient, np.dtype(dtype))
        where = f"{name}{[*position]}"
        if not ratio <= FACTOR:
            values = difference(gradient[name], kink.expected[name], position)
    except RefusalError as problem:
        ratio, unchecked = 0.0, str(problem)
    except Exception as problem:  # noqa: BLE001 - see `case_outcome`
        ratio, error = np.inf, message_of(problem)
    stage = None if ratio <= FACTOR or error else "gradient"
    subject = kink.estimator or kink.head
    labels = (cell.backend, cell.mode, subject, "kinks", kink.head, kink.name, dtype, "kink")
    seconds = time.perf_counter() - start
    numbers = (ratio, ratio, FACTOR, stage, where, error, seconds)
    return Outcome(*labels, *numbers, values=values, unchecked=unchecked)


def probe_outcome(cell: Cell, dtype: str) -> Outcome:
    """Return the outcome of the probes of `xp`: values and derivatives beside hand-worked ones."""
    start = time.perf_counter()
    modes = api.backend(cell.backend).modes
    usual = cell.mode == modes[0]
    name, ratio, values, error = "", 0.0, "", None
    try:
        errors = probe_errors(
            cell.backend,
            dtype,
            compiled=cell.mode == "compiled" and len(modes) > 1,
            names=(*PROBES,) if usual else ESSENTIAL,
        )
        name, (ratio, values) = max(errors.items(), key=lambda item: item[1][0])
    except Exception as problem:  # noqa: BLE001 - see `case_outcome`
        ratio, error = np.inf, message_of(problem)
    agrees = ratio <= FACTOR
    stage = None if agrees or error else "probe"
    labels = (cell.backend, cell.mode, *PROBE_LABELS, dtype, "probe")
    seconds = time.perf_counter() - start
    described = "" if agrees else values
    return Outcome(
        *labels, ratio, ratio, FACTOR, stage, f"xp.{name}", error, seconds, values=described
    )


# Parts of one spec follow on one another: a policy for each backend and mode is enough.
@lru_cache(maxsize=16)
def shared_policy(backend: str, mode: str, spec: PolicySpec, dtype: str) -> Policy:
    """Return a policy that parts share, compiled once; each loads all of its parameters.

    Raises:
        RefusalError: the backend has nothing for the spec's head.
        SpecError: it has, and does not build the spec.
    """
    compiled = mode == "compiled" and len(api.backend(backend).modes) > 1
    try:
        return api.policy(spec, backend=backend, dtype=dtype, compiled=compiled)
    except SpecError as problem:
        if not refuses(backend, spec.head):
            raise
        raise RefusalError(str(problem)) from problem


@cache
def refuses(backend: str, head: Head) -> bool:
    """Return whether a backend refuses a head on the plainest network, as without a closed form."""
    try:
        api.policy(PolicySpec(NETWORKS["linear"], head), backend=backend)
    except SpecError:
        return True
    return False


def notes(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the reasons of outcomes without a comparison, by head, and backend if it is one's."""
    reasons: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.unchecked:
            place = f"head {outcome.head!r} on {outcome.backend}"
            name = outcome.label if outcome.fixture == IDENTITY else place
            reasons[name] = outcome.unchecked
    return reasons


def blindness(outcome: Outcome) -> str:
    """Return why agreement means little."""
    if outcome.power == 0:
        return "rounding may be as large as an error in every component of its gradient"
    return f"a choice is {outcome.nearest:.0f} u from its kink"


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome to look at first.

    Errors come first, then ratios that are not finite, then the largest share of the limit.
    """

    def severity(outcome: Outcome) -> tuple[bool, bool, float]:
        return not outcome.agrees, outcome.error is not None, share(outcome)

    return max(outcomes, key=severity)


def share(outcome: Outcome) -> float:
    """Return the ratio as a share of the limit, infinite for NaN."""
    return math.inf if math.isnan(outcome.ratio) else outcome.ratio / outcome.limit


def shown(outcome: Outcome) -> str:
    """Return a ratio with two digits, or a word where there is no number."""
    if outcome.error is not None:
        return "error"
    return f"{float(f'{outcome.ratio:.2g}'):g}" if math.isfinite(outcome.ratio) else "not finite"


def summary(outcome: Outcome) -> str:
    """Return a ratio with its backend, mode, case and array."""
    where = "" if outcome.error is not None else f", {outcome.where.removesuffix('[]')}"
    return f"{shown(outcome)} ({outcome.backend} {outcome.mode}, {outcome.label}{where})"


def reason(outcome: Outcome) -> str:
    """Return why an outcome disagrees, on one line."""
    if outcome.error is not None:
        return " ".join(outcome.error.split()) or "an error without a message"
    bound = (
        "a quarter of the tolerance" if outcome.fixture == IDENTITY else "the rounding-error bound"
    )
    ratio = f"{outcome.ratio:.3g} times {bound}, the limit is {outcome.limit:g}"
    far = ratio if math.isfinite(outcome.ratio) else "not finite, or of a wrong shape or dtype"
    # The stage stands before the array's name, except at kinks; the entry of a scalar is [].
    where = outcome.where.removeprefix(f"{outcome.stage}: ").removesuffix("[]")
    values = f"{outcome.values}; " if outcome.values else ""
    return f"departs at {outcome.stage}, {where}: {values}{far}"
