"""What a head is: the meaning of a network's outputs as a distribution of actions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from pgcore.errors import SpecError
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Checked
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["Head"]

# Actions of one step that an expectation is summed over, at most: each costs an evaluation of `log_prob`.
MOST_LISTED = 1024


class Head(Checked, ABC):
    """A family of action distributions.

    Shapes below: `B` steps, `outputs` network outputs, `width` numbers that describe one step's distribution.
    A subclass is a frozen dataclass whose fields declare their checks (`pgcore.validation.fields`) and go to JSON.
    It is registered under `name` by the hook `pgcore_heads`.
    """

    name: ClassVar[str]
    # Whether there are finitely many actions, which masks may restrict.
    discrete: ClassVar[bool]
    # Whether an action is one integer in [0, outputs), so that the probabilities of all of them can be listed.
    enumerable: ClassVar[bool] = False
    # Whether the network's outputs are action values; then probabilities are piecewise constant in them.
    action_values: ClassVar[bool] = False
    # Whether an environment's actions lie in (-1, 1), to be scaled to its bounds.
    bounded: ClassVar[bool] = False

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many outputs the network needs."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers describe the distribution at one step."""

    @property
    def choices(self) -> tuple[slice, ...]:
        """Which columns of the description, and of a mask, are the alternatives of one choice; none where actions are real."""
        return ()

    @property
    def quantities(self) -> frozenset[str]:
        """Which of `pgcore.interfaces.estimator.QUANTITIES` the head gives."""
        names = {"log_prob", "entropy", "kl", "reverse_kl"}
        if self.enumerable:
            names.add("log_probs")
        if self.action_values:
            names |= {"action_value", "action_values"}
        return frozenset(names)

    def initial_parameters(self) -> dict[str, Array]:
        """Return the head's own parameters, name to float64 array; none by default."""
        return {}

    @abstractmethod
    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """Return [B, width] from network outputs [B, outputs], the head's parameters and a [B, width] bool mask or None."""

    @abstractmethod
    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """Return [B] log-probabilities (or log-densities) of the actions."""

    @abstractmethod
    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """Return [B] entropies, nats."""

    @abstractmethod
    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """Return [B] KL(reference, distribution), nats, for two [B, width] descriptions."""

    def fisher(self, xp: ArrayNamespace, distribution: Native, tangent: Native) -> Native:
        """Return [B, width] F tangent, F the Fisher information E[score score^T] in the distribution parameters.

        Optional. A head that leaves it out has E[score score^T] summed over `quadrature`, on every backend that
        differentiates. It belongs to the `log_prob` of its class: a subclass that changes `log_prob` inherits it
        only by saying so, with `fisher = Parent.fisher`.

        Args:
            xp: The backend's namespace.
            distribution: [B, width] distribution parameters.
            tangent: [B, width] their derivative along a direction; of any value, and finite, where an action is masked.

        Returns:
            [B, width], exactly 0 where an action is masked. Only J^T F J counts, J the parameters' own Jacobian: where
            they are redundant, as log-probabilities are, any F with the right product will do.

        Raises:
            SpecError: the head has no closed form.
        """
        raise SpecError(
            f"{self}.fisher: expected a head with a closed form, got one that has none; {self._advice}"
        )

    def quadrature(self, distribution: Array) -> tuple[Array, Array]:
        """Return actions and weights that turn a sum into an expectation over actions; NumPy, as `sample` is.

        By default every action of a discrete head, weighed by its probability. A head of continuous actions that writes
        no `fisher` declares its own: K points a step, for which sum_k w_k f(a_k) is E[f(a)] wherever f is a product of
        two scores, for example Gauss-Hermite or Gauss-Laguerre nodes. Like `fisher` it belongs to its class's `log_prob`.

        Args:
            distribution: [B, width] float64 distribution parameters.

        Returns:
            [B, K] or [B, K, n] actions, as a batch holds them, and [B, K] float64 weights of at least 0 that add up to 1.

        Raises:
            SpecError: the actions cannot be listed, or are more than 1,024.
        """
        counts = [len(range(self.width)[choice]) for choice in self.choices] or (
            [self.outputs] if self.enumerable else []
        )
        if not counts or math.prod(counts) > MOST_LISTED:
            number = f"{math.prod(counts):,}" if counts else "actions that cannot be listed"
            raise SpecError(
                f"{self}: expected a head with `fisher`, or at most {MOST_LISTED:,} actions to sum over, got {number}; "
                f"{self._advice}"
            )
        actions = np.indices(counts).reshape(len(counts), -1).T
        if self.enumerable:
            actions = actions[:, 0]
        steps, listed = len(distribution), len(actions)
        every = np.repeat(actions[None], steps, axis=0)
        # One call for all actions of all steps.
        log_prob = self.log_prob(
            host, np.repeat(distribution, listed, axis=0), every.reshape(-1, *actions.shape[1:])
        )
        return every, np.exp(log_prob).reshape(steps, listed)

    @property
    def _advice(self) -> str:
        return "write `fisher` beside `log_prob`, or declare a `quadrature`"

    @abstractmethod
    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """Draw one action a step from a float64 [B, width] description."""

    @abstractmethod
    def mode(self, distribution: Array) -> Array:
        """Return the most probable action of each step of a [B, width] description."""

    def environment_actions(self, actions: Array) -> Array:
        """Return what an environment is given for [B, ...] actions: themselves, unless a head keeps its actions in another form."""
        return actions

    @abstractmethod
    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """Refuse actions or a mask that this head cannot have produced.

        Raises:
            ShapeError: the number of dimensions or the width is wrong.
            BatchError: an action is out of range or of the wrong kind.
        """
