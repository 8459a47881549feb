"""The backend's entry point."""

from __future__ import annotations

from typing import ClassVar

from hips.policy import HipsPolicy
from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.interfaces.backend import Backend, float_dtype

__all__ = ["HipsBackend"]


class HipsBackend(Backend):
    """See `Backend`; the one device is "cpu", and nothing is compiled."""

    name: ClassVar[str] = "hips"

    def policy(
        self,
        spec: PolicySpec,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        compiled: bool = False,
    ) -> HipsPolicy:
        """See `Backend.policy`."""
        self.check_compiled(compiled=compiled)
        if device not in (None, "cpu"):
            raise SpecError(f"hips.policy device: expected 'cpu', got {device!r}; leave it out")
        numbers = float_dtype("hips.policy dtype", dtype)
        return HipsPolicy(self.name, spec, numbers, spec.initial_parameters(seed))
