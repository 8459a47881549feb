"""The core's formulas of heads and estimators, on TensorFlow tensors."""

from __future__ import annotations

from functools import partial

from pgcore.autodiff import fisher as autodiff_fisher
from pgcore.autodiff import terms as autodiff_terms
from pgcore_tensorflow.xp import xp

__all__ = ["fisher_coordinates", "fisher_metric", "quantities", "surrogate_terms"]

# Each takes the namespace first; TensorFlow differentiates the results.
fisher_coordinates = partial(autodiff_fisher.coordinates, xp)
fisher_metric = partial(autodiff_fisher.metric, xp)
quantities = partial(autodiff_terms.quantities, xp)
surrogate_terms = partial(autodiff_terms.surrogate_terms, xp)
