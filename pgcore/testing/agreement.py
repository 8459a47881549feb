"""How far a gradient is from the truth, in units of what honest rounding allows.

The rule, for every component j: |g_j - g*_j| <= c u e_j, with g* the closed form in extended precision, e_j its running error
bound, u the roundoff of the working precision, and c = 4 against the reference. A fixed relative tolerance would be flaky on
extreme inputs and blind on mild ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.estimator import Estimator
from pgcore.policy import Policy
from pgcore.step_signals import Signals
from pgcore.surrogate import Surrogate
from pgcore.testing import reference
from pgcore.testing.running_error import Bounded, bounded_in

__all__ = [
    "FACTOR",
    "POWER",
    "Agreement",
    "agreement",
    "allowance",
    "largest",
    "largest_ratio",
    "loss_ratio",
    "powered",
    "quantity_ratios",
]

# The rule's c.
FACTOR = 4.0

# A component has power where 4 u e is at most this share of it: an error of that size would be seen. In float32 u is 6e-8 and e some
# hundreds of roundings in a network of a few layers, so that a thousandth is as much as can be asked.
POWER = {"float32": 1e-3, "float64": 1e-6}

# Results below these are compared as absolute: frameworks flush them to 0.
TINY = {"float32": 1e-30, "float64": 1e-290}


@dataclass(frozen=True, slots=True)
class Agreement:
    """One gradient beside the reference.

    Attributes:
        ratio: The largest |g_j - g*_j| / (u e_j); infinite where something is NaN or of the wrong shape or dtype.
        parameter: The canonical name of the parameter it is in.
        power: The share of components other than 0 whose bound 4 u e_j is at most 1e-6 |g_j| (1e-3 in float32), so that the comparison can
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
    surrogate = Surrogate(policy.spec, estimator, batch, signals)
    inputs = (policy.spec, policy.parameters(), surrogate, batch)
    truth = reference.gradient(*inputs)
    bounds = reference.gradient(*inputs, lift=bounded_in(policy.dtype))
    worst, where = -1.0, ""
    seen, total = 0, 0
    for name, exact in truth.items():
        allowed = allowance(bounds[name], policy.dtype)
        ratio = largest_ratio(np.asarray(found.get(name)), exact, allowed, policy.dtype)
        if not ratio <= worst:
            worst, where = ratio, name
        own, count = powered(exact, allowed, policy.dtype)
        seen, total = seen + own, total + count
    return Agreement(worst, where, seen / max(total, 1))


def loss_ratio(policy: Policy, estimator: Estimator, batch: Batch, signals: Signals, found: float) -> float:
    """Return |found - loss| / (u e): how far a loss is from the reference; see `agreement`."""
    inputs = (policy.spec, policy.parameters(), Surrogate(policy.spec, estimator, batch, signals), batch)
    allowed = allowance(reference.loss(*inputs, lift=bounded_in(policy.dtype)), policy.dtype)
    exact = np.asarray(reference.loss(*inputs))
    return largest_ratio(np.asarray(found).astype(policy.dtype), exact, allowed, policy.dtype)


def quantity_ratios(policy: Policy, batch: Batch, found: Mapping[str, Array]) -> dict[str, float]:
    """Return, by quantity, the largest |found - exact| / (u e) of what `Policy.evaluate` returned; see `agreement`.

    Masked actions' log-probabilities must be -inf where they are exactly that.
    """
    described = batch.extras.get("reference")
    given = None if described is None else described.astype(policy.dtype)
    inputs = (policy.spec, policy.parameters(), batch, list(found), given)
    bounds = reference.quantities(*inputs, lift=bounded_in(policy.dtype))
    ratios: dict[str, float] = {}
    for name, exact in reference.quantities(*inputs).items():
        allowed = allowance(bounds[name], policy.dtype)
        ratios[name] = largest_ratio(found[name].astype(policy.dtype), exact, allowed, policy.dtype)
    return ratios


def allowance(bound: Any, dtype: np.dtype[Any]) -> Array:
    """Return u e for a `Bounded` result; 0 for one that no arithmetic went into."""
    error = bound.error if isinstance(bound, Bounded) else np.zeros(np.shape(bound))
    return np.longdouble(np.finfo(dtype).eps) / 2 * error


def powered(exact: Array, allowed: Array, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return how many components have power, and how many are finite and not 0; see `Agreement.power`."""
    counted = np.isfinite(exact) & (np.abs(exact) > TINY[dtype.name])
    size = np.where(counted, np.abs(exact), 0)
    seen = counted & (FACTOR * allowed <= POWER[dtype.name] * size)
    return int(np.count_nonzero(seen)), int(np.count_nonzero(counted))


def largest_ratio(found: Array, exact: Array, allowed: Array, dtype: np.dtype[Any]) -> float:
    """Return the largest |found - exact| / allowed; infinity for NaN, a wrong shape or a wrong dtype."""
    return largest(found, exact, allowed, dtype)[0]


def largest(found: Array, exact: Array, allowed: Array, dtype: np.dtype[Any]) -> tuple[float, tuple[int, ...]]:
    """Return the largest |found - exact| / allowed and where it is; see `largest_ratio`. Entries that must be -inf must be -inf."""
    if found.shape != exact.shape or found.dtype != dtype:
        return float("inf"), ()
    impossible = exact == -np.inf
    distance = np.abs(np.where(impossible, 0, found).astype(np.longdouble) - np.where(impossible, 0, exact))
    wrong = (impossible != (found == -np.inf)) | ~np.isfinite(distance)
    smallest = np.longdouble(TINY[dtype.name])
    measured = np.where(wrong | (distance <= smallest), 0, distance) / np.maximum(allowed, smallest / 1e6)
    ratio = np.where(wrong, np.inf, measured)
    position = np.unravel_index(int(ratio.argmax()), ratio.shape) if ratio.size else ()
    return (float(ratio[position]) if ratio.size else 0.0), tuple(int(index) for index in position)
