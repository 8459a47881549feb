"""JAX arrays as losses take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pgcore.data.native import Arrays
from pgcore.function.laid_out import LaidOutSignals
from pgcore.function.loss import Loss
from pgcore.validation.arrays import Array
from pgcore_jax.parameters import KEPT, enable_x64
from pgcore_jax.xp import xp

__all__ = ["JaxArrays"]


class JaxArrays(Arrays):
    """See `Arrays`; traced code is that of `jit`, `grad`, `vmap` and `shard_map`."""

    name: ClassVar[str] = "jax"
    xp = xp

    def owns(self, x: Any) -> bool:
        """See `Arrays.owns`."""
        return isinstance(x, jax.Array)

    def host(self, x: jax.Array) -> Array:
        """See `Arrays.host`."""
        if x.dtype in (jnp.bfloat16, jnp.float16):
            x = x.astype(jnp.float32)
        return np.asarray(x)

    def native(self, x: Array, like: jax.Array | None, dtype: str | None = None) -> jax.Array:
        """See `Arrays.native`; integers of 64 bits become 32 where JAX has no wider ones."""
        kind = jax.dtypes.canonicalize_dtype(x.dtype if dtype is None else dtype)
        # An array that is bound to no device may be moved to those of a sharded program.
        devices: list[Any] = []
        if like is not None and not isinstance(like, Tracer) and getattr(like, "committed", True):
            devices = [*like.devices()]
        place = devices[0] if len(devices) == 1 else None
        return jax.device_put(x.astype(kind), place)

    def computing(self, dtype: str) -> AbstractContextManager[Any]:
        """See `Arrays.computing`: JAX has no float64 unless it is asked for."""
        return enable_x64(dtype == "float64")

    def dtype(self, x: jax.Array) -> str:
        """See `Arrays.dtype`."""
        return x.dtype.name

    def cast(self, x: jax.Array, dtype: str) -> jax.Array:
        """See `Arrays.cast`."""
        return x.astype(dtype)

    def device(self, x: jax.Array) -> str:
        """See `Arrays.device`."""
        if isinstance(x, Tracer):
            return ""
        return " ".join(sorted(map(str, x.devices())))

    def resident(self, x: jax.Array) -> bool:
        """See `Arrays.resident`."""
        if isinstance(x, Tracer):
            return False
        return all(device.platform != "cpu" for device in x.devices())

    def order(self, x: jax.Array) -> jax.Array:
        """See `Arrays.order`."""
        return jnp.argsort(x, stable=True)

    def reshape(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """See `Arrays.reshape`."""
        return x.reshape(shape)

    def rows(self, x: jax.Array, index: Any) -> jax.Array:
        """See `Arrays.rows`."""
        return jnp.take(x, index, axis=0)

    def centre(self, x: jax.Array, real: jax.Array | None) -> jax.Array:
        """See `Arrays.centre`."""
        x = jax.lax.stop_gradient(x)
        if real is None:
            # The mean's rounding would otherwise come out as a spread of equal entries.
            centred = x - x.reshape(-1)[0]
            return centred - centred.mean()
        centred = jnp.where(real, x - x.reshape(-1)[real.argmax()], 0.0)
        count = real.sum().astype(x.dtype)
        return jnp.where(real, centred - centred.sum() / count, 0.0)

    def norm(self, x: jax.Array) -> jax.Array:
        """See `Arrays.norm`: squares are summed at two scales, the smaller of which never overflows."""
        x = jax.lax.stop_gradient(x)
        small = 2.0 ** (-5 * jnp.finfo(x.dtype).maxexp // 8)
        # Of one array, which XLA sums in one step; a look for the largest entry takes longer. Squares
        # underflow below 1e-19, far below what `normalised` adds.
        scaled = jnp.asarray([[1.0], [small]], x.dtype) * x.reshape(1, -1)
        plain, held = jnp.sqrt(jnp.sum(scaled * scaled, 1))
        return jnp.where(jnp.isfinite(plain), plain, held / small)

    def dot(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """See `Arrays.dot`."""
        return jnp.sum(x * y)

    def is_finite(self, x: jax.Array) -> bool:
        """See `Arrays.is_finite`."""
        if isinstance(x, Tracer) or any(d.platform != "cpu" for d in x.devices()):
            return True
        return math.isfinite(float(x))

    def differentiated(
        self,
        function: Callable[..., Any],
        constants: Any,
        inputs: Mapping[str, jax.Array],
        *,
        compiled: bool,
    ) -> tuple[Any, dict[str, jax.Array]]:
        """See `Arrays.differentiated`."""
        run = derivative_of(function, compiled=compiled)
        # A program in float64 stays one whatever the user's switch says.
        with enable_x64(any(value.dtype == jnp.float64 for value in inputs.values())):
            (_, result), slopes = run(dict(inputs), constants)
        return result, slopes


# Several times as many as of policies' functions: a loss is small.
@lru_cache(4 * KEPT)
def derivative_of(function: Callable[..., Any], *, compiled: bool) -> Callable[..., Any]:
    """Return a function to ((loss, result), derivatives) from the inputs by keyword and constants."""

    def loss(leaves: dict[str, jax.Array], constants: Any) -> tuple[jax.Array, Any]:
        result = function(constants, **leaves)
        return result.loss, result

    run: Any = jax.value_and_grad(loss, has_aux=True)
    return jax.jit(run) if compiled else run


# Arguments and results of transformed functions are trees of arrays.
jax.tree_util.register_dataclass(LaidOutSignals, ["values", "weights", "real"], ["arrays", "rows"])
jax.tree_util.register_dataclass(
    Loss, ["loss", "terms", "derivatives", "arguments", "signals"], ["estimator"]
)
