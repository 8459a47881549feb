"""Cases for a backend: random, seeded, and well scaled unless made extreme.

They avoid the values that hide errors. Temperatures and ratios are not 1, episodes have different
lengths, some are truncated and some terminate, and discrete heads have masked actions.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pgcore.api import policy
from pgcore.data.batch import Batch
from pgcore.data.convolution import Conv
from pgcore.data.spec import MLP, Linear, Network, PolicySpec, Table
from pgcore.heads import Head
from pgcore.interfaces.estimator import VALUES_OF_ACTIONS, Estimator, quantities_of
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.quantities import TWIN_VALUES
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.validation.arrays import Array
from pgcore.validation.batch_fields import LOSS_MASK
from pgcore.xp.numpy import host
from pgcore_check.extras import example_extras
from pgcore_check.proofs import variants

__all__ = [
    "EXTREME",
    "NETWORKS",
    "ONCE",
    "Case",
    "alternatives",
    "cases",
    "fits",
    "make_case",
    "random_mask",
    "suited",
    "twinned",
]

NETWORKS: dict[str, Network] = {
    "table": Table(5),
    "linear": Linear(4),
    "tanh": MLP(4, (8, 6), "tanh"),
    "relu": MLP(4, (7,), "relu"),
    "sigmoid": MLP(4, (5, 5), "sigmoid"),
    "conv": Conv((4, 3, 2), (1, 2), (2, 2), (1, 2), (), "tanh", 2.0),
}

# Networks that each head has with one estimator alone: the derivatives of the head's inputs are all that
# an estimator is to a network, and these cost most.
ONCE = frozenset(("conv",))

# The factor on an extreme case's parameters; rewards are scaled by its cube.
EXTREME = 6.0

# Standard deviation of the parameters beside their initial values, for well-scaled cases.
SPREAD = 0.5

# Standard deviation of the recorded log-probabilities and values beside the policy's: the change
# since an older policy or critic recorded them.
RECORDED = 0.3


@dataclass(frozen=True)
class Case:
    """A policy, an estimator and a batch that fit each other.

    Attributes:
        label: The names of its parts, for a test's name.
        spec: The architecture.
        estimator: With non-trivial hyper-parameters.
        dtype: "float32" or "float64".
        seed: Seed of all its random numbers.
        extremity: The factor on its parameters when it is made extreme.
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
        """Return a policy on a backend and the batch; the same numbers on every backend.

        See `make_case`; `extreme` scales by the case's extremity.
        """
        scale = self.extremity if extreme else 1.0
        options: dict[str, Any] = {"scale": scale, "extras": self.estimator.used_extras}
        return make_case(self.spec, backend, self.dtype, self.seed, steps, padding, **options)


def cases(dtypes: tuple[str, ...] = ("float64", "float32")) -> Iterator[Case]:
    """Yield every estimator with every head and dtype, without estimators that weigh scores.

    Networks and critics take turns, so that every pair of two levels occurs. Those of `ONCE` are left
    out.
    """
    networks = [network for network in NETWORKS if network not in ONCE]
    heads = list(variants("heads").items())
    estimators = [
        (label, estimator)
        for label, estimator in variants("estimators").items()
        if not isinstance(estimator, ScoreEstimator)
    ]
    options = itertools.product(range(len(estimators)), range(len(heads)), range(len(dtypes)))
    for seed, (i, j, k) in enumerate(options):
        (label, estimator), (head_label, head), dtype = estimators[i], heads[j], dtypes[k]
        # Different strides, so that networks and critics do not repeat together.
        network = networks[(i + j + 2 * k) % len(networks)]
        shared = (i + 2 * j + k) % 2 == 1 and NETWORKS[network].has_torso
        valued = (
            "action_value" in estimator.quantities and head.enumerable and not head.action_values
        )
        critic, values = "shared" if shared else "separate", "action" if valued else "state"
        spec = twinned(PolicySpec(NETWORKS[network], head, critic, values), estimator)
        if fits(estimator, spec):
            case_label = f"{label}-{head_label}-{network}-{spec.critic}-{dtype}"
            yield Case(case_label, spec, estimator, dtype, seed)


