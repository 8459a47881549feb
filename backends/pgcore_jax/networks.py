"""Networks as pure functions, built from a spec or adopted from the user.

Both kinds are hashable, so that one compiled function serves all policies of the same network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from pgcore.autodiff.adoption import refusal
from pgcore.autodiff.inputs import Outputs
from pgcore.data.spec import PolicySpec
from pgcore.errors import PgcoreError
from pgcore_jax.xp import xp

__all__ = ["AdoptedNetwork", "SpecNetwork", "name_of"]

Parameters = Mapping[str, jax.Array]


@dataclass(frozen=True)
class SpecNetwork:
    """A spec's network and critic, over parameters in canonical names and shapes."""

    spec: PolicySpec

    def __call__(self, parameters: Parameters, observations: jax.Array) -> Outputs:
        """Return outputs and values for [N, ...] observations."""
        outputs, values = self.spec.apply(xp, parameters, observations)
        # One value a step is [N]; action values stay [N, A].
        if values is not None and self.spec.critic_values == "state":
            values = values[:, 0]
        return Outputs(outputs, values, head_parameters(parameters))


@dataclass(frozen=True)
class AdoptedNetwork:
    """The user's own functions, over parameters by name.

    Attributes:
        apply: `apply(parameters, observations)`, the user's.
        names: Names of its parameters, in the order of the tree's leaves.
        tree: The structure of the parameters' tree.
        critic: The critic's function, or None.
        shared: Whether `apply` returns outputs and values.
    """

    apply: Callable[[Any, Any], Any]
    names: tuple[str, ...]
    tree: Any
    critic: AdoptedNetwork | None
    shared: bool

    def __call__(self, parameters: Parameters, observations: jax.Array) -> Outputs:
        """Return the functions' results, whose shapes are not checked yet."""
        outputs: Any = self.call(parameters, observations)
        values: Any = None
        if self.shared and isinstance(outputs, tuple) and len(outputs) == 2:
            outputs, values = outputs
        elif self.critic is not None:
            values = self.critic.call(parameters, observations)
        return Outputs(outputs, values, head_parameters(parameters))

    def call(self, parameters: Parameters, observations: jax.Array) -> Any:
        """Return the user's function's result, or raise BatchError with its name if it fails."""
        # This package's own errors, and those of memory, say enough already.
        try:
            return self.apply(self.tree_of(parameters), observations)
        except (PgcoreError, MemoryError):
            raise
        except Exception as error:
            raise refusal(f"jax {name_of(self.apply)}", observations, error) from error

    def tree_of(self, parameters: Parameters) -> Any:
        """Return the parameters in the tree that the user's function takes."""
        return jax.tree_util.tree_unflatten(self.tree, [parameters[name] for name in self.names])


def name_of(apply: Callable[..., Any]) -> str:
    """Return a name for a user's function, or for an object that can be called."""
    return getattr(apply, "__name__", type(apply).__name__)


def head_parameters(parameters: Parameters) -> dict[str, jax.Array]:
    """Return the head's own parameters, without their prefix."""
    return {
        name.removeprefix("head."): value
        for name, value in parameters.items()
        if name.startswith("head.")
    }
