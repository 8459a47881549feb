"""The options that `pgcore check` tries the head with."""

from __future__ import annotations

from laplace.head import Laplace
from pgcore_check.proof import Proof

__all__ = ["PROOF"]

# The head's formulas are its own reference, in extended precision.
PROOF = Proof(Laplace, {"laplace": {"n": 2, "scale": 0.6}, "laplace of one": {"n": 1}})
