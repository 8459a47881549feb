"""Gradients in one flat vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pgcore.arrays import Array
from pgcore.errors import NonFiniteError
from pgcore.estimator import QUANTITIES, Estimator
from pgcore.policy import Gradient, Policy
from pgcore_numpy.xp import xp

if TYPE_CHECKING:
    from pgcore_numpy.policy import NumpyPolicy

__all__ = ["NumpyGradient"]


class NumpyGradient(Gradient):
    """See `Gradient`. Loss and metrics are computed when asked for: PPO's inner loop never asks.

    Attributes:
        vector: [D] in the policy's layout.
    """

    policy: Policy

    def __init__(
        self, policy: NumpyPolicy, vector: Array, estimator: Estimator, given: list[dict[str, Array]], weights: Array
    ) -> None:
        """Keep the vector, and what the surrogate was given in each block of steps."""
        self.policy = policy
        self.layout = policy.layout
        self.vector = vector
        self._estimator = estimator
        self._given = given
        self._weights = weights

    @property
    def loss(self) -> float:
        """See `Gradient.loss`."""
        named = self._named()
        with np.errstate(all="ignore"):
            terms = self._estimator.surrogate(xp, **named)
            return float(np.dot(self._weights, terms))

    @property
    def metrics(self) -> dict[str, float]:
        """See `Gradient.metrics`."""
        real = self._weights > 0
        with np.errstate(all="ignore"):
            return {
                "loss": self.loss,
                **self._estimator.metrics(**{name: value[real] for name, value in self._named().items()}),
            }

    def numpy(self) -> dict[str, Array]:
        """See `Gradient.numpy`."""
        return {name: view.copy() for name, view in self.layout.named(self.vector).items()}

    def norm(self) -> float:
        """See `Gradient.norm`."""
        with np.errstate(over="ignore"):
            square = float(np.dot(self.vector, self.vector))
        if math.isfinite(square) and square > 1e-30:
            return math.sqrt(square)
        # The squares over- or underflowed: take them beside the largest entry.
        largest = float(np.abs(self.vector).max())
        if largest == 0.0:
            return 0.0
        scaled = self.vector.astype(np.float64) / largest
        return largest * math.sqrt(np.dot(scaled, scaled))

    def check_finite(self) -> None:
        """Raise NonFiniteError, naming the first quantity and step that are not finite, unless the gradient is."""
        if np.isfinite(self.vector).all():
            return
        named = self._named()
        where = f"gradient of {self._estimator.name}"
        quantities = {name: value for name, value in named.items() if name in QUANTITIES}
        cotangents = {f"d surrogate / d {name}": value for name, value in self._estimator.cotangents(**named).items()}
        for name, value in (quantities | cotangents).items():
            # Masked actions' log-probabilities are -inf by definition.
            bad = np.isnan(value) | ((value == -math.inf) if name != "log_probs" else False) | (value == math.inf)
            if bad.any():
                step = int(bad.reshape(len(bad), -1).any(axis=1).argmax())
                raise NonFiniteError(
                    f"{where}: expected finite numbers, got {name} = {value[step]} at step {step}; the parameters are unchanged, "
                    "look at that step's observation, log-probability and advantage"
                )
        name = next(name for name, view in self.layout.named(self.vector).items() if not np.isfinite(view).all())
        raise NonFiniteError(
            f"{where}: expected finite numbers, got an overflow in {name}; the parameters are unchanged, scale the rewards or use float64"
        )

    def _named(self) -> dict[str, Array]:
        if len(self._given) == 1:
            return self._given[0]
        return {name: np.concatenate([part[name] for part in self._given]) for name in self._given[0]}
