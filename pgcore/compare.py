"""Whether backends agree with the reference, and where one that does not first departs from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgcore import api
from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import NonFiniteError
from pgcore.estimator import Estimator
from pgcore.optimizer import Optimizer
from pgcore.policy import Policy
from pgcore.registry import registry
from pgcore.spec import PolicySpec
from pgcore.surrogate import Surrogate
from pgcore.testing.agreement import FACTOR, largest
from pgcore.testing.truth import STAGES, Expected, Truth

__all__ = ["RATE", "STAGES", "Report", "Row", "compare", "stages"]


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
    """

    backend: str
    stage: str
    ratio: float
    where: str
    limit: float = FACTOR

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
        lines = [f"{'largest error / (u e)':22}" + "".join(f"  {name:>{width}}" for name in backends)]
        for stage in STAGES:
            row = [cells.get((stage, name)) for name in backends]
            shown = ("" if cell is None else f"{cell.ratio:.2g}{'' if cell.agrees else ' !'}" for cell in row)
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
        SpecError: the backend cannot build the spec, or cannot compile.
        EstimatorError: estimator and policy do not fit.
        BatchError: the batch does not fit the policy, or lacks what the estimator needs.
    """
    names = backends or [found.provider.name for found in registry().providers("backends") if found.status == "usable"]
    truth: Truth | None = None
    rows: list[Row] = []
    for name in names:
        policy = api.policy(spec, backend=name, seed=seed, dtype=dtype, compiled=compiled)
        if parameters is not None:
            policy.load(parameters)
        policy.check_fits(estimator)
        policy.check(batch)
        if truth is None:
            formula = api.optimizer(optimizer, learning_rate=RATE).spec
            truth = Truth(spec, policy.parameters(), estimator, batch, formula)
        rows += stages(policy, truth, name)
    return Report(tuple(rows))


def stages(policy: Policy, truth: Truth, label: str) -> Iterator[Row]:
    """Yield a row for each stage, from a policy of the truth's spec and parameters; the optimizer's steps move it.

    Args:
        policy: Any backend's.
        truth: What it is compared with.
        label: The rows' `backend`.
    """
    estimator, batch = truth.estimator, truth.batch

    def row(stage: str, found: Mapping[str, Array], expected: Mapping[str, Expected]) -> Row:
        return Row(label, stage, *worst(found, expected, truth.dtype))

    own = api.signals(policy, estimator, batch)
    finalised = Surrogate(estimator, truth.given).values
    found = {**own.values, "weights": own.weights} | {f"{name}, finalised": finalised[name] for name in truth.finalised}
    expected = truth.signals | {f"{name}, finalised": each for name, each in truth.finalised.items()}
    real = truth.real  # what a signal is where a step is padding means nothing
    yield row(
        "signals",
        {name: found[name][real] for name in expected if name in found},
        {name: Expected(each.exact[real], each.allowed[real]) for name, each in expected.items()},
    )
    try:
        gradient = api.gradient(policy, estimator, batch, signals=truth.given)
    except NonFiniteError:
        if truth.overflows:
            return
        raise
    yield row("quantities", gradient.given(), truth.quantities)
    if truth.overflows:
        return
    yield row("surrogate", {"term": gradient.terms()}, truth.terms)
    yield row("gradient", gradient.numpy(), truth.gradient)
    yield row("clipped gradient", gradient.clipped(truth.max_norm).numpy(), truth.clipped)
    optimizer = Optimizer(dataclasses.replace(truth.optimizer, max_grad_norm=truth.max_norm))
    for step in range(1, max(truth.reached, default=0) + 1):
        if step > 1:
            gradient = api.gradient(policy, estimator, batch, signals=truth.given)
        optimizer.step(policy, gradient)
        if step in truth.reached:
            yield row(f"{step} step{'s' if step > 1 else ''}", policy.parameters(), truth.after(step))


def worst(found: Mapping[str, Array], expected: Mapping[str, Expected], dtype: np.dtype[Any]) -> tuple[float, str]:
    """Return the largest ratio among named arrays, and where it is."""
    ratio, where = -1.0, ""
    for name, each in expected.items():
        own, position = largest(np.asarray(found.get(name)), each.exact, each.allowed, dtype)
        if not own <= ratio:
            ratio, where = own, f"{name}{list(position) if position else ''}"
    return max(ratio, 0.0), where
