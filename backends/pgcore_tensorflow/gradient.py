"""Gradients as TensorFlow tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from pgcore.autodiff.gradient import AutodiffGradient

__all__ = ["TensorflowGradient"]


class TensorflowGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def square(self) -> float:
        """See `Gradient.square`; one number is read from the device."""
        self._owner.check_unread()
        return self._owner.number(self.squared())

    def squared(self) -> Any:
        """See `AutodiffGradient.squared`."""
        return tf.add_n([tf.reduce_sum(leaf * leaf) for leaf in self.leaves.values()])

    def times(self, factor: float) -> AutodiffGradient:
        """See `Gradient.times`; TensorFlow keeps every Python number that it makes a tensor of."""
        number: Any = tf.constant(np.array(factor, self._owner.dtype))
        return super().times(number)

    def limited(self, max_norm: float) -> AutodiffGradient:
        """See `AutodiffGradient.limited`."""
        norm = tf.sqrt(self.squared())
        factor = tf.where(norm <= max_norm, tf.ones_like(norm), max_norm / norm)
        # Of an infinite norm it would be 0, and so a step.
        factor = tf.where(tf.math.is_finite(norm), factor, math.nan)
        return self.replaced({name: leaf * factor for name, leaf in self.leaves.items()})
