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

# The end of both errors about a Fisher product that cannot be had.
ADVICE = "write `fisher` beside `log_prob`, or declare a `quadrature`"


class Head(Checked, ABC):
    """A family of action distributions.

    Shapes below: `B` steps, `outputs` network outputs, `width` distribution parameters of a step.
    A subclass is a frozen dataclass whose fields go to JSON and declare their checks, which raise
    SpecError (`pgcore.validation.fields`). The hook `pgcore_heads` registers it under `name`.

    Attributes:
        name: The registered name.
        discrete: Whether there are finitely many actions, which masks may restrict.
        enumerable: Whether an action is one integer in [0, outputs), so that all can be listed.
        action_values: Whether the outputs are action values; probabilities then have derivative 0.
        bounded: Whether an environment's actions lie in (-1, 1), to be scaled to its bounds. The
            log-probability is then the log-density of those, `environment_actions`.
    """

    registered_as = "heads"  # the kind
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
        """The columns of each choice's alternatives in parameters and mask; () if continuous."""
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

        Optional: without it, backends that differentiate sum E[score score^T] over `quadrature`.
        A subclass that changes `log_prob` inherits it only by `fisher = Parent.fisher`.

        Args:
            xp: The backend's array functions.
            distribution: [B, width] distribution parameters.
            tangent: [B, width] their derivative along a direction; any finite value if masked.

        Returns:
            [B, width], exactly 0 for masked actions. Where parameters are redundant, as
            log-probabilities are, any F will do with the right J^T F J, J their own Jacobian.

        Raises:
            SpecError: the head has no closed form.
        """
        raise SpecError(
            f"{self}.fisher: expected a head with a closed form, got one that has none; {ADVICE}"
        )

    def quadrature(self, distribution: Array) -> tuple[Array, Array]:
        """Return actions and weights that turn a sum into an expectation; NumPy, as `sample` is.

        By default every action of a discrete head, weighed by its probability. A head of continuous
        actions without `fisher` declares its own, such as K Gauss-Hermite nodes a step, with
        sum_k w_k f(a_k) = E[f(a)] for any product f of two scores. It is inherited as `fisher` is.

        Args:
            distribution: [B, width] float64 distribution parameters.

        Returns:
            [B, K] or [B, K, n] actions, and [B, K] float64 weights of at least 0 with sum 1.

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
        # One call for all actions of all steps.
        every = np.repeat(actions[None], len(distribution), axis=0)
        repeated = np.repeat(distribution, len(actions), axis=0)
        log_prob = self.log_prob(host, repeated, every.reshape(-1, *actions.shape[1:]))
        return every, np.exp(log_prob).reshape(every.shape[:2])

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
