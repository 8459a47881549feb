"""Whether backends, and the user's own policies, agree with the reference or with each other, and where one first departs."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgcore import api
from pgcore.data.batch import Batch
from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import NonFiniteError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore_check.bounds.agreement import FACTOR, POWER, largest, powered
from pgcore_check.bounds.rounding import restored
from pgcore_check.stages.own_network import OwnTruth, Slope
from pgcore_check.stages.ports import Course, coarser, courses_of, pairing_of, within_rounding
from pgcore_check.stages.truth import STAGES, Expected, Truth

__all__ = ["RATE", "STAGES", "Report", "Row", "check", "compare", "compare_policies", "stages"]


# Of the optimizer's steps. At a higher rate a hundred steps on one batch can lead a standard deviation to 0.
RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """One backend at one stage.

    Attributes:
        backend: Its name, with its mode where that is not the usual one.
        stage: One of `STAGES`.
        ratio: The largest |found - exact| / (u e) of the stage; infinite for NaN, a wrong shape or a wrong dtype.
        where: The array it is in, and the entry.
        limit: What the ratio may be.
        power: The share of components other than 0 where an error of a millionth (in float32 a thousandth) of the component would be seen.
    """

    backend: str
    stage: str
    ratio: float
    where: str
    limit: float = FACTOR
    power: float = 1.0

    @property
    def agrees(self) -> bool:
        """Whether the stage is within the rule; NaN never is."""
        return self.ratio <= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """What `compare` found.

    Attributes:
        rows: By backend, and for each by stage in the order of computation.
    """

    rows: tuple[Row, ...]

    @property
    def agrees(self) -> bool:
        """Whether every backend agrees with the reference at every stage."""
        return all(row.agrees for row in self.rows)

    @property
    def divergences(self) -> dict[str, Row]:
        """Each backend's first stage that does not agree, for those that have one."""
        found: dict[str, Row] = {}
        for row in self.rows:
            if not row.agrees:
                found.setdefault(row.backend, row)
        return found

    def __str__(self) -> str:
        """Return a table of stages by backends, in units of what rounding allows, and the first divergences."""
        backends = list(dict.fromkeys(row.backend for row in self.rows))
        cells = {(row.stage, row.backend): row for row in self.rows}
        width = max(len(name) for name in (*backends, "disagrees"))
        lines = [
            f"{'largest error / (u e)':22}" + "".join(f"  {name:>{width}}" for name in backends)
        ]
        told = {row.stage for row in self.rows}
        for stage in (each for each in ("parameters", *STAGES) if each in told):
            row = [cells.get((stage, name)) for name in backends]
            shown = (
                "" if cell is None else f"{cell.ratio:.2g}{'' if cell.agrees else ' !'}"
                for cell in row
            )
            lines.append(f"{stage:22}" + "".join(f"  {text:>{width}}" for text in shown))
        for name in backends:
            first = self.divergences.get(name)
            verdict = (
                "agrees"
                if first is None
                else f"departs at {first.stage}, in {first.where}: {first.ratio:.3g} times u e, {first.limit:g} allowed"
            )
            lines.append(f"{name}: {verdict}")
        return "\n".join(lines)


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
    usable = [
        found.provider.name
        for found in registry().providers("backends")
        if found.status == "usable"
    ]
    names = usable if backends is None else backends
    truth: Truth | None = None
    rows: list[Row] = []
    for name in names:
        chooses = len(api.backend(name).modes) > 1
        policy = api.policy(
            spec, backend=name, seed=seed, dtype=dtype, compiled=compiled and chooses
        )
        if parameters is not None:
            policy.load(parameters)
        policy.check_fits(estimator)
        policy.check(batch)
        if truth is None:
            formula = api.optimizer(optimizer, learning_rate=RATE).spec
            truth = Truth(spec, policy.parameters(), estimator, batch, formula)
        rows += stages(policy, truth, name)
    return Report(tuple(rows))


