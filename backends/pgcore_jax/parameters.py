"""Parameters of the user's own functions: names of a tree's leaves, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pgcore.errors import ParameterError, SpecError

__all__ = ["leaf_names", "named", "settled"]


def leaf_names(tree: Any, prefix: str) -> tuple[tuple[str, ...], list[Any], Any]:
    """Return the names of a tree's leaves, the leaves, and the tree's structure; a tree that is one array is called "parameters"."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = tuple(
        prefix + (jax.tree_util.keystr(path, simple=True, separator=".") or "parameters") for path, _ in paths
    )
    return names, [leaf for _, leaf in paths], structure


def named(what: str, names: tuple[str, ...], leaves: list[Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known parameters and the leaves by name, or raise SpecError where two would have one name."""
    found = dict(known)
    for name, leaf in zip(names, leaves, strict=True):
        if name in found:
            raise SpecError(f"{what}: expected {name} to name one parameter, got two; rename the tree's own key")
        found[name] = leaf
    return found


def settled(what: str, found: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the dtype of adopted parameters.

    Raises:
        SpecError: there are none, one is not a float32 or float64 array, or dtypes differ.
        ParameterError: one of them is NaN or infinite.
    """
    if not found:
        raise SpecError(f"{what}: expected parameters to train, got none; adopt a function that has some")
    first = getattr(next(iter(found.values())), "dtype", None)
    for name, leaf in found.items():
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if dtype not in (np.float32, np.float64) or dtype != first:
            raise SpecError(
                f"{what}: expected parameters all float32 or all float64, got {name} {dtype}; convert them, and close over what is not trained"
            )
        if not np.isfinite(np.asarray(leaf)).all():
            raise ParameterError(
                f"{what}: expected finite parameters, got NaN or infinity in {name}; load a good checkpoint"
            )
    return np.dtype(first)
