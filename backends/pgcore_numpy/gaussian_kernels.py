"""Closed forms of the heads of continuous actions.

Arrays are action-major, [actions, n] for a block of n steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from pgcore.heads import DiagonalGaussian, Head, SquashedGaussian
from pgcore.heads.diagonal_gaussian import HALF_LOG_2PI
from pgcore.heads.squashed_gaussian import log_slope
from pgcore.validation.arrays import Array
from pgcore_numpy.kernel import Kernel, Weights
from pgcore_numpy.xp import xp

__all__ = ["KERNELS", "GaussianKernel", "SquashedGaussianKernel"]


class GaussianKernel(Kernel):
    """Independent normals, in z = (a - mean) / std; std is divided by twice and never squared."""

    def __init__(self, head: DiagonalGaussian) -> None:
        """Keep the head."""
        self.head = head
        self.start = math.log(head.std)

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        n = self.head.n
        self.mean = outputs[:n]
        # The log standard deviation is an output, a parameter of the head, or a constant.
        if self.head.log_std == "per-state":
            self.log_std = outputs[n:] + self.start
        elif self.head.log_std == "shared":
            self.log_std = np.broadcast_to(parameters["log_std"][:, None], self.mean.shape)
        else:
            self.log_std = np.full_like(self.mean, self.start)
        self.std = np.exp(self.log_std)

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        n = self.head.n
        quantities: dict[str, Array] = {}
        # Attributes hold the intermediate results that `backward` needs again.
        if "log_prob" in names:
            self.z = (actions.T.astype(self.mean.dtype) - self.mean) / self.std
            quantities["log_prob"] = (
                -np.add.reduce(0.5 * self.z * self.z + self.log_std) - n * HALF_LOG_2PI
            )
        if "entropy" in names:
            quantities["entropy"] = np.add.reduce(self.log_std) + n * (0.5 + HALF_LOG_2PI)
        # KL = log(std / std0) + (ratio^2 + shift^2 - 1) / 2 in each coordinate.
        if "kl" in names:
            assert reference is not None
            mean0, log_std0 = reference.T[:n], reference.T[n:]
            self.shift = (self.mean - mean0) / self.std
            self.ratio = np.exp(log_std0 - self.log_std)
            half = 0.5 * (self.ratio * self.ratio + self.shift * self.shift - 1.0)
            quantities["kl"] = np.add.reduce(self.log_std - log_std0 + half)
        if "reverse_kl" in names:
            assert reference is not None
            mean0, log_std0 = reference.T[:n], reference.T[n:]
            self.std0 = np.exp(log_std0)
            self.shift0 = (self.mean - mean0) / self.std0
            self.ratio0 = np.exp(self.log_std - log_std0)
            half = 0.5 * (self.ratio0 * self.ratio0 + self.shift0 * self.shift0 - 1.0)
            quantities["reverse_kl"] = np.add.reduce(log_std0 - self.log_std + half)
        return quantities

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d_mean, d_log_std = np.zeros_like(self.mean), np.zeros_like(self.mean)
        # d log p = z / std in the mean, z^2 - 1 in the log standard deviation.
        if "log_prob" in cotangents:
            d_mean += cotangents["log_prob"] * (self.z / self.std)
            d_log_std += cotangents["log_prob"] * (self.z * self.z - 1.0)
        if "entropy" in cotangents:
            d_log_std += cotangents["entropy"]
        # The divergences' derivatives are in the current policy's parameters.
        if "kl" in cotangents:
            d_mean += cotangents["kl"] * (self.shift / self.std)
            d_log_std += cotangents["kl"] * (
                1.0 - (self.ratio * self.ratio + self.shift * self.shift)
            )
        if "reverse_kl" in cotangents:
            d_mean += cotangents["reverse_kl"] * (self.shift0 / self.std0)
            d_log_std += cotangents["reverse_kl"] * (self.ratio0 * self.ratio0 - 1.0)
        return self._outputs(d_mean, d_log_std)

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: diag(1 / std^2, 2) in (mean, log std)."""
        n = self.head.n
        if self.head.log_std == "shared":
            along = np.broadcast_to(direction["log_std"][:, None], self.mean.shape)
        elif self.head.log_std == "per-state":
            along = tangent[n:]
        else:
            along = np.zeros_like(self.mean)
        # Two divisions, since the square of a small std would underflow in float32.
        return self._outputs(weights * (tangent[:n] / self.std / self.std), weights * (2.0 * along))

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`."""
        if self.head.log_std == "shared":
            np.add.reduce(self.d_log_std[:, steps], axis=1, out=gradient["log_std"])

    def _outputs(self, d_mean: Array, d_log_std: Array) -> Array:
        self.d_log_std = d_log_std
        return np.concatenate((d_mean, d_log_std)) if self.head.log_std == "per-state" else d_mean


class SquashedGaussianKernel(GaussianKernel):
    """Normals under a hyperbolic tangent, whose slope depends on no parameter."""

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        quantities = super().quantities(names, actions, reference)
        # The change of variables is a constant: `backward` is the parent's.
        if "log_prob" in quantities:
            quantities["log_prob"] -= np.add.reduce(
                log_slope(xp, actions.T.astype(self.mean.dtype))
            )
        return quantities


# By head, for `pgcore_numpy.heads`.
KERNELS: dict[type[Head], Callable[..., Kernel]] = {
    DiagonalGaussian: GaussianKernel,
    SquashedGaussian: SquashedGaussianKernel,
}
