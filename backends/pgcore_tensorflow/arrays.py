"""TensorFlow tensors as losses take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import tensorflow as tf

from pgcore.data.native import Arrays
from pgcore.validation.arrays import Array
from pgcore_tensorflow.tracing import register
from pgcore_tensorflow.xp import xp

__all__ = ["TensorflowArrays"]

Tensor = Any  # TensorFlow's functions carry no types that a checker could use.

register()


class TensorflowArrays(Arrays):
    """See `Arrays`; traced code is that of `tf.function`."""

    name: ClassVar[str] = "tensorflow"
    xp = xp

    def owns(self, x: Any) -> bool:
        """See `Arrays.owns`; a variable counts."""
        return bool(tf.is_tensor(x))

    def host(self, x: Tensor) -> Array:
        """See `Arrays.host`."""
        if x.dtype in (tf.bfloat16, tf.float16):
            x = tf.cast(x, tf.float32)
        return x.numpy()

    def native(self, x: Array, like: Tensor, dtype: str | None = None) -> Tensor:
        """See `Arrays.native`."""
        with tf.device(None if like is None else like.device):
            return tf.constant(x, dtype=dtype)

    def dtype(self, x: Tensor) -> str:
        """See `Arrays.dtype`."""
        return tf.as_dtype(x.dtype).name

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """See `Arrays.cast`."""
        return tf.cast(x, dtype)

    def device(self, x: Tensor) -> str:
        """See `Arrays.device`."""
        return x.device if tf.executing_eagerly() else ""

    def resident(self, x: Tensor) -> bool:
        """See `Arrays.resident`."""
        return bool(tf.executing_eagerly() and x.device and "CPU" not in x.device)

    def order(self, x: Tensor) -> Tensor:
        """See `Arrays.order`."""
        return tf.argsort(x, stable=True)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See `Arrays.reshape`."""
        return tf.reshape(x, shape)

    def rows(self, x: Tensor, index: Any) -> Tensor:
        """See `Arrays.rows`."""
        # Compiled code would take the first row for any number below 0, and the last for any too large.
        index = tf.convert_to_tensor(index)
        count = tf.shape(x, out_type=index.dtype)[0]
        index = tf.where(index < 0, index + count, index)
        found = tf.gather(x, tf.clip_by_value(index, 0, count - 1))
        if not x.dtype.is_floating:
            return found
        within = tf.reshape((index >= 0) & (index < count), (-1, *[1] * (len(x.shape) - 1)))
        return tf.where(within, found, tf.constant(math.nan, x.dtype))

    def row_numbers(self, x: Tensor) -> Tensor:
        """See `Arrays.row_numbers`."""
        return tf.range(tf.shape(x)[0])

    def centre(self, x: Tensor, real: Tensor | None) -> Tensor:
        """See `Arrays.centre`."""
        x = tf.stop_gradient(x)
        if real is None:
            # The mean's rounding would otherwise come out as a spread of equal entries.
            centred = x - tf.reshape(x, (-1,))[0]
            return centred - tf.reduce_mean(centred)
        zero = tf.zeros_like(x)
        first = tf.argmax(tf.reshape(tf.cast(real, tf.int32), (-1,)))
        centred = tf.where(real, x - tf.reshape(x, (-1,))[first], zero)
        count = tf.cast(tf.math.count_nonzero(real), x.dtype)
        return tf.where(real, centred - tf.reduce_sum(centred) / count, zero)

    def norm(self, x: Tensor) -> Tensor:
        """See `Arrays.norm`: squares in float64."""
        wide = tf.cast(tf.stop_gradient(x), tf.float64)
        return tf.cast(tf.norm(wide), x.dtype)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Arrays.dot`."""
        return tf.reduce_sum(x * y)

    def is_finite(self, x: Tensor) -> bool:
        """See `Arrays.is_finite`."""
        if not tf.executing_eagerly() or "CPU" not in x.device:
            return True
        return math.isfinite(float(x))

    def differentiated(
        self,
        function: Callable[..., Any],
        constants: Any,
        inputs: Mapping[str, Tensor],
        *,
        compiled: bool,
    ) -> tuple[Any, dict[str, Tensor]]:
        """See `Arrays.differentiated`."""

        def run(leaves: dict[str, Tensor]) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(leaves)
                result = function(constants, **leaves)
            zero = tf.UnconnectedGradients.ZERO
            slopes = tape.gradient(result.loss, leaves, unconnected_gradients=zero)
            return result, slopes

        return cast("Any", tf.function(run) if compiled else run)(dict(inputs))
