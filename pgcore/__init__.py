"""One definition of a policy-gradient estimator, every framework, provably the same gradient.

Each name is imported on first use, which keeps `import pgcore` and `pgcore list` fast; `__init__.pyi` has the types.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HEADS = (
    "Bernoulli Categorical DiagonalGaussian EpsilonGreedy Head MultiCategorical SquashedGaussian"
)
_NAMES_BY_MODULE = {
    "pgcore.api": "backend estimator generator gradient load optimizer policy signals",
    "pgcore.data.batch": "Batch",
    "pgcore.data.episodes": "Episodes",
    "pgcore.data.convolution": "Conv",
    "pgcore.data.networks": "MLP Linear Table",
    "pgcore.data.spec": "PolicySpec",
    "pgcore.errors": "PgcoreError",
    "pgcore.function.loss": "loss",
    "pgcore.heads": _HEADS,
    "pgcore.interfaces.backend": "Backend",
    "pgcore.interfaces.estimator": "Claims Estimator",
    "pgcore.interfaces.extras": "Extra",
    "pgcore.interfaces.formula": "OptimizerSpec",
    "pgcore.interfaces.gradient": "Gradient",
    "pgcore.interfaces.optimizer": "Optimizer",
    "pgcore.interfaces.policy": "Policy",
    "pgcore.interfaces.reduction": "Reduction Totals",
    "pgcore.interfaces.schedules": "ConstantSchedule Schedule",
    "pgcore.interfaces.signals": "Signals",
    "pgcore.registry.registrations": "register",
}
_HOME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}

# Names of plugins, through the hook `pgcore_functions`.
_PROVIDED = (
    *("GAE", "KL", "Clip", "GroupRelative", "Returns"),
    *("ConstantDivisor", "CosineSchedule", "Derivation", "GroupMean", "LinearSchedule"),
    *("StepSum", "WeightedSteps"),
    *("check", "compare", "compare_policies", "derive"),
)

# `__init__.pyi` lists and types them.
__all__ = [*_HOME, *_PROVIDED]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: from its module, or from the plugin that provides it."""
    if name in _HOME:
        value: Any = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _PROVIDED or _is_third_partys(name):
        value = _registry().load("functions", name)
    else:
        raise AttributeError(f"module 'pgcore' has no attribute {name!r}")
    # The next use of the name is an ordinary attribute's.
    globals()[name] = value
    return value


def _registry() -> Any:
    return importlib.import_module("pgcore.registry.registry").registry()


def _is_third_partys(name: str) -> bool:
    from importlib.util import find_spec

    # `from pgcore import hooks` asks for a submodule here first, which no plugin can provide.
    if name.startswith("_") or find_spec(f"{__name__}.{name}"):
        return False
    return name in _registry().names("functions")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
