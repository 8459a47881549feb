"""Fisher information of the action distribution, for backends whose framework differentiates.

F v = J^T M J v. J is the Jacobian of one step's coordinates in theta, and M the step's metric. A head with a
closed form gives the distribution parameters and `Head.fisher`; for any other they are the log-probabilities of
K actions and their weights in E[score score^T]. The head's formula is never differentiated twice, so that
non-differentiable points of a log-density do no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.errors import ShapeError
from pgcore.heads import Head
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["coordinates", "has_closed_form", "metric", "quadrature"]

# Signal names of a step's K actions and their weights.
ACTIONS, WEIGHTS = "quadrature_actions", "quadrature_weights"

# Largest distance of the sum of a quadrature's weights from 1: a coarse rule's error, not rounding.
SUM_TOLERANCE = 1e-3


def has_closed_form(head: Head) -> bool:
    """Return whether the head's class has a `fisher` that belongs to its `log_prob`."""
    return _matching(head, "fisher") is not None


def quadrature(head: Head, distribution: Array, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the actions that the Fisher information is summed over and their weights, by signal name.

    They are [B, K] or [B, K, n], and [B, K] with 0 where an action is impossible.

    Args:
        head: One without a closed form.
        distribution: [B, width] float64. Distribution parameters.
        dtype: The policy's, which continuous actions and weights are cast to.
    """
    declared = _matching(head, "quadrature") or Head.quadrature.__get__(head)
    actions, weights = (np.asarray(array) for array in declared(distribution))
    if weights.ndim != 2 or actions.shape[:2] != weights.shape or len(weights) != len(distribution):
        raise ShapeError(
            f"{head}.quadrature: expected actions [B, K, ...] and weights [B, K] for "
            f"B = {len(distribution)}, got {list(actions.shape)} and {list(weights.shape)}; "
            "return K actions a step"
        )
    total = weights.sum(axis=1)
    if not ((weights >= 0).all() and (np.abs(total - 1) <= SUM_TOLERANCE).all()):
        raise ShapeError(
            f"{head}.quadrature: expected weights of at least 0 that add up to 1 at each step, got a "
            f"least one of {weights.min():.3g} and sums from {total.min():.3g} to {total.max():.3g}; "
            "weigh by probability"
        )
    # An impossible action has no finite score, so the heaviest one stands in for it, at weight 0.
    axes = tuple(range(2, actions.ndim))
    heaviest = np.expand_dims(weights.argmax(axis=1)[:, None], axes)
    stand_in = np.take_along_axis(actions, heaviest, 1)
    actions = np.where(np.expand_dims(weights > 0, axes), actions, stand_in)
    actions = actions if head.discrete else actions.astype(dtype)
    return {ACTIONS: actions, WEIGHTS: weights.astype(dtype)}


def coordinates(xp: ArrayNamespace, head: Head, outputs: Outputs, inputs: Inputs) -> Native:
    """Return the coordinates with Jacobian J: [N, width], or [K N] one action after the other.

    Args:
        xp: The backend's namespace.
        head: The action distribution.
        outputs: The network's, which are differentiated, and the head's own parameters.
        inputs: Its signals are those of `quadrature`; none for a head with a closed form.
    """
    distribution = head.distribution(xp, outputs.outputs, outputs.head, inputs.action_mask)
    if ACTIONS not in inputs.signals:
        return distribution
    columns = _columns(inputs.signals[ACTIONS])
    repeated = xp.concatenate((distribution,) * len(columns), 0)
    return head.log_prob(xp, repeated, xp.concatenate(columns, 0))


def metric(xp: ArrayNamespace, head: Head, at: Native, tangent: Native, inputs: Inputs) -> Native:
    """Return u = w_t M_t J_t v in the shape of the coordinates, so that J^T u is the Fisher-vector product.

    Args:
        xp: The backend's namespace.
        head: The action distribution.
        at: See `coordinates`; held constant.
        tangent: J v, in their shape.
        inputs: See `coordinates`; its weights are w.
    """
    if WEIGHTS not in inputs.signals:
        return inputs.weights[:, None] * head.fisher(xp, at, tangent)
    columns = _columns(inputs.signals[WEIGHTS])
    probability = xp.concatenate(columns, 0)
    # The stand-in of an impossible action has a tangent, which may not be finite.
    possible = xp.where(probability > 0.0, tangent, 0.0)
    return xp.concatenate((inputs.weights,) * len(columns), 0) * probability * possible


def _matching(head: Head, name: str) -> Callable[..., Any] | None:
    """Return the head's method, or None where it is missing or belongs to another class's `log_prob`."""
    cls = type(head)
    writer = next(base for base in cls.__mro__ if name in base.__dict__)
    # A mixin without a `log_prob` speaks for the class that takes it in.
    matches = writer is not Head and getattr(writer, "log_prob", cls.log_prob) is cls.log_prob
    return getattr(head, name) if matches else None


def _columns(array: Native) -> tuple[Native, ...]:
    """Return the K parts of an [N, K, ...] array."""
    return tuple(array[:, k] for k in range(array.shape[1]))
