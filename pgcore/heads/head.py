"""What a head is: the meaning of a network's outputs as a distribution of actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from pgcore.arrays import Array
from pgcore.checks import Checked
from pgcore.namespace import ArrayNamespace, Native

__all__ = ["Head"]


class Head(Checked, ABC):
    """A family of action distributions.

    Shapes below: `B` steps, `outputs` network outputs, `width` numbers that describe one step's distribution.
    A subclass is a frozen dataclass whose fields declare their checks (`pgcore.checks`) and go to JSON.
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
        """Which of `pgcore.estimator.QUANTITIES` the head gives."""
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
    def distribution(self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native) -> Native:
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
