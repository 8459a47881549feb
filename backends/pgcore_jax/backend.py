"""The JAX backend's entry point."""

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
from pgcore.wording import shown
from pgcore_jax.arrays import JaxArrays
from pgcore_jax.networks import AdoptedNetwork, SpecNetwork, name_of
from pgcore_jax.parameters import dtype_of, flatten_tree, with_leaves
from pgcore_jax.policy import JaxPolicy

__all__ = ["JaxBackend"]


class JaxBackend(Backend):
    """See `Backend`; devices are JAX's platforms, such as "cpu" and "gpu:1".

    All computations are jitted.
    """

    name: ClassVar[str] = "jax"
    arrays = JaxArrays()
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
        parameters = spec.initial_parameters(seed)
        return JaxPolicy(self.name, spec, numbers, SpecNetwork(spec), parameters, place)

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

        A module is a pair `(apply, parameters)`. `apply(parameters, observations)` is a pure
        function that JAX can trace, the parameters are any tree of arrays. A critic is another
        pair, and shares no array with the first. JAX arrays never change: `policy.tree` and
        `policy.critic_tree` have the trained ones. A pure function is in evaluation mode already.
        """
        kind = critic_kind("jax", critic)
        apply, tree = check_pair("module", module)
        description = name_of(apply)
        where = f"jax.adopt {description}"
        # The shapes are not known yet; this draft refuses a wrong head or critic.
        PolicySpec(Adopted(description, ()), head, kind, critic_values)
        names, leaves, structure = flatten_tree(tree, "")
        parameters = with_leaves(where, {}, names, leaves)
        dtype = dtype_of(where, parameters)
        critic_network: AdoptedNetwork | None = None
        if kind == "separate":
            critic_apply, critic_tree = check_pair("critic", critic)
            critic_names, critic_leaves, critic_structure = flatten_tree(critic_tree, "critic.")
            critic_network = AdoptedNetwork(
                critic_apply, critic_names, critic_structure, None, shared=False
            )
            parameters = with_leaves(where, parameters, critic_names, critic_leaves)
            dtype_of(where, parameters)
        # The head's parameters come last, as in canonical order.
        initial = head.initial_parameters()
        head_names = tuple(f"head.{name}" for name in initial)
        parameters = with_leaves(where, parameters, head_names, list(initial.values()))
        shapes = tuple((name, np.shape(value)) for name, value in parameters.items())
        network = AdoptedNetwork(apply, names, structure, critic_network, shared=kind == "shared")
        spec = PolicySpec(Adopted(description, shapes), head, kind, critic_values)
        policy = JaxPolicy(self.name, spec, dtype, network, parameters, device_of(leaves[0]))
        policy.probe = Probe(str(spec.network))
        return policy


def usable_device(device: str | None) -> Any:
    """Return JAX's device of a platform, None for its default.

    Args:
        device: A platform's name, for its first device, or name and index with ":" between.

    Raises:
        SpecError: JAX has no such device here.
    """
    if device is None:
        return None
    platform, colon, index = str(device).partition(":")
    # JAX raises RuntimeError for a platform that it does not have.
    try:
        devices = jax.devices(platform) if platform else []
        if not colon or index.isdecimal():
            return devices[int(index or 0)]
        reason = f"{index!r} is no index"
    except (RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
    raise SpecError(
        "jax.policy device: expected a platform that JAX can use here, such as 'cpu' or 'gpu:1', "
        f"got {shown(device)} ({reason}); choose 'cpu'"
    )


def check_pair(role: str, module: Any) -> tuple[Any, Any]:
    """Return `(apply, parameters)`, or raise SpecError for any other object."""
    if not isinstance(module, tuple) or len(module) != 2 or not callable(module[0]):
        raise SpecError(
            f"jax.adopt {role}: expected a pair (apply, parameters) with "
            f"apply(parameters, observations), got {type(module).__name__}; pass both"
        )
    return module


def device_of(leaf: Any) -> Any:
    """Return an array's device, None for JAX's default."""
    # NumPy arrays are on none yet.
    return next(iter(leaf.devices())) if isinstance(leaf, jax.Array) else None
