"""What `pgcore check` runs: every estimator on every backend beside the reference, on random, extreme and kink cases."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np

from pgcore import api
from pgcore.backend import Backend
from pgcore.compare import RATE, Row, stages
from pgcore.errors import DependencyError, PgcoreError, UnknownNameError
from pgcore.estimator import Estimator
from pgcore.heads import Head
from pgcore.policy import Policy
from pgcore.registry import registry
from pgcore.spec import PolicySpec
from pgcore.testing.agreement import FACTOR, largest
from pgcore.testing.cases import ESTIMATORS, HEADS, NETWORKS
from pgcore.testing.design import Choice, covering, product
from pgcore.testing.kinks import KINKS, Kink
from pgcore.testing.truth import Truth

__all__ = ["EXTENTS", "Outcome", "Plan", "plan", "run"]

EXTENTS = ("quick", "standard", "full")

# Another process has its frameworks to import, which takes the time of a few parts.
PARTS_A_PROCESS = 8

# Of what a process that died wrote to standard error, the message repeats the last ones.
LINES_TOLD = 5

VARIANTS = ESTIMATORS | {"component baseline": api.estimator("reinforce", gamma=0.9, baseline="optimal_per_component")}


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

    @property
    def agrees(self) -> bool:
        """Whether the backend agrees with the reference at every stage."""
        return self.stage is None and self.error is None


@dataclass(frozen=True, slots=True)
class Cell:
    """One backend, in one mode, on one fixture."""

    backend: str
    mode: str
    fixture: str


@dataclass(frozen=True, slots=True)
class Part:
    """A case or a kink, which every backend runs; one of the two is None.

    Attributes:
        choice: The case.
        kink: The kink's name.
        all_modes: Whether backends run it in each of their modes, not in the usual one alone.
    """

    choice: Choice | None = None
    kink: str | None = None
    all_modes: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run.

    Attributes:
        backends: Names, those that are usable here.
        absent: Names of backends that are registered but not usable, each with the reason.
        parts: What they run.
        extent: One of `EXTENTS`.
    """

    backends: tuple[str, ...]
    absent: dict[str, str]
    parts: tuple[Part, ...]
    extent: str


def plan(
    *, backends: Sequence[str] | None, estimators: Sequence[str] | None, heads: Sequence[str] | None, extent: str
) -> Plan:
    """Return what to run.

    Args:
        backends: Registered names, which must be usable; None takes all that are.
        estimators: Registered names; None takes all.
        heads: Registered names; None takes all that the reference has a form of.
        extent: One of `EXTENTS`: few cases in which everything occurs, each backend in its usual mode; every pair of
            two things; or everything.

    Raises:
        UnknownNameError: a name is not registered.
        DependencyError: a named backend's framework is not installed.
    """
    usable, absent = chosen_backends(backends)
    variants = chosen_estimators(estimators)
    kept = chosen_heads(heads)
    choices = covering(variants, kept) if extent == "standard" else product(variants, kept)
    few = few_of(choices)
    if extent == "quick":
        choices, few = few, []
    parts = [Part(choice, all_modes=extent == "full" or choice in few) for choice in choices]
    names = {variant.name for variant in variants.values()}
    heads_kept = {head.name for head in kept.values()}
    parts += [Part(kink=kink.name) for kink in KINKS if kink.estimator in names and kink.head in heads_kept]
    return Plan(usable, absent, tuple(parts), extent)


def few_of(choices: Sequence[Choice]) -> list[Choice]:
    """Return few cases in which every estimator, head, network, critic, dtype and optimizer occurs.

    Modes that take seconds to compile a case run these alone; of equally good ones the smaller networks, which compile sooner.
    """
    wanted = set[str]().union(*(choice.levels for choice in choices))
    size = {name: number for number, name in enumerate(NETWORKS)}  # tables and linear ones come first
    chosen: list[Choice] = []
    while wanted:
        chosen.append(max(choices, key=lambda each: (len(wanted.intersection(each.levels)), -size[each.network])))
        wanted -= set(chosen[-1].levels)
    return chosen


