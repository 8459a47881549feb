"""Networks as functions of one vector of parameters."""

from __future__ import annotations

from typing import Any

from hips.xp import xp
from pgcore.autodiff.inputs import Outputs
from pgcore.data.spec import PolicySpec, under
from pgcore.interfaces.parameters import Layout

__all__ = ["network_outputs"]


def network_outputs(spec: PolicySpec, layout: Layout, vector: Any, observations: Any) -> Outputs:
    """Return a network's outputs, its critic's values and the head's own parameters.

    Args:
        spec: Network, critic and head.
        layout: The places of the parameters in the vector.
        vector: [D] the parameters, traced or not.
        observations: [N, ...] as the network takes them.
    """
    parameters = layout.named(vector)
    outputs, values = spec.apply(xp, parameters, observations)
    # One value a step is [N]; action values stay [N, A].
    if values is not None and spec.critic_values == "state":
        values = values[:, 0]
    return Outputs(outputs, values, under("head", parameters))
