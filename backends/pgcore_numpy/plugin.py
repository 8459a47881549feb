"""Registers the NumPy backend."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_backends"]


@hookimpl
def pgcore_backends() -> list[Provider]:
    """Provide the backend."""
    return [
        Provider(
            "numpy",
            "pgcore_numpy.backend:NumpyBackend",
            "closed-form derivatives on the CPU, float32 and float64",
        )
    ]
