"""Gradients in one flat JAX array."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from pgcore.autodiff.gradient import AutodiffGradient
from pgcore.interfaces.quantities import PER_ACTION
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_jax.parameters import JaxParameters, jitted

__all__ = ["JaxGradient"]


class JaxGradient(AutodiffGradient):
    """See `AutodiffGradient`; flat arrays are split into named ones when they are read.

    Attributes:
        vector: [D] in the order of the sorted names.
    """

    def __init__(
        self,
        policy: JaxParameters,
        surrogate: Surrogate,
        vector: jax.Array,
        columns: jax.Array,
        weights: jax.Array | None = None,
    ) -> None:
        """Keep the vector, and the [N, ...] terms and quantities side by side."""
        self.policy = self._owner = self._policy = policy
        self.surrogate = surrogate
        self.vector = vector
        self._columns = columns
        self.weights = weights

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`: JAX reads its own arrays back as float32 by default."""
        return vars(self) | {
            "vector": np.asarray(self.vector),
            "_columns": np.asarray(self._columns),
            "weights": None,
        }

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        # The columns stay NumPy arrays: nothing computes with them.
        self.vector = self._policy.native_array(self.vector)

    @property
    def leaves(self) -> dict[str, jax.Array]:  # pyright: ignore[reportIncompatibleVariableOverride] - nothing assigns to it
        """See `AutodiffGradient`."""
        return self._policy.parts(self.vector)

    def native_terms(self) -> jax.Array:
        """See `AutodiffGradient.native_terms`."""
        return self._columns[:, 0]

    def terms_and_quantities(self) -> tuple[Array, dict[str, Array]]:
        """See `AutodiffGradient.terms_and_quantities`."""
        self._policy.check_unread()
        columns = np.asarray(self._columns)
        quantities: dict[str, Array] = {}
        # Column 0 is the terms; a quantity of all actions takes a column for each of them.
        start = 1
        for name in self.surrogate.estimator.quantities:
            listed = name in PER_ACTION
            width = self._policy.spec.head.outputs if listed else 1
            quantities[name] = columns[:, start : start + width] if listed else columns[:, start]
            start += width
        return columns[:, 0], quantities

    def numpy(self) -> dict[str, Array]:
        """See `Gradient.numpy`."""
        self._policy.check_unread()
        # Split in NumPy, since JAX would compile a function for it.
        arrays = self._policy.sorted_layout.named(np.array(self.vector))
        return {name: arrays[name] for name in self._policy.names}

    def times(self, factor: float) -> JaxGradient:
        """See `Gradient.times`."""
        with self._policy.precision():
            vector = self.vector * np.asarray(factor, self._policy.dtype)
        return self._with(vector)

    def added(self, other: AutodiffGradient) -> JaxGradient:
        """See `Gradient.added`."""
        with self._policy.precision():
            vector = self.vector + cast("JaxGradient", other).vector
        return self._with(vector)

    def record(self) -> JaxGradient:
        """See `Gradient.record`."""
        # Nothing computes with it, so it need not be JAX's.
        nothing = cast("jax.Array", np.empty(0, self._policy.dtype))
        return self._with(nothing)

    def replaced(self, leaves: dict[str, jax.Array]) -> JaxGradient:
        """See `AutodiffGradient.replaced`."""
        return self._with(self._policy.joined(leaves))

    def _with(self, vector: jax.Array) -> JaxGradient:
        """Return the gradient with another vector."""
        return JaxGradient(self._policy, self.surrogate, vector, self._columns, self.weights)

    def squared(self) -> jax.Array:
        """See `AutodiffGradient.squared`."""
        with self._policy.precision():
            return jnp.vdot(self.vector, self.vector)

    def square(self) -> float:
        """See `Gradient.square`."""
        if self._policy.resident:
            self._policy.check_unread()
            return self._policy.number(self.squared())
        # An infinite sum is reported by `check_finite`, not by NumPy's warnings.
        vector = np.asarray(self.vector)
        with np.errstate(over="ignore"):
            return float(np.dot(vector, vector))

    def limited(self, max_norm: float) -> JaxGradient:
        """See `AutodiffGradient.limited`."""
        with self._policy.precision():
            vector = limit(self.vector, np.asarray(max_norm, self._policy.dtype))
        return self._with(vector)


@jitted
def limit(vector: jax.Array, max_norm: jax.Array) -> jax.Array:
    """Return a vector of at most this norm."""
    norm = jnp.sqrt(jnp.vdot(vector, vector))
    factor = jnp.where(norm <= max_norm, 1.0, max_norm / norm)
    # Of an infinite norm it would be 0, and so a step.
    return vector * jnp.where(jnp.isfinite(norm), factor, jnp.nan)
