"""pgcore: one definition of a policy-gradient estimator, every framework, provably the same gradient.

Each name below is imported when it is first used, so that `import pgcore` and `pgcore list` take no longer than they must.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgcore.api import backend, estimator, generator, gradient, load, optimizer, policy, signals
    from pgcore.backend import Backend
    from pgcore.batch import Batch
    from pgcore.compare import check, compare, compare_policies
    from pgcore.derive import Derivation, derive
    from pgcore.errors import PgcoreError
    from pgcore.estimator import Claims, Estimator, Reduction
    from pgcore.gradient import Gradient
    from pgcore.heads import (
        Bernoulli,
        Categorical,
        DiagonalGaussian,
        EpsilonGreedy,
        Head,
        MultiCategorical,
        SquashedGaussian,
    )
    from pgcore.networks import MLP, Linear, Table
    from pgcore.optimizer import Optimizer, OptimizerSpec
    from pgcore.policy import Policy
    from pgcore.schedules import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule
    from pgcore.spec import PolicySpec
    from pgcore.surrogate import Signals

__all__ = [
    "MLP",
    "Backend",
    "Batch",
    "Bernoulli",
    "Categorical",
    "Claims",
    "ConstantSchedule",
    "CosineSchedule",
    "Derivation",
    "DiagonalGaussian",
    "EpsilonGreedy",
    "Estimator",
    "Gradient",
    "Head",
    "Linear",
    "LinearSchedule",
    "MultiCategorical",
    "Optimizer",
    "OptimizerSpec",
    "PgcoreError",
    "Policy",
    "PolicySpec",
    "Reduction",
    "Schedule",
    "Signals",
    "SquashedGaussian",
    "Table",
    "backend",
    "check",
    "compare",
    "compare_policies",
    "derive",
    "estimator",
    "generator",
    "gradient",
    "load",
    "optimizer",
    "policy",
    "signals",
]

__version__ = "0.1.0"

_NAMES_BY_MODULE = {
    "api": ("backend", "estimator", "generator", "gradient", "load", "optimizer", "policy", "signals"),
    "backend": ("Backend",),
    "batch": ("Batch",),
    "compare": ("check", "compare", "compare_policies"),
    "derive": ("Derivation", "derive"),
    "errors": ("PgcoreError",),
    "estimator": ("Claims", "Estimator", "Reduction"),
    "gradient": ("Gradient",),
    "heads": (
        "Bernoulli",
        "Categorical",
        "DiagonalGaussian",
        "EpsilonGreedy",
        "Head",
        "MultiCategorical",
        "SquashedGaussian",
    ),
    "networks": ("MLP", "Linear", "Table"),
    "optimizer": ("Optimizer", "OptimizerSpec"),
    "policy": ("Policy",),
    "schedules": ("ConstantSchedule", "CosineSchedule", "LinearSchedule", "Schedule"),
    "surrogate": ("Signals",),
    "spec": ("PolicySpec",),
}
_HOME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'pgcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pgcore.{_HOME[name]}"), name)
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