def fits(estimator: Estimator, spec: PolicySpec) -> bool:
    """Return whether a policy of this spec has the quantities that the estimator uses.

    With a head of action values one of them must be such a value: no other quantity depends on the
    parameters.
    """
    if estimator.claims.discrete_only and not spec.head.enumerable:
        return False
    if spec.head.action_values and VALUES_OF_ACTIONS.isdisjoint(estimator.quantities):
        return False
    return quantities_of(spec).issuperset((*estimator.quantities, *estimator.evaluates))


def twinned(spec: PolicySpec, estimator: Estimator) -> PolicySpec:
    """Return the spec, with twins for its action-value critic where the estimator uses those."""
    used = (*estimator.quantities, *estimator.evaluates)
    if spec.critic_values != "action" or TWIN_VALUES.isdisjoint(used):
        return spec
    return dataclasses.replace(spec, critic_values="twin")


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
    extras: Mapping[str, Extra] | None = None,
) -> tuple[Policy, Batch]:
    """Return a policy with random parameters, and a batch recorded by a slightly different one.

    Args:
        spec: The architecture.
        backend: A registered name.
        dtype: "float32" or "float64".
        seed: At least 0.
        steps: B, at least 9.
        padding: Steps of weight 0 to add.
        scale: The factor on well-scaled parameters, its cube that on rewards. A large one saturates
            distributions, and makes standard deviations tiny and huge.
        extras: Those that the batch has, beside `reference`; None takes those of every estimator,
            `loss_mask` aside.
    """
    rng = np.random.default_rng(seed)
    current = policy(spec, backend=backend, seed=seed, dtype=dtype)
    parameters: dict[str, Array] = {}
    for name, value in spec.initial_parameters(seed).items():
        parameters[name] = value + SPREAD * scale * rng.standard_normal(value.shape)
    current.load(parameters)
    # Five episodes: of one and of two steps, terminated and truncated, in two groups.
    lengths = np.array([steps - 7 - (steps - 7) // 2, 4, (steps - 7) // 2, 1, 2])
    observations = random_observations(spec, steps, rng)
    final = random_observations(spec, len(lengths), rng)
    mask, actions, anchor = random_actions(spec.head, steps, rng)
    # A plain batch, for the policy's log-probabilities and values.
    fields: dict[str, Any] = {
        "observations": observations,
        "actions": actions,
        "rewards": scale**3 * rng.standard_normal(steps),
        "episode_lengths": lengths,
        "terminated": [True, False, False, True, False],
        "final_observations": final,
        "action_mask": mask,
    }
    plain = Batch(**fields, extras={"reference": anchor})
    recorded = current.evaluate(plain, ("log_prob", *quantities_of(spec) & {"value"}))
    log_probs = recorded["log_prob"] + RECORDED * rng.standard_normal(steps)
    # Examples draw from a copy of the stream, so that no extra moves the numbers after them.
    declared = all_extras() if extras is None else extras
    known = Batch(**fields, log_probs=log_probs, extras=plain.extras)
    examples = example_extras(declared, known, spec.head.width, copy.deepcopy(rng))
    rng.standard_normal(steps)
    values = None
    # Values of another critic, so that a clipped value loss is clipped somewhere.
    if "value" in recorded:
        values = recorded["value"] + RECORDED * rng.standard_normal(steps)
    batch = Batch(**fields, log_probs=log_probs, values=values, extras={**plain.extras, **examples})
    return current, batch.pad(steps + padding)


def all_extras() -> dict[str, Extra]:
    """Return the extras that the kit's variants of estimators read, by name.

    All but the loss mask: estimators that do not read it refuse it.
    """
    extras: dict[str, Extra] = {}
    for estimator in variants("estimators").values():
        extras |= estimator.used_extras
    extras.pop(LOSS_MASK, None)
    return extras


def random_observations(spec: PolicySpec, count: int, rng: np.random.Generator) -> Array:
    """Return [count] states or [count, *shape] observations that the spec's network takes."""
    states, shape = spec.network.num_states, spec.network.observation_shape
    assert shape is not None
    if states is not None:
        return rng.integers(0, states, count)
    return rng.standard_normal((count, *shape))


def random_actions(
    head: Head, steps: int, rng: np.random.Generator
) -> tuple[Array | None, Array, Array]:
    """Return a mask, actions that it allows, and another policy's distributions.

    Returns:
        [B, width] bool for a discrete head with alternatives, else None; [B, ...] actions;
        [B, width] distribution parameters.
    """
    columns = alternatives(head) if head.discrete else []
    if not columns:
        return None, *continuous_actions(head, steps, rng)
    mask, log_probs = np.empty((steps, head.width), np.bool_), np.empty((steps, head.width))
    indices: list[Array] = []
    for choice in columns:
        possible = possible_of(len(choice), steps, rng)
        indices.append(np.array([rng.choice(np.flatnonzero(row)) for row in possible]))
        logits = np.where(possible, rng.standard_normal(possible.shape), -np.inf)
        mask[:, choice] = possible
        log_probs[:, choice] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return mask, indices[0] if head.enumerable else np.stack(indices, axis=1), log_probs


def alternatives(head: Head) -> list[range]:
    """Return the columns of each choice of a discrete head; [] where they cannot be listed."""
    columns = [range(head.width)[choice] for choice in head.choices]
    # An enumerable head need not declare its choices.
    return columns or ([range(head.outputs)] if head.enumerable else [])


def random_mask(head: Head, steps: int, rng: np.random.Generator) -> Array:
    """Return [B, width] bool, True for possible alternatives; one of each choice always is."""
    mask = np.ones((steps, head.width), np.bool_)
    for choice in alternatives(head):
        mask[:, choice] = possible_of(len(choice), steps, rng)
    return mask


def possible_of(count: int, steps: int, rng: np.random.Generator) -> Array:
    """Return [B, count] bool, at least one of each row True."""
    # Of two actions both should mostly be possible, and one always is.
    possible = rng.random((steps, count)) < (0.7 if count > 2 else 0.9)
    possible[np.arange(steps), rng.integers(0, count, steps)] = True
    return possible


def continuous_actions(head: Head, steps: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return actions and another policy's distribution parameters, for a head without alternatives.

    They are normal numbers where the head can take these: one for each action, and two parameters.
    Any other head draws actions itself, from distributions of its own.
    """
    if not head.discrete and head.width % 2 == 0:
        actions = rng.standard_normal((steps, head.width // 2))
        mean = rng.standard_normal(actions.shape)
        log_std = 0.3 * rng.standard_normal(actions.shape)
        distribution = np.concatenate([mean, log_std], axis=1)
        if takes(head, distribution, actions):
            return actions, distribution
    values = {
        name: value + SPREAD * rng.standard_normal(np.shape(value))
        for name, value in head.initial_parameters().items()
    }
    outputs = SPREAD * rng.standard_normal((2, steps, head.outputs))
    current, anchor = (head.distribution(host, rows, values, None) for rows in outputs)
    return np.asarray(head.sample(current, rng)), np.asarray(anchor)


def takes(head: Head, distribution: Array, actions: Array) -> bool:
    """Whether actions are of a head's shape, and have a density at some distribution parameters."""
    sample = np.shape(head.sample(distribution, np.random.default_rng(0)))
    if sample != actions.shape:
        return False
    try:
        with np.errstate(all="ignore"):
            density = head.log_prob(host, distribution, actions)
    except Exception:  # noqa: BLE001 - a formula for one framework alone is no formula of these
        return False
    return bool(np.isfinite(density).all())
