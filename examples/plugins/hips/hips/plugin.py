"""Registers the backend."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_backends"]


@hookimpl
def pgcore_backends() -> list[Provider]:
    """Provide the backend."""
    summary = "NumPy, differentiated by HIPS autograd"
    return [Provider("hips", "hips.backend:HipsBackend", summary, "autograd", None, "1.7")]
