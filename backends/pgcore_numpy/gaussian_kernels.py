"""Closed forms of the heads over real actions; arrays are action-major, [actions, n] for a block of n steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from pgcore.heads import DiagonalGaussian
from pgcore.heads.diagonal_gaussian import HALF_LOG_2PI
from pgcore.heads.squashed_gaussian import log_slope
from pgcore.validation.arrays import Array
from pgcore_numpy.kernel import Kernel, Weights
from pgcore_numpy.xp import xp

__all__ = ["GaussianKernel", "SquashedGaussianKernel"]


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
        found: dict[str, Array] = {}
        if "log_prob" in names:
            self.z = (actions.T.astype(self.mean.dtype) - self.mean) / self.std
            found["log_prob"] = (
                -np.add.reduce(0.5 * self.z * self.z + self.log_std) - n * HALF_LOG_2PI
            )
        if "entropy" in names:
            found["entropy"] = np.add.reduce(self.log_std) + n * (0.5 + HALF_LOG_2PI)
        if "kl" in names:
            assert reference is not None
            mean0, log_std0 = reference.T[:n], reference.T[n:]
            self.shift = (self.mean - mean0) / self.std
            self.ratio = np.exp(log_std0 - self.log_std)
            half = 0.5 * (self.ratio * self.ratio + self.shift * self.shift - 1.0)
            found["kl"] = np.add.reduce(self.log_std - log_std0 + half)
        if "reverse_kl" in names:
            assert reference is not None
            mean0, log_std0 = reference.T[:n], reference.T[n:]
            self.std0 = np.exp(log_std0)
            self.shift0 = (self.mean - mean0) / self.std0
            self.ratio0 = np.exp(self.log_std - log_std0)
            half = 0.5 * (self.ratio0 * self.ratio0 + self.shift0 * self.shift0 - 1.0)
            found["reverse_kl"] = np.add.reduce(log_std0 - self.log_std + half)
        return found

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d_mean, d_log_std = np.zeros_like(self.mean), np.zeros_like(self.mean)
        if "log_prob" in cotangents:
            d_mean += cotangents["log_prob"] * (self.z / self.std)
            d_log_std += cotangents["log_prob"] * (self.z * self.z - 1.0)
        if "entropy" in cotangents:
            d_log_std += cotangents["entropy"]
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
            moved = np.broadcast_to(direction["log_std"][:, None], self.mean.shape)
        else:
            moved = tangent[n:] if self.head.log_std == "per-state" else np.zeros_like(self.mean)
        return self._outputs(weights * (tangent[:n] / self.std / self.std), weights * (2.0 * moved))

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`."""
        if self.head.log_std == "shared":
            np.add.reduce(self.d_log_std[:, steps], axis=1, out=gradient["log_std"])

    def _outputs(self, d_mean: Array, d_log_std: Array) -> Array:
        self.d_log_std = d_log_std
        return np.concatenate((d_mean, d_log_std)) if self.head.log_std == "per-state" else d_mean


class SquashedGaussianKernel(GaussianKernel):
    """Normals under a hyperbolic tangent, whose slope is the same for all parameters."""

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        found = super().quantities(names, actions, reference)
        if "log_prob" in found:
            found["log_prob"] -= np.add.reduce(log_slope(xp, actions.T.astype(self.mean.dtype)))
        return found
