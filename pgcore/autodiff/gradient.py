"""Gradients as a framework's own arrays."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["AutodiffGradient"]


class AutodiffGradient(Gradient):
    """See `Gradient`.

    Attributes:
        leaves: Native derivatives by canonical name, in the framework's own shapes.
    """

    leaves: dict[str, Native]

    def __init__(
        self,
        policy: AutodiffParameters,
        surrogate: Surrogate,
        leaves: dict[str, Native],
        terms: Native,
        named: dict[str, Native],
    ) -> None:
        """Keep everything native."""
        self.policy = self._owner = policy
        self.surrogate = surrogate
        self.leaves = leaves
        self._terms = terms
        self._named = named

    def given(self) -> dict[str, Array]:
        """See `Gradient.given`."""
        quantities = self.told()[1]
        signals, keywords = self.surrogate.values, self.surrogate.estimator.keywords
        steps = len(self.surrogate.weights)
        return {
            name: quantities[name][:steps] if name in quantities else signals[name]
            for name in keywords
        }

    def terms(self) -> Array:
        """See `Gradient.terms`."""
        return self.told()[0][: len(self.surrogate.weights)]

    def told(self) -> tuple[Array, dict[str, Array]]:
        """Return the terms and the quantities as NumPy arrays, padding included."""
        if isinstance(self._terms, np.ndarray):  # a copy's
            return cast("Array", self._terms), self._named
        to_numpy = self._owner.to_numpy
        return to_numpy(self._terms), {name: to_numpy(value) for name, value in self._named.items()}

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`; terms and quantities are only ever looked at, so that a copy has NumPy's."""
        terms, named = self.told()
        return super().__getstate__() | {"_terms": terms, "_named": named}

    def numpy(self) -> dict[str, Array]:
        """See `Gradient.numpy`."""
        leaves = self.leaves
        return {name: self._owner.canonical(name, leaves[name]) for name in self._owner.names}

    def times(self, factor: float) -> AutodiffGradient:
        """See `Gradient.times`."""
        return self.replaced({name: leaf * factor for name, leaf in self.leaves.items()})

    def replaced(self, leaves: dict[str, Native]) -> AutodiffGradient:
        """Return the gradient with other derivatives; terms, loss and metrics stay."""
        return type(self)(self._owner, self.surrogate, leaves, self._terms, self._named)
