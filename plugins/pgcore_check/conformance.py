"""The plan and the run of `pgcore check`: which cases, and their outcomes on every backend."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from pgcore import api
from pgcore.errors import DependencyError, PgcoreError, UnknownNameError
from pgcore.heads import Head
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import registry
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import EXTREME
from pgcore_check.cases.design import DTYPES, Choice, covering, few_of, levels_of, product
from pgcore_check.compare import RATE
from pgcore_check.outcomes import (
    DISTANCE,
    PROBE_LABELS,
    Cell,
    Outcome,
    case_outcome,
    kink_outcome,
    probe_outcome,
    shared_policy,
)
from pgcore_check.proof import Kink
from pgcore_check.proofs import kinks, message_of, proofs, variants
from pgcore_check.stages.truth import Truth

__all__ = ["EXTENTS", "Outcome", "Plan", "plan", "run"]

EXTENTS = ("quick", "standard", "full")

# The fewest parts for each process: importing its frameworks takes the time of a few parts.
PARTS_A_PROCESS = 4

# The most parts of one spec that a process takes at once: the progress bar waits for all of them.
PARTS_A_BUNDLE = 8

# How many of a dead process's last lines on standard error the message repeats.
LAST_LINES = 5

# Draws of a case that are tried until one has power, and the distance of their seeds, which is
# larger than the number of cases.
DRAWS, STRIDE = 24, 100_000

# The factor between the extremity of one draw and of the next.
MILDER = 0.85

# The factors whose every level must occur with a hundred steps, and with padding.
LONG = ("head", "network", "dtype", "optimizer")
PADDED = ("head", "network", "critic", "dtype", "optimizer")

# By the factor that a run is about: the contents of its cases that must occur in every mode.
IN_EVERY_MODE = {
    "": attrgetter("compiled"),
    "estimator": lambda choice: choice.labels[:1],
    "head": lambda choice: choice.labels[1:],
}

# The reason for which a registered optimizer is not checked.
OF_CHECKED = "made by the core of gradients and Fisher products, which are checked"

# Steps of padding that a padded case has.
PADDING = 7


@dataclass(frozen=True, slots=True)
class Part:
    """A case, a group of kinks, or the probes of `xp`, that every backend runs.

    Attributes:
        number: Its place in the report.
        choice: The case, or None.
        kinks: The group of the kinks, or "" for a case and for the probes.
        dtype: The dtype of kinks and probes; a case has its own.
        all_modes: Whether backends run it in each of their modes, or in the usual one alone.
        moved: Whether Fisher products and optimizer steps are compared.
        long: Whether a hundred optimizer steps are taken, or ten.
        padded: Whether steps of padding are added.
    """

    number: int
    choice: Choice | None = None
    kinks: str = ""
    dtype: str = "float64"
    all_modes: bool = False
    moved: bool = False
    long: bool = False
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one `pgcore check`.

    Attributes:
        backends: Names of the usable backends.
        absent: Names of the registered backends that are not usable, each with the reason.
        parts: The probes, cases and groups of kinks, those of one spec one after the other.
        extent: One of `EXTENTS`.
        unchecked: Names of registered objects that are not checked, each with the reason.
    """

    backends: tuple[str, ...]
    absent: dict[str, str]
    parts: tuple[Part, ...]
    extent: str
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict[str, str])


