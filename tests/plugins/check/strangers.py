"""Plugins as their authors write them, with nothing for the kit."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

import pgcore as pg

__all__ = ["HalvedLaplace", "Laplace"]


@dataclasses.dataclass(frozen=True)
class Laplace(pg.Head):
    """Independent Laplace distributions with a learned vector of log scales; no kernel."""

    n: int = 2
    name: ClassVar[str] = "laplace"
    discrete: ClassVar[bool] = False

    @property
    def outputs(self):
        return self.n

    @property
    def width(self):
        return 2 * self.n

    def initial_parameters(self):
        return {"log_scale": np.zeros(self.n)}

    def distribution(self, xp, outputs, parameters, mask):
        return xp.concatenate((outputs, xp.broadcast_to(parameters["log_scale"], outputs)), 1)

    def log_prob(self, xp, distribution, actions):
        middle, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        z = xp.abs(actions - middle) / xp.exp(log_scale)
        return -xp.sum(z + log_scale, 1) - self.n * math.log(2.0)

    def entropy(self, xp, distribution):
        return xp.sum(distribution[:, self.n :], 1) + self.n * (1.0 + math.log(2.0))

    def kl(self, xp, reference, distribution):
        middle_0, log_0 = reference[:, : self.n], reference[:, self.n :]
        middle, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        apart = xp.abs(middle_0 - middle)
        excess = xp.exp(log_0) * xp.exp(-apart / xp.exp(log_0)) + apart
        return xp.sum(log_scale - log_0 + excess / xp.exp(log_scale) - 1.0, 1)

    def fisher(self, xp, distribution, tangent):
        scale = xp.exp(distribution[:, self.n :])
        squares = xp.concatenate((1.0 / (scale * scale), xp.full_like(scale, 1.0)), 1)
        return squares * tangent

    def sample(self, distribution, rng):
        return rng.laplace(distribution[:, : self.n], np.exp(distribution[:, self.n :]))

    def mode(self, distribution):
        return distribution[:, : self.n]

    def check_actions(self, actions, mask):
        assert actions.ndim == 2
        assert mask is None


class HalvedLaplace(Laplace):
    """Half the Fisher information of the log scale."""

    name: ClassVar[str] = "halved_laplace"

    def fisher(self, xp, distribution, tangent):
        scale = xp.exp(distribution[:, self.n :])
        squares = xp.concatenate((1.0 / (scale * scale), xp.full_like(scale, 0.5)), 1)
        return squares * tangent
