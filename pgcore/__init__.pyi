from pgcore.api import backend, estimator, generator, gradient, load, optimizer, policy, signals
from pgcore.data.batch import Batch
from pgcore.data.convolution import Conv
from pgcore.data.episodes import Episodes
from pgcore.data.networks import MLP, Linear, Table
from pgcore.data.spec import PolicySpec
from pgcore.errors import PgcoreError
from pgcore.function.loss import loss
from pgcore.heads import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    Head,
    MultiCategorical,
    SquashedGaussian,
)
from pgcore.interfaces.backend import Backend
from pgcore.interfaces.estimator import Claims, Estimator
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.reduction import Reduction, Totals
from pgcore.interfaces.schedules import ConstantSchedule, Schedule
from pgcore.interfaces.signals import Signals
from pgcore.registry.registrations import register
from pgcore_check.compare import check, compare, compare_policies
from pgcore_derive.derivation import Derivation, derive
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.parts.gae import GAE
from pgcore_estimators.parts.group_relative import GroupRelative
from pgcore_estimators.parts.kl import KL
from pgcore_estimators.parts.returns import Returns
from pgcore_estimators.reductions import ConstantDivisor, GroupMean, StepSum, WeightedSteps
from pgcore_optimizers.schedules import CosineSchedule, LinearSchedule

__all__ = [
    "GAE",
    "KL",
    "MLP",
    "Backend",
    "Batch",
    "Bernoulli",
    "Categorical",
    "Claims",
    "Clip",
    "ConstantDivisor",
    "ConstantSchedule",
    "Conv",
    "CosineSchedule",
    "Derivation",
    "DiagonalGaussian",
    "Episodes",
    "EpsilonGreedy",
    "Estimator",
    "Extra",
    "Gradient",
    "GroupMean",
    "GroupRelative",
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
    "Returns",
    "Schedule",
    "Signals",
    "SquashedGaussian",
    "StepSum",
    "Table",
    "Totals",
    "WeightedSteps",
    "backend",
    "check",
    "compare",
    "compare_policies",
    "derive",
    "estimator",
    "generator",
    "gradient",
    "load",
    "loss",
    "optimizer",
    "policy",
    "register",
    "signals",
]

__version__: str
