"""Errors at non-differentiable and extreme points, where frameworks disagree, and parts of them.

Each point is a policy with one state or a linear map, one or two steps, and an exact derivative
that was derived by hand; see `Kink`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array
from pgcore_check.bounds.agreement import FACTOR, TINY, largest
from pgcore_check.proof import Build, Kink

__all__ = ["allowance_at", "constants", "logits", "one_step", "row", "worst_at", "worst_entry"]

# Relative error of float64 gradients at kinks: some twenty roundings.
RTOL = 4e-15


def allowance_at(kink: Kink, name: str, dtype: np.dtype[Any]) -> Array:
    """Return the error bound of each entry of a parameter's gradient, in a dtype."""
    # A kink states its bounds for float64, whose eps is 2^-52.
    coarser = float(np.finfo(dtype).eps) / 2.0**-52
    return (RTOL * np.abs(kink.expected[name]) + kink.atol) * coarser + TINY[dtype.name]


def worst_at(kink: Kink, build: Build, dtype: np.dtype[Any]) -> tuple[float, str]:
    """Return the largest error at a kink, in quarters of its bound, and the entry."""
    ratio, name, position = worst_entry(kink, kink.compute(build), dtype)
    return ratio, f"{name}{[*position]}"


def worst_entry(
    kink: Kink, gradient: Mapping[str, Array], dtype: np.dtype[Any]
) -> tuple[float, str, tuple[int, ...]]:
    """Return the largest error of a gradient, in quarters of its bound, the array and the entry."""
    ratio, name, position = -1.0, "", ()
    for array_name, expected in kink.expected.items():
        # In quarters, so that the limit is 4 as it is for cases.
        allowed = allowance_at(kink, array_name, dtype) / FACTOR
        exact = expected.astype(np.longdouble)
        array_ratio, entry = largest(gradient[array_name], exact, allowed, dtype)
        if not array_ratio <= ratio:
            ratio, name, position = array_ratio, array_name, entry
    return ratio, name, position


def constants(policy: Policy, advantage: float, **signals: float) -> Signals:
    """Return the signals of one step, with a policy's dtype and a weight of 1.

    Args:
        policy: The policy, for its dtype.
        advantage: The signal "advantage".
        signals: Other signals by name.
    """
    values = {
        name: np.array([value], policy.dtype)
        for name, value in {"advantage": advantage, **signals}.items()
    }
    return Signals(values, np.ones(1, policy.dtype), padded=False)


def one_step(
    action: int | list[float],
    observation: int | list[float] = 0,
    mask: list[bool] | None = None,
    *,
    reward: float = 0.0,
    log_prob: float | None = None,
) -> Batch:
    """Return a batch of one step, which terminates.

    Args:
        action: An index, or [n] floats.
        observation: A state, or [O] floats.
        mask: [A] bool, or None where every action is possible.
        reward: Environment units.
        log_prob: The old log-probability.
    """
    return Batch(
        observations=[observation],
        actions=[action],
        rewards=[reward],
        log_probs=None if log_prob is None else [log_prob],
        episode_lengths=[1],
        terminated=[True],
        action_mask=None if mask is None else [mask],
    )


def logits(*values: float) -> dict[str, Array]:
    """Return the parameters of a table of one state."""
    return {"network.table": np.array([values])}


def row(*values: float) -> dict[str, Array]:
    """Return the expected derivative of a table of one state."""
    return {"network.table": np.array([values])}