def plan(
    *,
    backends: Sequence[str] | None,
    estimators: Sequence[str] | None,
    heads: Sequence[str] | None,
    extent: str,
) -> Plan:
    """Return the probes, the cases and the groups of kinks to run.

    Args:
        backends: Registered names, which must be usable; None takes all usable ones.
        estimators: Registered names; None takes all, and the probes of `xp`. A run of some is about
            them: every pair has one of them, and kinks of heads alone are left out.
        heads: Registered names; None takes all that have a proof. See `estimators`.
        extent: One of `EXTENTS`: few cases that contain everything, each backend in its usual mode;
            every pair of two levels; or every combination.

    Raises:
        UnknownNameError: a name is not registered.
        DependencyError: a named backend's framework is not installed.
    """
    usable, absent = usable_backends(backends)
    tried = selected_variants("estimators", estimators)
    tried_heads = selected_variants("heads", heads)
    named = {"estimator": estimators, "head": heads}
    factors = [factor for factor, names in named.items() if names is not None]
    factor = factors[0] if len(factors) == 1 else ""
    parts: list[Part] = []
    if estimators is None:
        # A mode that compiles takes its time: one dtype is enough.
        modes = {DTYPES[-1]: extent != "quick"}
        parts += [
            Part(number, dtype=dtype, all_modes=modes.get(dtype, False))
            for number, dtype in enumerate(DTYPES)
        ]
    for part in case_parts(tried, tried_heads, extent, factor):
        parts.append(dataclasses.replace(part, number=len(parts)))
    for group, members in kink_groups(tried, tried_heads, alone=factor != "estimator").items():
        everywhere = extent != "quick" and any(kink.everywhere for kink in members)
        for dtype in DTYPES:
            # As for the probes.
            in_modes = everywhere and dtype == DTYPES[-1]
            parts.append(Part(len(parts), kinks=group, dtype=dtype, all_modes=in_modes))
    return Plan(usable, absent, in_bundles(parts), extent, unchecked(estimators, heads))


def case_parts(
    tried: Mapping[str, Estimator], tried_heads: Mapping[str, Head], extent: str, factor: str
) -> Iterator[Part]:
    """Yield the cases of a run, which is about the levels of one factor, or about all."""
    standard = extent == "standard"
    choices = covering(tried, tried_heads, factor) if standard else product(tried, tried_heads)
    # The few cases are all of a quick run; in a longer one they are run in every mode.
    if extent == "quick":
        choices, few = few_of(choices), []
    else:
        few = few_of(choices, IN_EVERY_MODE[factor])
    # A hundred steps are too slow for estimators that weigh scores, whose reference takes a pass
    # through the network for each step of the batch.
    unscored = [c for c in choices if not isinstance(c.case.estimator, ScoreEstimator)]
    long = few_of(unscored, partial(levels_of, factors=LONG))
    padded = few_of(choices, partial(levels_of, factors=PADDED))
    # A Fisher product has no estimator in it, and a step only its gradient.
    moved = [*few, *long]
    moved += few_of(choices, attrgetter("moving"), beside=moved)
    for choice in choices:
        yield Part(
            0,
            choice,
            all_modes=extent == "full" or choice in few,
            moved=extent == "full" or choice in moved,
            long=choice in long,
            padded=choice in padded,
        )


