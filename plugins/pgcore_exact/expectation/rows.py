"""A policy's quantities at every state and action of a finite process, and their derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pgcore.api import gradient
from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import (
    KLS,
    QUANTITIES,
    VALUES_OF_ACTIONS,
    Claims,
    Estimator,
    Evaluate,
    quantities_of,
)
from pgcore.interfaces.parameters import flat
from pgcore.interfaces.policy import EVALUATIONS, Policy
from pgcore.validation.arrays import Array, read_only
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_exact.expectation.needs import extras
from pgcore_exact.process.mdp import MDP
from pgcore_exact.process.tabulated import Tabulated, backing, every_action

__all__ = ["Lookup", "RowEvaluate", "Rows", "flat_gradient"]

# Evaluations at an episode's final state, 0 where it terminated.
FINAL = tuple(name for name in EVALUATIONS if name.startswith("final_"))


@dataclass(frozen=True)
class Probe(Estimator):
    """The mean of one quantity, or of one of its columns: its gradient is the derivative."""

    quantity: str
    column: int
    name = "probe"

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=True)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return name == self.quantity

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`."""
        return {"reference": batch.extras["reference"]} if self.quantity in KLS else {}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native = None,
        entropy: Native = None,
        kl: Native = None,
        reverse_kl: Native = None,
        log_probs: Native = None,
        value: Native = None,
        action_value: Native = None,
        action_values: Native = None,
        twin_action_value: Native = None,
        twin_action_values: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`."""
        of_state = (log_prob, entropy, kl, reverse_kl, log_probs, value)
        of_actions = (action_value, action_values, twin_action_value, twin_action_values)
        quantity = next(array for array in (*of_state, *of_actions) if array is not None)
        return quantity[:, self.column] if len(quantity.shape) == 2 else quantity

    def cotangents(self, **quantities: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        one = np.zeros_like(quantities[self.quantity])
        one[(slice(None), self.column) if one.ndim == 2 else slice(None)] = 1
        return {self.quantity: one}


class Rows:
    """A policy's quantities and their derivatives at each of the S A rows, computed on first use.

    Attributes:
        table: The policy.
        mdp: The process.
        batch: The rows as one-step episodes.
    """

    def __init__(self, mdp: MDP, table: Tabulated, behaviour: Array, estimator: Estimator) -> None:
        """Prepare the rows.

        Args:
            mdp: The process.
            table: The policy.
            behaviour: [S, A] float64. The behaviour policy's probabilities.
            estimator: Declares extras.
        """
        self.mdp, self.table = mdp, table
        self.extras: dict[str, Array] = {}
        for name, value in extras(mdp, behaviour, estimator).items():
            self.extras[name] = read_only(value.reshape(-1, *value.shape[2:]))
        self.log_probs = read_only(logarithms(behaviour))
        self.batch = every_action(mdp, extras=self.extras)
        self._values: dict[str, Array] = {}
        self._derivatives: dict[str, Array] = {}

    @cached_property
    def scores(self) -> Array:
        """[S A, D] d log_prob / d theta."""
        return self.table.scores.reshape(-1, self.table.scores.shape[2])

    def value(self, name: str) -> Array:
        """Return [S A, ...] of a quantity or of "distribution"."""
        # A table without a policy has its log-probabilities alone.
        if name not in self._values:
            if self.table.policy is None and name == "log_prob":
                self._values[name] = logarithms(self.table.probabilities)
            else:
                self._values[name] = backing(self.table, name).evaluate(self.batch, (name,))[name]
        return self._values[name]

    @property
    def has_state_values(self) -> bool:
        """Whether the policy has a state-value critic."""
        policy = self.table.policy
        return policy is not None and "value" in quantities_of(policy.spec)

    def state_values(self) -> Array:
        """Return [S] V of every state."""
        return self.at_states("value")

    def at_states(self, name: str) -> Array:
        """Return [S, ...] of a quantity that no action changes."""
        return self.value(name)[:: self.mdp.actions]

    def derivative(self, name: str) -> Array:
        """Return [S A, D] d quantity / d theta, or [S A, A, D] of a quantity of all actions."""
        if name == "log_prob":
            return self.scores
        if name not in self._derivatives:
            self._derivatives[name] = self._differentiate(name)
        return self._derivatives[name]

    def _differentiate(self, name: str) -> Array:
        policy, value = backing(self.table, name), self.value(name)
        parameters = self.scores.shape[1]
        # Probabilities are piecewise constant in action values.
        if policy.spec.head.action_values and name not in VALUES_OF_ACTIONS | {"value"}:
            return np.zeros((*value.shape, parameters))
        columns = value.shape[1] if value.ndim == 2 else 1
        derivative = np.empty((len(value), columns, parameters))
        for row, column in np.ndindex(len(value), columns):
            step = self.batch.steps([row])
            derivative[row, column] = flat_gradient(policy, Probe(name, column), step)
        return derivative if value.ndim == 2 else derivative[:, 0]


def logarithms(probabilities: Array) -> Array:
    """Return [S A] log-probabilities, -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities).reshape(-1)


class Lookup:
    """The rows' quantities for many batches of one shape, looked up on first use.

    Attributes:
        rows: The rows' quantities.
        steps: [P, B] row numbers.
        finals: [P, E] final states.
        terminated: [P, E] bool.
    """

    __slots__ = ("_arrays", "finals", "rows", "steps", "terminated")

    def __init__(self, rows: Rows, steps: Array, finals: Array, terminated: Array) -> None:
        """Begin without any quantity."""
        self.rows, self.steps, self.finals, self.terminated = rows, steps, finals, terminated
        self._arrays: dict[str, Array | None] = {}

    def __call__(self, name: str) -> Array | None:
        """Return [P, ...] of a quantity, "distribution" or one of `FINAL`; None of all else."""
        if name not in self._arrays:
            self._arrays[name] = self._look_up(name)
        return self._arrays[name]

    def _look_up(self, name: str) -> Array | None:
        if name in FINAL:
            values = self.rows.at_states(name.removeprefix("final_"))[self.finals]
            ended = self.terminated if values.ndim == 2 else self.terminated[:, :, None]
            return read_only(np.where(ended, 0.0, values))
        if name in QUANTITIES or name == "distribution":
            return read_only(self.rows.value(name)[self.steps])
        return None


class RowEvaluate:
    """See `pgcore.interfaces.estimator.Evaluate`: looks up the rows of one batch."""

    __slots__ = ("batch", "index", "lookup")

    def __init__(self, lookup: Lookup, batch: Batch, index: int) -> None:
        """Select one batch by its index among the lookup's."""
        self.lookup, self.batch, self.index = lookup, batch, index

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """See `Evaluate`."""
        values: dict[str, Array] = {}
        for name in names:
            arrays = self.lookup(name)
            if arrays is not None:
                values[name] = arrays[self.index]
            # A quantity that depends on more than the row, such as the next step's value.
            else:
                policy = backing(self.lookup.rows.table, name)
                values[name] = policy.evaluate(self.batch, (name,))[name]
        return values

    @property
    def target(self) -> RowEvaluate:
        """See `Evaluate.target`: the current policy."""
        return self

    def scores(self, step_weights: Array | None = None) -> Array:
        """See `Evaluate.scores`."""
        scores = self.lookup.rows.scores[self.lookup.steps[self.index]]
        if step_weights is not None:
            scores = scores * step_weights[:, None]
        return np.add.reduceat(scores, self.batch.episode_starts, axis=0)


def flat_gradient(policy: Policy, estimator: Estimator, batch: Batch) -> Array:
    """Return [D] the gradient in canonical parameter order."""
    return flat(gradient(policy, estimator, batch).numpy())
