"""Examples of the extras that an estimator declares, for the batches of check and audit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.extras import Extra
from pgcore.validation.arrays import Array

__all__ = ["example_extras"]


def example_extras(
    extras: Mapping[str, Extra], batch: Batch, width: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Return an example by name of each extra that has one.

    Args:
        extras: Such as `Estimator.used_extras`.
        batch: See `Extra.example`.
        width: The head's.
        rng: Source of all examples, in the order of the names.

    Raises:
        EstimatorError: an example raises.
        BatchError: an example is not of its form.
    """
    arrays: dict[str, Array] = {}
    for name, extra in extras.items():
        if extra.example is None:
            continue
        where = f"example of extras[{name!r}]"
        try:
            array = np.asarray(extra.example(batch, extra.shape(batch.num_steps, width), rng))
        except Exception as error:
            raise EstimatorError(
                f"{where}: expected {extra.form}, got {type(error).__name__} ({error}); "
                "correct the function of batch, shape and rng"
            ) from error
        extra.check(where, array, batch.num_steps, width)
        arrays[name] = array
    return arrays