def in_bundles(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return parts with those of one spec one after the other, so that all is compiled once."""
    bundles: dict[Hashable, list[Part]] = {}
    for part in parts:
        bundles.setdefault(bundle_of(part), []).append(part)
    return tuple(part for bundle in bundles.values() for part in bundle)


def bundle_of(part: Part) -> Hashable:
    """Return the same value for parts whose policies are of one spec."""
    return part.choice.built if part.choice else part.kinks


def kink_groups(
    tried: Mapping[str, Estimator], tried_heads: Mapping[str, Head], *, alone: bool
) -> dict[str, list[Kink]]:
    """Return the kinks of some estimators and heads, by group.

    Args:
        tried: The estimators by label.
        tried_heads: The heads by label.
        alone: Whether kinks of a head alone belong to the run; they name no estimator.
    """
    names = {estimator.name for estimator in tried.values()}
    names |= {""} if names and alone else set()
    head_names = {head.name for head in tried_heads.values()}
    groups: dict[str, list[Kink]] = {}
    for kink in kinks():
        if kink.estimator in names and kink.head in head_names:
            groups.setdefault(kink.group, []).append(kink)
    return groups


def run(plan: Plan, processes: int = 1) -> Iterator[list[Outcome]]:
    """Yield the outcomes of each part, in the plan's order; an error is an outcome too.

    Args:
        plan: The work.
        processes: The number of processes that share it; 1 stays in this one. Others know the
            installed plugins, not those that this process has registered.

    Raises:
        PgcoreError: one of the processes died.
    """
    # Policies of an earlier run may have compiled what has changed since.
    shared_policy.cache_clear()
    outcomes_of = partial(outcomes, plan)
    processes = min(processes, len(plan.parts) // PARTS_A_PROCESS)
    if processes <= 1:
        yield from map(outcomes_of, plan.parts)
        return
    bundles: list[Sequence[Part]] = []
    for _, bundle in itertools.groupby(plan.parts, bundle_of):
        parts = [*bundle]
        starts = range(0, len(parts), PARTS_A_BUNDLE)
        bundles += [parts[start : start + PARTS_A_BUNDLE] for start in starts]
    # Frameworks have threads, with which a process cannot be forked.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "standard error")
        with ProcessPoolExecutor(
            processes, context, initializer=prepare_process, initargs=(log,)
        ) as executor:
            try:
                for bundle in executor.map(partial(bundle_outcomes, plan), bundles):
                    yield from bundle
            except BrokenProcessPool as error:
                written = log.read_text(errors="replace").splitlines() if log.exists() else []
                message = (
                    f"check: one of {processes} processes died, for want of memory perhaps; "
                    "try --processes 1"
                )
                raise PgcoreError("\n  ".join([message, *written[-LAST_LINES:]])) from error


def prepare_process(log: Path) -> None:
    """Limit a process to one thread, without interrupts, its standard error in a file.

    The process that shares out the work handles interrupts. Frameworks write much to standard
    error, which would break up the progress bar.
    """
    # Frameworks read it when they are imported, which is later.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)


def bundle_outcomes(plan: Plan, parts: Sequence[Part]) -> list[list[Outcome]]:
    """Return the outcomes of some parts."""
    return [outcomes(plan, part) for part in parts]


def outcomes(plan: Plan, part: Part) -> list[Outcome]:
    """Return the outcomes of one part, for every backend and each mode that runs it."""
    results: list[Outcome] = []
    backends: list[Backend] = []
    for name in plan.backends:
        backend = loaded(name)
        if isinstance(backend, Backend):
            backends.append(backend)
        else:
            results.append(unloaded(name, part, backend))
    if part.choice is None and part.kinks:
        return results + kink_outcomes(part, backends)
    if part.choice is None:
        cells = (
            Cell(backend.name, mode, "probe")
            for backend in backends
            for mode in modes_of(part, backend)
        )
        return results + [probe_outcome(cell, part.dtype) for cell in cells]
    for fixture in ("random", "extreme"):
        cells = [Cell(b.name, mode, fixture) for b in backends for mode in modes_of(part, b)]
        try:
            truth = truth_of(part, fixture, quick=plan.extent == "quick")
        except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
            results += [not_run(cell, part.choice, message_of(problem)) for cell in cells]
            continue
        results += [case_outcome(cell, part.choice, truth) for cell in cells]
    return results


def kink_outcomes(part: Part, backends: Sequence[Backend]) -> list[Outcome]:
    """Return the outcomes of a group of kinks, those of one backend and mode together."""
    group = [kink for kink in kinks() if kink.group == part.kinks]
    results: list[Outcome] = []
    for backend in backends:
        for mode in modes_of(part, backend):
            usual = mode == backend.modes[0]
            cell = Cell(backend.name, mode, "kink")
            members = [kink for kink in group if usual or kink.everywhere]
            results += [kink_outcome(cell, kink, part.dtype) for kink in members]
    return results


def modes_of(part: Part, backend: Backend) -> Sequence[str]:
    """Return the modes in which a backend runs a part; the usual one is first."""
    return backend.modes if part.all_modes else backend.modes[:1]


@cache
def loaded(name: str) -> Backend | str:
    """Return a backend, or the message of the error that loading it raised; tried once."""
    try:
        return api.backend(name)
    except Exception as problem:  # noqa: BLE001 - see `case_outcome`
        return message_of(problem)


def unloaded(name: str, part: Part, why: str) -> Outcome:
    """Return the outcome of a backend that cannot be loaded."""
    if part.choice is None and part.kinks:
        kink = next(kink for kink in kinks() if kink.group == part.kinks)
        subject = kink.estimator or kink.head
        labels = (subject, "kinks", kink.head, part.kinks, part.dtype, "kink")
    elif part.choice is None:
        labels = (*PROBE_LABELS, part.dtype, "probe")
    else:
        return not_run(Cell(name, "not loaded", "random"), part.choice, why)
    return Outcome(name, "not loaded", *labels, np.inf, np.inf, FACTOR, None, "", why, 0.0)


def not_run(cell: Cell, choice: Choice, why: str) -> Outcome:
    """Return the outcome of a case that was not run, with the reason."""
    case = choice.case
    labels = (case.estimator.name, choice.variant, case.spec.head.name, case.label, case.dtype)
    numbers = (np.inf, np.inf, FACTOR, None, "", why, 0.0)
    return Outcome(cell.backend, cell.mode, *labels, cell.fixture, *numbers)


def usable_backends(names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of usable backends, and the reason of each that is not usable.

    Args:
        names: Registered names, which must be usable; None takes all usable ones.

    Raises:
        UnknownNameError: a name is not registered.
        DependencyError: a named backend is not usable.
    """
    entries = {entry.provider.name: entry for entry in registry().providers("backends")}
    for name in names or ():
        if name not in entries:
            raise UnknownNameError("backends", name, entries)
        if entries[name].status != "usable":
            raise DependencyError(f"{entries[name].where}: {entries[name].reason}")
    usable: list[str] = []
    absent: dict[str, str] = {}
    for name, entry in entries.items():
        if entry.status != "usable":
            absent[name] = entry.reason or ""
        elif names is None or name in names:
            usable.append(name)
    return tuple(usable), absent


def selected_variants(kind: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the variants of the estimators or heads of some names, by label; None takes all."""
    registered = registry().names(kind)
    for name in names or ():
        if name not in registered:
            raise UnknownNameError(kind, name, registered)
    return {
        label: variant
        for label, variant in variants(kind).items()
        if names is None or variant.name in names
    }


def unchecked(estimators: Sequence[str] | None, heads: Sequence[str] | None) -> dict[str, str]:
    """Return the reason of each broken proof and of each registered object that is not tried."""
    reasons = dict(proofs().problems)
    selected = {"estimators": estimators, "heads": heads, "optimizers": None, "reductions": None}
    for kind, names in selected.items():
        for name, why in proofs().defaults[kind][1].items():
            if names is None or name in names:
                reasons[f"{kind.removesuffix('s')} {name!r}"] = why
    # Trust regions have options to try, and no formula.
    for rule in variants("optimizers").values():
        if not isinstance(rule, OptimizerSpec):
            reasons[f"optimizer {rule.name!r}"] = OF_CHECKED
    return reasons


def truth_of(part: Part, fixture: str, *, quick: bool) -> Truth:
    """Return the reference of a case, for the first draw that can tell an error from rounding.

    Each extreme draw is milder than the one before. After `DRAWS` the last one is taken.

    Args:
        part: A part with a case.
        fixture: "random" or "extreme".
        quick: Whether one optimizer step is enough.
    """
    assert part.choice is not None
    case, steps = part.choice.case, steps_of(part, fixture, quick=quick)
    optimizer = api.optimizer(part.choice.optimizer, learning_rate=RATE).spec
    truth: Truth | None = None
    for draw in range(DRAWS):
        extremity = max(EXTREME * MILDER**draw, 1.0)
        drawn = dataclasses.replace(case, seed=case.seed + draw * STRIDE, extremity=extremity)
        padding = PADDING if part.padded else 0
        policy, batch = drawn.make("numpy", padding=padding, extreme=fixture == "extreme")
        truth = Truth(case.spec, policy.parameters(), case.estimator, batch, optimizer, steps)
        truth.products = part.moved
        # Else its outcome would be blind; see `Outcome.blind`.
        if truth.power > 0 and truth.nearest >= DISTANCE:
            break
    assert truth is not None
    return truth


def steps_of(part: Part, fixture: str, *, quick: bool) -> tuple[int, ...]:
    """Return the numbers of optimizer steps after which parameters are compared."""
    # From extreme points the steps amplify rounding beyond any use.
    if fixture == "extreme" or not part.moved:
        return ()
    return (1,) if quick else (1, 10, 100) if part.long else (1, 10)
