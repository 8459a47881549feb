"""The closed form of each head.

A head of another distribution joins with `make_kernel.register(TheirHead, TheirKernel)`.
"""

from __future__ import annotations

from pgcore.heads import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    MultiCategorical,
    SquashedGaussian,
)
from pgcore_numpy.discrete_kernels import (
    BernoulliKernel,
    CategoricalKernel,
    EpsilonGreedyKernel,
    MultiCategoricalKernel,
)
from pgcore_numpy.dispatch import ClosedForms
from pgcore_numpy.gaussian_kernels import GaussianKernel, SquashedGaussianKernel
from pgcore_numpy.kernel import Kernel

__all__ = ["make_kernel"]

# From a head to its kernel; the formulas are all that a kernel computes or differentiates.
make_kernel: ClosedForms[Kernel] = ClosedForms(
    "head",
    ("distribution", "log_prob", "entropy", "kl", "fisher"),
    "pgcore_numpy.heads.make_kernel",
)

make_kernel.register(Bernoulli, BernoulliKernel)
make_kernel.register(Categorical, CategoricalKernel)
make_kernel.register(DiagonalGaussian, GaussianKernel)
make_kernel.register(EpsilonGreedy, EpsilonGreedyKernel)
make_kernel.register(MultiCategorical, MultiCategoricalKernel)
make_kernel.register(SquashedGaussian, SquashedGaussianKernel)
