"""Registers the PyTorch backend."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_backends"]


@hookimpl
def pgcore_backends() -> list[Provider]:
    """Provide the backend."""
    return [
        Provider(
            "torch",
            "pgcore_torch.backend:TorchBackend",
            "PyTorch autograd, eager or torch.compile, any device of PyTorch's",
            requires="torch",
            extra="torch",
            at_least="2.7",
        )
    ]
