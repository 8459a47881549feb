"""How far a gradient is from the truth, in units of what honest rounding allows.

The rule, for every component j: |g_j - g*_j| <= c u e_j, with g* the closed form in extended precision, e_j its running error
bound, u the roundoff of the working precision, and c = 4 against the reference. A fixed relative tolerance would be flaky on
extreme inputs and blind on mild ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.estimator import Estimator, Signals, Surrogate
from pgcore.policy import Policy
from pgcore.testing import reference
from pgcore.testing.running_error import bounded

__all__ = ["FACTOR", "Agreement", "agreement"]

# The rule's c.
FACTOR = 4.0

# A component has power where the bound is at most this share of it.
POWER = {"float32": 1e-3, "float64": 1e-6}

# Results below these are compared as absolute: frameworks flush them to 0.
TINY = {"float32": 1e-30, "float64": 1e-290}


@dataclass(frozen=True, slots=True)
class Agreement:
    """One gradient beside the reference.

    Attributes:
        ratio: The largest |g_j - g*_j| / (u e_j); infinite where something is NaN or of the wrong shape or dtype.
        parameter: The canonical name of the parameter it is in.
        power: The share of components whose bound 4 u e_j is at most 1e-6 |g_j| (1e-3 in float32), so that the comparison can
            see an error there.
    """

    ratio: float
    parameter: str
    power: float

    @property
    def agrees(self) -> bool:
        """Whether the rule holds for every component."""
        return self.ratio <= FACTOR


def agreement(
    policy: Policy, estimator: Estimator, batch: Batch, signals: Signals, found: Mapping[str, Array]
) -> Agreement:
    """Compare a gradient that a backend found with the reference.

    Args:
        policy: Whose parameters, spec and dtype are used.
        estimator: Which loss.
        batch: The steps.
        signals: What the backend was given.
        found: Gradient by canonical parameter name.
    """
    surrogate = Surrogate(estimator, signals)
    inputs = (policy.spec, policy.parameters(), surrogate, batch)
    truth = reference.gradient(*inputs)
    bounds = reference.gradient(*inputs, lift=bounded)
    roundoff = np.longdouble(np.finfo(policy.dtype).eps) / 2
    worst, where = -1.0, ""
    powered, total = 0, 0
    for name, exact in truth.items():
        allowed = roundoff * np.asarray(getattr(bounds[name], "error", np.zeros(exact.shape)))
        ratio = largest_ratio(np.asarray(found.get(name)), exact, allowed, policy.dtype)
        if not ratio <= worst:
            worst, where = ratio, name
        powered += int(np.count_nonzero(FACTOR * allowed <= POWER[policy.dtype.name] * np.abs(exact)))
        total += exact.size
    return Agreement(worst, where, powered / total)


def largest_ratio(found: Array, exact: Array, allowed: Array, dtype: np.dtype[np.generic]) -> float:
    """Return the largest |found - exact| / allowed; infinity for NaN, a wrong shape or a wrong dtype."""
    if found.shape != exact.shape or found.dtype != dtype:
        return float("inf")
    distance = np.abs(found.astype(np.longdouble) - exact)
    if not np.isfinite(distance).all():
        return float("inf")
    counted = distance > TINY[dtype.name]
    if not counted.any():
        return 0.0
    return float((distance[counted] / np.maximum(allowed[counted], np.longdouble(TINY[dtype.name]) / 1e6)).max())
