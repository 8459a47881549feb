"""The kit for pytest: parameters from the registry, and assertions that say how to run them again.

A third party tests an estimator, a head, an optimizer or a backend with three lines:

    from pgcore_check.testing import assert_agrees, parametrize_cells

    @parametrize_cells(estimators=["mine"])
    def test_every_cell_agrees(cell):
        assert_agrees(cell)

Decorators need pytest and its plugin `pgcore_check.pytest_plugin`, which an installed pgcore
registers. Each gives the argument of its noun: `cell`, `backend`, `estimator`, `head`, `optimizer`.
"""

from __future__ import annotations

from pgcore_check.testing.assertions import assert_agrees, assert_same_gradient
from pgcore_check.testing.cells import CheckCell, cells
from pgcore_check.testing.decorators import (
    parametrize_backends,
    parametrize_cells,
    parametrize_estimators,
    parametrize_heads,
    parametrize_optimizers,
)

__all__ = [
    "CheckCell",
    "assert_agrees",
    "assert_same_gradient",
    "cells",
    "parametrize_backends",
    "parametrize_cells",
    "parametrize_estimators",
    "parametrize_heads",
    "parametrize_optimizers",
]
