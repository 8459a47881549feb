"""Action distributions: what a network's outputs mean.

A head is frozen data with forward formulas written once against `xp`. Autograd backends differentiate them; the NumPy backend
holds their derivatives. Sampling happens here, in float64, so one seed gives the same actions on every backend.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pgcore.checks import count, one_of, positive, set_field
from pgcore.errors import BatchError, ShapeError
from pgcore.namespace import ArrayNamespace, Native

__all__ = ["Categorical", "DiagonalGaussian", "Head"]

Array = NDArray[Any]
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Head(ABC):
    """A family of action distributions.

    Shapes below: `B` steps, `outputs` network outputs, `width` numbers that describe one step's distribution.
    A subclass is a frozen dataclass whose fields go to JSON, and is registered under `name` by the hook `pgcore_heads`.
    """

    name: ClassVar[str]
    discrete: ClassVar[bool]
    # Whether the network's outputs are action values; then probabilities are piecewise constant in them.
    action_values: ClassVar[bool] = False

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many outputs the network needs."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers describe the distribution at one step."""

    def initial_parameters(self) -> dict[str, Array]:
        """Return the head's own parameters, name to float64 array; none by default."""
        return {}

    @abstractmethod
    def distribution(self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native) -> Native:
        """Return [B, width] from network outputs [B, outputs], the head's parameters and a [B, A] bool mask or None."""

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

    @abstractmethod
    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """Refuse actions or a mask that this head cannot have produced.

        Raises:
            ShapeError: the number of dimensions or the width is wrong.
            BatchError: an action is out of range or of the wrong kind.
        """


