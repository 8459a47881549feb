"""A batch's arrays as few tensors: each one that a graph is called with takes its time.

Columns of the policy's dtype travel side by side in one [N, K] tensor, the others by themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pgcore.autodiff.inputs import Inputs
from pgcore.validation.arrays import Array

__all__ = ["Layout", "pack", "unpack"]


class Layout(NamedTuple):
    """What `pack` put where; hashable.

    Attributes:
        columns: Name, number of dimensions and width of each array in the first tensor.
        others: Names of the arrays in the other tensors.
    """

    columns: tuple[tuple[str, int, int], ...]
    others: tuple[str, ...]


def pack(inputs: Inputs, dtype: np.dtype[Any]) -> tuple[list[Array], Layout]:
    """Return the inputs in as few arrays as possible, and what is where."""
    fields = {
        "observations": inputs.observations,
        "actions": inputs.actions,
        "weights": inputs.weights,
    }
    fields |= {
        "action_mask": inputs.action_mask,
        **{f"signals.{name}": value for name, value in inputs.signals.items()},
    }
    columns: list[tuple[str, int, int]] = []
    blocks: list[Array] = []
    others: dict[str, Array] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if value.dtype == dtype and value.ndim <= 2:
            block = value if value.ndim == 2 else value[:, None]
            columns.append((name, value.ndim, block.shape[1]))
            blocks.append(block)
        else:
            others[name] = value
    first = [np.concatenate(blocks, axis=1)] if blocks else []
    return [*first, *others.values()], Layout(tuple(columns), tuple(others))


def unpack(tensors: tuple[Any, ...], layout: Layout) -> Inputs:
    """Return the inputs from the tensors that `pack`'s arrays became."""
    fields: dict[str, Any] = {}
    rest = list(tensors)
    if layout.columns:
        block, start = rest.pop(0), 0
        for name, dimensions, width in layout.columns:
            fields[name] = block[:, start] if dimensions == 1 else block[:, start : start + width]
            start += width
    fields.update(zip(layout.others, rest, strict=True))
    signals = {
        name.removeprefix("signals."): value
        for name, value in fields.items()
        if name.startswith("signals.")
    }
    return Inputs(
        fields["observations"],
        fields.get("actions"),
        fields.get("action_mask"),
        signals,
        fields.get("weights"),
    )
