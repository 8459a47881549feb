"""The closed form of each of the core's heads, for the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import SpecError
from pgcore.heads import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    MultiCategorical,
    SquashedGaussian,
)
from pgcore.spec import PolicySpec
from pgcore.testing.discrete_head_forms import BernoulliForm, CategoricalForm, EpsilonGreedyForm, MultiCategoricalForm
from pgcore.testing.gaussian_head_forms import GaussianForm, SquashedGaussianForm

__all__ = ["head_form"]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]

# Made from head, outputs, actions and mask.
DISCRETE: dict[type, Callable[..., Any]] = {
    Bernoulli: BernoulliForm,
    Categorical: CategoricalForm,
    EpsilonGreedy: EpsilonGreedyForm,
    MultiCategorical: MultiCategoricalForm,
}
# Made from head, outputs, parameters and lifted actions.
REAL: dict[type, Callable[..., Any]] = {
    DiagonalGaussian: GaussianForm,
    SquashedGaussian: SquashedGaussianForm,
}


def head_form(
    spec: PolicySpec, outputs: Number, parameters: Mapping[str, Number], batch: Batch, dtype: np.dtype[Any], lift: Lift
) -> Any:
    """Return the form of a spec's head.

    Raises:
        SpecError: the head is not one of the core's.
    """
    head = spec.head
    for cls in type(head).__mro__:
        if cls in DISCRETE:
            return DISCRETE[cls](head, outputs, batch.actions, batch.action_mask)
        if cls in REAL:
            return REAL[cls](head, outputs, parameters, lift(batch.actions.astype(dtype)))
    raise SpecError(f"reference: expected one of the core's heads, got {head}; write its closed form here")
