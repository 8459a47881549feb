"""Where a critic of actions settles, and whether that depends on who acts."""

from __future__ import annotations

import dataclasses

import numpy as np

from pgcore.arrays import Array
from pgcore.errors import PgcoreError
from pgcore.estimator import Estimator
from pgcore.exact.mdp import MDP, limit
from pgcore.exact.moments import moments
from pgcore.exact.needs import audit_policy
from pgcore.exact.tabulated import Tabulated, tabulated
from pgcore.policy import Policy
from pgcore.spec import Table

__all__ = ["fixed_point_moves"]

# Values that are solved for one by one, and Newton's steps: what is piecewise linear takes as many as there are kinks on the way.
MOST_VALUES = 64
MOST_STEPS = 20

# Far from rounding, and targets are linear in values between kinks.
SHIFT = 1e-4
SETTLED = 1e-12


def fixed_point_moves(estimator: Estimator, mdp: MDP, policy: Policy) -> float:
    """Return how far another policy's episodes move the values of actions that one policy's leave where they are.

    Episodes have at most two steps, and the time is in the state, so that every value has a row of its own.

    Returns:
        The expected gradient of the other's episodes there, relative to that at the values where the search began; NaN where
        there are too many values, or none is found that one policy's episodes leave where they are.
    """
    timed = mdp.replaced(horizon=min(limit("audit", mdp), 2)).with_time()
    spec = dataclasses.replace(policy.spec, network=Table(timed.states))
    learner = audit_policy(spec, 0)
    acting = [tabulated(audit_policy(spec, seed), timed) for seed in (1, 2)]
    values = np.concatenate([value.reshape(-1) for value in learner.parameters().values()])
    try:
        first = expected(estimator, timed, learner, values, acting[0])
    except PgcoreError:
        return float("nan")  # too many episodes, or one by itself says nothing to it
    learnt = np.flatnonzero(first)
    if not 0 < len(learnt) <= MOST_VALUES:
        return float("nan")
    start, found = float(np.linalg.norm(first)), first[learnt]
    for _ in range(MOST_STEPS):
        if np.linalg.norm(found) <= SETTLED * start:
            other = expected(estimator, timed, learner, values, acting[1])
            return float(np.linalg.norm(other)) / start
        slopes = np.array(
            [
                expected(estimator, timed, learner, shifted(values, each), acting[0])[learnt] - found
                for each in learnt.tolist()
            ]
        )
        values[learnt] -= np.linalg.lstsq(slopes.T / SHIFT, found, rcond=None)[0]
        found = expected(estimator, timed, learner, values, acting[0])[learnt]
    return float("nan")


def shifted(values: Array, place: int) -> Array:
    """Return the values, one of them moved."""
    found = values.copy()
    found[place] += SHIFT
    return found


def expected(estimator: Estimator, mdp: MDP, learner: Policy, values: Array, behaviour: Tabulated) -> Array:
    """Return [D] the expected gradient of single episodes where a policy's parameters are [D] values; they stay in it."""
    shapes = learner.spec.parameter_shapes
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(values, ends[:-1])
    learner.load({name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)})
    return moments(mdp, learner, estimator, behaviour=behaviour).mean
