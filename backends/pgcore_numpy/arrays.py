"""NumPy arrays as losses take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import numpy as np

from pgcore.data.native import Arrays
from pgcore.validation.arrays import Array
from pgcore_numpy.xp import xp

__all__ = ["NumpyArrays"]


class NumpyArrays(Arrays):
    """See `Arrays`; a loss comes with the derivatives of the estimator's closed form."""

    name: ClassVar[str] = "numpy"
    xp = xp
    differentiates: bool = False

    def owns(self, x: Any) -> bool:
        """See `Arrays.owns`."""
        return isinstance(x, np.ndarray)

    def host(self, x: Array) -> Array:
        """See `Arrays.host`."""
        return x.astype(np.float32) if x.dtype == np.float16 else x

    def native(self, x: Array, like: Array | None, dtype: str | None = None) -> Array:
        """See `Arrays.native`."""
        return x if dtype is None else x.astype(dtype, copy=False)

    def dtype(self, x: Array) -> str:
        """See `Arrays.dtype`."""
        return x.dtype.name

    def cast(self, x: Array, dtype: str) -> Array:
        """See `Arrays.cast`."""
        return x.astype(dtype, copy=False)

    def device(self, x: Array) -> str:
        """See `Arrays.device`."""
        return "cpu"

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        """See `Arrays.reshape`."""
        return x.reshape(shape)

    def rows(self, x: Array, index: Any) -> Array:
        """See `Arrays.rows`."""
        return x[index]

    def centre(self, x: Array, real: Array | None) -> Array:
        """See `Arrays.centre`."""
        members = x.reshape(-1) if real is None else x[real]
        # The mean's rounding would otherwise come out as a spread of equal entries.
        centred = members - members[0] if len(members) else members
        centred = centred - np.add.reduce(centred) / max(len(centred), 1)
        if real is None:
            return centred.reshape(x.shape)
        result = np.zeros_like(x)
        result[real] = centred
        return result

    def norm(self, x: Array) -> Array:
        """See `Arrays.norm`: squares in float64."""
        wide = x.astype(np.float64, copy=False)
        return np.sqrt(np.vdot(wide, wide)).astype(x.dtype)

    def dot(self, x: Array, y: Array) -> Array:
        """See `Arrays.dot`."""
        return cast("Array", np.vdot(x, y))

    def is_finite(self, x: Array) -> bool:
        """See `Arrays.is_finite`."""
        return math.isfinite(x)

    def differentiated(
        self,
        function: Callable[..., Any],
        constants: Any,
        inputs: Mapping[str, Array],
        *,
        compiled: bool,
    ) -> tuple[Any, dict[str, Array]]:
        """See `Arrays.differentiated`: a loss of NumPy arrays has its derivatives."""
        result = function(constants, **inputs)
        return result, dict(result.derivatives)
