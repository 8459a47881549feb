"""Arrays of frameworks, as users hold them: what `pgcore.loss` does with those of one framework.

A backend that has `Arrays` takes part. No framework is imported here: an array can only be of one
that its owner has imported.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, cast

import numpy as np

from pgcore.errors import BatchError
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Arrays", "arrays_of", "host", "is_native"]


class Arrays(ABC):
    """One framework's arrays, on any device, in any code that the framework can trace.

    Attributes:
        name: Of the framework, for errors.
        xp: The namespace that surrogates are written against.
        differentiates: Whether the framework differentiates what is computed with `xp`. Without, a
            loss comes with its derivatives.
    """

    __slots__ = ()

    name: ClassVar[str]
    xp: ArrayNamespace
    differentiates: bool = True

    @abstractmethod
    def owns(self, x: Any) -> bool:
        """Whether it is an array of the framework, traced ones included."""

    @abstractmethod
    def host(self, x: Native) -> Array:
        """Return a NumPy array of an array's numbers; 16-bit floats become float32."""

    @abstractmethod
    def native(self, x: Array, like: Native, dtype: str | None = None) -> Native:
        """Return a NumPy array as the framework's, on the device of `like`.

        Args:
            x: The numbers.
            like: An array of the framework; None for its default device.
            dtype: See `dtype`; None keeps that of `x`.
        """

    def computing(self, dtype: str) -> AbstractContextManager[Any]:
        """Return a context in which the framework makes arrays of a dtype as they are."""
        return nullcontext()

    @abstractmethod
    def dtype(self, x: Native) -> str:
        """Return the name of a dtype, such as "float32" or "bfloat16"."""

    @abstractmethod
    def cast(self, x: Native, dtype: str) -> Native:
        """Return an array in another dtype; its derivative comes back in its own."""

    @abstractmethod
    def device(self, x: Native) -> str:
        """Return a device's name; "" while the code is traced."""

    def is_traced(self, x: Native) -> bool:
        """Whether an array is one of traced code, whose numbers cannot be read."""
        return not self.device(x)

    def resident(self, x: Native) -> bool:
        """Whether an array's numbers are on an accelerator, so that reading them waits for it.

        False, the default, has signals computed by NumPy. True has them computed by the framework.
        """
        return False

    def owned(self, x: Native) -> Native:
        """Return an array that no later write reaches: a copy, unless the framework's never change."""
        return x

    def order(self, x: Native) -> Native:
        """Return [n] integers, the positions of [n] floats in ascending order, equal ones as they come."""
        return self.native(np.argsort(self.host(x), kind="stable"), x)

    @abstractmethod
    def reshape(self, x: Native, shape: tuple[int, ...]) -> Native:
        """Return an array's entries in C order in another shape; one length may be -1."""

    @abstractmethod
    def rows(self, x: Native, index: Native) -> Native:
        """Return the rows of x at integer positions."""

    def row_numbers(self, x: Native) -> Native:
        """Return [n] integers from 0, the number of each row of x; n may be unknown in a graph."""
        numbers = cast("Array", np.arange(x.shape[0]))
        return self.native(numbers, x)

    @abstractmethod
    def centre(self, x: Native, real: Native) -> Native:
        """Return x less its mean over the entries that are real, exactly 0 where all are equal.

        Args:
            x: Floats of any shape, of which no derivative is asked.
            real: Bool, of that shape; None for all. Entries that are not come back as 0.
        """

    @abstractmethod
    def norm(self, x: Native) -> Native:
        """Return the Euclidean norm of all entries, whose squares may overflow, without a derivative."""

    def normalised(self, x: Native, real: Native, *, ddof: int, eps: float) -> Native:
        """Return x with mean 0 and standard deviation 1; see `pgcore.returns.baselines.normalise`.

        Args:
            x: Floats of any shape; entries that are not real are 0.
            real: Bool, of that shape; None for all.
            ddof: Of the standard deviation.
            eps: Added to it.
        """
        xp = self.xp
        if real is None and None in [*x.shape]:
            real = xp.full_like(x, 1.0) > 0  # a graph for any number of steps
        if real is None:
            count = 1
            for length in x.shape:
                count *= length
            # Too few entries have no spread, and stay as they are.
            if count <= 1 or count <= ddof:
                return x
            centred = self.centre(x, None)
            return centred / (self.norm(centred) / (count - ddof) ** 0.5 + eps)
        # [1], which leaves an array's dtype as it is.
        count = xp.sum(self.reshape(self.cast(real, self.dtype(x)), (1, -1)), 1)
        centred = self.centre(x, real)
        spread = self.norm(centred) / xp.sqrt(xp.maximum(count - ddof, 1.0)) + eps
        return xp.where(count > max(ddof, 1), centred / spread, x)

    @abstractmethod
    def dot(self, x: Native, y: Native) -> Native:
        """Return the sum of the products of all entries of two arrays of one shape, a number."""

    def weighted_sum(self, terms: Native, weights: Native, *, averaged: bool) -> Native:
        """Return the sum of w_t term_t over all entries, a number.

        Args:
            terms: Floats of any shape.
            weights: Of that shape.
            averaged: Whether each is 1 / entries; False where that is not known.
        """
        return self.dot(weights, terms)

    @abstractmethod
    def is_finite(self, x: Native) -> bool:
        """Whether a number is finite; True where asking would wait for a device or is impossible."""

    @abstractmethod
    def differentiated(
        self,
        function: Callable[..., Any],
        constants: Any,
        inputs: Mapping[str, Native],
        *,
        compiled: bool,
    ) -> tuple[Any, dict[str, Native]]:
        """Return `function(constants, **inputs)` and the derivatives of its `loss` by each input.

        Args:
            function: To an object with `loss`, a number, and `terms`; hashable, so that what is
                compiled is kept.
            constants: An object with arrays, such as signals.
            inputs: By keyword.
            compiled: Whether the framework compiles the function, whole.
        """


# By type: a training loop asks at each minibatch.
_OWNERS: dict[type[Any], Arrays | None] = {}


def arrays_of(x: Any) -> Arrays | None:
    """Return the arrays that one belongs to; None for other objects, such as lists."""
    kind = cast("type[Any]", type(x))
    if kind not in _OWNERS:
        _OWNERS[kind] = _owner(x)
    return _OWNERS[kind]


def _owner(x: Any) -> Arrays | None:
    """Return the first usable backend's arrays that own an object, of those already imported."""
    plugins = registry()
    for entry in plugins.providers("backends"):
        package = (entry.provider.requires or "").partition(".")[0]
        if entry.status == "usable" and (not package or package in sys.modules):
            backend: Any = plugins.load("backends", entry.provider.name)
            arrays: Arrays | None = backend.arrays
            if arrays is not None and arrays.owns(x):
                return arrays
    return None


def is_native(x: Any) -> bool:
    """Whether it is an array of a framework that differentiates."""
    arrays = None if isinstance(x, np.ndarray) else arrays_of(x)
    return arrays is not None and arrays.differentiates


def host(x: Any) -> Array:
    """Return anything that holds numbers as a NumPy array: a framework's array, or what NumPy reads.

    Raises:
        BatchError: it cannot be read, such as an array of code that is being traced.
    """
    if isinstance(x, np.ndarray):
        return cast("Array", x)
    arrays = arrays_of(x)
    try:
        return np.asarray(x) if arrays is None else arrays.host(x)
    except Exception as error:
        raise BatchError(
            f"host: expected an array whose numbers can be read, got {type(x).__name__} ({error}); "
            "pass it outside of traced code"
        ) from error
