"""Parameters as JAX arrays, and the leaves of the user's own parameter trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.spec_checks import check_parameters
from pgcore.errors import ParameterError, SpecError
from pgcore.interfaces.parameters import Layout
from pgcore.validation.arrays import Array

try:
    from jax import enable_x64
except ImportError:  # JAX before 0.8
    from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]

__all__ = [
    "KEPT",
    "JaxParameters",
    "dtype_of",
    "enable_x64",
    "flatten_tree",
    "jitted",
    "with_leaves",
]


# Compiled functions of each kind that stay in memory; any other is compiled again. One takes tens
# of the 65,530 memory mappings that Linux allows a process, and XLA crashes without a free one.
KEPT = 32


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled, under JAX's default rules of promotion.

    A user may have set stricter ones, which hold for the user's code.
    """

    def traced(*args: Any) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return jax.jit(traced)


class JaxParameters(AutodiffParameters):
    """See `AutodiffParameters`.

    JAX arrays never change, so `native` is another dict after each step. Flat gradients and slots
    are in the order of the sorted names, as JAX flattens a dict.

    Attributes:
        native: The parameters by canonical name.
        device: Their device, None for JAX's default.
    """

    left_out: ClassVar[frozenset[str]] = AutodiffParameters.left_out | {"sorted_layout"}
    native: dict[str, jax.Array]
    device: Any

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`."""
        # JAX reads its own arrays back as float32 by default, and devices do not pickle.
        native = {name: np.asarray(value) for name, value in self.native.items()}
        return super().__getstate__() | {"native": native, "device": device_name(self.device)}

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        # A new policy has JAX arrays already; a copy has NumPy's and the device's name.
        if isinstance(self.device, str):
            platform, _, index = self.device.partition(":")
            self.device = jax.devices(platform)[int(index)]
        if not all(isinstance(value, jax.Array) for value in self.native.values()):
            self.native = {name: self.native_array(value) for name, value in self.native.items()}

    @cached_property
    def sorted_layout(self) -> Layout:
        """The places of the parameters in a flat gradient or slot."""
        return Layout(dict(sorted(self.layout.shapes.items())))

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which JAX computes in the policy's dtype.

        The process's own setting stays as it is.
        """
        return enable_x64(self.dtype == np.float64)

    def native_array(self, value: Any) -> jax.Array:
        """Return an array of the policy's dtype on its device."""
        with self.precision():
            return jax.device_put(np.array(value, self.dtype), self.device)

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Parameters.load`."""
        checked = check_parameters(self.spec, parameters, self.dtype)
        self.native = {name: self.native_array(value) for name, value in checked.items()}

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        arrays: dict[str, Array] = {}
        for name, value in self.native.items():
            if name.startswith("head."):
                arrays[name.removeprefix("head.")] = np.asarray(value)
        return arrays

    def leaves(self, vector: Array) -> dict[str, jax.Array]:
        """See `AutodiffParameters.leaves`."""
        return {name: self.native_array(part) for name, part in self.layout.named(vector).items()}

    def parts(self, vector: jax.Array) -> dict[str, jax.Array]:
        """Return a flat gradient's or slot's arrays by name."""
        with self.precision():
            return split(tuple(self.layout.shapes.items()), self.dtype.name)(vector)

    def joined(self, leaves: Mapping[str, jax.Array]) -> jax.Array:
        """Return arrays by name as one flat gradient or slot."""
        with self.precision():
            return ravel_pytree(dict(leaves))[0]

    def canonical(self, name: str, leaf: jax.Array) -> Array:
        """See `AutodiffParameters.canonical`."""
        return np.array(leaf)

    def to_native(self, array: Any) -> jax.Array:
        """See `AutodiffParameters.to_native`."""
        if isinstance(array, jax.Array):
            return array
        # A copy, since JAX may share memory, and would keep NumPy's array alive.
        with self.precision():
            return jax.device_put(np.array(array), self.device)

    def number(self, native: jax.Array) -> float:
        """See `AutodiffParameters.number`; by way of NumPy, which is faster than JAX's own conversion."""
        return float(np.asarray(native))

    def to_numpy(self, native: jax.Array) -> Array:
        """See `AutodiffParameters.to_numpy`."""
        return np.asarray(native)


def device_name(device: Any) -> str | None:
    """Return a device's platform and its index there, None for JAX's default."""
    if device is None:
        return None
    return f"{device.platform}:{jax.devices(device.platform).index(device)}"


@lru_cache(KEPT)
def split(
    shapes: tuple[tuple[str, tuple[int, ...]], ...], dtype: str
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return the compiled function from a flat gradient or slot to its arrays by name."""
    # `ravel_pytree` of an example gives the way back.
    return jitted(ravel_pytree({name: np.zeros(shape, dtype) for name, shape in shapes})[1])


def flatten_tree(tree: Any, prefix: str) -> tuple[tuple[str, ...], list[Any], Any]:
    """Return the names of a tree's leaves, the leaves, and the tree's structure.

    Args:
        tree: The user's parameters; a single array is called "parameters".
        prefix: The beginning of all names.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = tuple(prefix + (".".join(map(word, path)) or "parameters") for path, _ in paths)
    return names, [leaf for _, leaf in paths], structure


def word(key: Any) -> str:
    """Return one key of a leaf's path: an index, a dict's key or an attribute's name."""
    # `keystr(path, simple=True)` says the same in newer JAX.
    for field in ("idx", "key", "name"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def with_leaves(
    where: str, parameters: Mapping[str, Any], names: tuple[str, ...], leaves: list[Any]
) -> dict[str, Any]:
    """Return parameters and leaves by name.

    Args:
        where: The beginning of errors.
        parameters: Those before.
        names: The leaves' names.
        leaves: Arrays, one for each name.

    Raises:
        SpecError: two would have one name.
    """
    together = dict(parameters)
    for name, leaf in zip(names, leaves, strict=True):
        if name in together:
            raise SpecError(
                f"{where}: expected {name} to name one parameter, got two; "
                "rename the tree's own key"
            )
        together[name] = leaf
    return together


def dtype_of(where: str, parameters: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the dtype of adopted parameters.

    Args:
        where: The beginning of errors.
        parameters: The tree's leaves by name.

    Raises:
        SpecError: there are none, one is not a float32 or float64 array, or dtypes differ.
        ParameterError: one of them is NaN or infinite.
    """
    if not parameters:
        raise SpecError(
            f"{where}: expected parameters to train, got none; adopt a function that has some"
        )
    # A leaf may be any object, so that its type stands in for a missing dtype.
    first = getattr(next(iter(parameters.values())), "dtype", None)
    for name, leaf in parameters.items():
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if dtype not in (np.float32, np.float64) or dtype != first:
            raise SpecError(
                f"{where}: expected parameters all float32 or all float64, got {name} {dtype}; "
                "convert them, and close over arrays that are not trained"
            )
        if not np.isfinite(np.asarray(leaf)).all():
            raise ParameterError(
                f"{where}: expected finite parameters, got NaN or infinity in {name}; "
                "load a good checkpoint"
            )
    return np.dtype(first)
