"""Probes of `xp` on a backend: terms and derivatives beside the constants of `PROBES`.

A critic's table holds the rows q, so that a policy's gradient has the derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pgcore import api
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.batch import Batch
from pgcore.data.networks import Table
from pgcore.data.spec import PolicySpec
from pgcore.heads import Head
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate
from pgcore.interfaces.signals import Signals
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.probes import PROBES, Probe, rows_of
from pgcore_check.proofs import variants

__all__ = ["ESSENTIAL", "Probed", "probe_errors", "probed"]

# Roundings of the dtype that an elementary function may be off by.
ROUNDINGS = 8

# One probe a function, and those in which NaN, infinity or an argument's type could take another
# way: enough for a second mode, which compiles all of them.
ESSENTIAL = (
    *{probe.function: name for name, probe in reversed(PROBES.items())}.values(),
    "abs of NaN",
    "maximum, NaN first",
    "clip, arrays",
    "clip, bounds with a gradient",
    "clip of NaN",
    "log_softmax of -inf",
)


@dataclass(frozen=True)
class Probed(Estimator):
    """The terms of probes, one after the other; 0 at the steps after theirs, which are padding.

    Attributes:
        probes: At least one.
    """

    probes: tuple[Probe, ...]
    name: ClassVar[str] = "xp"

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=True)

    def signals(self, batch: Batch, evaluate: Evaluate) -> dict[str, Array]:
        """See `Estimator.signals`: given, never computed."""
        raise NotImplementedError

    def surrogate(
        self, xp: ArrayNamespace, *, action_values: Native, index: Native, episode: Native
    ) -> Native:
        """See `Estimator.surrogate`."""
        if len(self.probes) == 1:
            return self.probes[0].formula(xp, action_values, index, episode)
        terms: list[Native] = []
        start = 0
        for probe in self.probes:
            steps = slice(start, start + len(rows_of(probe)))
            first = start // 2  # an episode has two steps
            q, numbers = action_values[steps], episode[steps] - first
            terms.append(probe.formula(xp, q, index[steps], numbers))
            start = steps.stop
        return xp.concatenate((*terms, 0.0 * action_values[start:, 0]), 0)


class ProbedValues(Probed):
    """Probes whose derivatives are not compared."""

    def cotangents(self, *, action_values: Array, index: Array, episode: Array) -> dict[str, Array]:
        """See `Estimator.cotangents`: zeros."""
        return {"action_values": np.zeros_like(action_values)}


def probe_errors(
    backend: str,
    dtype: str,
    *,
    compiled: bool = False,
    names: Sequence[str] = (*PROBES,),
    cls: type[Probed] = Probed,
) -> dict[str, tuple[float, str]]:
    """Return the error of each probe, in units of which `FACTOR` agree, and its worst entry.

    Args:
        backend: A registered name.
        dtype: "float32" or "float64".
        compiled: Whether the policy is compiled.
        names: The probes.
        cls: The estimator's class; a new one has never been compiled.
    """
    # A backend that differentiates takes all at once, and compiles once; one with closed forms
    # needs each formula's derivation, which not every probe has.
    small = api.policy(PolicySpec(Table(1), three_actions()), backend=backend, dtype=dtype)
    together = isinstance(small, AutodiffPolicy)
    can_derive = any(entry.status == "usable" for entry in registry().providers("derivers"))
    errors: dict[str, tuple[float, str]] = {}
    for group in [tuple(names)] if together else [(name,) for name in names]:
        probes = tuple(PROBES[name] for name in group)
        derived = together or (probes[0].symbolic and can_derive)
        estimator = (cls if derived else ProbedValues)(probes)
        actual, expected, numbers = probed(estimator, backend, dtype, compiled=compiled)
        for quantity in ("term", "derivative") if derived else ("term",):
            pairs = zip(numbers, actual[quantity], expected[quantity], strict=True)
            for number, value, correct in pairs:
                error = error_of(value, correct, dtype)
                if not error <= errors.get(group[number], (0.0, ""))[0]:
                    where = f"{quantity} expected {listed(correct)}, got {listed(value)}"
                    errors[group[number]] = error, where
                errors.setdefault(group[number], (0.0, ""))
    return errors


def probed(
    estimator: Probed, backend: str, dtype: str, *, compiled: bool = False
) -> tuple[dict[str, Array], dict[str, Array], list[int]]:
    """Return terms and derivatives of an estimator's probes, the correct ones, and rows' probes.

    Args:
        estimator: The probes.
        backend: A registered name.
        dtype: "float32" or "float64".
        compiled: Whether the policy is compiled.

    Returns:
        [N] "term" and [N, 3] "derivative" twice, and the number of each row's probe.
    """
    rows = [
        (number, *row) for number, probe in enumerate(estimator.probes) for row in rows_of(probe)
    ]
    count = len(rows)
    spec = PolicySpec(Table(count), three_actions(), "separate", "action")
    policy = api.policy(spec, backend=backend, dtype=dtype, compiled=compiled)
    policy.load(policy.parameters() | {"critic.table": np.array([q for _, q, _, _ in rows])})
    batch = Batch(
        observations=np.arange(count),
        actions=np.zeros(count, np.int64),
        rewards=np.zeros(count),
        episode_lengths=np.full(count // 2, 2),
        terminated=np.ones(count // 2, np.bool_),
    )
    # `take_last` takes the first entry, then the last.
    values: dict[str, Any] = {
        "index": np.arange(count) % 2 * 2,
        "episode": batch.episode_of_step,
    }
    signals = Signals(values, np.ones(count, dtype), padded=False)
    gradient = api.gradient(policy, estimator, batch, signals=signals)
    actual = {"term": gradient.terms(), "derivative": gradient.numpy()["critic.table"]}
    expected = {
        "term": np.array([term for _, _, term, _ in rows]),
        "derivative": np.array([slopes for _, _, _, slopes in rows]),
    }
    return actual, expected, [number for number, *_ in rows]


def three_actions() -> Head:
    """Return a head whose action-value critic has three values, as many as q."""
    heads = variants("heads").values()
    return next(h for h in heads if h.enumerable and h.outputs == 3 and not h.action_values)


def error_of(value: Array, expected: Array, dtype: str) -> float:
    """Return the largest error of some entries, in units of which `FACTOR` agree."""
    if np.asarray(value).dtype != dtype:
        return np.inf
    with np.errstate(invalid="ignore"):
        same = (value == expected) | (np.isnan(value) & np.isnan(expected))
        unit = ROUNDINGS / FACTOR * np.finfo(dtype).eps * (1 + np.abs(expected))
        ratio = np.where(same, 0.0, np.abs(value - expected) / unit)
    # NaN and infinity agree with themselves alone.
    return float(np.where(np.isfinite(ratio), ratio, np.inf).max())


def listed(value: Array) -> str:
    """Return numbers as text."""
    numbers = [f"{float(number):.6g}" for number in np.ravel(value)]
    return numbers[0] if np.ndim(value) == 0 else f"({', '.join(numbers)})"
