"""The plan and the run of `pgcore check`: which cases, and their outcomes on every backend."""

from __future__ import annotations

import dataclasses
import difflib
import gc
import itertools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from pgcore import api
from pgcore.errors import (
    BatchError,
    DependencyError,
    NonFiniteError,
    OptimizerError,
    PgcoreError,
    UnknownNameError,
)
from pgcore.heads import Head
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import registry
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases import design
from pgcore_check.cases.builders import RefusalError, builder_of
from pgcore_check.cases.cases import EXTREME
from pgcore_check.cases.design import DTYPES, Choice, covering, few_of, levels_of, product
from pgcore_check.compare import RATE
from pgcore_check.compositions import composing
from pgcore_check.head_outcomes import identity_label, identity_outcome
from pgcore_check.kinds import message_of
from pgcore_check.outcomes import (
    DISTANCE,
    FUNCTION,
    IDENTITY,
    PROBE_LABELS,
    Cell,
    Outcome,
    case_outcome,
    kink_outcome,
    probe_outcome,
    refuses,
    shared_policy,
)
from pgcore_check.proof import Kink
from pgcore_check.proofs import kinks, proofs, untried_parts, variants
from pgcore_check.stages.truth import Truth

__all__ = ["EXTENTS", "Outcome", "Part", "Plan", "labels_of", "narrowed", "plan", "run"]

EXTENTS = ("quick", "standard", "full")

# The fewest parts for each process: importing its frameworks takes the time of a few parts.
PARTS_A_PROCESS = 4

# The most parts of one spec that a process takes at once: the progress bar waits for all of them.
PARTS_A_BUNDLE = 8

# How many of a dead process's last lines on standard error the message repeats.
LAST_LINES = 5

# How many near labels the error about an unknown one lists, of a hundred or more.
NEAR = 5

# Draws of a case that are tried until one has power, and the distance of their seeds, which is
# larger than the number of cases.
DRAWS, STRIDE = 24, 100_000

# The largest relative error of an argument of exp, log, tanh or a division. Bounds are of first
# order: what they leave out is this part of them.
MOST_DISTORTION = 0.05

# The factor between the extremity of one draw and of the next.
MILDER = 0.85

# The factors whose every level must occur with a hundred steps, and with padding.
LONG = ("head", "network", "dtype", "optimizer")
PADDED = ("head", "network", "critic", "dtype", "optimizer")

