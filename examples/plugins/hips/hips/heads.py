"""The core's formulas of heads and estimators, on arrays that autograd traces."""

from __future__ import annotations

from functools import partial

from hips.xp import xp
from pgcore.autodiff import fisher as autodiff_fisher
from pgcore.autodiff import terms as autodiff_terms

__all__ = ["fisher_coordinates", "fisher_metric", "quantities", "surrogate_terms"]

# Each takes the namespace first; autograd differentiates the results.
fisher_coordinates = partial(autodiff_fisher.coordinates, xp)
fisher_metric = partial(autodiff_fisher.metric, xp)
quantities = partial(autodiff_terms.quantities, xp)
surrogate_terms = partial(autodiff_terms.surrogate_terms, xp)
