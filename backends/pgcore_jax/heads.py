"""The heads' and the estimators' formulas, as JAX differentiates them: the core's, on JAX arrays."""

from __future__ import annotations

from functools import partial

from pgcore import autodiff_terms
from pgcore_jax.xp import xp

__all__ = ["quantities", "surrogate_terms"]

quantities = partial(autodiff_terms.quantities, xp)
surrogate_terms = partial(autodiff_terms.surrogate_terms, xp)