def check(policy: Policy, estimator: Estimator, batch: Batch, *, optimizer: str = "adam") -> Report:
    """Compare one policy, built or adopted, with closed forms in extended precision, stage by stage.

    An adopted network's outputs are taken as given, and everything after them is compared with the
    closed forms. Its gradient is compared, array by array, with difference quotients along random
    directions, and the optimizer's steps with its formula on the policy's own gradients. The policy's
    parameters are restored.

    Args:
        policy: Built or adopted, on any backend.
        estimator: Which loss.
        batch: Whole episodes.
        optimizer: A registered name; of the steps, at `RATE`.

    Raises:
        UnknownNameError: the optimizer is not registered.
        SpecError: the kit has no closed form of the head, or the network cannot be asked for its outputs.
        EstimatorError: estimator and policy do not fit.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs.
        NonFiniteError: a quantity or the gradient is NaN or infinite; names it and the step.

    Example:
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
        >>> pg.check(policy, pg.estimator("reinforce"), batch).agrees
        True
    """
    policy.check_fits(estimator)
    policy.check(batch)
    formula = api.optimizer(optimizer, learning_rate=RATE).spec
    with restored(policy):
        if not isinstance(policy.spec.network, Adopted):
            truth = Truth(policy.spec, policy.parameters(), estimator, batch, formula)
            return Report(tuple(stages(policy, truth, policy.backend)))
        return Report(
            tuple(own_stages(policy, OwnTruth(policy, estimator, batch, formula), policy.backend))
        )


def compare_policies(
    left: Policy, right: Policy, estimator: Estimator, batch: Batch, *, optimizer: str = "adam"
) -> Report:
    """Compare two policies that should be equal, such as a network and its port, stage by stage.

    Arrays of parameters are paired by their entries, in any order of axes. Arrays without a single
    partner are compared entry by entry in order of size. The tolerance is measured: the change of each
    policy's result when its parameters and observations move by a unit in the last place. The
    parameters of both are restored.

    Args:
        left: One policy, built or adopted.
        right: The other, which the report's rows are of.
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
        policy.check_fits(estimator)
        policy.check(batch)
    pairing, dtype = pairing_of(left, right), coarser(left, right)
    views = ((left, pairing.of_left), (right, pairing.of_right))
    given = api.signals(left, estimator, batch)
    norm = api.gradient(left, estimator, batch, signals=given).norm() / 2
    formula = api.optimizer(optimizer, learning_rate=RATE, max_grad_norm=norm or None).spec
    label = f"{right.backend} beside {left.backend}"
    with restored(left, right):
        left_course, right_course = (
            courses_of(*each, estimator, batch, given, formula) for each in views
        )
    return Report(tuple(port_rows(label, left_course, right_course, dtype)))


def stages(policy: Policy, truth: Truth, label: str) -> Iterator[Row]:
    """Yield a row for each stage, from a policy of the truth's spec and parameters; the optimizer's steps move it.

    Args:
        policy: Any backend's.
        truth: What it is compared with.
        label: The rows' `backend`.
    """
    estimator, batch = truth.estimator, truth.batch
    gradient = yield from stages_forward(policy, truth, label)
    if gradient is None:
        return
    yield row_of(label, "gradient", gradient.numpy(), truth.gradient, truth.dtype)
    yield row_of(
        label,
        "clipped gradient",
        gradient.clipped(truth.max_norm).numpy(),
        truth.clipped,
        truth.dtype,
    )
    if truth.fisher:
        product = truth.split(policy.fisher_vector_product(batch, truth.direction))
        yield row_of(label, "Fisher product", product, truth.fisher, truth.dtype)
    optimizer = Optimizer(dataclasses.replace(truth.optimizer, max_grad_norm=truth.max_norm))
    for step in range(1, max(truth.reached, default=0) + 1):
        if step > 1:
            gradient = api.gradient(policy, estimator, batch, signals=truth.given)
        optimizer.step(policy, gradient)
        if step in truth.reached:
            yield row_of(
                label, steps_label(step), policy.parameters(), truth.after(step), truth.dtype
            )


def own_stages(policy: Policy, truth: OwnTruth, label: str) -> Iterator[Row]:
    """Yield a row for each stage of a policy with a network of the user's; the optimizer's steps move it."""
    estimator, batch = truth.estimator, truth.batch
    gradient = yield from stages_forward(policy, truth, label)
    assert gradient is not None
    found = gradient.numpy()
    truth.take(found)
    if isinstance(estimator, ScoreEstimator):
        slopes, exact = [*truth.score_slopes()], truth.combined()
    else:
        slopes, exact = [*truth.slopes(found)], truth.own
    yield slope_row(
        label, slopes, row_of(label, "gradient", found, exact, truth.dtype), truth.dtype
    )
    if truth.max_norm == 0.0:
        return
    yield row_of(
        label,
        "clipped gradient",
        gradient.clipped(truth.max_norm).numpy(),
        truth.clipped,
        truth.dtype,
    )
    optimizer, walk = (
        Optimizer(dataclasses.replace(truth.optimizer, max_grad_norm=truth.max_norm)),
        truth.walk(),
    )
    for step in range(1, max(truth.steps) + 1):
        gradient = api.gradient(policy, estimator, batch, signals=truth.given)
        must = walk(gradient.numpy())
        optimizer.step(policy, gradient)
        if step in truth.steps:
            yield row_of(label, steps_label(step), policy.parameters(), must, truth.dtype)


def stages_forward(
    policy: Policy, truth: Truth, label: str
) -> Generator[Row, None, Gradient | None]:
    """Yield a row for each stage up to the surrogate, and return the gradient, or None where there is none to compare."""
    estimator, batch = truth.estimator, truth.batch
    own = api.signals(policy, estimator, batch)
    finalised = truth.surrogate.values
    found = {**own.values, "weights": own.weights} | {
        f"{name}, finalised": finalised[name] for name in truth.finalised
    }
    must = truth.signals | {f"{name}, finalised": each for name, each in truth.finalised.items()}
    real = truth.real  # what a signal is where a step is padding means nothing
    yield row_of(
        label,
        "signals",
        {name: found[name][real] for name in must if name in found},
        {name: Expected(each.exact[real], each.allowed[real]) for name, each in must.items()},
        truth.dtype,
    )
    try:
        gradient = api.gradient(policy, estimator, batch, signals=truth.given)
    except NonFiniteError:
        if truth.overflows:
            return None
        raise
    yield row_of(label, "quantities", gradient.arguments(), truth.quantities, truth.dtype)
    if truth.overflows:
        return None
    yield row_of(label, "surrogate", {"term": gradient.terms()}, truth.terms, truth.dtype)
    return gradient


def port_rows(
    label: str, left: Sequence[Course], right: Sequence[Course], dtype: np.dtype[Any]
) -> Iterator[Row]:
    """Yield a row for each stage of two courses, each followed by what rounding makes of it; the limit is twice the usual one."""
    for stage, must in left[0].items():
        found = {name: value.astype(dtype) for name, value in right[0][stage].items()}
        allowed = [
            within_rounding([course[stage] for course in courses], dtype)
            for courses in (left, right)
        ]
        exact = {
            name: Expected(
                value.astype(np.longdouble),
                np.maximum(allowed[0][name], allowed[1][name].max(initial=0)),
            )
            for name, value in must.items()
        }
        row = row_of(label, stage, found, exact, dtype)
        yield dataclasses.replace(row, limit=2 * FACTOR)


def steps_label(step: int) -> str:
    """Return a stage's name."""
    return f"{step} step{'s' if step > 1 else ''}"


