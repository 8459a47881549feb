"""Reference implementations of the heads over continuous actions, and their proofs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.heads import DiagonalGaussian, SquashedGaussian
from pgcore_check.core_proofs.kinks import GAUSSIAN_KINKS, SQUASHED_KINKS
from pgcore_check.proof import Proof
from pgcore_check.reference.head_form import HeadForm

__all__ = ["DIAGONAL_GAUSSIAN", "SQUASHED_GAUSSIAN", "GaussianForm"]

Number = Any  # an array of whichever number system `lift` lifts into

# NumPy's own pi is rounded to float64.
HALF_LOG_2PI = np.log(2 * np.longdouble("3.14159265358979323846264338328")) / 2
LOG_2 = np.log(np.longdouble(2))


class GaussianForm(HeadForm):
    """Independent normals, in z = (a - mean) / std."""

    def __init__(
        self,
        head: DiagonalGaussian,
        outputs: Number,
        parameters: Mapping[str, Number],
        actions: Number,
    ) -> None:
        """Compute means, standard deviations and z."""
        self.head, n = head, head.n
        self.own: dict[str, Number] = {}
        self.mean = outputs[:, :n]
        # The logarithm of the standard deviation is an output, a parameter or a constant.
        start = np.log(np.longdouble(head.std))
        if head.log_std == "per-state":
            self.log_std = outputs[:, n:] + start
        elif head.log_std == "shared":
            self.log_std = self.mean * 0 + parameters["head.log_std"]
        else:
            self.log_std = self.mean * 0 + start
        self.std = np.exp(self.log_std)
        self.z = (actions - self.mean) / self.std

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return -(self.z * self.z / 2 + self.log_std).sum(axis=1) - self.head.n * HALF_LOG_2PI

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return self.log_std.sum(axis=1) + self.head.n * (HALF_LOG_2PI + 0.5)

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        n = self.head.n
        mean0, log_std0 = reference[:, :n], reference[:, n:]
        self.shift = (self.mean - mean0) / self.std
        self.ratio = np.exp(log_std0 - self.log_std)
        squares = self.ratio * self.ratio + self.shift * self.shift
        return (self.log_std - log_std0 + (squares - 1) / 2).sum(axis=1)

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        mean0, log_std0 = reference[:, : self.head.n], reference[:, self.head.n :]
        self.std0 = np.exp(log_std0)
        self.shift0 = (self.mean - mean0) / self.std0
        self.ratio0 = np.exp(self.log_std - log_std0)
        squares = self.ratio0 * self.ratio0 + self.shift0 * self.shift0
        return (log_std0 - self.log_std + (squares - 1) / 2).sum(axis=1)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        # Derivatives of each quantity in (mean, log std), times its cotangent.
        d_mean, d_log_std = self.mean * 0, self.mean * 0
        if "log_prob" in cotangents:
            column = cotangents["log_prob"].reshape(-1, 1)
            d_mean = d_mean + column * (self.z / self.std)
            d_log_std = d_log_std + column * (self.z * self.z - 1)
        if "entropy" in cotangents:
            d_log_std = d_log_std + cotangents["entropy"].reshape(-1, 1)
        if "kl" in cotangents:
            column = cotangents["kl"].reshape(-1, 1)
            d_mean = d_mean + column * (self.shift / self.std)
            squares = self.ratio * self.ratio + self.shift * self.shift
            d_log_std = d_log_std + column * (1 - squares)
        if "reverse_kl" in cotangents:
            column = cotangents["reverse_kl"].reshape(-1, 1)
            d_mean = d_mean + column * (self.shift0 / self.std0)
            d_log_std = d_log_std + column * (self.ratio0 * self.ratio0 - 1)
        return self._outputs(d_mean, d_log_std)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: diag(1 / std^2, 2) in (mean, log std)."""
        n, column, shared = self.head.n, weights.reshape(-1, 1), self.head.log_std == "shared"
        moved = self.mean * 0 + direction["head.log_std"] if shared else tangent[:, n:]
        return self._outputs(column * (tangent[:, :n] / self.std / self.std), column * (moved * 2))

    def _outputs(self, d_mean: Number, d_log_std: Number) -> Number:
        """Return the derivatives in the outputs, and keep those in the head's parameter."""
        if self.head.log_std == "per-state":
            return np.concatenate((d_mean, d_log_std), axis=1)
        if self.head.log_std == "shared":
            self.own = {"log_std": d_log_std.sum(axis=0)}
        return d_mean


class SquashedGaussianForm(GaussianForm):
    """tanh of independent normals u.

    The log-density is the normal's less log |d tanh / du| = 2 (log 2 - |u| - log(1 + exp(-2 |u|))).
    """

    def __init__(
        self,
        head: DiagonalGaussian,
        outputs: Number,
        parameters: Mapping[str, Number],
        actions: Number,
    ) -> None:
        """See `GaussianForm`; actions are u."""
        super().__init__(head, outputs, parameters, actions)
        size = np.abs(actions)
        self.log_slope: Number = 2 * (LOG_2 - size - np.log(1 + np.exp(-2 * size)))

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return super().log_prob() - self.log_slope.sum(axis=1)


DIAGONAL_GAUSSIAN = Proof(
    DiagonalGaussian,
    {
        "fixed": {"n": 2, "log_std": "fixed", "std": 0.6},
        "shared": {"n": 2, "log_std": "shared", "std": 1.5},
        "per-state": {"n": 2, "log_std": "per-state", "std": 0.5},
    },
    GaussianForm,
    GAUSSIAN_KINKS,
)
SQUASHED_GAUSSIAN = Proof(
    SquashedGaussian,
    {"squashed": {"n": 2, "log_std": "shared", "std": 0.7}},
    SquashedGaussianForm,
    SQUASHED_KINKS,
)