def run(plan: Plan, processes: int = 1) -> Iterator[list[Outcome]]:
    """Yield the outcomes of each part, in the plan's order; an error is an outcome too.

    Args:
        plan: What to run.
        processes: How many share the work; 1 stays in this one. Others know the plugins that are installed, not those that this one
            has registered by hand.

    Raises:
        PgcoreError: one of the processes died.
    """
    outcomes_of = partial(outcomes, plan)
    processes = min(processes, len(plan.parts) // PARTS_A_PROCESS)
    if processes <= 1:
        yield from map(outcomes_of, plan.parts)
        return
    # Frameworks have threads, with which a process cannot be forked.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "standard error")
        with ProcessPoolExecutor(processes, context, initializer=prepare_process, initargs=(log,)) as executor:
            try:
                yield from executor.map(outcomes_of, plan.parts)
            except BrokenProcessPool as error:
                written = log.read_text(errors="replace").splitlines()[-LINES_TOLD:] if log.exists() else []
                raise PgcoreError(
                    f"check: one of {processes} processes died, for want of memory perhaps; try --processes 1"
                    + "".join(f"\n  {line}" for line in written)
                ) from error


def prepare_process(log: Path) -> None:
    """Give each process a processor and leave interrupts to the one that shares out the work.

    What frameworks write to standard error, which is much, goes to a file, not between the lines of the progress bar.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by what is imported from here on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)


def outcomes(plan: Plan, part: Part) -> list[Outcome]:
    """Return the outcome of every backend on one part, in each mode that it is to run in."""
    tried = {name: loaded(name) for name in plan.backends}
    backends = [each for each in tried.values() if isinstance(each, Backend)]
    failed = [unloaded(name, part, why) for name, why in tried.items() if isinstance(why, str)]
    if part.kink is not None:
        kink = next(kink for kink in KINKS if kink.name == part.kink)
        return failed + [kink_outcome(Cell(each.name, each.modes[0], "kink"), kink) for each in backends]
    assert part.choice is not None
    modes = [(each.name, mode) for each in backends for mode in each.modes[: None if part.all_modes else 1]]
    # A policy serves a case's fixtures one after the other, so that what it compiles serves both.
    policies: dict[tuple[str, str], Policy] = {}
    found = failed
    for fixture in ("random", "extreme"):
        truth = truth_of(part.choice, fixture, quick=plan.extent == "quick")
        found += [case_outcome(Cell(*mode, fixture), part.choice, truth, policies) for mode in modes]
    return found


@cache
def loaded(name: str) -> Backend | str:
    """Return a backend, or why it cannot be loaded: whatever its framework raises is found out once."""
    try:
        return api.backend(name)
    except Exception as problem:  # noqa: BLE001 - see `case_outcome`
        return told(problem)


def unloaded(name: str, part: Part, why: str) -> Outcome:
    """Return the outcome of a backend that cannot be loaded."""
    if part.choice is None:
        kink = next(kink for kink in KINKS if kink.name == part.kink)
        what = (kink.estimator, "kinks", kink.head, kink.name, "float64", "kink")
    else:
        case = part.choice.case
        what = (case.estimator.name, part.choice.variant, case.spec.head.name, case.label, case.dtype, "random")
    return Outcome(name, "not loaded", *what, np.inf, np.inf, FACTOR, None, "", why, 0.0)


def chosen_backends(names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the usable backends, and the others with their reasons; raise where one that is named is not usable."""
    found = {entry.provider.name: entry for entry in registry().providers("backends")}
    for name in names or ():
        if name not in found:
            raise UnknownNameError("backends", name, found)
        if found[name].status != "usable":
            raise DependencyError(f"{found[name].where}: {found[name].reason}")
    usable = [name for name, entry in found.items() if entry.status == "usable" and (names is None or name in names)]
    absent = {name: entry.reason or "" for name, entry in found.items() if entry.status != "usable"}
    return tuple(usable), absent


def chosen_estimators(names: Sequence[str] | None) -> dict[str, Estimator]:
    """Return estimators by label: the kit's variants of those it knows, others as they are by default."""
    registered = registry().names("estimators")
    for name in names or ():
        if name not in registered:
            raise UnknownNameError("estimators", name, registered)
    known = {variant.name for variant in VARIANTS.values()}
    others = {name: api.estimator(name) for name in registered if name not in known}
    return {label: found for label, found in (VARIANTS | others).items() if names is None or found.name in names}


def chosen_heads(names: Sequence[str] | None) -> dict[str, Head]:
    """Return heads by label."""
    registered = registry().names("heads")
    for name in names or ():
        if name not in registered:
            raise UnknownNameError("heads", name, registered)
    return {label: head for label, head in HEADS.items() if names is None or head.name in names}


def truth_of(choice: Choice, fixture: str, *, quick: bool) -> Truth:
    """Return what all backends are compared with on a case."""
    policy, batch = choice.case.make("numpy", padding=padding_of(choice), extreme=fixture == "extreme")
    optimizer = api.optimizer(choice.optimizer, learning_rate=RATE).spec
    # Away from well-scaled points a hundred steps amplify rounding beyond any use; elsewhere every fourth case takes them.
    short = choice.case.estimator.weighs_scores or choice.case.seed % 4 > 0
    steps = () if fixture == "extreme" else (1,) if quick else (1, 10) if short else (1, 10, 100)
    return Truth(choice.case.spec, policy.parameters(), choice.case.estimator, batch, optimizer, steps)


def padding_of(choice: Choice) -> int:
    """Return how many steps of padding a case has: every third one some."""
    return 7 * (choice.case.seed % 3 == 0)


def case_outcome(cell: Cell, choice: Choice, truth: Truth, policies: dict[tuple[str, str], Policy]) -> Outcome:
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
    )


