"""The head: independent double exponential distributions over continuous actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import pgcore as pg
from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Count, Positive

__all__ = ["Laplace"]

LOG_2 = math.log(2.0)  # nats, the density's constant

# Nodes of |a - location| / scale: exact for polynomials below degree 16, where scores have 2.
NODES = 8


@dataclass(frozen=True)
class Laplace(pg.Head):
    """Independent double exponential distributions over `n` action dimensions.

    The distribution parameters [B, 2n] are the locations, which the network gives, then the
    logarithms of the scales, a learned vector `head.log_scale` [n]. The density has no derivative
    at its location; the convention there is 0.

    Attributes:
        n: Number of action dimensions, at least 1.
        scale: The scale at the start of learning; positive, action units.
    """

    n: Count = 2
    scale: Positive = 1.0
    name: ClassVar[str] = "laplace"
    discrete: ClassVar[bool] = False

    @property
    def outputs(self) -> int:
        """One location a dimension."""
        return self.n

    @property
    def width(self) -> int:
        """One location and one log scale a dimension."""
        return 2 * self.n

    def initial_parameters(self) -> dict[str, Array]:
        """Return `log_scale` [n]."""
        return {"log_scale": np.full(self.n, math.log(self.scale))}

    def distribution(self, xp: Any, outputs: Any, parameters: Any, mask: Any) -> Any:
        """See `Head.distribution`."""
        return xp.concatenate((outputs, xp.broadcast_to(parameters["log_scale"], outputs)), 1)

    def log_prob(self, xp: Any, distribution: Any, actions: Any) -> Any:
        """See `Head.log_prob`; a density, so it can be positive."""
        location, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        distance = xp.abs(actions - location) / xp.exp(log_scale)
        return -xp.sum(distance + log_scale, 1) - self.n * LOG_2

    def entropy(self, xp: Any, distribution: Any) -> Any:
        """See `Head.entropy`; differential entropy, so it can be negative."""
        return xp.sum(distribution[:, self.n :], 1) + self.n * (1.0 + LOG_2)

    def kl(self, xp: Any, reference: Any, distribution: Any) -> Any:
        """See `Head.kl`."""
        location0, log_scale0 = reference[:, : self.n], reference[:, self.n :]
        location, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        distance = xp.abs(location0 - location)
        # One exponential, since a ratio of scales can overflow where the product does not.
        overlap = xp.exp(log_scale0 - log_scale - distance / xp.exp(log_scale0))
        scaled = distance / xp.exp(log_scale)
        return xp.sum(log_scale - log_scale0 + overlap + scaled - 1.0, 1)

    def fisher(self, xp: Any, distribution: Any, tangent: Any) -> Any:
        """See `Head.fisher`: diag(1 / scale^2, 1) in (location, log scale)."""
        scale = xp.exp(distribution[:, self.n :])
        return xp.concatenate((tangent[:, : self.n] / scale / scale, tangent[:, self.n :]), 1)

    def quadrature(self, distribution: Array) -> tuple[Array, Array]:
        """See `Head.quadrature`: Gauss-Laguerre nodes on both sides of the location."""
        nodes, weights = np.polynomial.laguerre.laggauss(NODES)
        sides, halves = np.concatenate((-nodes, nodes)), np.tile(weights / 2, 2)
        # All combinations of the dimensions' nodes: [K, n], and their products of weights [K].
        grid = np.stack(np.meshgrid(*[sides] * self.n), -1).reshape(-1, self.n)
        mass = np.stack(np.meshgrid(*[halves] * self.n), -1).reshape(-1, self.n).prod(axis=1)
        location, log_scale = distribution[:, None, : self.n], distribution[:, None, self.n :]
        actions = location + np.exp(log_scale) * grid
        return actions, np.repeat(mass[None], len(distribution), axis=0)

    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """See `Head.sample`: location + scale * (difference of two exponential variables)."""
        location, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        draws = rng.standard_exponential((2, *location.shape))
        return location + np.exp(log_scale) * (draws[0] - draws[1])

    def mode(self, distribution: Array) -> Array:
        """See `Head.mode`: the location."""
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
                f"Batch.action_mask: expected none for {self}, got a mask; leave it out"
            )


# The closed form registers itself when it is imported, and needs the class above.
import laplace.kernel  # noqa: E402, F401