# By the factor that a run is about: the contents of its cases that must occur in every mode.
IN_EVERY_MODE: dict[str, Callable[[Choice], Iterable[str]]] = {
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
    """A case, a group of kinks or the probes of `xp`, that every backend runs, or a head's identities.

    Attributes:
        number: Its place in the report.
        choice: The case, or None.
        kinks: The group of the kinks, or "".
        identities: Label and head whose identities are tried, or None; no backend runs them.
        dtype: The dtype of kinks and probes; a case has its own.
        all_modes: Whether backends run it in each of their modes, or in the usual one alone.
        moved: Whether Fisher products and optimizer steps are compared.
        long: Whether a hundred optimizer steps are taken, or ten.
        padded: Whether steps of padding are added.
        backends: Names of the backends that run it; None for all.
        function: Names of the backends that run the estimator as a function too, if they have arrays.
    """

    number: int
    choice: Choice | None = None
    kinks: str = ""
    identities: tuple[str, Head] | None = None
    dtype: str = "float64"
    all_modes: bool = False
    moved: bool = False
    long: bool = False
    padded: bool = False
    backends: tuple[str, ...] | None = None
    function: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one `pgcore check`.

    Attributes:
        backends: Names of the usable backends.
        absent: Names of the registered backends that are not usable, each with the reason.
        parts: The probes, cases and groups of kinks, those of one spec one after the other.
        extent: One of `EXTENTS`.
        unchecked: Names of registered objects that are not checked, each with the reason.
        selected: The kinds of which the user named some: "backends", "estimators", "heads".
    """

    backends: tuple[str, ...]
    absent: dict[str, str]
    parts: tuple[Part, ...]
    extent: str
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    selected: frozenset[str] = frozenset()


def plan(
    *,
    backends: Sequence[str] | None,
    estimators: Sequence[str] | Mapping[str, Estimator] | None,
    heads: Sequence[str] | Mapping[str, Head] | None,
    extent: str,
    optimizers: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Return the probes, the cases, the groups of kinks and the heads' identities to run.

    Args:
        backends: Registered names, which must be usable; None takes all usable ones.
        estimators: Registered names, or objects by label; None takes all, and the probes of `xp`. A
            run of some is about them: every pair has one of them, and kinks of heads alone are left
            out.
        heads: Registered names, or objects by label; None takes all that have a proof. See
            `estimators`.
        extent: One of `EXTENTS`: few cases that contain everything, each backend in its usual mode;
            every pair of two levels; or every combination.
        optimizers: Registered names of optimizers with an update formula; None takes all.
        settings: Hyper-parameters of estimators by name, to try in place of their variants.

    Raises:
        UnknownNameError: a name is not registered.
        DependencyError: a named backend's framework is not installed.
        OptimizerError: a named optimizer has no update formula, and makes no cases.
    """
    usable, absent = usable_backends(backends)
    tried = selected_variants("estimators", estimators)
    tried = with_settings(tried, settings or {})
    tried_heads = selected_variants("heads", heads)
    check_formulas(optimizers)
    named = {"estimator": estimators, "head": heads}
    factors = [factor for factor, names in named.items() if names is not None]
    factor = factors[0] if len(factors) == 1 else ""
    parts: list[Part] = []
    quick = extent == "quick"
    if estimators is None:
        # A mode that compiles takes its time: one dtype is enough.
        modes = {DTYPES[-1]: not quick}
        parts += [
            Part(number, dtype=dtype, all_modes=modes.get(dtype, False))
            for number, dtype in enumerate(DTYPES[-1:] if quick else DTYPES)
        ]
    for part in case_parts(tried, tried_heads, extent, factor, usable, rules=optimizers):
        parts.append(dataclasses.replace(part, number=len(parts)))
    kinks_of = kink_groups(tried, tried_heads, alone=factor != "estimator")
    for place, (group, members) in enumerate(kinks_of.items()):
        everywhere = not quick and any(kink.everywhere for kink in members)
        # Each group is compiled anew: in a quick run the dtypes take turns.
        dtypes = DTYPES[place % 2 :][:1] if quick else DTYPES
        for turn, dtype in enumerate(dtypes, place):
            takers = in_turn(usable, turn) if extent == "standard" else usable
            # As for the probes.
            in_modes = everywhere and (takers != usable or dtype == DTYPES[-1])
            part = Part(len(parts), kinks=group, dtype=dtype, all_modes=in_modes, backends=takers)
            parts.append(part)
    if tried and factor != "estimator":
        parts += [
            Part(number, identities=head)
            for number, head in enumerate(tried_heads.items(), len(parts))
        ]
    by_kind = {"backends": backends, "estimators": estimators, "heads": heads}
    selected = frozenset(kind for kind, names in by_kind.items() if names is not None)
    reasons = unchecked(estimators, heads, optimizers)
    # Parts are tried in estimators that take any.
    reasons |= untried_parts() if composing(tried.values()) else {}
    for name in settings or {}:
        reasons.pop(f"estimator {name!r}", None)
    return Plan(usable, absent, in_bundles(parts), extent, reasons, selected)


def case_parts(
    tried: Mapping[str, Estimator],
    tried_heads: Mapping[str, Head],
    extent: str,
    factor: str,
    backends: Sequence[str],
    *,
    rules: Sequence[str] | None = None,
) -> Iterator[Part]:
    """Yield the cases of a run, which is about the levels of one factor, or about all."""
    arrange = partial(covering, factor=factor) if extent == "standard" else product
    choices = arrange(tried, tried_heads, rules=rules)
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
    functions = function_backends(choices, backends, in_turns=extent == "standard")
    for choice in choices:
        yield Part(
            0,
            choice,
            all_modes=extent == "full" or choice in few,
            moved=extent == "full" or choice in moved,
            long=choice in long,
            padded=choice in padded,
            # The first case of each variant and dtype.
            function=functions.pop((choice.variant, choice.case.dtype), ()),
        )


def function_backends(
    choices: Sequence[Choice], backends: Sequence[str], *, in_turns: bool
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the names of the backends that run an estimator as a function, by variant and dtype.

    A loss as a function knows neither head nor network, so that one case of them is enough.
    """
    dtypes: dict[str, dict[str, None]] = {}
    for choice in choices:
        dtypes.setdefault(choice.variant, {})[choice.case.dtype] = None
    result: dict[tuple[str, str], tuple[str, ...]] = {}
    for place, (variant, of_variant) in enumerate(dtypes.items()):
        turns = in_turns and len(of_variant) == len(DTYPES)
        for dtype in of_variant:
            turn = place + DTYPES.index(dtype)
            result[variant, dtype] = in_turn(backends, turn) if turns else tuple(backends)
    return result


def in_turn(backends: Sequence[str], turn: int) -> tuple[str, ...]:
    """Return every other backend, the others at the next turn; one backend alone takes every turn.

    Where each turn has its dtype, every pair among thing, dtype and backend occurs.
    """
    return tuple(backends[turn % 2 :: 2] if len(backends) > 1 else backends)


def narrowed(plan: Plan, label: str) -> Plan:
    """Return the plan of the parts with one label: a case's, a kink's name, or "xp" for the probes.

    Raises:
        UnknownNameError: no part has the label.
    """
    parts = tuple(part for part in plan.parts if label in labels_of(part))
    if not parts:
        labels = {label for part in plan.parts for label in labels_of(part)}
        near = difflib.get_close_matches(label, labels, n=NEAR, cutoff=0.0)
        note = "`pgcore check --json` prints the label of every outcome"
        raise UnknownNameError("check --case", label, near, note)
    return dataclasses.replace(plan, parts=parts)


def labels_of(part: Part) -> Sequence[str]:
    """Return the labels of a part's outcomes."""
    if part.choice is not None:
        return [part.choice.case.label]
    if part.kinks:
        return [kink.name for kink in kinks() if kink.group == part.kinks]
    return [identity_label(part.identities[0])] if part.identities else PROBE_LABELS[-1:]


def in_bundles(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return parts with those of one spec one after the other, so that all is compiled once."""
    bundles: dict[Hashable, list[Part]] = {}
    for part in parts:
        bundles.setdefault(bundle_of(part), []).append(part)
    return tuple(part for bundle in bundles.values() for part in bundle)


def bundle_of(part: Part) -> Hashable:
    """Return the same value for parts whose policies are of one spec."""
    return part.choice.built if part.choice else (part.kinks, *(part.identities or ())[:1])


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
    # Policies of an earlier run may have compiled what has changed since, backends too.
    shared_policy.cache_clear()
    refuses.cache_clear()
    loaded.cache_clear()
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
    # Frameworks hold a million objects, and each collection of garbage looks at them.
    gc.set_threshold(50_000, 20, 50)
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
    # A backend that cannot build a policy is no failure unless the user asked for the backend.
    refusals_fail = "backends" in plan.selected
    results = outcomes_of_part(plan, part)
    return [refused(row) if row.unchecked and refusals_fail else row for row in results]


def refused(outcome: Outcome) -> Outcome:
    """Return the failure of an outcome in which a backend could not build the policy."""
    if outcome.fixture == IDENTITY:
        return outcome
    error = {"unchecked": "", "error": outcome.unchecked}
    return dataclasses.replace(outcome, ratio=np.inf, largest=np.inf, **error)


def outcomes_of_part(plan: Plan, part: Part) -> list[Outcome]:
    """Return the outcomes of one part, with refusals as unchecked; see `outcomes`."""
    if part.identities:
        return [identity_outcome(*part.identities)]
    results: list[Outcome] = []
    backends: list[Backend] = []
    for name in plan.backends if part.backends is None else part.backends:
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
        except RefusalError as problem:
            rows = [not_run(cell, part.choice, str(problem)) for cell in cells]
            # No backend at all can build the head, which is a failure where it was asked for.
            results += rows if "heads" in plan.selected else [unchecked_row(row) for row in rows]
            continue
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
    """Return the modes in which a backend runs a part; the usual one is first.

    The last is the loss as a function of the framework's arrays, where the backend has them.
    """
    modes = backend.modes if part.all_modes else backend.modes[:1]
    if part.choice is None or backend.arrays is None or backend.name not in part.function:
        return modes
    # Scores have no loss.
    return modes if isinstance(part.choice.case.estimator, ScoreEstimator) else (*modes, FUNCTION)


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


def unchecked_row(outcome: Outcome) -> Outcome:
    """Return an outcome that was not run as one that is not checked."""
    return dataclasses.replace(outcome, error=None, unchecked=outcome.error or "")


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


def selected_variants(
    kind: str, names: Sequence[str] | Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Return the variants of the estimators or heads of some names, by label; None takes all."""
    if isinstance(names, Mapping):
        return names
    enabled = registry().names(kind)
    for name in names or ():
        # The error tells an unknown name from a disabled one.
        if name not in enabled:
            registry().find(kind, name)
    return {
        label: variant
        for label, variant in variants(kind).items()
        if names is None or proofs().names_of(variant).intersection(names)
    }


def with_settings(
    tried: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return estimators by label, those with settings in place of the variants of their names."""
    variants = {
        label: variant
        for label, variant in tried.items()
        if proofs().names_of(variant).isdisjoint(settings)
    }
    for name, fields in settings.items():
        values = (f"{field}={value}" for field, value in fields.items())
        variants[f"{name} {', '.join(values)}"] = api.estimator(name, **fields)
    return variants


def check_formulas(names: Sequence[str] | None) -> None:
    """Raise unless each is the name of a registered optimizer with an update formula."""
    formulas = design.optimizers()
    for name in names or ():
        if name not in formulas:
            registry().find("optimizers", name)
            why = proofs().defaults["optimizers"][1].get(name, "a rule without one")
            raise OptimizerError(
                f"check: expected optimizers with an update formula, got {name!r} ({why}); "
                f"choose among {', '.join(formulas)}"
            )


def unchecked(
    estimators: Iterable[str] | None,
    heads: Iterable[str] | None,
    optimizers: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return the reason of each broken proof and of each registered object that is not tried."""
    reasons = dict(proofs().problems)
    selected = {
        "estimators": estimators,
        "heads": heads,
        "optimizers": optimizers,
        "reductions": None,
    }
    for kind, names in selected.items():
        for name, why in proofs().defaults[kind][1].items():
            if names is None or name in names:
                reasons[f"{kind.removesuffix('s')} {name!r}"] = why
    # Trust regions have options to try, and no formula.
    for rule in variants("optimizers").values():
        if optimizers is None and not isinstance(rule, OptimizerSpec):
            reasons[f"optimizer {rule.name!r}"] = OF_CHECKED
    return reasons


def truth_of(part: Part, fixture: str, *, quick: bool) -> Truth:
    """Return the reference of a case, for the first draw that can tell an error from rounding.

    Each extreme draw is milder than the one before. After `DRAWS` the last one is taken. Where a
    number leaves the dtype's range, the draw is at fault and not the estimator.

    Args:
        part: A part with a case.
        fixture: "random" or "extreme".
        quick: Whether one optimizer step is enough.

    Raises:
        NonFiniteError, BatchError: a number was NaN or infinite in every draw.
    """
    assert part.choice is not None
    case, steps = part.choice.case, steps_of(part, fixture, quick=quick)
    optimizer = api.optimizer(part.choice.optimizer, learning_rate=RATE).spec
    builder, padding = builder_of(case.spec), PADDING if part.padded else 0
    last: Truth | PgcoreError | None = None
    for draw in range(DRAWS):
        extremity = max(EXTREME * MILDER**draw, 1.0)
        drawn = dataclasses.replace(case, seed=case.seed + draw * STRIDE, extremity=extremity)
        try:
            # An overflow is this draw's end, by the checks below or an error.
            with np.errstate(all="ignore"):
                policy, batch = drawn.make(builder, padding=padding, extreme=fixture == "extreme")
            truth = Truth(case.spec, policy.parameters(), case.estimator, batch, optimizer, steps)
            truth.products = part.moved
            # Else its outcome would be blind; see `Outcome.blind`.
            telling = truth.power > 0 and truth.nearest >= DISTANCE
            sound = truth.within_range and truth.distortion <= MOST_DISTORTION
            if telling and sound:
                return truth
        except (NonFiniteError, BatchError) as error:
            last = last or error
            continue
        last = truth
    if isinstance(last, Truth):
        return last
    assert last is not None
    raise last


def steps_of(part: Part, fixture: str, *, quick: bool) -> tuple[int, ...]:
    """Return the numbers of optimizer steps after which parameters are compared."""
    # From extreme points the steps amplify rounding beyond any use.
    if fixture == "extreme" or not part.moved:
        return ()
    return (1,) if quick else (1, 10, 100) if part.long else (1, 10)