def kink_outcome(cell: Cell, kink: Kink) -> Outcome:
    """Compute the gradient at a kink and compare it with the one that the conventions give."""
    start = time.perf_counter()
    ratio, where, error = -1.0, "", None
    try:
        found = kink.compute(partial(kept, cell, dtype="float64"))
        for name, expected in kink.expected.items():
            allowed = (4e-15 * np.abs(expected) + kink.atol) / FACTOR
            own, position = largest(found[name], expected.astype(np.longdouble), allowed, np.dtype(np.float64))
            if not own <= ratio:
                ratio, where = own, f"{name}{list(position)}"
    except Exception as problem:  # noqa: BLE001 - see `case_outcome`
        ratio, error = np.inf, told(problem)
    stage = None if ratio <= FACTOR or error else "gradient"
    return Outcome(
        cell.backend,
        cell.mode,
        kink.estimator,
        "kinks",
        kink.head,
        kink.name,
        "float64",
        "kink",
        ratio,
        ratio,
        FACTOR,
        stage,
        where,
        error,
        time.perf_counter() - start,
    )


@lru_cache(maxsize=16)
def kept(cell: Cell, spec: PolicySpec, dtype: str) -> Policy:
    """Return a policy that kinks share, so that what it compiles serves several; each loads all of its parameters."""
    return built(cell, spec, dtype)


def told(problem: Exception) -> str:
    """Return an error's message, with its type where it is not pgcore's."""
    return str(problem) if isinstance(problem, PgcoreError) else f"{type(problem).__name__}: {problem}"


def built(cell: Cell, spec: PolicySpec, dtype: str) -> Policy:
    """Return a policy on the cell's backend, in its mode."""
    return api.policy(
        spec,
        backend=cell.backend,
        dtype=dtype,
        compiled=cell.mode == "compiled" and len(api.backend(cell.backend).modes) > 1,
    )
