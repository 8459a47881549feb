"""The buffers of a policy's arithmetic."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_numpy.heads import make_kernel
from pgcore_numpy.kernel import Kernel
from pgcore_numpy.network import Network
from pgcore_numpy.networks import build_network
from pgcore_numpy.parameters import NumpyParameters, Views

__all__ = ["Passes", "Workspace"]


class Workspace:
    """Buffers for blocks of one size: of network and head, and a gradient vector."""

    def __init__(self, policy: NumpyParameters, steps: int, *, with_value: bool) -> None:
        """Allocate for a number of steps."""
        self.network: Network = build_network(
            policy.spec, steps, policy.dtype, with_value=with_value
        )
        self.kernel: Kernel = make_kernel(policy.spec.head)
        self.vector = np.zeros(policy.layout.size, policy.dtype)
        self.actions: Array = np.empty(0, np.intp)
        self.gradient: Views = policy.layout.views(self.vector)
        self.layout = policy.layout

    @cached_property
    def direction_vector(self) -> Array:
        """[D] a direction in parameter space; made for the first Fisher-vector product."""
        return np.zeros_like(self.vector)

    @cached_property
    def direction(self) -> Views:
        """The views of `direction_vector`."""
        return self.layout.views(self.direction_vector)

    @cached_property
    def actor_places(self) -> list[tuple[slice, Array, Array]]:
        """Slices of a canonical vector with views into `direction_vector` and `vector`.

        One of each for every parameter that is not the critic's.
        """
        along = self.layout.named(self.direction_vector)
        derivatives = self.layout.named(self.vector)
        places: list[tuple[slice, Array, Array]] = []
        for name, place in self.layout.places.items():
            # A Fisher-vector product is 0 in the critic's parameters.
            if not name.startswith("critic."):
                places.append((place, along[name], derivatives[name]))
        return places

    def collect(self, steps: slice) -> None:
        """Write all parameters' derivatives to `vector`, summed over some of the block's steps."""
        self.network.collect(self.gradient, steps)
        self.kernel.collect(self.gradient.head, steps)


class Passes(NamedTuple):
    """Forward passes that the Fisher-vector products of one solve have in common.

    Attributes:
        batch: The batch.
        vector: [D] the parameters.
        works: A workspace for each block, with [n] weights of its steps.
    """

    batch: Batch
    vector: Array
    works: list[tuple[Workspace, Array]]
