"""The built-in estimators, heads and optimizers by label, with which the suite tests a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.interfaces.formula import OptimizerSpec
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore_check.proofs import variants

__all__ = ["ESTIMATORS", "FIRST_ORDER", "HEADS", "TRUST_REGIONS", "flat"]


def built_in(kind: str) -> dict[str, Any]:
    """Return the variants of pgcore's own classes: those of others may need what a backend lacks."""
    classes = {
        registry().load(kind, entry.provider.name)
        for entry in registry().providers(kind)
        if entry.distribution == "pgcore" and entry.status != "disabled"
    }
    return {label: item for label, item in variants(kind).items() if type(item) in classes}


ESTIMATORS = built_in("estimators")
HEADS = built_in("heads")
FIRST_ORDER = {
    label: rule for label, rule in built_in("optimizers").items() if isinstance(rule, OptimizerSpec)
}
TRUST_REGIONS = {
    label: rule for label, rule in built_in("optimizers").items() if label not in FIRST_ORDER
}


def flat(arrays: Mapping[str, Array]) -> Array:
    """Return the entries of arrays by name as one vector."""
    return np.concatenate([value.reshape(-1) for value in arrays.values()])
