"""The extras of a rollout that functions of the user give, by the names that the estimator declares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.batch import Batch
from pgcore.errors import SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.extras import Extra
from pgcore.validation.arrays import Array
from pgcore_train.config.config import check_known
from pgcore_train.config.functions import load_function

__all__ = ["RolloutExtras"]

# From a batch of B steps to [B, ...], the extra.
Function = Callable[[Batch], ArrayLike]


class RolloutExtras:
    """Functions of a batch, one for each of some extras of an estimator.

    Attributes:
        targets: `module:function` by the extra's name.
    """

    def __init__(
        self, targets: Mapping[str, Any], estimator: Estimator, recorded: Collection[str]
    ) -> None:
        """Import the functions.

        Args:
            targets: Section `extras`: `module:function` by the extra's name.
            estimator: Declares the extras.
            recorded: The extras that a rollout has without a function.

        Raises:
            UnknownNameError: the estimator declares no extra of a name.
            SpecError: a target is no function, or the estimator reads an extra that has none.
        """
        check_known(f"extra of {estimator.name}", targets, declared_by(estimator))
        self.targets = dict(targets)
        self._functions: dict[str, Function] = {}
        for name, target in targets.items():
            example = f"--extras {name}=my_module:{name}"
            self._functions[name] = load_function(f"extras.{name}", target, "a batch", example)
        check_complete(estimator, {*targets, *recorded})

    def add_to(self, batch: Batch, estimator: Estimator, width: int) -> Batch:
        """Return the batch with the extras.

        Args:
            batch: A rollout, or steps of a replay buffer.
            estimator: Declares their forms.
            width: The head's.

        Raises:
            SpecError: a function raises.
            BatchError: an extra is not of its form.
        """
        if not self._functions:
            return batch
        arrays: dict[str, Array] = {}
        declared = declared_by(estimator)
        for name, function in self._functions.items():
            extra, where = declared[name], f"extras.{name}, {self.targets[name]}"
            try:
                arrays[name] = np.asarray(function(batch))
            except Exception as error:
                raise SpecError(
                    f"{where}: expected {extra.form} of the batch, got {type(error).__name__} "
                    f"({error}); correct that function"
                ) from error
            extra.check(where, arrays[name], batch.num_steps, width)
        return batch.with_extras(**arrays)


def declared_by(estimator: Estimator) -> dict[str, Extra]:
    """Return the extras of an estimator, of its parts and of its reduction, by name."""
    return {**estimator.extras, **estimator.used_extras}


def check_complete(estimator: Estimator, available: Collection[str]) -> None:
    """Raise SpecError at the first extra that the estimator reads and nothing gives."""
    for name, extra in estimator.used_extras.items():
        if not extra.optional and name not in available:
            # An author's advice is worth more than the usual one, which is about batches.
            advice = "" if extra.advice == Extra.advice else f" ({extra.advice})"
            subject = ", ".join(filter(None, (extra.form, extra.meaning)))
            raise SpecError(
                f"extras.{name}: expected {subject}, which {estimator.name} "
                f"reads, got none; give --extras {name}=module:function, a function of the "
                f"rollout's batch{advice}"
            )
