"""Independent normal distributions over continuous actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pgcore.errors import BatchError, ShapeError
from pgcore.heads.head import Head
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Count, Positive, choice
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["HALF_LOG_2PI", "DiagonalGaussian"]

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)  # nats, the normal density's constant


@dataclass(frozen=True, slots=True)
class DiagonalGaussian(Head):
    """Independent normal distributions over `n` action dimensions.

    The distribution parameters [B, 2n] are the means, then the log standard deviations. Network
    outputs are the means, followed by the log standard deviations if they are per state.

    Attributes:
        n: Number of action dimensions, at least 1.
        log_std: "fixed" (a constant), "shared" (a learned vector `head.log_std` [n]) or
            "per-state" (network outputs).
        std: The standard deviation, constant or at the start of learning; positive, action units.
    """

    n: Count
    log_std: Annotated[str, choice("fixed", "shared", "per-state")] = "shared"
    std: Positive = 1.0
    name: ClassVar[str] = "diagonal_gaussian"
    discrete: ClassVar[bool] = False

    @property
    def outputs(self) -> int:
        """One mean a dimension, and one log std if it is per state."""
        return 2 * self.n if self.log_std == "per-state" else self.n

    @property
    def width(self) -> int:
        """One mean and one log std a dimension."""
        return 2 * self.n

    def initial_parameters(self) -> dict[str, Array]:
        """Return `log_std` [n] if it is shared, else nothing."""
        return {"log_std": np.full(self.n, math.log(self.std))} if self.log_std == "shared" else {}

    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """See `Head.distribution`; a per-state output of 0 means `std`."""
        # Log standard deviations always take columns, so that the formulas below see one layout.
        mean, log_std = outputs[:, : self.n], math.log(self.std)
        if self.log_std == "per-state":
            return xp.concatenate((mean, outputs[:, self.n :] + log_std), 1)
        if self.log_std == "shared":
            return xp.concatenate((outputs, xp.broadcast_to(parameters["log_std"], outputs)), 1)
        return xp.concatenate((outputs, xp.full_like(outputs, log_std)), 1)

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`; a density, so it can be positive."""
        mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
        # Standardised before it is squared, since std^2 can underflow.
        z = (actions - mean) / xp.exp(log_std)
        return -xp.sum(0.5 * z * z + log_std, 1) - self.n * HALF_LOG_2PI

    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """See `Head.entropy`; differential entropy, so it can be negative."""
        return xp.sum(distribution[:, self.n :], 1) + self.n * (0.5 + HALF_LOG_2PI)

    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """See `Head.kl`."""
        mean0, log_std0 = reference[:, : self.n], reference[:, self.n :]
        mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
        # Ratios before squares: neither standard deviation's square can overflow alone.
        z, ratio = (mean0 - mean) / xp.exp(log_std), xp.exp(log_std0 - log_std)
        return xp.sum(log_std - log_std0 + 0.5 * (ratio * ratio + z * z - 1.0), 1)

    def fisher(self, xp: ArrayNamespace, distribution: Native, tangent: Native) -> Native:
        """See `Head.fisher`: diag(1 / std^2, 2) in (mean, log std)."""
        std = xp.exp(distribution[:, self.n :])
        return xp.concatenate((tangent[:, : self.n] / std / std, 2.0 * tangent[:, self.n :]), 1)

    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """See `Head.sample`: mean + std * standard normal."""
        mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
        return mean + np.exp(log_std) * rng.standard_normal(mean.shape)

    def mode(self, distribution: Array) -> Array:
        """See `Head.mode`: the mean."""
        return distribution[:, : self.n]

    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """See `Head.check_actions`."""
        if actions.shape[1:] != (self.n,):
            raise ShapeError(
                f"Batch.actions: expected shape [B, {self.n}] for {self}, "
                f"got {list(actions.shape)}; one column an action dimension"
            )
        if mask is not None:
            raise BatchError(
                f"Batch.action_mask: expected none for {self}, got a mask; "
                "only discrete heads can mask actions"
            )