def row_of(
    label: str,
    stage: str,
    found: Mapping[str, Array],
    must: Mapping[str, Expected],
    dtype: np.dtype[Any],
) -> Row:
    """Return the row of a stage whose arrays are known entry by entry."""
    ratio, where = worst(found, must, dtype)
    counts = [powered(each.exact, each.allowed, dtype) for each in must.values()]
    total = sum(count for _, count in counts)
    return Row(label, stage, ratio, where, FACTOR, sum(seen for seen, _ in counts) / max(total, 1))


def slope_row(label: str, slopes: Sequence[Slope], other: Row, dtype: np.dtype[Any]) -> Row:
    """Return the row of a gradient that is known along directions; `other` is of what is known entry by entry."""
    largest_one = max(slopes, key=lambda each: each.ratio)
    seen = [FACTOR * each.allowed <= POWER[dtype.name] * abs(each.found) for each in slopes]
    power = sum(seen) / len(seen)
    if other.ratio > largest_one.ratio:
        return dataclasses.replace(other, power=power)
    return Row(label, "gradient", largest_one.ratio, largest_one.name, FACTOR, power)


def worst(
    found: Mapping[str, Array], expected: Mapping[str, Expected], dtype: np.dtype[Any]
) -> tuple[float, str]:
    """Return the largest ratio among named arrays, and where it is."""
    ratio, where = -1.0, ""
    for name, each in expected.items():
        own, position = largest(np.asarray(found.get(name)), each.exact, each.allowed, dtype)
        if not own <= ratio:
            ratio, where = own, f"{name}{list(position) if position else ''}"
    return max(ratio, 0.0), where
