"""Action distributions: the meaning of a network's outputs, one head a module.

A head is frozen data with forward formulas written once against `xp`. Sampling happens here, in
float64, so that one seed gives the same actions on every backend.
"""

from pgcore.heads.bernoulli import Bernoulli
from pgcore.heads.categorical import Categorical
from pgcore.heads.diagonal_gaussian import DiagonalGaussian
from pgcore.heads.discrete import DiscreteHead
from pgcore.heads.epsilon_greedy import EpsilonGreedy
from pgcore.heads.head import Head
from pgcore.heads.multi_categorical import MultiCategorical
from pgcore.heads.squashed_gaussian import SquashedGaussian

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalGaussian",
    "DiscreteHead",
    "EpsilonGreedy",
    "Head",
    "MultiCategorical",
    "SquashedGaussian",
]
