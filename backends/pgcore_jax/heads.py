"""The heads' and the estimators' formulas, as JAX differentiates them: the core's, on JAX arrays."""

from __future__ import annotations

from functools import partial

from pgcore import autodiff
from pgcore_jax.xp import xp

__all__ = ["quantities", "surrogate_terms"]

quantities = partial(autodiff.quantities, xp)
surrogate_terms = partial(autodiff.surrogate_terms, xp)