@dataclass(frozen=True, slots=True)
class Categorical(Head):
    """Softmax over `n` actions with a temperature; network outputs are the logits w, pi = softmax(w / temperature).

    The [B, n] description holds log pi, with -inf where an action is masked.

    Attributes:
        n: Number of actions, at least 1.
        temperature: Divides the logits; positive.

    Raises:
        SpecError: n below 1, or temperature not a positive number.
    """

    n: int
    temperature: float = 1.0
    name: ClassVar[str] = "categorical"
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "n", count("Categorical.n", self.n))
        set_field(self, "temperature", positive("Categorical.temperature", self.temperature))

    @property
    def outputs(self) -> int:
        """One logit an action."""
        return self.n

    @property
    def width(self) -> int:
        """One log-probability an action."""
        return self.n

    def distribution(self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native) -> Native:
        """See `Head.distribution`."""
        logits = outputs if self.temperature == 1.0 else outputs / self.temperature
        return xp.log_softmax(logits if mask is None else xp.where(mask, logits, -math.inf), 1)

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`."""
        return xp.take_last(distribution, actions)

    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """See `Head.entropy`; 0 log 0 is 0."""
        return -xp.sum(xp.exp(distribution) * finite_or_zero(xp, distribution), 1)

    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """See `Head.kl`; actions that the reference never takes add nothing."""
        possible = reference > -math.inf
        difference = xp.where(possible, finite_or_zero(xp, reference) - xp.where(possible, distribution, 0.0), 0.0)
        return xp.sum(xp.exp(reference) * difference, 1)

    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """Draw by inverting the cumulative distribution, one uniform number a step."""
        cumulative = np.exp(distribution).cumsum(axis=1)
        # The last sum need not be exactly 1; scaling the uniform number by it keeps masked last actions out of reach.
        threshold = rng.random(len(distribution)) * cumulative[:, -1]
        return (cumulative <= threshold[:, None]).sum(axis=1)

    def mode(self, distribution: Array) -> Array:
        """See `Head.mode`; the first of equally probable actions."""
        return distribution.argmax(axis=1)

    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """See `Head.check_actions`."""
        if actions.ndim != 1:
            raise ShapeError(
                f"Batch.actions: expected shape [B] for {self}, got {list(actions.shape)}; one integer a step"
            )
        if actions.dtype.kind not in "iu":
            raise BatchError(
                f"Batch.actions: expected integers for {self}, got {actions.dtype}; use a Gaussian head for real actions"
            )
        outside = (actions < 0) | (actions >= self.n)
        if outside.any():
            step = int(outside.argmax())
            raise BatchError(
                f"Batch.actions: expected integers in [0, {self.n}), got {actions[step]} at step {step}; check the head's number of actions"
            )
        if mask is not None and mask.shape[1] != self.n:
            raise ShapeError(
                f"Batch.action_mask: expected [B, {self.n}] for {self}, got {list(mask.shape)}; one column an action"
            )


@dataclass(frozen=True, slots=True)
class DiagonalGaussian(Head):
    """Independent normal distributions over `n` action dimensions.

    The [B, 2n] description holds the means, then the log standard deviations. Network outputs are the means, followed by the
    log standard deviations when they are per state.

    Attributes:
        n: Number of action dimensions, at least 1.
        log_std: "fixed" (the constant log std), "shared" (a learned vector `head.log_std` [n]) or "per-state" (network outputs).
        std: The constant standard deviation, or the one that learning starts from; positive, action units.

    Raises:
        SpecError: n below 1, log_std none of the three, or std not a positive number.
    """

    n: int
    log_std: str = "shared"
    std: float = 1.0
    name: ClassVar[str] = "diagonal_gaussian"
    discrete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "n", count("DiagonalGaussian.n", self.n))
        set_field(self, "std", positive("DiagonalGaussian.std", self.std))
        one_of("DiagonalGaussian.log_std", self.log_std, ("fixed", "shared", "per-state"))

    @property
    def outputs(self) -> int:
        """One mean a dimension, and one log std where it is per state."""
        return 2 * self.n if self.log_std == "per-state" else self.n

    @property
    def width(self) -> int:
        """One mean and one log std a dimension."""
        return 2 * self.n

    def initial_parameters(self) -> dict[str, Array]:
        """Return `log_std` [n] where it is shared, else nothing."""
        return {"log_std": np.full(self.n, math.log(self.std))} if self.log_std == "shared" else {}

    def distribution(self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native) -> Native:
        """See `Head.distribution`; per-state outputs are offset so that an output of 0 means `std`."""
        if self.log_std == "per-state":
            return xp.concatenate((outputs[:, : self.n], outputs[:, self.n :] + math.log(self.std)), 1)
        if self.log_std == "shared":
            return xp.concatenate((outputs, xp.broadcast_to(parameters["log_std"], outputs)), 1)
        return xp.concatenate((outputs, xp.full_like(outputs, math.log(self.std))), 1)

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`; a density, so it can be positive."""
        mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
        z = (actions - mean) / xp.exp(log_std)
        return -xp.sum(0.5 * z * z + log_std, 1) - self.n * HALF_LOG_2PI

    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """See `Head.entropy`; differential entropy, so it can be negative."""
        return xp.sum(distribution[:, self.n :], 1) + self.n * (0.5 + HALF_LOG_2PI)

    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """See `Head.kl`."""
        mean0, log_std0 = reference[:, : self.n], reference[:, self.n :]
        mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
        std = xp.exp(log_std)
        z, ratio = (mean0 - mean) / std, xp.exp(log_std0 - log_std)
        return xp.sum(log_std - log_std0 + 0.5 * (ratio * ratio + z * z - 1.0), 1)

    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """Draw mean + std * standard normal."""
        mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
        return mean + np.exp(log_std) * rng.standard_normal(mean.shape)

    def mode(self, distribution: Array) -> Array:
        """See `Head.mode`: the mean."""
        return distribution[:, : self.n]

    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """See `Head.check_actions`."""
        if actions.ndim != 2 or actions.shape[1] != self.n:
            raise ShapeError(
                f"Batch.actions: expected shape [B, {self.n}] for {self}, got {list(actions.shape)}; one column an action dimension"
            )
        if mask is not None:
            raise BatchError(
                f"Batch.action_mask: expected none for {self}, got a mask; only discrete heads can mask actions"
            )


def finite_or_zero(xp: ArrayNamespace, log_probs: Native) -> Native:
    """Return the log-probabilities with 0 for -inf, so that multiplying by a probability of 0 gives 0 and no NaN gradient."""
    return xp.where(log_probs > -math.inf, log_probs, 0.0)
