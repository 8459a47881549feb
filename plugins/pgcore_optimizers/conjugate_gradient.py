"""Conjugate gradients: A x = b for a symmetric positive definite A, from its products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgcore.errors import NonFiniteError, OptimizerError
from pgcore.validation.arrays import Array

__all__ = ["Solution", "conjugate_gradient"]

# Relative to b, no unit: a smaller residual is rounding alone. Further products would change no
# digit of x, and in the end divide one underflow by another.
ROUNDOFF = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of conjugate gradients.

    Attributes:
        vector: [P] float64. x.
        iterations: Products with A.
        residual: |b - A x| / |b|, by the recursion; 0 where b is 0.
        converged: Whether the residual is within the tolerance, or is rounding alone.
    """

    vector: Array
    iterations: int
    residual: float
    converged: bool


def conjugate_gradient(
    product: Callable[[Array], Array], target: Array, *, iterations: int, tolerance: float
) -> Solution:
    """Solve A x = b in float64, from x = 0.

    Each residual is made orthogonal to those before it, as it would be without rounding. Under the
    recursion alone rounding errors grow: two backends' products that agree to 1e-16 give solutions
    that agree to 1e-8.

    Args:
        product: Returns [P] A v for a [P] v.
        target: [P] float. b.
        iterations: The largest number of products; as many vectors of P numbers are stored.
        tolerance: Stop once |b - A x| <= tolerance |b|; at least float64's roundoff.

    Raises:
        OptimizerError: p^T A p is not above 0 for a search direction p.
        NonFiniteError: a product is NaN or infinite.

    Source: Hestenes and Stiefel 1952, eqs. 3:1a to 3:1f; Parlett 1998, sec. 6.9, for the orthogonalisation.
    """
    tolerance = max(tolerance, ROUNDOFF)
    x, r = np.zeros(len(target)), np.array(target, np.float64)
    first = square = float(r @ r)
    p, count = r.copy(), 0
    # Unit residuals, one a row. There are no more than P directions to be orthogonal to.
    residuals = np.zeros((min(iterations, len(r)), len(r)))
    while count < iterations and math.sqrt(square) > tolerance * math.sqrt(first):
        a_p = product(p)
        count += 1
        if not np.isfinite(a_p).all():
            raise NonFiniteError(
                "conjugate_gradient: expected finite products, got NaN or infinity at iteration "
                f"{count}; the parameters are unchanged, look at the observations and at the "
                "policy's outputs"
            )
        # At a curvature of 0 or less no step length minimises the quadratic along p.
        curvature = float(p @ a_p)
        if not curvature > 0.0:
            raise OptimizerError(
                f"conjugate_gradient: expected p^T A p above 0, got {curvature:.3g} at iteration "
                f"{count}; the parameters are unchanged, raise damping: a Fisher matrix is singular "
                "where a softmax or an unused parameter leaves a direction free"
            )
        if count <= len(residuals):
            residuals[count - 1] = r / math.sqrt(square)
        x += square / curvature * p
        r -= square / curvature * a_p
        # One projection leaves the rounding of its own cancellation; a second one removes it.
        for _ in range(2):
            r -= (residuals[:count] @ r) @ residuals[:count]
        before, square = square, float(r @ r)
        p = r + square / before * p
    residual = math.sqrt(square / first) if first else 0.0
    return Solution(x, count, residual, residual <= tolerance)
