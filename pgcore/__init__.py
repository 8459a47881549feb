"""pgcore: one definition of a policy-gradient estimator, every framework, provably the same gradient."""

from __future__ import annotations

import pgcore.signals  # noqa: F401 - before the function of that name below, which it would otherwise replace later
from pgcore.api import backend, estimator, generator, gradient, load, optimizer, policy, signals
from pgcore.backend import Backend
from pgcore.batch import Batch
from pgcore.errors import PgcoreError
from pgcore.estimator import Claims, Estimator, Reduction, Signals
from pgcore.heads import Categorical, DiagonalGaussian, Head
from pgcore.optimizer import Optimizer, OptimizerSpec
from pgcore.policy import Gradient, Policy
from pgcore.spec import MLP, Linear, PolicySpec, Table

# `pgcore.policy`, `.estimator`, `.optimizer`, `.backend` and `.signals` are functions here, and modules in `from` imports:
# all five modules are loaded by now, so nothing rebinds the names later.

__all__ = [
    "MLP",
    "Backend",
    "Batch",
    "Categorical",
    "Claims",
    "DiagonalGaussian",
    "Estimator",
    "Gradient",
    "Head",
    "Linear",
    "Optimizer",
    "OptimizerSpec",
    "PgcoreError",
    "Policy",
    "PolicySpec",
    "Reduction",
    "Signals",
    "Table",
    "backend",
    "estimator",
    "generator",
    "gradient",
    "load",
    "optimizer",
    "policy",
    "signals",
]

__version__ = "0.1.0"
