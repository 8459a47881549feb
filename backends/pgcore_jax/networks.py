"""Networks as pure functions of parameters and observations: those of a spec, and the user's own.

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
        """Return what the network says of [N, ...] observations."""
        outputs, values = self.spec.apply(xp, parameters, observations)
        if values is not None and self.spec.critic_values == "state":
            values = values[:, 0]
        return Outputs(outputs, values, own_parameters(parameters))


@dataclass(frozen=True)
class AdoptedNetwork:
    """The user's own functions, over parameters by name.

    Attributes:
        apply: `apply(parameters, observations)`, the user's.
        names: Of its parameters, in the order of the tree's leaves.
        tree: What those leaves are put together to.
        critic: The same for the critic, or None; with a shared critic `apply` returns the values as well.
        shared: Whether it does.
    """

    apply: Callable[[Any, Any], Any]
    names: tuple[str, ...]
    tree: Any
    critic: AdoptedNetwork | None
    shared: bool

    def __call__(self, parameters: Parameters, observations: jax.Array) -> Outputs:
        """Return what the functions say of [N, ...] observations; nobody has looked at it yet."""
        outputs: Any = self.applied(parameters, observations)
        values: Any = None
        if self.shared and isinstance(outputs, tuple) and len(outputs) == 2:
            outputs, values = outputs
        elif self.critic is not None:
            values = self.critic.applied(parameters, observations)
        return Outputs(outputs, values, own_parameters(parameters))

    def applied(self, parameters: Parameters, observations: jax.Array) -> Any:
        """Return what the user's function makes of observations, or raise BatchError, naming it, where it fails."""
        try:
            return self.apply(self.built(parameters), observations)
        except (PgcoreError, MemoryError):
            raise
        except Exception as error:
            raise refusal(f"jax {name_of(self.apply)}", observations, error) from error

    def built(self, parameters: Parameters) -> Any:
        """Return the parameters as the user's function takes them."""
        return jax.tree_util.tree_unflatten(self.tree, [parameters[name] for name in self.names])


def name_of(apply: Callable[..., Any]) -> str:
    """Return what to call a user's function."""
    return getattr(apply, "__name__", type(apply).__name__)


def own_parameters(parameters: Parameters) -> dict[str, jax.Array]:
    """Return the head's own parameters, without their prefix."""
    return {
        name.removeprefix("head."): value
        for name, value in parameters.items()
        if name.startswith("head.")
    }
