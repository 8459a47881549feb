"""pgcore: one definition of a policy-gradient estimator, every framework, provably the same gradient.

Each name below is imported when it is first used, so that `import pgcore` and `pgcore list` take no longer than they must. Their types are
in `__init__.pyi`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_NAMES_BY_MODULE = {
    "pgcore.api": ("backend", "estimator", "generator", "gradient", "load", "optimizer", "policy", "signals"),
    "pgcore.backend": ("Backend",),
    "pgcore.batch": ("Batch",),
    "pgcore.compare": ("check", "compare", "compare_policies"),
    "pgcore.derive": ("Derivation", "derive"),
    "pgcore.errors": ("PgcoreError",),
    "pgcore.estimator": ("Claims", "Estimator", "Reduction"),
    "pgcore.formula": ("OptimizerSpec",),
    "pgcore.gradient": ("Gradient",),
    "pgcore.heads": (
        "Bernoulli",
        "Categorical",
        "DiagonalGaussian",
        "EpsilonGreedy",
        "Head",
        "MultiCategorical",
        "SquashedGaussian",
    ),
    "pgcore.networks": ("MLP", "Linear", "Table"),
    "pgcore.optimizer": ("Optimizer",),
    "pgcore.policy": ("Policy",),
    "pgcore.schedules": ("ConstantSchedule", "CosineSchedule", "LinearSchedule", "Schedule"),
    "pgcore.spec": ("PolicySpec",),
    "pgcore.step_signals": ("Signals",),
}
_HOME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

# `__init__.pyi` lists and types them.
__all__ = [*_HOME]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'pgcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__


class _Package(ModuleType):
    """Keeps `pgcore.policy` and the like functions: importing a submodule of the same name would rebind them to it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
