"""The cells of a test: each is one case of `pgcore check` on one backend in one mode."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from pgcore.errors import OptimizerError
from pgcore.heads import Head
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.formula import OptimizerSpec
from pgcore_check.cases.builders import RefusalError, builder_of
from pgcore_check.cases.cases import Case, cases
from pgcore_check.cases.design import DTYPES, Choice
from pgcore_check.compare import RATE
from pgcore_check.conformance import (
    Part,
    labels_of,
    loaded,
    modes_of,
    not_run,
    plan,
    truth_of,
    unchecked_row,
    unloaded,
    usable_backends,
)
from pgcore_check.head_outcomes import identity_label, identity_outcome
from pgcore_check.kinds import message_of
from pgcore_check.outcomes import (
    IDENTITY,
    Cell,
    Outcome,
    case_outcome,
    kink_outcome,
    probe_outcome,
)
from pgcore_check.proof import Kink
from pgcore_check.proofs import kinks
from pgcore_check.stages.truth import Truth
from pgcore_check.testing.selection import Selection, registered_names, selected

__all__ = ["CheckCell", "cells"]

# The fixture of the cells that walk an optimizer's steps, and their numbers of steps.
WALK, STEPS = "steps", (1, 10, 100)


@dataclass(frozen=True, eq=False)
class CheckCell:
    """One case on one backend in one mode.

    Attributes:
        backend: Registered name.
        mode: One of the backend's.
        fixture: "random", "extreme", "kink", "probe", "identity" or "steps".
        label: Of the case, as `pgcore check` prints it.
        dtype: "float32" or "float64".
        command: The `pgcore check` that runs it again; "" where the case holds something that is
            not registered.
        run: Returns the outcome.
        options: The options of pytest that choose the same cases.
        named: Whether the backend was asked for, so that refusing the head is a failure.
    """

    backend: str
    mode: str
    fixture: str
    label: str
    dtype: str
    command: str
    run: Callable[[], Outcome] = field(repr=False)
    options: tuple[str, ...] = ()
    named: bool = False

    @property
    def id(self) -> str:
        """The test's name: backend, mode, fixture, label and dtype."""
        dtype = "" if self.dtype in self.label else f"-{self.dtype}"
        return f"{self.backend}-{self.mode}-{self.fixture}-{self.label}{dtype}"


@dataclass(frozen=True, eq=False)
class Work:
    """A part of a run, whose reference the cells of all backends share.

    Attributes:
        part: The part.
        quick: Whether one optimizer step is enough.
        rule: The optimizer whose steps are walked, None for those of `pgcore check`.
        heads_named: Whether heads were asked for, so that one that no backend builds is a failure.
    """

    part: Part
    quick: bool
    rule: OptimizerSpec | None = None
    heads_named: bool = False


def cells(
    *,
    estimators: Selection = None,
    heads: Selection = None,
    optimizers: Selection = None,
    backends: Sequence[str] | None = None,
    quick: bool = False,
) -> list[CheckCell]:
    """Return the cells of a selection, those of one case one after the other.

    Args:
        estimators: Registered names, classes or instances; None takes all.
        heads: The same of heads.
        optimizers: The same of optimizers with an update formula, each of which takes 1, 10 and
            100 steps. Alone they have no other cells; None adds none.
        backends: Registered names, which must be usable; None takes all usable ones.
        quick: Whether few cases are enough, each backend in its usual mode.

    Raises:
        UnknownNameError: a name is not registered.
        DependencyError: a backend's framework is not installed.
        PluginError: an object is of another kind.
        OptimizerError: an optimizer has no update formula.

    Example:
        >>> from pgcore_check.testing import assert_agrees, cells
        >>> for cell in cells(optimizers=["sgd"], backends=["numpy"]):
        ...     assert_agrees(cell)
    """
    result: list[CheckCell] = []
    named = backends is not None
    if optimizers is None or estimators is not None or heads is not None:
        result += case_cells(estimators, heads, backends, quick=quick)
    if optimizers is not None:
        result += step_cells(optimizers, backends, quick=quick)
    return [dataclasses.replace(cell, named=named) for cell in result]


def case_cells(
    estimators: Selection, heads: Selection, backends: Sequence[str] | None, *, quick: bool
) -> Iterator[CheckCell]:
    """Yield the cells of the plan that `pgcore check` would make."""
    # None stays None: the probes of `xp` belong to a run of all estimators.
    work = plan(
        backends=backends,
        estimators=None if estimators is None else selected("estimators", estimators),
        heads=None if heads is None else selected("heads", heads),
        extent="quick" if quick else "standard",
    )
    words = command_words(estimators, heads, quick=quick)
    for part in work.parts:
        if part.identities:
            yield identity_cell(*part.identities, words)
            continue
        shared = Work(part, quick, heads_named=heads is not None)
        for fixture in fixtures_of(part):
            for label in labels_of(part):
                for name in work.backends:
                    yield from cells_of(shared, name, fixture, label, words)


