"""Comparison of backends and policies with the reference or with each other, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgcore import api
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.batch import Batch
from pgcore.data.episodes import ensure_episodes
from pgcore.data.spec import Adopted, PolicySpec, ensure_spec
from pgcore.errors import BatchError, NonFiniteError, SpecError
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.estimator import Estimator, ensure_estimator
from pgcore.interfaces.extras import check_extras
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy, ensure_policy
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.signals import Signals
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore.validation.fields import flag
from pgcore.wording import shown
from pgcore_check.bounds.agreement import FACTOR, POWER, largest, powered
from pgcore_check.bounds.rounding import restored
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_check.stages.function import counted_steps, function_results, function_signals
from pgcore_check.stages.own_network import OwnTruth, Slope
from pgcore_check.stages.ports import Course, coarser, courses_of, pairing_of, within_rounding
from pgcore_check.stages.truth import STAGES, Expected, Truth

__all__ = [
    "RATE",
    "STAGES",
    "Report",
    "Row",
    "check",
    "compare",
    "compare_policies",
    "difference",
    "stages",
]


# Learning rate of the optimizer's steps. At a higher rate a hundred steps on one batch can drive a
# standard deviation to 0.
RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """One backend at one stage.

    Attributes:
        backend: Its name, with its mode where that is not the usual one.
        stage: One of `STAGES`, or "function".
        ratio: The stage's largest |result - exact| / (u e); infinite for NaN, a wrong shape or a
            wrong dtype.
        where: The array and the entry of the largest ratio.
        limit: The largest ratio that agrees.
        power: The share of the nonzero components in which an error of a millionth of the component
            (in float32 a thousandth) would be seen.
        values: How the entry differs: the expected value, the actual one, and their relative
            difference; "" where there are none.
    """

    backend: str
    stage: str
    ratio: float
    where: str
    limit: float = FACTOR
    power: float = 1.0
    values: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the stage is within the rule; NaN never is."""
        return self.ratio <= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """Result of `compare`, `check` or `compare_policies`.

    Attributes:
        rows: By backend, and for each backend by stage in the order of computation.
    """

    rows: tuple[Row, ...]

    @property
    def agrees(self) -> bool:
        """Whether every backend agrees with the reference at every stage."""
        return all(row.agrees for row in self.rows)

    @property
    def divergences(self) -> dict[str, Row]:
        """The first stage that disagrees, by backend; empty where all agree."""
        first_rows: dict[str, Row] = {}
        for row in self.rows:
            if not row.agrees:
                first_rows.setdefault(row.backend, row)
        return first_rows

    def __str__(self) -> str:
        """Return a table of ratios, stages by backends, and each backend's first divergence."""
        backends = list(dict.fromkeys(row.backend for row in self.rows))
        cells = {(row.stage, row.backend): cell_text(row) for row in self.rows}
        width = max(len(name) for name in (*backends, "disagrees"))
        heading = "".join(f"  {name:>{width}}" for name in backends)
        lines = [f"{'largest error / (u e)':22}{heading}"]
        # Parameters are a stage of two policies only: a single one is given the reference's.
        for stage in ("parameters", *STAGES):
            texts = [cells.get((stage, name), "") for name in backends]
            if any(texts):
                lines.append(f"{stage:22}" + "".join(f"  {text:>{width}}" for text in texts))
        lines += [f"{name}: {verdict(self.divergences.get(name))}" for name in backends]
        return "\n".join(lines)


def cell_text(row: Row) -> str:
    """Return a ratio with two digits, marked where it is above the limit."""
    return f"{row.ratio:.2g}{'' if row.agrees else ' !'}"


def verdict(first: Row | None) -> str:
    """Return the sentence on a backend's first stage that disagrees, None where all agree."""
    if first is None:
        return "agrees"
    ratio = f"{first.ratio:.3g} times u e, {first.limit:g} allowed"
    values = f"{first.values}; " if first.values else ""
    return f"departs at {first.stage}, in {first.where}: {values}{ratio}"


