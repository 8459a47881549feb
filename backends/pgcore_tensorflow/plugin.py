"""Registers the TensorFlow backend."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_backends"]


@hookimpl
def pgcore_backends() -> list[Provider]:
    """Provide the backend."""
    return [
        Provider(
            "tensorflow",
            "pgcore_tensorflow.backend:TensorflowBackend",
            "TensorFlow's gradient tape, graphs or XLA, CPU and GPU",
            requires="tensorflow",
            extra="tensorflow",
            at_least="2.18",
            distributions=("tensorflow", "tensorflow-cpu"),
        )
    ]
