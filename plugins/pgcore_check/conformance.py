"""What `pgcore check` runs: every estimator on every backend beside the reference, on random, extreme and kink cases."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pgcore import api
from pgcore.errors import DependencyError, PgcoreError, UnknownNameError
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import registry
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import EXTREME, NETWORKS
from pgcore_check.cases.design import DTYPES, Choice, covering, product
from pgcore_check.compare import RATE
from pgcore_check.outcomes import DISTANCE, Cell, Outcome, case_outcome, kink_outcome
from pgcore_check.proof import Kink
from pgcore_check.proofs import kinks, proofs, told, variants
from pgcore_check.stages.truth import Truth

__all__ = ["EXTENTS", "Outcome", "Plan", "plan", "run"]

EXTENTS = ("quick", "standard", "full")

# Another process has its frameworks to import, which takes the time of a few parts.
PARTS_A_PROCESS = 8

# Of what a process that died wrote to standard error, the message repeats the last ones.
LINES_TOLD = 5

# Of what is drawn for a case, as many draws are looked at for one with power; their seeds are this far apart.
DRAWS, STRIDE = 16, 100_000
MILDER = 0.85

# Of which things every level must occur with a hundred steps, and with padding.
LONG = ("head", "network", "dtype", "optimizer")
PADDED = ("head", "network", "critic", "dtype", "optimizer")

NO_PROOF = "no proof"
OF_CHECKED = "made by the core of gradients and Fisher products, which are checked"

# Steps of padding, where a case has any.
PADDING = 7


@dataclass(frozen=True, slots=True)
class Part:
    """A case, or a group of kinks, which every backend runs.

    Attributes:
        choice: The case, or None.
        kinks: The group of the kinks, or "".
        dtype: What the kinks are computed in; a case has its own.
        all_modes: Whether backends run it in each of their modes, not in the usual one alone.
        long: Whether a hundred optimizer steps are taken, not ten.
        padded: Whether steps of padding are added.
    """

    choice: Choice | None = None
    kinks: str = ""
    dtype: str = "float64"
    all_modes: bool = False
    long: bool = False
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run.

    Attributes:
        backends: Names, those that are usable here.
        absent: Names of backends that are registered but not usable, each with the reason.
        parts: What they run.
        extent: One of `EXTENTS`.
        unchecked: What is registered and not checked, each with the reason.
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
    """Return what to run.

    Args:
        backends: Registered names, which must be usable; None takes all that are.
        estimators: Registered names; None takes all.
        heads: Registered names; None takes all that have a proof.
        extent: One of `EXTENTS`: few cases in which everything occurs, each backend in its usual mode; every pair of
            two things; or everything.

    Raises:
        UnknownNameError: a name is not registered.
        DependencyError: a named backend's framework is not installed.
    """
    usable, absent = chosen_backends(backends)
    tried, tried_heads = chosen("estimators", estimators), chosen("heads", heads)
    choices = covering(tried, tried_heads) if extent == "standard" else product(tried, tried_heads)
    few = few_of(choices)
    if extent == "quick":
        choices, few = few, []
    long = few_of(
        [choice for choice in choices if not isinstance(choice.case.estimator, ScoreEstimator)],
        LONG,
    )
    padded = few_of(choices, PADDED)
    parts = [
        Part(
            choice,
            all_modes=extent == "full" or choice in few,
            long=choice in long,
            padded=choice in padded,
        )
        for choice in choices
    ]
    names = {variant.name for variant in tried.values()}
    names |= {""} if names else set()  # points of heads alone
    head_names = {head.name for head in tried_heads.values()}
    groups: dict[str, list[Kink]] = {}
    for kink in kinks():
        if kink.estimator in names and kink.head in head_names:
            groups.setdefault(kink.group, []).append(kink)
    for group, members in groups.items():
        everywhere = extent != "quick" and any(kink.everywhere for kink in members)
        parts += [Part(kinks=group, dtype=dtype, all_modes=everywhere) for dtype in DTYPES]
    return Plan(usable, absent, tuple(parts), extent, unchecked(estimators, heads))


def few_of(choices: Sequence[Choice], things: Collection[str] = ()) -> list[Choice]:
    """Return few cases in which every level of some things occurs: estimator, head, network, critic, dtype and optimizer, or those named.

    Modes that take seconds to compile a case run these alone; of equally good ones the smaller networks, which compile sooner.
    """

    def levels(choice: Choice) -> set[str]:
        return {level for level in choice.levels if not things or level.partition(" ")[0] in things}

    wanted = set[str]().union(*(levels(choice) for choice in choices))
    size = {
        name: number for number, name in enumerate(NETWORKS)
    }  # tables and linear ones come first
    chosen: list[Choice] = []
    while wanted:
        chosen.append(
            max(choices, key=lambda each: (len(wanted & levels(each)), -size[each.network]))
        )
        wanted -= levels(chosen[-1])
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
        with ProcessPoolExecutor(
            processes, context, initializer=prepare_process, initargs=(log,)
        ) as executor:
            try:
                yield from executor.map(outcomes_of, plan.parts)
            except BrokenProcessPool as error:
                written = (
                    log.read_text(errors="replace").splitlines()[-LINES_TOLD:]
                    if log.exists()
                    else []
                )
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
    modes = [
        (each.name, mode)
        for each in backends
        for mode in each.modes[: None if part.all_modes else 1]
    ]
    if part.choice is None:
        group = [kink for kink in kinks() if kink.group == part.kinks]
        usual = {each.name: each.modes[0] for each in backends}
        return failed + [
            kink_outcome(Cell(name, mode, "kink"), kink, part.dtype)
            for name, mode in modes
            for kink in group
            if kink.everywhere or mode == usual[name]
        ]
    # A policy serves a case's fixtures one after the other, so that what it compiles serves both.
    policies: dict[tuple[str, str], Policy] = {}
    found = failed
    for fixture in ("random", "extreme"):
        truth = truth_of(part, fixture, quick=plan.extent == "quick")
        found += [
            case_outcome(Cell(*mode, fixture), part.choice, truth, policies) for mode in modes
        ]
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
        kink = next(kink for kink in kinks() if kink.group == part.kinks)
        what = (kink.estimator or kink.head, "kinks", kink.head, part.kinks, part.dtype, "kink")
    else:
        case = part.choice.case
        what = (
            case.estimator.name,
            part.choice.variant,
            case.spec.head.name,
            case.label,
            case.dtype,
            "random",
        )
    return Outcome(name, "not loaded", *what, np.inf, np.inf, FACTOR, None, "", why, 0.0)


def chosen_backends(names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the usable backends, and the others with their reasons; raise where one that is named is not usable."""
    found = {entry.provider.name: entry for entry in registry().providers("backends")}
    for name in names or ():
        if name not in found:
            raise UnknownNameError("backends", name, found)
        if found[name].status != "usable":
            raise DependencyError(f"{found[name].where}: {found[name].reason}")
    usable = [
        name
        for name, entry in found.items()
        if entry.status == "usable" and (names is None or name in names)
    ]
    absent = {name: entry.reason or "" for name, entry in found.items() if entry.status != "usable"}
    return tuple(usable), absent


