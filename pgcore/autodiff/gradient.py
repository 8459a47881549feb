"""Gradients as a framework's own arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.native import arrays_of
from pgcore.errors import OptimizerError
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.validation.fields import positive_or_infinite
from pgcore.xp.namespace import Native

__all__ = ["AutodiffGradient"]


@dataclass(eq=False, repr=False)
class AutodiffGradient(Gradient):
    """See `Gradient`; terms and quantities are [N, ...], with padding.

    Attributes:
        leaves: Derivatives by canonical name, in the framework's own shapes.
        weights: [N] the steps' weights where the device has them, else None.
    """

    _owner: AutodiffParameters  # the policy
    surrogate: Surrogate
    leaves: dict[str, Native]
    _terms: Native
    _quantities: dict[str, Native]
    weights: Native = None

    def __post_init__(self) -> None:
        """Name the policy as `Gradient` does."""
        self.policy = self._owner

    def clipped(self, max_norm: float) -> AutodiffGradient:
        """See `Gradient.clipped`; on a device the norm is not read, and must have a finite square."""
        if not self._owner.resident:
            return cast("AutodiffGradient", super().clipped(max_norm))
        positive_or_infinite("Gradient.clipped max_norm", max_norm, OptimizerError)
        clipped = self.limited(max_norm)
        clipped.addends = self.addends
        return clipped

    def plus(self, other: Gradient) -> AutodiffGradient:
        """See `Gradient.plus`; on a device an overflow is told as a gradient's is, see `Unread`."""
        total = cast("AutodiffGradient", super().plus(other))
        if self._owner.resident:
            self._owner.unread.add(self._owner, total.squared(), total.surrogate)
        return total

    def squared(self) -> Native:
        """Return `square` on the device; a backend with policies there writes it."""
        raise NotImplementedError

    def limited(self, max_norm: float) -> AutodiffGradient:
        """Return `clipped` on a device; a backend writes it from native numbers, without a reading."""
        return cast("AutodiffGradient", super().clipped(max_norm))

    def arguments(self) -> dict[str, Array]:
        """See `Gradient.arguments`."""
        if self.addends:
            return self.joined_arguments()
        keywords, steps = self.surrogate.estimator.keywords, len(self.surrogate.weights)
        # Quantities have rows of padding, signals none.
        available = self.surrogate.values | self.terms_and_quantities()[1]
        return {name: available[name][:steps] for name in keywords}

    def terms(self) -> Array:
        """See `Gradient.terms`."""
        if self.addends:
            return self.joined_terms()
        return self.terms_and_quantities()[0][: len(self.surrogate.weights)]

    def native_terms(self) -> Native:
        """Return [N] the terms on the device, with padding."""
        return self._terms

    def total(self, before: Gradient | None = None) -> float:
        """See `Gradient.total`; of steps on a device one number is read, computed in the policy's dtype."""
        if self.addends and before is None:
            return sum(addend.total() for addend in self.addends)
        others = () if before is None else (cast("AutodiffGradient", before),)
        if any(each.addends or each.weights is None for each in (self, *others)):
            return super().total(before)
        self._owner.check_unread()
        arrays: Any = arrays_of(self.weights)
        with arrays.computing(self._owner.dtype.name):
            terms = self.native_terms()
            for each in others:
                terms = each.native_terms() - terms
            total = arrays.dot(self.weights, arrays.xp.stop_gradient(terms))
            return self._owner.number(total)

    def terms_and_quantities(self) -> tuple[Array, dict[str, Array]]:
        """Return the terms, and the quantities by name, as NumPy arrays with padding."""
        self._owner.check_unread()
        # A copy holds NumPy arrays already.
        if isinstance(self._terms, np.ndarray):
            return cast("Array", self._terms), self._quantities
        to_numpy = self._owner.to_numpy
        quantities = {name: to_numpy(value) for name, value in self._quantities.items()}
        return to_numpy(self._terms), quantities

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`; a copy has NumPy's terms and quantities, which are only read."""
        terms, quantities = self.terms_and_quantities()
        numbers = {"_terms": terms, "_quantities": quantities, "weights": None}
        return super().__getstate__() | numbers

    def numpy(self) -> dict[str, Array]:
        """See `Gradient.numpy`."""
        owner = self._owner
        owner.check_unread()
        return {name: owner.canonical(name, self.leaves[name]) for name in owner.names}

    def times(self, factor: float) -> AutodiffGradient:
        """See `Gradient.times`."""
        return self.replaced({name: leaf * factor for name, leaf in self.leaves.items()})

    def added(self, other: AutodiffGradient) -> AutodiffGradient:
        """See `Gradient.added`."""
        leaves = other.leaves
        return self.replaced({name: leaf + leaves[name] for name, leaf in self.leaves.items()})

    def record(self) -> AutodiffGradient:
        """See `Gradient.record`."""
        return self.replaced({})

    def replaced(self, leaves: dict[str, Native]) -> AutodiffGradient:
        """Return the gradient with other derivatives; terms, loss and metrics stay."""
        return dataclasses.replace(self, leaves=leaves)
