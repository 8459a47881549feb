"""Cases to try a backend on: random but well scaled, seeded, with everything in them that a test is otherwise blind to.

Temperatures are not 1, episodes have several steps and different lengths, some are cut and some terminate, ratios are not 1, and where
the head is discrete some actions are masked.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pgcore.api import policy
from pgcore.data.batch import Batch
from pgcore.data.spec import MLP, Linear, Network, PolicySpec, Table
from pgcore.heads import Head
from pgcore.interfaces.estimator import VALUES_OF_ACTIONS, Estimator, quantities_of
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.validation.arrays import Array
from pgcore_check.proofs import variants

__all__ = ["EXTREME", "NETWORKS", "Case", "cases", "fits", "make_case", "suited"]

NETWORKS: dict[str, Network] = {
    "table": Table(5),
    "linear": Linear(4),
    "tanh": MLP(4, (8, 6), "tanh"),
    "relu": MLP(4, (7,), "relu"),
    "sigmoid": MLP(4, (5, 5), "sigmoid"),
}

# How much larger than usual an extreme case's parameters are; its rewards are as much larger cubed.
EXTREME = 6.0


@dataclass(frozen=True)
class Case:
    """A policy, an estimator and a batch that fit each other.

    Attributes:
        label: What is in it, for a test's name.
        spec: The architecture.
        estimator: With non-trivial hyper-parameters.
        dtype: "float32" or "float64".
        seed: Of everything random in it.
        extremity: How much larger than usual its parameters are where it is made extreme.
    """

    label: str
    spec: PolicySpec
    estimator: Estimator
    dtype: str
    seed: int
    extremity: float = EXTREME

    def make(
        self, backend: str, steps: int = 23, padding: int = 0, *, extreme: bool = False
    ) -> tuple[Policy, Batch]:
        """Return a policy on a backend and the batch; the same numbers on every backend."""
        scale = self.extremity if extreme else 1.0
        return make_case(self.spec, backend, self.dtype, self.seed, steps, padding, scale=scale)


def cases(dtypes: tuple[str, ...] = ("float64", "float32")) -> Iterator[Case]:
    """Yield every estimator with every head and dtype; networks and critics take turns, so that every pair of two things occurs.

    Estimators whose gradient is made from scores are left out.
    """
    networks, heads = list(NETWORKS), list(variants("heads").items())
    estimators = [
        (label, each)
        for label, each in variants("estimators").items()
        if not isinstance(each, ScoreEstimator)
    ]
    for seed, indices in enumerate(
        itertools.product(range(len(estimators)), range(len(heads)), range(len(dtypes)))
    ):
        (label, estimator), (head_label, head), dtype = (
            estimators[indices[0]],
            heads[indices[1]],
            dtypes[indices[2]],
        )
        network = networks[(indices[0] + indices[1] + 2 * indices[2]) % len(networks)]
        shared = (indices[0] + 2 * indices[1] + indices[2]) % 2 == 1 and NETWORKS[network].has_torso
        valued = (
            "action_value" in estimator.quantities and head.enumerable and not head.action_values
        )
        spec = PolicySpec(
            NETWORKS[network],
            head,
            "shared" if shared else "separate",
            "action" if valued else "state",
        )
        if fits(estimator, spec):
            yield Case(
                f"{label}-{head_label}-{network}-{spec.critic}-{dtype}",
                spec,
                estimator,
                dtype,
                seed,
            )


def fits(estimator: Estimator, spec: PolicySpec) -> bool:
    """Return whether a policy of this spec has what the estimator uses, and whether any of it depends on the parameters."""
    if estimator.claims.discrete_only and not spec.head.enumerable:
        return False
    if spec.head.action_values and VALUES_OF_ACTIONS.isdisjoint(estimator.quantities):
        return False
    return quantities_of(spec).issuperset(estimator.quantities)


def suited(estimator: Estimator, head: Head) -> Any:
    """Return the estimator, without its entropy bonus where the head has no entropy."""
    if "entropy" not in estimator.quantities or "entropy" in head.quantities:
        return estimator
    return dataclasses.replace(cast("Any", estimator), entropy_coefficient=0.0)


def make_case(
    spec: PolicySpec,
    backend: str,
    dtype: str,
    seed: int,
    steps: int = 23,
    padding: int = 0,
    *,
    scale: float = 1.0,
) -> tuple[Policy, Batch]:
    """Return a policy with random parameters, and a batch of its own steps seen from a policy a little away.

    Args:
        spec: The architecture.
        backend: A registered name.
        dtype: "float32" or "float64".
        seed: At least 0.
        steps: B, at least 9.
        padding: Steps of weight 0 to add.
        scale: How much larger parameters are than well-scaled ones, and rewards cubed: saturated distributions, tiny and huge standard deviations.
    """
    rng = np.random.default_rng(seed)
    made = policy(spec, backend=backend, seed=seed, dtype=dtype)
    made.load(
        {
            name: value + 0.5 * scale * rng.standard_normal(value.shape)
            for name, value in spec.initial_parameters(seed).items()
        }
    )
    states, shape = spec.network.num_states, spec.network.observation_shape
    assert shape is not None
    lengths = np.array([steps - 7 - (steps - 7) // 2, 4, (steps - 7) // 2, 1, 2])
    if states is not None:
        observations, final = (rng.integers(0, states, number) for number in (steps, len(lengths)))
    else:
        observations, final = (
            rng.standard_normal((number, *shape)) for number in (steps, len(lengths))
        )
    mask, actions, described = random_actions(spec.head, steps, rng)
    plain = Batch(
        observations=observations,
        actions=actions,
        rewards=scale**3 * rng.standard_normal(steps),
        episode_lengths=lengths,
        terminated=[True, False, False, True, False],
        final_observations=final,
        action_mask=mask,
        extras={"reference": described},
    )
    recorded = made.evaluate(plain, ("log_prob", *quantities_of(spec) & {"value"}))
    log_probs = recorded["log_prob"] + 0.3 * rng.standard_normal(steps)
    extras = dict(plain.extras)
    extras["reference_log_probs"] = log_probs + 0.3 * rng.standard_normal(steps)
    extras["group"] = np.repeat([7, 3, 3, 7, 3], lengths)
    fields = {
        name: getattr(plain, name)
        for name in ("observations", "actions", "rewards", "episode_lengths", "terminated")
    }
    values = None
    if "value" in recorded:  # of another critic, so that a clipped value loss is clipped somewhere
        values = recorded["value"] + 0.3 * rng.standard_normal(steps)
    batch = Batch(
        **fields,
        final_observations=final,
        action_mask=mask,
        log_probs=log_probs,
        values=values,
        extras=extras,
    )
    return made, batch.pad(steps + padding)


def random_actions(
    head: Head, steps: int, rng: np.random.Generator
) -> tuple[Array | None, Array, Array]:
    """Return a mask where the head is discrete, actions that it allows, and [B, width] descriptions of another policy."""
    if not head.discrete:
        actions = rng.standard_normal((steps, head.width // 2))
        return (
            None,
            actions,
            np.concatenate(
                [rng.standard_normal(actions.shape), 0.3 * rng.standard_normal(actions.shape)],
                axis=1,
            ),
        )
    mask, log_probs = np.empty((steps, head.width), np.bool_), np.empty((steps, head.width))
    chosen: list[Array] = []
    for own in head.choices:
        count = len(range(head.width)[own])
        possible = rng.random((steps, count)) < (
            0.7 if count > 2 else 0.9
        )  # of two, both should mostly be possible
        possible[np.arange(steps), rng.integers(0, count, steps)] = True
        chosen.append(np.array([rng.choice(np.flatnonzero(row)) for row in possible]))
        logits = np.where(possible, rng.standard_normal(possible.shape), -np.inf)
        mask[:, own], log_probs[:, own] = (
            possible,
            logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)),
        )
    return mask, chosen[0] if head.enumerable else np.stack(chosen, axis=1), log_probs
