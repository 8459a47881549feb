"""The TensorFlow backend: tf.Module, run as graphs and differentiated by TensorFlow."""

from __future__ import annotations

__all__: list[str] = []
