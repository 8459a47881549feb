"""The NumPy backend's entry point."""

from __future__ import annotations

from typing import ClassVar

from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.interfaces.backend import Backend, float_dtype
from pgcore.wording import shown
from pgcore_numpy.arrays import NumpyArrays
from pgcore_numpy.policy import NumpyPolicy

__all__ = ["NumpyBackend"]


class NumpyBackend(Backend):
    """See `Backend`; the only device is "cpu"."""

    name: ClassVar[str] = "numpy"
    arrays = NumpyArrays()

    def policy(
        self,
        spec: PolicySpec,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        compiled: bool = False,
    ) -> NumpyPolicy:
        """See `Backend.policy`."""
        self.check_compiled(compiled=compiled)
        if device not in (None, "cpu"):
            raise SpecError(
                f"numpy.policy device: expected 'cpu', got {shown(device)}; "
                "choose a backend that has this device"
            )
        return NumpyPolicy(self.name, spec, float_dtype("numpy.policy dtype", dtype), seed)
