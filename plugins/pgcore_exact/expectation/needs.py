"""The inputs of an audit that the proofs name: policies to try, and the batch's extras."""

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
    """Return the architectures to try an estimator on, by label, in the order of trial."""
    return {label: make(mdp) for proof in proofs().all for label, make in proof.policies.items()}


def extras(mdp: MDP, behaviour: Array) -> dict[str, Array]:
    """Return [S, A, ...] of every extra that a proof names.

    Args:
        mdp: The process.
        behaviour: [S, A] float64. The behaviour policy's probabilities.
    """
    arrays: dict[str, Array] = {}
    # A reference policy may give an action probability 0.
    with np.errstate(divide="ignore"):
        for proof in proofs().all:
            for name, make in proof.extras.items():
                arrays[name] = make(mdp, behaviour)
    return arrays


def audit_policy(spec: PolicySpec, seed: int, *, scale: float = 1.0) -> Policy:
    """Return a NumPy policy in float64 with normal random parameters, its critic's too.

    Args:
        spec: The architecture.
        seed: Of the parameters.
        scale: Standard deviation of a parameter.
    """
    policy = make_policy(spec, backend="numpy", dtype="float64")
    rng = np.random.Generator(np.random.Philox(seed))
    shapes = spec.parameter_shapes
    policy.load({name: scale * rng.standard_normal(shape) for name, shape in shapes.items()})
    return policy


def first_fitting(
    estimator: Estimator, specs: dict[str, PolicySpec], runs: Callable[[PolicySpec], None]
) -> str:
    """Return the label of the first spec that the estimator runs on.

    Args:
        estimator: The estimator.
        specs: Architectures by label, in the order of trial.
        runs: Computes one gradient on a spec, or raises the estimator's error.

    Raises:
        PgcoreError: it runs on none. Of all errors the one on the batch, if any, with a remedy.
    """
    error: PgcoreError | None = None
    for name, spec in specs.items():
        try:
            runs(spec)
        except PgcoreError as problem:
            # An error on the batch tells more than one on the policy.
            if error is None or isinstance(error, EstimatorError):
                error = problem
        else:
            return name
    assert error is not None
    error.add_note(
        f"{estimator.name} can be audited once a Proof gives policies or extras that suit it; "
        "see the hook pgcore_proofs"
    )
    raise error
