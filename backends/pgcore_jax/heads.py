"""The heads' and the estimators' formulas, as JAX differentiates them: the core's, on JAX arrays."""

from __future__ import annotations

from functools import partial

from pgcore import autodiff
from pgcore_jax.xp import xp

__all__ = ["fisher_coordinates", "fisher_metric", "quantities", "surrogate_terms"]

fisher_coordinates = partial(autodiff.fisher_coordinates, xp)
fisher_metric = partial(autodiff.fisher_metric, xp)
quantities = partial(autodiff.quantities, xp)
surrogate_terms = partial(autodiff.surrogate_terms, xp)
