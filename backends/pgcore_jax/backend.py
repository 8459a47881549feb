"""The backend's front door."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import numpy as np

from pgcore.autodiff.adoption import Probe
from pgcore.autodiff.policy import critic_kind
from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.interfaces.backend import Backend, float_dtype
from pgcore_jax.networks import AdoptedNetwork, SpecNetwork, name_of
from pgcore_jax.parameters import leaf_names, named, settled
from pgcore_jax.policy import JaxPolicy

__all__ = ["JaxBackend"]


class JaxBackend(Backend):
    """See `Backend`; devices are JAX's platforms, such as "cpu" and "gpu:1", and everything is jitted."""

    name: ClassVar[str] = "jax"
    modes: ClassVar[tuple[str, ...]] = ("compiled",)

    def policy(
        self,
        spec: PolicySpec,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        compiled: bool = False,
    ) -> JaxPolicy:
        """See `Backend.policy`."""
        place = usable_device(device)
        numbers = float_dtype("jax.policy dtype", dtype)
        return JaxPolicy(
            self.name, spec, numbers, SpecNetwork(spec), spec.initial_parameters(seed), place
        )

    def adopt(
        self,
        module: Any,
        head: Head,
        critic: Any = None,
        *,
        critic_values: str = "state",
        compiled: bool = False,
        evaluation_mode: bool = False,
    ) -> JaxPolicy:
        """See `Backend.adopt`.

        A module is a pair `(apply, parameters)`, with `apply(parameters, observations)` a pure function that JAX can trace and the
        parameters any tree of arrays; a critic is one as well, and shares no array with it. JAX arrays never change: `policy.tree` and
        `policy.critic_tree` have the trained ones. A pure function is in evaluation mode already.
        """
        kind = critic_kind("jax", critic)
        apply, tree = pair("module", module)
        description = name_of(apply)
        what = f"jax.adopt {description}"
        PolicySpec(Adopted(description, ()), head, kind, critic_values)  # refuses what is no head
        names, leaves, structure = leaf_names(tree, "")
        found = named(what, names, leaves, {})
        dtype = settled(what, found)
        second: AdoptedNetwork | None = None
        if kind == "separate":
            critic_apply, critic_tree = pair("critic", critic)
            critic_names, critic_leaves, critic_structure = leaf_names(critic_tree, "critic.")
            second = AdoptedNetwork(
                critic_apply, critic_names, critic_structure, None, shared=False
            )
            found = named(what, critic_names, critic_leaves, found)
            settled(what, found)
        own = {f"head.{name}": value for name, value in head.initial_parameters().items()}
        found = named(what, tuple(own), list(own.values()), found)
        shapes = tuple((name, np.shape(value)) for name, value in found.items())
        network = AdoptedNetwork(apply, names, structure, second, shared=kind == "shared")
        spec = PolicySpec(Adopted(description, shapes), head, kind, critic_values)
        policy = JaxPolicy(self.name, spec, dtype, network, found, device_of(leaves[0]))
        policy.probe = Probe(str(spec.network))
        return policy


def usable_device(device: str | None) -> Any:
    """Return JAX's device of a platform, the first unless an index follows, None for its default; raise SpecError where there is none."""
    if device is None:
        return None
    platform, colon, index = str(device).partition(":")
    try:
        known = jax.devices(platform) if platform else []
        if not colon or index.isdecimal():
            return known[int(index or 0)]
        reason = f"{index!r} is no index"
    except (RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
    raise SpecError(
        f"jax.policy device: expected a platform that JAX can use here, such as 'cpu' or 'gpu:1', got {device!r} ({reason}); choose 'cpu'"
    )


def pair(what: str, given: Any) -> tuple[Any, Any]:
    """Return `(apply, parameters)`, or raise SpecError where something else was given."""
    if not isinstance(given, tuple) or len(given) != 2 or not callable(given[0]):
        raise SpecError(
            f"jax.adopt {what}: expected a pair (apply, parameters) with apply(parameters, observations), got {type(given).__name__}; pass both"
        )
    return given


def device_of(leaf: Any) -> Any:
    """Return the device that an array is on, None for JAX's default."""
    return next(iter(leaf.devices())) if isinstance(leaf, jax.Array) else None
