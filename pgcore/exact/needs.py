"""What estimators are given when they are audited: policies to try, and the batch's extras. Add here what a new estimator needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgcore.api import policy as make_policy
from pgcore.arrays import Array
from pgcore.errors import EstimatorError, PgcoreError
from pgcore.estimator import Estimator
from pgcore.exact.mdp import MDP
from pgcore.heads import Categorical, EpsilonGreedy
from pgcore.policy import Policy
from pgcore.spec import PolicySpec, Table

__all__ = ["EXTRAS", "POLICIES", "audit_policy", "extras"]

# A temperature of 1 would hide one that was lost.
TEMPERATURE = 0.8

# Policies that an estimator is tried on, in this order; the first on which it runs is the one it is audited with.
POLICIES: dict[str, Callable[[MDP], PolicySpec]] = {
    "no critic": lambda mdp: PolicySpec(Table(mdp.states), Categorical(mdp.actions, TEMPERATURE)),
    "critic": lambda mdp: PolicySpec(Table(mdp.states), Categorical(mdp.actions, TEMPERATURE), "separate"),
    "critic of actions": lambda mdp: PolicySpec(
        Table(mdp.states), Categorical(mdp.actions, TEMPERATURE), "separate", "action"
    ),
    "action values": lambda mdp: PolicySpec(Table(mdp.states), EpsilonGreedy(mdp.actions, 0.3)),
}

# The extras that every batch carries: [S, A, ...] by state and action, from the process and the policy that acted.
EXTRAS: dict[str, Callable[[MDP, Array], Array]] = {
    "reference": lambda mdp, behaviour: np.repeat(np.log(behaviour)[:, None], mdp.actions, axis=1),
    # Half way to a uniform policy, so that a penalty for leaving it is one.
    "reference_log_probs": lambda mdp, behaviour: np.log(0.5 * behaviour + 0.5 / mdp.actions),
    # Episodes of one process are all comparable.
    "group": lambda mdp, _: np.zeros((mdp.states, mdp.actions), np.intp),
}


def extras(mdp: MDP, behaviour: Array) -> dict[str, Array]:
    """Return [S, A, ...] of every extra; behaviour is the acting policy's [S, A] float64 probabilities."""
    with np.errstate(divide="ignore"):
        return {name: make(mdp, behaviour) for name, make in EXTRAS.items()}


def audit_policy(spec: PolicySpec, seed: int, *, scale: float = 1.0) -> Policy:
    """Return a NumPy policy in float64 with normal random parameters, its critic's among them."""
    policy = make_policy(spec, backend="numpy", dtype="float64")
    rng = np.random.Generator(np.random.Philox(seed))
    policy.load({name: scale * rng.standard_normal(shape) for name, shape in spec.parameter_shapes.items()})
    return policy


def first_fitting(estimator: Estimator, specs: dict[str, PolicySpec], runs: Callable[[PolicySpec], None]) -> str:
    """Return the name of the first spec that the estimator runs on.

    Raises:
        PgcoreError: none; what the batch lacked or else the policies, with where to add what is missing.
    """
    error: PgcoreError | None = None
    for name, spec in specs.items():
        try:
            runs(spec)
        except PgcoreError as problem:
            # A policy that does not fit says less than a batch that lacks something.
            if error is None or isinstance(error, EstimatorError):
                error = problem
        else:
            return name
    assert error is not None
    error.add_note(f"{estimator.name} can be audited once pgcore/exact/needs.py gives it what it needs")
    raise error
