"""The head's closed form, for the NumPy backend.

Arrays are action-major, [n, steps].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from laplace.head import LOG_2, Laplace
from pgcore.validation.arrays import Array
from pgcore_numpy.heads import make_kernel
from pgcore_numpy.kernel import Kernel

__all__ = ["LaplaceKernel"]


class LaplaceKernel(Kernel):
    """Independent double exponential distributions, in z = |a - location| / scale."""

    def __init__(self, head: Laplace) -> None:
        """Keep the head."""
        self.head = head

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        self.location = outputs
        self.log_scale = np.broadcast_to(parameters["log_scale"][:, None], outputs.shape)
        self.scale = np.exp(self.log_scale)

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        n = self.head.n
        quantities: dict[str, Array] = {}
        # Attributes hold the intermediate results that `backward` needs again.
        if "log_prob" in names:
            self.offset = actions.T.astype(self.location.dtype) - self.location
            self.z = np.abs(self.offset) / self.scale
            quantities["log_prob"] = -np.add.reduce(self.z + self.log_scale) - n * LOG_2
        if "entropy" in names:
            quantities["entropy"] = np.add.reduce(self.log_scale) + n * (1.0 + LOG_2)
        if "kl" in names or "reverse_kl" in names:
            assert reference is not None
            self.log_scale0 = reference.T[n:]
            self.scale0 = np.exp(self.log_scale0)
            self.shift = self.location - reference.T[:n]
            # The distance of the locations, in units of either scale.
            self.d, self.d0 = np.abs(self.shift) / self.scale, np.abs(self.shift) / self.scale0
        if "kl" in names:
            change = self.log_scale - self.log_scale0
            self.overlap = np.exp(-change - self.d0)
            quantities["kl"] = np.add.reduce(change + self.overlap + self.d - 1.0)
        if "reverse_kl" in names:
            change = self.log_scale - self.log_scale0
            self.overlap0 = np.exp(change - self.d)
            quantities["reverse_kl"] = np.add.reduce(-change + self.overlap0 + self.d0 - 1.0)
        return quantities

    def backward(self, cotangents: Mapping[str, Array]) -> Array:
        """See `Kernel.backward`; the derivatives in the log scales are kept for `collect`."""
        d_location, d_log_scale = np.zeros_like(self.location), np.zeros_like(self.location)
        # The sign of 0 is 0, the convention at the location.
        if "log_prob" in cotangents:
            d_location += cotangents["log_prob"] * (np.sign(self.offset) / self.scale)
            d_log_scale += cotangents["log_prob"] * (self.z - 1.0)
        if "entropy" in cotangents:
            d_log_scale += cotangents["entropy"]
        # expm1 keeps the digits of 1 - exp(-d) where the locations are close.
        if "kl" in cotangents:
            slope = -np.expm1(-self.d0) * np.sign(self.shift) / self.scale
            d_location += cotangents["kl"] * slope
            d_log_scale += cotangents["kl"] * (1.0 - self.overlap - self.d)
        if "reverse_kl" in cotangents:
            slope = -np.expm1(-self.d) * np.sign(self.shift) / self.scale0
            d_location += cotangents["reverse_kl"] * slope
            d_log_scale += cotangents["reverse_kl"] * (self.overlap0 * (1.0 + self.d) - 1.0)
        self.d_log_scale = d_log_scale
        return d_location

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: diag(1 / scale^2, 1) in (location, log scale)."""
        along = np.broadcast_to(direction["log_scale"][:, None], self.location.shape)
        self.d_log_scale = weights * along
        return weights * (tangent / self.scale / self.scale)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`."""
        np.add.reduce(self.d_log_scale[:, steps], axis=1, out=gradient["log_scale"])


make_kernel.register(Laplace, LaplaceKernel)
