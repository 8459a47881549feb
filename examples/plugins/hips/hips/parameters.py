"""Parameters as one NumPy vector, which autograd differentiates by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.spec_checks import check_parameters
from pgcore.interfaces.parameters import flat
from pgcore.validation.arrays import Array

__all__ = ["HipsParameters"]


class HipsParameters(AutodiffParameters):
    """See `AutodiffParameters`.

    Attributes:
        vector: [D] the parameters in canonical order, replaced by another at each step.
    """

    vector: Array

    def parameters(self) -> dict[str, Array]:
        """See `Parameters.parameters`."""
        return {name: part.copy() for name, part in self.layout.named(self.vector).items()}

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Parameters.load`."""
        self.vector = flat(check_parameters(self.spec, parameters, self.dtype))

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        return {
            name.removeprefix("head."): value
            for name, value in self.parameters().items()
            if name.startswith("head.")
        }

    def leaves(self, vector: Array) -> dict[str, Array]:
        """See `AutodiffParameters.leaves`."""
        return self.layout.named(np.array(vector, self.dtype))

    def canonical(self, name: str, leaf: Array) -> Array:
        """See `AutodiffParameters.canonical`."""
        return np.array(leaf)

    def to_numpy(self, native: Array) -> Array:
        """See `AutodiffParameters.to_numpy`."""
        return native
