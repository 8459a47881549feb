"""The inputs of an audit that the proofs name: policies to try, and the batch's extras."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np

from pgcore.api import generator
from pgcore.api import policy as make_policy
from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError, PgcoreError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_check.extras import example_extras
from pgcore_check.proofs import proofs
from pgcore_exact.process.mdp import MDP
from pgcore_exact.process.tabulated import every_action

__all__ = ["audit_policy", "extras", "first_fitting", "policies"]

# The probability of an action that the behaviour policy never takes, in an example's batch.
TINY = 1e-300


def policies(mdp: MDP) -> dict[str, PolicySpec]:
    """Return the architectures to try an estimator on, by label, in the order of trial."""
    return {label: make(mdp) for proof in proofs().all for label, make in proof.policies.items()}


def extras(mdp: MDP, behaviour: Array, estimator: Estimator) -> dict[str, Array]:
    """Return [S, A, ...] of every extra that a proof or the estimator names.

    An extra that the estimator declares is its example, unless a proof of its class makes another. Those of
    other proofs replace nothing, and one that raises is left out.

    Args:
        mdp: The process.
        behaviour: [S, A] float64. The behaviour policy's probabilities.
        estimator: Whose examples.

    Raises:
        EstimatorError, BatchError: an example raises, or is not of its form.
    """
    arrays: dict[str, Array] = {}
    # Base classes first, so that the extra of a subclass's proof wins.
    bases = reversed(type(estimator).__mro__)
    its_own = [proof for base in bases for proof in proofs().all if proof.of is base]
    # A reference policy may give an action probability 0.
    with np.errstate(divide="ignore"):
        for name, make in (item for proof in proofs().all for item in proof.extras.items()):
            # Another estimator's extra may be of no use here, and must neither end the audit nor
            # replace one of the same name: pgcore's proofs come first.
            if name not in arrays:
                with contextlib.suppress(Exception):
                    arrays[name] = make(mdp, behaviour)
        proven = {name: make for proof in its_own for name, make in proof.extras.items()}
        arrays |= {name: make(mdp, behaviour) for name, make in proven.items()}
    declared = estimator.used_extras
    missing = {name: extra for name, extra in declared.items() if name not in proven}
    return arrays | examples(mdp, behaviour, arrays, missing)


def examples(
    mdp: MDP, behaviour: Array, arrays: Mapping[str, Array], declared: Mapping[str, Extra]
) -> dict[str, Array]:
    """Return [S, A, ...] examples of declared extras; see `extras`.

    Args:
        mdp: The process.
        behaviour: [S, A] float64. The behaviour policy's probabilities.
        arrays: [S, A, ...] of the proofs' extras.
        declared: The extras to make.
    """
    rows = mdp.states, mdp.actions
    # One episode, since a value of a whole episode must be the same in all of the process.
    batch = every_action(
        mdp,
        episode_lengths=[mdp.states * mdp.actions],
        terminated=[True],
        rewards=mdp.mean_rewards.reshape(-1),
        log_probs=np.log(np.maximum(behaviour, TINY)).reshape(-1),
        extras={name: value.reshape(-1, *value.shape[2:]) for name, value in arrays.items()},
    )
    made = example_extras(declared, batch, mdp.actions, generator(0))
    return {name: value.reshape(*rows, *value.shape[1:]) for name, value in made.items()}


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
        f"{estimator.name} can be audited once it declares its extras with examples, or a Proof "
        "gives policies or extras that suit it; see the hook pgcore_proofs"
    )
    raise error