def compare(
    spec: PolicySpec,
    estimator: Estimator,
    batch: Batch,
    *,
    backends: Sequence[str] | None = None,
    seed: int = 0,
    dtype: str = "float64",
    parameters: Mapping[str, ArrayLike] | None = None,
    optimizer: str = "adam",
    compiled: bool = False,
) -> Report:
    """Compare backends with the extended-precision reference on one batch, stage by stage.

    Args:
        spec: The architecture.
        estimator: Which loss.
        batch: Whole episodes.
        backends: Registered names; None takes every one that is usable here.
        seed: Of the initial parameters.
        dtype: "float32" or "float64"; what the backends compute in.
        parameters: By canonical name; None takes the initial ones.
        optimizer: A registered name; of the steps, at `RATE`.
        compiled: Whether backends that can choose compile.

    Raises:
        UnknownNameError: a backend is not registered.
        DependencyError: its framework is not installed.
        SpecError: the backend cannot build the spec.
        EstimatorError: estimator and policy do not fit.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs.

    Example:
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> spec = pg.PolicySpec(pg.Linear(2), pg.Categorical(2))
        >>> pg.compare(spec, pg.estimator("reinforce"), batch, backends=["numpy"]).agrees
        True
    """
    ensure_spec("compare spec", spec)
    ensure_estimator("compare estimator", estimator)
    ensure_episodes("compare batch", batch)
    flag("compare compiled", compiled, SpecError)
    if backends is not None and not isinstance(backends, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(
            f"compare backends: expected a list of names, got {shown(backends)}; "
            "`pgcore list backends` shows them"
        )
    entries = registry().providers("backends")
    usable = [entry.provider.name for entry in entries if entry.status == "usable"]
    names = usable if backends is None else backends
    truth: Truth | None = None
    rows: list[Row] = []
    for name in names:
        # A backend with one mode has nothing to choose, and refuses the other.
        chooses = len(api.backend(name).modes) > 1
        policy = api.policy(
            spec, backend=name, seed=seed, dtype=dtype, compiled=compiled and chooses
        )
        if parameters is not None:
            policy.load(parameters)
        policy.check_fits(estimator)
        policy.check(batch)
        check_extras(estimator.used_extras, batch, spec.head.width)
        # The reference is computed once: all backends start from the same parameters.
        if truth is None:
            formula = api.optimizer(optimizer, learning_rate=RATE).spec
            truth = Truth(spec, policy.parameters(), estimator, batch, formula)
        rows += stages(policy, truth, name)
    return Report(tuple(rows))


def check(policy: Policy, estimator: Estimator, batch: Batch, *, optimizer: str = "adam") -> Report:
    """Compare one policy with the reference, stage by stage, and restore its parameters.

    An adopted network has no closed form. Its outputs are taken as given, with a measured
    rounding error, and everything after them is recomputed in extended precision. Its gradient is
    compared, array by array, with difference quotients along random directions, and the
    optimizer's steps with the optimizer's formula on the policy's gradients.

    Args:
        policy: Built or adopted, on any backend.
        estimator: Which loss.
        batch: Whole episodes.
        optimizer: A registered name; of the steps, at `RATE`.

    Raises:
        UnknownNameError: the optimizer is not registered.
        SpecError: the network cannot be run alone.
        EstimatorError: estimator and policy do not fit.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs; or it has a
            `discount`, which the estimator's reference implementation does not read.
        NonFiniteError: a quantity or the gradient is NaN or infinite; names it and the step.

    Example:
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
        >>> pg.check(policy, pg.estimator("reinforce"), batch).agrees
        True
    """
    ensure_policy("check policy", policy)
    policy.check_fits(estimator)
    policy.check(batch)
    check_extras(estimator.used_extras, batch, policy.spec.head.width)
    if batch.discount is not None and estimator_form(estimator) is not None:
        raise BatchError(
            f"check: expected Batch.discount None for {estimator.name!r}, whose reference "
            "implementation has gamma alone, got one; leave it out, and set gamma"
        )
    formula = api.optimizer(optimizer, learning_rate=RATE).spec
    with restored(policy):
        if not isinstance(policy.spec.network, Adopted):
            truth = Truth(policy.spec, policy.parameters(), estimator, batch, formula)
            return Report(tuple(stages(policy, truth, policy.backend)))
        own_truth = OwnTruth(policy, estimator, batch, formula)
        return Report(tuple(own_stages(policy, own_truth, policy.backend)))


def compare_policies(
    left: Policy, right: Policy, estimator: Estimator, batch: Batch, *, optimizer: str = "adam"
) -> Report:
    """Compare two policies that should be equal, such as a network and its port, stage by stage.

    Arrays of parameters are paired by their values, in any order of axes. Arrays without a single
    partner are compared entry by entry in order of size. The tolerance is measured: the distance
    that each policy's result moves when its parameters and observations move by a unit in the
    last place. The parameters of both are restored.

    Args:
        left: One policy, built or adopted.
        right: The other, to which the report's rows belong.
        estimator: Which loss.
        batch: Whole episodes, as both take them.
        optimizer: A registered name; of the steps, at `RATE`.

    Raises:
        UnknownNameError: the optimizer is not registered.
        ParameterError: the policies have different numbers of parameters.
        EstimatorError: estimator and a policy do not fit.
        BatchError: the batch does not fit a policy, or lacks what the estimator needs.
        NonFiniteError: a quantity or a gradient is NaN or infinite; names it and the step.

    Example:
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> spec = pg.PolicySpec(pg.Linear(2), pg.Categorical(2))
        >>> left, right = pg.policy(spec), pg.policy(spec)
        >>> pg.compare_policies(left, right, pg.estimator("reinforce"), batch).agrees
        True
    """
    for policy in (left, right):
        ensure_policy("compare_policies", policy)
        policy.check_fits(estimator)
        policy.check(batch)
    pairing, dtype = pairing_of(left, right), coarser(left, right)
    # Both get the left policy's signals, so that a difference shows at the stage where it arises.
    signals = api.signals(left, estimator, batch)
    # Half the gradient's norm, so that clipping always acts.
    norm = api.gradient(left, estimator, batch, signals=signals).norm() / 2
    formula = api.optimizer(optimizer, learning_rate=RATE, max_grad_norm=norm or None).spec
    label = f"{right.backend} beside {left.backend}"
    with restored(left, right):
        left_course = courses_of(left, pairing.of_left, estimator, batch, signals, formula)
        right_course = courses_of(right, pairing.of_right, estimator, batch, signals, formula)
    return Report(tuple(port_rows(label, left_course, right_course, dtype)))


def stages(policy: Policy, truth: Truth, label: str) -> Iterator[Row]:
    """Yield a row for each stage of a policy; the optimizer's steps change its parameters.

    Args:
        policy: Any backend's, with the truth's spec and parameters.
        truth: The reference.
        label: The rows' `backend`.
    """
    estimator, batch = truth.estimator, truth.batch
    # A framework's derivatives have no closed forms to be wrong.
    if not isinstance(policy, AutodiffPolicy):
        yield from closed_form_rows(policy, truth, label)
    gradient = yield from stages_forward(policy, truth, label)
    if gradient is None:
        return
    yield row_of(label, "gradient", gradient.numpy(), truth.gradient, truth.dtype)
    # Nothing can be clipped to a norm of 0.
    if truth.max_norm == 0.0:
        return
    clipped = gradient.clipped(truth.max_norm).numpy()
    yield row_of(label, "clipped gradient", clipped, truth.clipped, truth.dtype)
    if truth.fisher:
        product = truth.split(policy.fisher_vector_product(batch, truth.direction))
        yield row_of(label, "Fisher product", product, truth.fisher, truth.dtype)
    optimizer = Optimizer(dataclasses.replace(truth.optimizer, max_grad_norm=truth.max_norm))
    # The first step takes the gradient above, a later one a new gradient at the moved parameters.
    for step in range(1, max(truth.reached, default=0) + 1):
        if step > 1:
            gradient = api.gradient(policy, estimator, batch, signals=truth.shared_signals)
        optimizer.step(policy, gradient)
        if step in truth.reached:
            moved, expected = policy.parameters(), truth.after(step)
            yield row_of(label, steps_label(step), moved, expected, truth.dtype)


def closed_form_rows(policy: Policy, truth: Truth, label: str) -> Iterator[Row]:
    """Yield a row for the estimator's cotangents and one for the head's own derivatives."""
    yield from cotangent_rows(truth, label)
    if truth.kernel:
        derivatives = dict(truth.head_case.actual(policy.backend))
        yield row_of(label, "kernel", derivatives, truth.kernel, truth.dtype)


def cotangent_rows(truth: Truth, label: str) -> Iterator[Row]:
    """Yield a row for the estimator's cotangents, where it has a loss."""
    estimator = truth.estimator
    if truth.cotangents:
        with np.errstate(all="ignore"):
            cotangents = estimator.cotangents(**truth.arguments)
        name = f"{estimator.name}.cotangents"
        arrays = {f"{name}[{key!r}]": np.asarray(value) for key, value in cotangents.items()}
        expected = {f"{name}[{key!r}]": value for key, value in truth.cotangents.items()}
        yield row_of(label, "cotangents", arrays, expected, truth.dtype)


def own_stages(policy: Policy, truth: OwnTruth, label: str) -> Iterator[Row]:
    """Yield a row for each stage of a policy with an adopted network; see `stages`."""
    estimator, batch = truth.estimator, truth.batch
    gradient = yield from stages_forward(policy, truth, label)
    assert gradient is not None
    arrays = gradient.numpy()
    truth.take(arrays)
    # Scores have no loss: their own slopes are measured, and their combination is exact.
    if isinstance(estimator, ScoreEstimator):
        slopes, exact = [*truth.score_slopes()], truth.combined()
    else:
        slopes, exact = [*truth.slopes(arrays)], truth.head_gradient
    exact_row = row_of(label, "gradient", arrays, exact, truth.dtype)
    yield slope_row(label, slopes, exact_row, truth.dtype)
    # Nothing can be clipped to a norm of 0.
    if truth.max_norm == 0.0:
        return
    clipped = gradient.clipped(truth.max_norm).numpy()
    yield row_of(label, "clipped gradient", clipped, truth.clipped, truth.dtype)
    optimizer = Optimizer(dataclasses.replace(truth.optimizer, max_grad_norm=truth.max_norm))
    walk = truth.walk()
    for step in range(1, max(truth.steps) + 1):
        gradient = api.gradient(policy, estimator, batch, signals=truth.shared_signals)
        expected = walk(gradient.numpy())
        optimizer.step(policy, gradient)
        if step in truth.steps:
            yield row_of(label, steps_label(step), policy.parameters(), expected, truth.dtype)


def stages_forward(
    policy: Policy, truth: Truth, label: str
) -> Generator[Row, None, Gradient | None]:
    """Yield a row for each stage up to the surrogate.

    Returns:
        The gradient; None where it is beyond the dtype's range and cannot be compared.
    """
    estimator, batch = truth.estimator, truth.batch
    yield signals_row(api.signals(policy, estimator, batch), truth, label)
    try:
        gradient = api.gradient(policy, estimator, batch, signals=truth.shared_signals)
    except NonFiniteError:
        if truth.overflows:
            return None
        raise
    yield row_of(label, "quantities", gradient.arguments(), truth.quantities, truth.dtype)
    if truth.overflows:
        return None
    yield row_of(label, "surrogate", {"term": gradient.terms()}, truth.terms, truth.dtype)
    return gradient


def function_stages(backend: Backend, truth: Truth, label: str) -> Iterator[Row]:
    """Yield the rows of `pgcore.signals` and `pgcore.loss` on a framework's arrays.

    Args:
        backend: With arrays; the loss is compiled where it compiles everything.
        truth: The reference.
        label: The rows' `backend`.
    """
    arrays = backend.arrays
    assert arrays is not None
    if not arrays.differentiates:
        yield from cotangent_rows(truth, label)
    found = function_signals(truth, arrays) if truth.signals else None
    if found is not None:
        real = truth.real
        expected = {
            name: Expected(e.exact[real], e.allowed[real]) for name, e in truth.signals.items()
        }
        computed = {name: found[name][real] for name in expected if name in found}
        yield row_of(label, "signals", computed, expected, truth.dtype)
    if truth.function:
        compiled = backend.modes[0] == "compiled"
        found, wrong = function_results(truth, arrays, compiled=compiled)
        if wrong:
            where = f"{wrong[0]} where no step is"
            yield Row(label, "function", np.inf, where, values="expected 0, got something else")
        # The terms of the others mean nothing.
        real = counted_steps(truth)
        yield row_of(
            label,
            "function",
            {name: found[name][real] for name in truth.function},
            {n: Expected(e.exact[real], e.allowed[real]) for n, e in truth.function.items()},
            truth.dtype,
        )


def signals_row(signals: Signals, truth: Truth, label: str) -> Row:
    """Return the row of a policy's signals, weights and finalised signals.

    Signals without a reference implementation must compute in float64 throughout.
    """
    if truth.coarse is not None:
        where, values = truth.coarse
        return Row(label, "signals", np.inf, where, values=values)
    arrays = {**signals.values, "weights": signals.weights}
    expected = dict(truth.signals)
    for name, values in truth.finalised.items():
        arrays[f"{name}, finalised"] = truth.surrogate.values[name]
        expected[f"{name}, finalised"] = values
    # The signals of padding's steps mean nothing.
    real = truth.real
    return row_of(
        label,
        "signals",
        {name: arrays[name][real] for name in expected if name in arrays},
        {name: Expected(e.exact[real], e.allowed[real]) for name, e in expected.items()},
        truth.dtype,
    )


def port_rows(
    label: str, left: Sequence[Course], right: Sequence[Course], dtype: np.dtype[Any]
) -> Iterator[Row]:
    """Yield a row for each stage of two policies.

    Args:
        label: The rows' `backend`.
        left: The course of one policy, then those of its perturbed inputs.
        right: The same of the other.
        dtype: The coarser of the two.
    """
    for stage, reference in left[0].items():
        arrays = {name: value.astype(dtype) for name, value in right[0][stage].items()}
        left_allowed = within_rounding([course[stage] for course in left], dtype)
        right_allowed = within_rounding([course[stage] for course in right], dtype)
        expected: dict[str, Expected] = {}
        for name, value in reference.items():
            allowed = np.maximum(left_allowed[name], right_allowed[name].max(initial=0))
            expected[name] = Expected(value.astype(np.longdouble), allowed)
        # Neither side is exact, so that each may be off by the usual limit.
        row = row_of(label, stage, arrays, expected, dtype)
        yield dataclasses.replace(row, limit=2 * FACTOR)


def steps_label(step: int) -> str:
    """Return a stage's name."""
    return f"{step} step{'s' if step > 1 else ''}"


def row_of(
    label: str,
    stage: str,
    arrays: Mapping[str, Array],
    expected: Mapping[str, Expected],
    dtype: np.dtype[Any],
) -> Row:
    """Return the row of a stage whose expected arrays are known entry by entry.

    Args:
        label: The row's `backend`.
        stage: One of `STAGES`, or "function".
        arrays: The results by name; a missing one is infinitely far.
        expected: The reference by name.
        dtype: The working precision.
    """
    ratio, name, position = worst(arrays, expected, dtype)
    seen, total = 0, 0
    for reference in expected.values():
        with_power, nonzero = powered(reference.exact, reference.allowed, dtype)
        seen, total = seen + with_power, total + nonzero
    where = f"{name}{[*position] if position else ''}"
    values = ""
    if not ratio <= FACTOR:
        values = difference(arrays.get(name), expected[name].exact, position)
    return Row(label, stage, ratio, where, FACTOR, seen / max(total, 1), values)


def slope_row(label: str, slopes: Sequence[Slope], exact_row: Row, dtype: np.dtype[Any]) -> Row:
    """Return the row of a gradient that is known along directions.

    Args:
        label: The row's `backend`.
        slopes: The derivatives along directions, at least one.
        exact_row: The row of the parameters whose derivatives are known entry by entry.
        dtype: The working precision.
    """
    steepest = max(slopes, key=lambda slope: slope.ratio)
    seen = [FACTOR * slope.allowed <= POWER[dtype.name] * abs(slope.product) for slope in slopes]
    power = sum(seen) / len(seen)
    # The worse of the two is shown.
    if exact_row.ratio > steepest.ratio:
        return dataclasses.replace(exact_row, power=power)
    return Row(label, "gradient", steepest.ratio, steepest.name, FACTOR, power)


def worst(
    arrays: Mapping[str, Array], expected: Mapping[str, Expected], dtype: np.dtype[Any]
) -> tuple[float, str, tuple[int, ...]]:
    """Return the largest ratio among some arrays, and the array and entry that it belongs to."""
    ratio, name, position = -1.0, "", ()
    for array_name, reference in expected.items():
        array = np.asarray(arrays.get(array_name))
        array_ratio, entry = largest(array, reference.exact, reference.allowed, dtype)
        # Written so that NaN counts as larger.
        if not array_ratio <= ratio:
            ratio, name, position = array_ratio, array_name, entry
    return max(ratio, 0.0), name, position


def difference(actual: Array | None, exact: Array, position: tuple[int, ...]) -> str:
    """Return in words how an array differs from the exact one at an entry.

    Args:
        actual: The result, or None where there is none.
        exact: The reference.
        position: The entry that differs most.
    """
    if actual is None:
        return "expected an array, got none"
    if actual.shape != exact.shape:
        return f"expected shape {[*exact.shape]}, got {[*actual.shape]}"
    if len(position) < exact.ndim:
        return f"got dtype {actual.dtype}"
    value, correct = float(actual[position]), float(exact[position])
    words = f"expected {correct:.6g}, got {value:.6g}"
    if not (np.isfinite(value) and np.isfinite(correct) and correct):
        return words
    relative = abs(value - correct) / abs(correct)
    counted = np.isfinite(exact) & (exact != 0)
    factors = actual[counted].astype(float) / exact[counted].astype(float)
    # A constant factor, such as -1 of a wrong sign, names the mistake.
    same = factors.size > 1 and np.ptp(factors) <= 1e-6 * np.abs(factors).max()
    factor = f"; each entry is {factors[0]:.6g} times the expected one" if same else ""
    return f"{words}, a relative difference of {relative:.2g}{factor}"
