"""Gradients as TensorFlow tensors."""

from __future__ import annotations

import tensorflow as tf

from pgcore.autodiff.gradient import AutodiffGradient

__all__ = ["TensorflowGradient"]


class TensorflowGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def square(self) -> float:
        """See `Gradient.square`."""
        # A sum on the device, so that one number is transferred.
        return float(tf.add_n([tf.reduce_sum(leaf * leaf) for leaf in self.leaves.values()]))
