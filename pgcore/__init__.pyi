from pgcore.api import backend, estimator, generator, gradient, load, optimizer, policy, signals
from pgcore.backend import Backend
from pgcore.batch import Batch
from pgcore.compare import check, compare, compare_policies
from pgcore.derive import Derivation, derive
from pgcore.errors import PgcoreError
from pgcore.estimator import Claims, Estimator, Reduction
from pgcore.formula import OptimizerSpec
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
from pgcore.optimizer import Optimizer
from pgcore.policy import Policy
from pgcore.schedules import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule
from pgcore.spec import PolicySpec
from pgcore.step_signals import Signals

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

__version__: str
