"""Backends: the interface of a framework to pgcore."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from pgcore.data.native import Arrays
from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.interfaces.policy import Policy
from pgcore.validation.fields import choice

__all__ = ["Backend", "float_dtype"]


class Backend(ABC):
    """Makes policies out of specs; one instance a process, without visible state."""

    registered_as = "backends"  # the kind
    name: ClassVar[str]  # the registered one
    modes: ClassVar[tuple[str, ...]] = ("eager",)  # such as "compiled" too; the default is first
    arrays: Arrays | None = None  # the framework's, for `pgcore.loss`; one instance

    @abstractmethod
    def policy(
        self,
        spec: PolicySpec,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        compiled: bool = False,
    ) -> Policy:
        """Return a policy with the spec's initial parameters for this seed.

        Args:
            spec: Network, head and critic.
            seed: At least 0; the same seed gives the same float64 parameters on every backend.
            dtype: "float32" or "float64".
            device: One of the backend's devices; None is its default.
            compiled: Compile the policy's computations, on a backend that can choose.

        Raises:
            SpecError: the backend lacks the dtype, device or compilation, or cannot build the spec.
        """

    def adopt(
        self,
        module: Any,
        head: Head,
        critic: Any = None,
        *,
        critic_values: str = "state",
        compiled: bool = False,
        evaluation_mode: bool = False,
    ) -> Policy:
        """Return a policy around the user's own network, which it trains in place.

        Args:
            module: [B, ...] observations to the head's natural parameters, [B, outputs]; with
                critic="shared" to a pair of those and values. Float observations come in the
                parameters' dtype, others as they are; a batch's dict of arrays comes as a dict.
            head: The action distribution.
            critic: None, "shared", or another network from observations to values.
            critic_values: "state" for [B] or [B, 1] values, "action" for [B, A] of a discrete head,
                "twin" for [B, 2 A] of two critics, the first one's and then the second one's.
            compiled: See `policy`.
            evaluation_mode: Put module and critic in evaluation mode. Without it dropout and batch
                normalisation are refused: their outputs are no function of one observation alone.

        Raises:
            SpecError: the backend has no modules to adopt, or this module cannot be a policy; says why.
            ParameterError: a parameter is NaN or infinite; names it.
        """
        raise SpecError(
            f"{self.name}.adopt: expected a backend with modules of its own, got {self.name}; "
            "build a PolicySpec instead"
        )

    def check_compiled(self, *, compiled: bool) -> None:
        """Raise SpecError for compilation on a backend that compiles nothing."""
        if compiled and "compiled" not in self.modes:
            raise SpecError(
                f"{self.name}.policy compiled: expected False, got True; nothing is compiled here"
            )


def float_dtype(where: str, dtype: str) -> np.dtype[Any]:
    """Return NumPy's dtype for "float32" or "float64", or raise SpecError."""
    choice("float32", "float64")(where, dtype)
    return np.dtype(dtype)