def chosen(kind: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Return what is tried of the estimators or heads of some names, by label; None takes all."""
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
    """Return the proofs that are broken, and what is registered and not tried, each with the reason."""
    reasons = dict(proofs().problems)
    named = {"estimators": estimators, "heads": heads, "optimizers": None}
    untried = {"estimators": proofs().defaults[1], "heads": proofs().unproven("heads")}
    untried["optimizers"] = proofs().unproven("optimizers")
    for kind, names in named.items():
        for name, why in untried[kind].items():
            if names is None or name in names:
                reasons[f"{kind.removesuffix('s')} {name!r}"] = (
                    why if isinstance(why, str) else NO_PROOF
                )
    # Trust regions have options to try, and no formula.
    for rule in variants("optimizers").values():
        if not isinstance(rule, OptimizerSpec):
            reasons[f"optimizer {rule.name!r}"] = OF_CHECKED
    return reasons


def truth_of(part: Part, fixture: str, *, quick: bool) -> Truth:
    """Return what all backends are compared with on a case: of the first draws of its numbers, one that can tell an error from rounding.

    Extreme draws get milder as they go on.
    """
    assert part.choice is not None
    case, steps = part.choice.case, steps_of(part, fixture, quick=quick)
    optimizer = api.optimizer(part.choice.optimizer, learning_rate=RATE).spec
    truth: Truth | None = None
    for draw in range(DRAWS):
        drawn = dataclasses.replace(
            case, seed=case.seed + draw * STRIDE, extremity=max(EXTREME * MILDER**draw, 1.0)
        )
        policy, batch = drawn.make(
            "numpy", padding=PADDING if part.padded else 0, extreme=fixture == "extreme"
        )
        truth = Truth(case.spec, policy.parameters(), case.estimator, batch, optimizer, steps)
        if truth.power > 0 and truth.nearest >= DISTANCE:
            break
    assert truth is not None
    return truth


def steps_of(part: Part, fixture: str, *, quick: bool) -> tuple[int, ...]:
    """Return after how many of the optimizer's steps to look; away from well-scaled points they amplify rounding beyond any use."""
    if fixture == "extreme":
        return ()
    return (1,) if quick else (1, 10, 100) if part.long else (1, 10)
