"""Normal distributions squashed into (-1, 1) by a hyperbolic tangent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.errors import EstimatorError
from pgcore.heads.diagonal_gaussian import DiagonalGaussian
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["SquashedGaussian"]

LOG_2 = math.log(2.0)  # nats


@dataclass(frozen=True, slots=True)
class SquashedGaussian(DiagonalGaussian):
    """tanh(u) of independent normals u over `n` dimensions: actions in (-1, 1).

    A batch holds u, not tanh(u), which may round to 1 and has no inverse there.
    `environment_actions` squashes, and log-densities are those of tanh(u):
    sum_i log N(u_i) - log |d tanh(u_i) / du_i|. The last term does not depend on the parameters, so
    scores are the normal distribution's, as is the KL. The entropy has no closed form and is not
    offered; estimators do without, or with a sample's -log_prob.

    Attributes and errors are those of `DiagonalGaussian`; `std` is the standard deviation of u.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, appendix C.
    """

    name: ClassVar[str] = "squashed_gaussian"
    bounded: ClassVar[bool] = True

    @property
    def quantities(self) -> frozenset[str]:
        """See `Head.quantities`: no entropy."""
        return frozenset(("log_prob", "kl", "reverse_kl"))

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`; the density of tanh(u) at u = `actions`."""
        normal = DiagonalGaussian.log_prob(self, xp, distribution, actions)
        return normal - xp.sum(log_slope(xp, actions), 1)

    # The slope of tanh depends on no parameter.
    fisher = DiagonalGaussian.fisher

    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """Raise EstimatorError: there is no closed form."""
        raise EstimatorError(
            f"{self}.entropy: expected a head whose entropy has a closed form, "
            "got one that has none; leave entropy bonuses out"
        )

    def environment_actions(self, actions: Array) -> Array:
        """Return tanh(u)."""
        return np.tanh(actions)


def log_slope(xp: ArrayNamespace, u: Native) -> Native:
    """Return log |d tanh(u) / du| = 2 (log 2 - u - softplus(-2 u)), without overflow.

    Args:
        xp: The backend's array functions.
        u: An array of any shape.
    """
    size = xp.abs(u)  # the slope is even in u, and the exponential of -2 |u| cannot overflow
    return 2.0 * (LOG_2 - size - xp.log(1.0 + xp.exp(-2.0 * size)))
