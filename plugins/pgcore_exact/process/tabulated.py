"""A policy's probabilities and scores at every state of a finite process, from any network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError, MDPError
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_exact.process.mdp import MDP, finite_array

__all__ = ["Tabulated", "every_action", "softmax_table", "tabulated"]


@dataclass(frozen=True, eq=False)
class Tabulated:
    """A policy as exact computations need it; `S` states, `A` actions, `D` parameters.

    Attributes:
        probabilities: [S, A]. pi(a given s), float64.
        scores: [S, A, D]. d log pi(a given s) / d theta, in canonical parameter order.
        policy: The policy itself, or None.
    """

    probabilities: Array
    scores: Array
    policy: Policy | None = None

    @property
    def actor_mask(self) -> Array:
        """[D] bool. The policy's parameters: all but the critic's."""
        if self.policy is None:
            return np.array([True] * self.scores.shape[2])
        # One entry for each number of each parameter array.
        shapes = self.policy.spec.parameter_shapes
        critic = np.array([name.startswith("critic.") for name in shapes])
        return cast("Array", np.repeat(~critic, [math.prod(shape) for shape in shapes.values()]))


def tabulated(policy: Policy | Tabulated, mdp: MDP) -> Tabulated:
    """Return a policy's probabilities and scores at every state.

    Args:
        policy: A policy, or a table, which is returned after a check of its shape.
        mdp: The process.

    Raises:
        MDPError: the policy's actions are not the process's.
        BatchError: its network does not take the process's observations.
    """
    if isinstance(policy, Tabulated):
        if policy.probabilities.shape != (mdp.states, mdp.actions):
            raise MDPError(
                f"Tabulated.probabilities: expected shape {[mdp.states, mdp.actions]}, "
                f"got {list(policy.probabilities.shape)}; match the process"
            )
        return policy
    head = policy.spec.head
    if not head.enumerable or head.outputs != mdp.actions:
        raise MDPError(
            f"exact: expected a policy with {mdp.actions} discrete actions, as the process has, "
            f"got {head}; give it that head"
        )
    # One batch of one-step episodes gives both; a masked action has log-probability -inf.
    batch = every_action(mdp)
    with np.errstate(divide="ignore"):
        log_prob = policy.evaluate(batch, ("log_prob",))["log_prob"]
    shape = (mdp.states, mdp.actions)
    scores = policy.episode_scores(batch).astype(np.float64)
    return Tabulated(np.exp(log_prob).reshape(shape), scores.reshape(*shape, -1), policy)


def softmax_table(probabilities: Any) -> Tabulated:
    """Return the softmax policy over a table of logits, with these probabilities.

    Args:
        probabilities: [S, A], positive, each row summing to 1. The score of the logits is e_a - pi.

    Raises:
        MDPError: a probability is not a positive number, or a row does not sum to 1.
    """
    pi = finite_array("softmax_table", probabilities)
    if pi.ndim != 2 or (pi <= 0).any():
        raise MDPError(
            "softmax_table: expected positive probabilities [S, A], "
            f"got shape {list(pi.shape)} with others; no logit gives a probability of 0"
        )
    off = np.abs(pi.sum(axis=1) - 1) > 1e-12
    if off.any():
        raise MDPError(
            f"softmax_table: expected rows that sum to 1, got {pi.sum(axis=1)[off.argmax()]} "
            f"in state {int(off.argmax())}; mend that row"
        )
    states, actions = pi.shape
    # A state's logits have no effect on other states.
    scores = np.zeros((states, actions, states, actions))
    for state in range(states):
        scores[state, :, state, :] = np.eye(actions) - pi[state]
    return Tabulated(pi, scores.reshape(states, actions, -1))


def every_action(mdp: MDP, **fields: Any) -> Batch:
    """Return a batch of one-step episodes: every action once in every state, state by state.

    Args:
        mdp: The process.
        fields: Further fields of `Batch`; rewards are 0 by default.
    """
    steps = mdp.states * mdp.actions
    common: dict[str, Any] = {
        "observations": np.repeat(mdp.seen, mdp.actions, axis=0),
        "actions": np.tile(np.arange(mdp.actions), mdp.states),
        "rewards": np.zeros(steps),
        "episode_lengths": np.ones(steps, np.intp),
        "terminated": np.ones(steps, np.bool_),
    }
    return Batch(**common | fields)


def backing(policy: Tabulated, where: str) -> Policy:
    """Return the policy behind a table, or raise EstimatorError if there is none."""
    if policy.policy is None:
        raise EstimatorError(
            f"{where}: expected a pgcore policy, got a table of probabilities; "
            "build a policy with those logits"
        )
    return policy.policy
