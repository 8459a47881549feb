"""A batch's arrays in few tensors, since each argument of a graph takes its time.

Columns of the policy's dtype are side by side in one [N, K] tensor; all other arrays are apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pgcore.autodiff.inputs import Inputs
from pgcore.validation.arrays import Array

__all__ = ["Layout", "listed", "pack", "unpack"]

# Arrays that have several by name: "observations.image".
OBSERVATIONS, SIGNALS = "observations", "signals"


class Layout(NamedTuple):
    """The places of the inputs in `pack`'s arrays; hashable.

    Attributes:
        columns: Name, number of dimensions and width of each array in the first tensor.
        separate: Names of the arrays in the tensors after it.
    """

    columns: tuple[tuple[str, int, int], ...]
    separate: tuple[str, ...]


def pack(inputs: Inputs, dtype: np.dtype[Any]) -> tuple[list[Array], Layout]:
    """Return the inputs in few arrays, and their layout.

    Args:
        inputs: The steps.
        dtype: The policy's, of the arrays that go side by side.
    """
    columns: list[tuple[str, int, int]] = []
    blocks: list[Array] = []
    separate: dict[str, Array] = {}
    for name, value in fields_of(inputs).items():
        # Images and integers do not fit beside the columns.
        if value.dtype == dtype and value.ndim <= 2:
            block = value if value.ndim == 2 else value[:, None]
            columns.append((name, value.ndim, block.shape[1]))
            blocks.append(block)
        else:
            separate[name] = value
    first = [np.concatenate(blocks, axis=1)] if blocks else []
    return [*first, *separate.values()], Layout(tuple(columns), tuple(separate))


def listed(inputs: Inputs) -> tuple[list[Any], Layout]:
    """Return the inputs one by one, as they are, and their layout."""
    fields = fields_of(inputs)
    return list(fields.values()), Layout((), tuple(fields))


def fields_of(inputs: Inputs) -> dict[str, Any]:
    """Return the inputs by name, without those that are None."""
    observed = inputs.observations
    fields = {OBSERVATIONS: observed}
    if isinstance(observed, dict):
        fields = {f"{OBSERVATIONS}.{name}": value for name, value in observed.items()}
    fields |= {
        "actions": inputs.actions,
        "weights": inputs.weights,
        "action_mask": inputs.action_mask,
    }
    for name, value in inputs.signals.items():
        fields[f"{SIGNALS}.{name}"] = value
    return {name: value for name, value in fields.items() if value is not None}


def unpack(tensors: tuple[Any, ...], layout: Layout) -> Inputs:
    """Return the inputs from `pack`'s arrays as tensors.

    Args:
        tensors: One for each array.
        layout: Their layout.
    """
    fields: dict[str, Any] = {}
    start = 0
    # Columns come back in the order in which `pack` joined them.
    for name, dimensions, width in layout.columns:
        block = tensors[0]
        fields[name] = block[:, start] if dimensions == 1 else block[:, start : start + width]
        start += width
    separate = tensors[1:] if layout.columns else tensors
    fields.update(zip(layout.separate, separate, strict=True))
    named: dict[str, dict[str, Any]] = {OBSERVATIONS: {}, SIGNALS: {}}
    for name, value in fields.items():
        kind, dot, part = name.partition(".")
        if dot:
            named[kind][part] = value
    return Inputs(
        fields.get(OBSERVATIONS, named[OBSERVATIONS]),
        fields.get("actions"),
        fields.get("action_mask"),
        named[SIGNALS],
        fields.get("weights"),
    )
