"""The interface of heads: a network's outputs as a distribution of actions."""

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

# The most actions that an expectation is summed over: each costs an evaluation of `log_prob`.
MOST_LISTED = 1024

# What an author can do about a Fisher product that cannot be had; the end of both errors.
ADVICE = "write `fisher` beside `log_prob`, or declare a `quadrature`"


class Head(Checked, ABC):
    """A family of action distributions.

    Shapes below: `B` steps, `outputs` network outputs, `width` distribution parameters of a step.
    A subclass is a frozen dataclass whose fields declare their checks (`pgcore.validation.fields`)
    and go to JSON. It is registered under `name` by the hook `pgcore_heads`.

    Attributes:
        name: The registered name.
        discrete: Whether there are finitely many actions, which masks may restrict.
        enumerable: Whether an action is one integer in [0, outputs), so that the probabilities of
            all actions can be listed.
        action_values: Whether the network's outputs are action values; then probabilities are
            piecewise constant in them.
        bounded: Whether an environment's actions lie in (-1, 1), to be scaled to its bounds.
    """

    name: ClassVar[str]
    discrete: ClassVar[bool]
    enumerable: ClassVar[bool] = False
    action_values: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of outputs that the network needs."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of distribution parameters of one step."""

    @property
    def choices(self) -> tuple[slice, ...]:
        """The columns, of distribution parameters and mask, of each choice's alternatives.

        None for continuous actions.
        """
        return ()

    @property
    def quantities(self) -> frozenset[str]:
        """The members of `pgcore.interfaces.estimator.QUANTITIES` that the head gives."""
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
        """Return the distribution parameters [B, width].

        Args:
            xp: The backend's array functions.
            outputs: [B, outputs] of the network.
            parameters: The head's own, by name.
            mask: [B, width] bool or None. True for possible actions.
        """

    @abstractmethod
    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """Return [B] log-probabilities (or log-densities), nats.

        Args:
            xp: The backend's array functions.
            distribution: [B, width] distribution parameters.
            actions: [B] or [B, n], as a batch holds them.
        """

    @abstractmethod
    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """Return [B] entropies, nats, of [B, width] distribution parameters."""

    @abstractmethod
    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """Return [B] KL(reference, distribution), nats.

        Args:
            xp: The backend's array functions.
            reference: [B, width] distribution parameters.
            distribution: [B, width] distribution parameters.
        """

    def fisher(self, xp: ArrayNamespace, distribution: Native, tangent: Native) -> Native:
        """Return F tangent, F the Fisher information E[score score^T] in distribution parameters.

        Optional. For a head without it, backends that differentiate sum E[score score^T] over
        `quadrature`. It belongs to the `log_prob` of its class: a subclass that changes `log_prob`
        inherits it only by saying so, with `fisher = Parent.fisher`.

        Args:
            xp: The backend's array functions.
            distribution: [B, width] distribution parameters.
            tangent: [B, width] their derivative along a direction; any finite value if masked.

        Returns:
            [B, width], exactly 0 for masked actions. Only J^T F J counts, J the parameters' own
            Jacobian: if they are redundant, as log-probabilities are, any F with the right product
            will do.

        Raises:
            SpecError: the head has no closed form.
        """
        raise SpecError(
            f"{self}.fisher: expected a head with a closed form, got one that has none; {ADVICE}"
        )

    def quadrature(self, distribution: Array) -> tuple[Array, Array]:
        """Return actions and weights that turn a sum into an expectation; NumPy, as `sample` is.

        By default every action of a discrete head, weighed by its probability. A head of continuous
        actions without `fisher` declares its own, for example Gauss-Hermite or Gauss-Laguerre nodes:
        K points a step, with sum_k w_k f(a_k) = E[f(a)] for any product f of two scores. Like
        `fisher` it belongs to its class's `log_prob`.

        Args:
            distribution: [B, width] float64 distribution parameters.

        Returns:
            [B, K] or [B, K, n] actions, as a batch holds them, and [B, K] float64 weights of at
            least 0 with sum 1.

        Raises:
            SpecError: the actions cannot be listed, or are more than 1,024.
        """
        counts = [len(range(self.width)[choice]) for choice in self.choices]
        # An enumerable head need not declare its choices.
        if self.enumerable and not counts:
            counts = [self.outputs]
        if not counts or math.prod(counts) > MOST_LISTED:
            number = f"{math.prod(counts):,}" if counts else "actions that cannot be listed"
            raise SpecError(
                f"{self}: expected a head with `fisher`, or at most {MOST_LISTED:,} actions to sum "
                f"over, got {number}; {ADVICE}"
            )
        actions = np.indices(counts).reshape(len(counts), -1).T
        if self.enumerable:
            actions = actions[:, 0]
        steps, listed = len(distribution), len(actions)
        every = np.repeat(actions[None], steps, axis=0)
        # One call for all actions of all steps.
        flat = every.reshape(-1, *actions.shape[1:])
        log_prob = self.log_prob(host, np.repeat(distribution, listed, axis=0), flat)
        return every, np.exp(log_prob).reshape(steps, listed)

    @abstractmethod
    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """Draw one action a step.

        Args:
            distribution: [B, width] float64 distribution parameters.
            rng: The source of randomness.
        """

    @abstractmethod
    def mode(self, distribution: Array) -> Array:
        """Return each step's most probable action, of [B, width] distribution parameters."""

    def environment_actions(self, actions: Array) -> Array:
        """Return the environment's form of [B, ...] actions; by default the actions themselves."""
        return actions

    @abstractmethod
    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """Refuse actions or a mask that this head cannot have produced.

        Args:
            actions: [B] or [B, n], as a batch holds them.
            mask: [B, A] bool or None.

        Raises:
            ShapeError: the number of dimensions or the width is wrong.
            BatchError: an action is out of range or of the wrong kind.
        """
