"""Every cell of `pgcore check`: random and extreme cases, non-differentiable points, probes of `xp`."""

# pyright: standard
from __future__ import annotations

from pgcore_check.testing import assert_agrees, parametrize_cells

__all__: list[str] = []


@parametrize_cells()
def test_every_cell_agrees_with_the_reference(cell):
    assert_agrees(cell)
