"""The closed form of each head.

A head of another distribution joins with `make_kernel.register(TheirHead, TheirKernel)`.
"""

from __future__ import annotations

from pgcore_numpy import discrete_kernels, gaussian_kernels
from pgcore_numpy.dispatch import ClosedForms
from pgcore_numpy.kernel import Kernel

__all__ = ["make_kernel"]

# From a head to its kernel; the formulas are all that a kernel computes or differentiates.
make_kernel: ClosedForms[Kernel] = ClosedForms(
    "head",
    ("distribution", "log_prob", "entropy", "kl", "fisher"),
    "pgcore_numpy.heads.make_kernel",
)

# The modules of kernels list the built-in heads; a new one touches its module alone.
for kernels in (discrete_kernels.KERNELS, gaussian_kernels.KERNELS):
    for head, kernel in kernels.items():
        make_kernel.register(head, kernel)
