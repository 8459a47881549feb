"""The heads' and the estimators' formulas, as PyTorch differentiates them: the core's, on tensors."""

from __future__ import annotations

from functools import partial

from pgcore import autodiff_terms
from pgcore_torch.xp import xp

__all__ = ["quantities", "surrogate_terms"]

quantities = partial(autodiff_terms.quantities, xp)
surrogate_terms = partial(autodiff_terms.surrogate_terms, xp)
