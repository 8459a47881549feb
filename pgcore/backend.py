"""Backends: what a framework must offer to take part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from pgcore.errors import SpecError
from pgcore.optimizer import BoundOptimizer, OptimizerSpec
from pgcore.policy import Policy
from pgcore.spec import PolicySpec

__all__ = ["Backend"]


class Backend(ABC):
    """Makes policies and optimizers out of specs; one instance a process, without state that anyone can see.

    Attributes:
        name: What the backend is registered as.
    """

    name: ClassVar[str]

    @abstractmethod
    def policy(self, spec: PolicySpec, *, seed: int = 0, dtype: str = "float32", device: str | None = None) -> Policy:
        """Return a policy with the spec's initial parameters for this seed.

        Args:
            spec: Network, head and critic.
            seed: At least 0; the same seed gives the same float64 parameters on every backend.
            dtype: "float32" or "float64".
            device: Where the backend has several; None is its default.

        Raises:
            SpecError: dtype or device is not one of this backend's, or it cannot build the spec.
        """

    @abstractmethod
    def optimizer(self, spec: OptimizerSpec, policy: Policy) -> BoundOptimizer:
        """Return the optimizer's native state for one of this backend's policies."""

    def adopt(self, module: Any, head: Any, critic: Any = None) -> Policy:
        """Return a policy around the user's own network; its outputs are the head's natural parameters.

        Raises:
            SpecError: this backend has no modules to adopt.
        """
        raise SpecError(
            f"{self.name}.adopt: expected a backend with modules of its own, got {self.name}; build a PolicySpec instead"
        )


def float_dtype(where: str, dtype: str) -> np.dtype[Any]:
    """Return NumPy's dtype for "float32" or "float64", or raise SpecError."""
    if dtype not in ("float32", "float64"):
        raise SpecError(f"{where}: expected 'float32' or 'float64', got {dtype!r}; choose one of the two")
    return np.dtype(dtype)
