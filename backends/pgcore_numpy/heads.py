"""The closed form of each head.

A head that another distribution provides joins with `@make_kernel.register(TheirHead)` on a function that returns their `Kernel`.
"""

from __future__ import annotations

from functools import singledispatch

from pgcore.errors import SpecError
from pgcore.heads import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    Head,
    MultiCategorical,
    SquashedGaussian,
)
from pgcore_numpy.discrete_kernels import (
    BernoulliKernel,
    CategoricalKernel,
    EpsilonGreedyKernel,
    MultiCategoricalKernel,
)
from pgcore_numpy.gaussian_kernels import GaussianKernel, SquashedGaussianKernel
from pgcore_numpy.kernel import Kernel

__all__ = ["make_kernel"]


@singledispatch
def make_kernel(head: Head) -> Kernel:
    """Return a head's kernel.

    Raises:
        SpecError: no closed form is registered for this kind of head.
    """
    raise SpecError(
        f"numpy backend: expected a head with a closed form, got {head}; register one with pgcore_numpy.heads.make_kernel, "
        "or choose a backend that differentiates by itself"
    )


@make_kernel.register
def _(head: Bernoulli) -> Kernel:
    return BernoulliKernel(head)


@make_kernel.register
def _(head: Categorical) -> Kernel:
    return CategoricalKernel(head)


@make_kernel.register
def _(head: DiagonalGaussian) -> Kernel:
    return GaussianKernel(head)


@make_kernel.register
def _(head: EpsilonGreedy) -> Kernel:
    return EpsilonGreedyKernel(head)


@make_kernel.register
def _(head: MultiCategorical) -> Kernel:
    return MultiCategoricalKernel(head)


@make_kernel.register
def _(head: SquashedGaussian) -> Kernel:
    return SquashedGaussianKernel(head)
