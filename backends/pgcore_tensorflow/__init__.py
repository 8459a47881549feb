"""The TensorFlow backend: tf.Module and variables, graphs or XLA, differentiated by TensorFlow."""

from __future__ import annotations

__all__: list[str] = []