def command_words(estimators: Selection, heads: Selection, *, quick: bool) -> list[str] | None:
    """Return the words of the `pgcore check` with the same cases; None where there is none."""
    words = ["pgcore", "check", *(["--quick"] if quick else [])]
    for kind, selection in (("estimators", estimators), ("heads", heads)):
        names = registered_names(kind, selection)
        if names is None:
            return None
        if selection is not None:
            words += [f"--{kind}", ",".join(names)]
    return words


def identity_cell(label: str, head: Head, words: Sequence[str] | None) -> CheckCell:
    """Return the cell of a head's identities, which no backend runs."""
    name = identity_label(label)
    command = "" if words is None else shlex.join([*words, "--case", name])
    run = partial(identity_outcome, label, head)
    return CheckCell("reference", "formulas", IDENTITY, name, "float64", command, run)


def fixtures_of(part: Part) -> Sequence[str]:
    """Return the fixtures of a part's outcomes."""
    if part.choice is not None:
        return ("random", "extreme")
    return ("kink",) if part.kinks else ("probe",)


def cells_of(
    shared: Work, name: str, fixture: str, label: str, words: Sequence[str] | None
) -> Iterator[CheckCell]:
    """Yield a cell for each mode in which a backend runs a case, a kink or the probes."""
    part, backend = shared.part, loaded(name)
    kink = next((kink for kink in kinks() if kink.name == label and part.kinks), None)
    dtype = part.choice.case.dtype if part.choice else part.dtype
    command = "" if words is None else shlex.join([*words, "--backends", name, "--case", label])
    if part.backends is not None and name not in part.backends:
        return
    modes = modes_of(part, backend) if isinstance(backend, Backend) else ("not loaded",)
    for mode in modes:
        # A mode that compiles takes its time, and most kinks are alike in each.
        if kink and isinstance(backend, Backend) and mode != modes[0] and not kink.everywhere:
            continue
        cell = Cell(name, mode, fixture)
        run = partial(outcome_of, shared, cell, kink)
        yield CheckCell(name, mode, fixture, label, dtype, command, run)


def step_cells(
    optimizers: Selection, backends: Sequence[str] | None, *, quick: bool
) -> Iterator[CheckCell]:
    """Yield the cells in which optimizers step; see `cells`."""
    # The first case of each dtype: an optimizer is told nothing but arrays.
    first = {case.dtype: case for case in reversed([*cases(DTYPES)])}
    names, _ = usable_backends(backends)
    for label, rule in selected("optimizers", optimizers).items():
        if not isinstance(rule, OptimizerSpec):
            raise OptimizerError(
                f"cells: expected optimizers with an update formula, got {label}; a trust region "
                "is made by the core of gradients and Fisher products, which the suite checks"
            )
        for dtype in DTYPES:
            shared = Work(step_part(first[dtype], label, all_modes=not quick), quick, rule)
            for name in names:
                yield from cells_of(shared, name, WALK, labels_of(shared.part)[0], None)


def step_part(case: Case, optimizer: str, *, all_modes: bool) -> Part:
    """Return the part of an optimizer's steps."""
    label = f"{optimizer}-{case.label}"
    choice = Choice(label, "", "", optimizer, dataclasses.replace(case, label=label))
    return Part(0, choice, all_modes=all_modes, moved=True, long=True)


def outcome_of(shared: Work, cell: Cell, kink: Kink | None) -> Outcome:
    """Return the outcome of a cell; an error is an outcome too."""
    part, backend = shared.part, loaded(cell.backend)
    dtype = part.choice.case.dtype if part.choice else part.dtype
    if not isinstance(backend, Backend):
        return unloaded(cell.backend, part, backend)
    if kink is not None:
        return kink_outcome(cell, kink, dtype)
    if part.choice is None:
        return probe_outcome(cell, dtype)
    try:
        truth = reference_of(shared, cell.fixture)
    except RefusalError as problem:
        row = not_run(cell, part.choice, str(problem))
        return row if shared.heads_named else unchecked_row(row)
    except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
        return not_run(cell, part.choice, message_of(problem))
    return case_outcome(cell, part.choice, truth)


# The cells of one case follow on one another: the references of its two fixtures are enough.
@lru_cache(maxsize=2)
def reference_of(shared: Work, fixture: str) -> Truth:
    """Return the reference of a case, which its cells share."""
    if shared.rule is None:
        return truth_of(shared.part, fixture, quick=shared.quick)
    assert shared.part.choice is not None
    case, rule = shared.part.choice.case, dataclasses.replace(shared.rule, learning_rate=RATE)
    policy, batch = case.make(builder_of(case.spec))
    steps = STEPS[:1] if shared.quick else STEPS
    return Truth(case.spec, policy.parameters(), case.estimator, batch, rule, steps)
