"""SymPy, or the error that says how to install it; SymPy ships no types, so it is typed here once for all."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pgcore.errors import DependencyError

__all__ = ["Expression", "sympy"]

# A SymPy expression, relation or symbol.
Expression = Any


def load() -> Any:
    """Import and return SymPy.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return import_module("sympy")
    except ModuleNotFoundError as error:
        if error.name != "sympy":
            raise
        raise DependencyError(
            "derive: expected the package 'sympy', got none installed; pip install 'pgcore[derive]', or write `cotangents`",
            name="sympy",
        ) from error


sympy: Any = load()
