"""What estimators are given when they are audited, by their proofs: policies to try, and the batch's extras."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgcore.api import policy as make_policy
from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError, PgcoreError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_check.proofs import proofs
from pgcore_exact.process.mdp import MDP

__all__ = ["audit_policy", "extras", "first_fitting", "policies"]


def policies(mdp: MDP) -> dict[str, PolicySpec]:
    """Return the architectures that an estimator is tried on, by label, in this order; the first on which it runs is audited."""
    return {label: make(mdp) for proof in proofs().all for label, make in proof.policies.items()}


def extras(mdp: MDP, behaviour: Array) -> dict[str, Array]:
    """Return [S, A, ...] of every extra that a proof names; behaviour is the behaviour policy's [S, A] float64 probabilities."""
    with np.errstate(divide="ignore"):
        return {
            name: make(mdp, behaviour)
            for proof in proofs().all
            for name, make in proof.extras.items()
        }


def audit_policy(spec: PolicySpec, seed: int, *, scale: float = 1.0) -> Policy:
    """Return a NumPy policy in float64 with normal random parameters, its critic's among them."""
    policy = make_policy(spec, backend="numpy", dtype="float64")
    rng = np.random.Generator(np.random.Philox(seed))
    policy.load(
        {name: scale * rng.standard_normal(shape) for name, shape in spec.parameter_shapes.items()}
    )
    return policy


def first_fitting(
    estimator: Estimator, specs: dict[str, PolicySpec], runs: Callable[[PolicySpec], None]
) -> str:
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
    error.add_note(
        f"{estimator.name} can be audited once a Proof gives policies or extras that suit it; see the hook pgcore_proofs"
    )
    raise error
