"""Registers the JAX backend."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_backends"]


@hookimpl
def pgcore_backends() -> list[Provider]:
    """Provide the backend."""
    return [
        Provider(
            "jax",
            "pgcore_jax.backend:JaxBackend",
            "JAX autodiff, always jitted, any device of JAX's",
            requires="jax",
            extra="jax",
            at_least="0.4.30",
        )
    ]
