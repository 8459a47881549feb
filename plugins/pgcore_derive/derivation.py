"""Cotangents from a surrogate: traced and differentiated and compiled to NumPy.

SymPy is imported by `derive`, never before: `pgcore.Derivation` is there without it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import ensure_estimator
from pgcore.validation.arrays import Array

if TYPE_CHECKING:
    from pgcore.interfaces.estimator import Estimator
    from pgcore_derive.program import Program

__all__ = ["Derivation", "derive"]

# Derivations in the cache of equal estimators: more than one script has estimators.
CACHE_SIZE = 256


class Derivation:
    """The closed form of an estimator's cotangents.

    What is shown is multiplied out where that is shorter. What is computed is in the order of the
    surrogate, so that terms that nearly cancel are rounded as the surrogate rounds them.

    Attributes:
        estimator: The estimator.
        terms: The surrogate, a SymPy expression of one step.
        expressions: d surrogate_t / d quantity_t by quantity, as shown; of a [B, A] quantity one
            action's.
        rows: The quantities and signals of shape [B, A].
        indices: The signals that are actions.
        flags: The signals that are conditions.
    """

    def __init__(self, estimator: Estimator) -> None:
        """Differentiate; see `derive`."""
        from pgcore_derive.surrogates import derivatives_of

        ensure_estimator("derive", estimator)
        self.estimator = estimator
        trace, self.terms, self.expressions = derivatives_of(estimator)
        self.rows = trace.rows
        self.indices, self.flags = frozenset(trace.indices), frozenset(trace.flags)
        self._program: Program | None = None

    @property
    def text(self) -> dict[str, str]:
        """Each expression as lines of text, in the surrogate's own names."""
        from pgcore_derive.writing import text_of

        return {name: text_of(expression) for name, expression in self.expressions.items()}

    @property
    def latex(self) -> dict[str, str]:
        """Each expression in LaTeX; its environment `cases` is amsmath's."""
        from pgcore_derive.writing import latex_of

        return {name: latex_of(expression) for name, expression in self.expressions.items()}

    @property
    def surrogate_text(self) -> str:
        """The surrogate as text; see `text`."""
        from pgcore_derive.writing import text_of

        return text_of(self.terms)

    @property
    def surrogate_latex(self) -> str:
        """The surrogate in LaTeX; see `latex`."""
        from pgcore_derive.writing import latex_of

        return latex_of(self.terms)

    @property
    def symbols(self) -> dict[str, str]:
        """Each quantity's symbol in LaTeX."""
        from pgcore_derive.writing import symbol_latex

        return {name: symbol_latex(name, row=name in self.rows) for name in self.expressions}

    def cotangents(self, **arrays: Array) -> dict[str, Array]:
        """Return the cotangents' values; see `Estimator.cotangents`, whose keywords it takes.

        Raises:
            EstimatorError: an expression has no NumPy form.
        """
        if self._program is None:
            self._program = self._compile()
        # An overflow in a branch that is not taken does no harm.
        with np.errstate(all="ignore"):
            values = self._program(arrays)
        return {name: match_shape(value, arrays[name]) for name, value in values.items()}

    def _compile(self) -> Program:
        from pgcore_derive.program import compile_expressions
        from pgcore_derive.surrogates import formulas_of

        try:
            return compile_expressions(formulas_of(self.estimator), self.rows)
        except LookupError as error:
            raise EstimatorError(
                f"{self.estimator.name}.surrogate: expected operations that NumPy can run step by "
                f"step, got {error.args[0]}; write `cotangents`, or choose a backend with autodiff"
            ) from error


def derive(estimator: Estimator) -> Derivation:
    """Return the closed form of an estimator's cotangents; equal estimators share one.

    Raises:
        EstimatorError: the surrogate cannot be differentiated; names the operation.
        DependencyError: SymPy is not installed.

    Example:
        >>> pg.derive(pg.estimator("reinforce")).text
        {'log_prob': '-advantage'}
    """
    # A field may not be hashable, such as an array.
    try:
        hash(estimator)
    except TypeError:
        return Derivation(estimator)
    return _derive_cached(estimator)


_derive_cached = lru_cache(CACHE_SIZE)(Derivation)


def match_shape(value: Any, like: Any) -> Any:
    """Return a cotangent in the shape and dtype of its quantity; repeat one value for all steps."""
    if isinstance(value, float | int):
        return np.full_like(like, value)
    # One value for all actions; `where` broadcasts the test kit's numbers too.
    if len(value.shape) < len(like.shape):
        column = value.reshape(-1, 1)
        return match_shape(np.where(np.ones(like.shape, bool), column, column), like)
    # The test kit's numbers have no dtype.
    if not hasattr(like, "dtype") or value.dtype == like.dtype:
        return value
    return value.astype(like.dtype)
