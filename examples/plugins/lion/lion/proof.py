"""The options that `pgcore check` tries the optimizer with."""

from __future__ import annotations

from lion.optimizer import Lion
from pgcore_check.proof import Proof

__all__ = ["PROOF"]

# The update is its own reference, in extended precision.
PROOF = Proof(Lion, {"lion": {}, "lion decay": {"weight_decay": 0.1, "beta1": 0.5}})
