"""Non-differentiable and extreme points, where frameworks disagree: how far a gradient is from the conventions' there.

Each is a policy with one state or a linear map, one or two steps, and the exact derivative worked out by hand; see `Kink`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array
from pgcore_check.bounds.agreement import FACTOR, TINY, largest
from pgcore_check.proof import Build, Kink

__all__ = ["allowance_at", "constants", "logits", "one_step", "row", "worst_at"]

# Of float64 gradients at kinks: some twenty roundings.
RTOL = 4e-15


def allowance_at(kink: Kink, name: str, dtype: np.dtype[Any]) -> Array:
    """Return how far each entry of a parameter's gradient may be from the one expected, in a dtype."""
    coarser = float(np.finfo(dtype).eps) / 2.0**-52
    return (RTOL * np.abs(kink.expected[name]) + kink.atol) * coarser + TINY[dtype.name]


def worst_at(kink: Kink, build: Build, dtype: np.dtype[Any]) -> tuple[float, str]:
    """Return the largest error at a kink, in quarters of what is allowed, and the entry that it is in."""
    found = kink.compute(build)
    ratio, where = -1.0, ""
    for name, expected in kink.expected.items():
        allowed = allowance_at(kink, name, dtype) / FACTOR
        own, position = largest(found[name], expected.astype(np.longdouble), allowed, dtype)
        if not own <= ratio:
            ratio, where = own, f"{name}{list(position)}"
    return ratio, where


def constants(made: Policy, advantage: float, **others: float) -> Signals:
    """Return the signals of one step."""
    values = {
        name: np.array([value], made.dtype)
        for name, value in {"advantage": advantage, **others}.items()
    }
    return Signals(values, np.ones(1, made.dtype), padded=False)


def one_step(
    action: int | list[float],
    observation: int | list[float] = 0,
    mask: list[bool] | None = None,
    *,
    reward: float = 0.0,
    log_prob: float | None = None,
) -> Batch:
    """Return a batch of one step."""
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
