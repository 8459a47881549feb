"""Cotangents from a surrogate: run on symbols, differentiated by SymPy, written out, compiled to NumPy.

SymPy is imported when something is derived, never before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pgcore.errors import EstimatorError
from pgcore.validation.arrays import Array

if TYPE_CHECKING:
    from pgcore.interfaces.estimator import Estimator
    from pgcore_derive.program import Program

__all__ = ["Derivation", "derive"]

KEPT = 256


class Derivation:
    """The closed form of an estimator's cotangents.

    Attributes:
        estimator: What was derived.
        terms: The surrogate, a SymPy expression of one step.
        expressions: d surrogate_t / d quantity_t by quantity; for a [B, A] quantity the entry of one action.
        rows: The quantities and signals that are [B, A].
        indices: The signals that are actions.
        flags: The signals that are conditions.
    """

    def __init__(self, estimator: Estimator) -> None:
        """Differentiate; see `derive`."""
        from pgcore_derive.surrogates import derivatives_of

        self.estimator = estimator
        trace, self.terms, self.expressions = derivatives_of(estimator)
        self.rows, self.indices, self.flags = (
            trace.rows,
            frozenset(trace.indices),
            frozenset(trace.flags),
        )
        self._program: Program | None = None

    @property
    def text(self) -> dict[str, str]:
        """Each expression as lines of text, in the surrogate's own names."""
        from pgcore_derive.writing import text_of

        return {name: text_of(found) for name, found in self.expressions.items()}

    @property
    def latex(self) -> dict[str, str]:
        """Each expression in LaTeX, for a formula; `cases` and the like are amsmath's."""
        from pgcore_derive.writing import latex_of

        return {name: latex_of(found) for name, found in self.expressions.items()}

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

    def cotangents(self, **named: Array) -> dict[str, Array]:
        """Return the cotangents' values; see `Estimator.cotangents`, whose keywords it takes.

        Raises:
            EstimatorError: an expression has no NumPy form.
        """
        if self._program is None:
            self._program = self._compile()
        with np.errstate(
            all="ignore"
        ):  # what overflows in a branch that is not taken is no concern
            found = self._program(named)
        return {name: shaped(value, named[name]) for name, value in found.items()}

    def _compile(self) -> Program:
        from pgcore_derive.program import compiled

        try:
            return compiled(self.expressions, self.rows)
        except LookupError as error:
            raise EstimatorError(
                f"{self.estimator.name}.surrogate: expected operations that NumPy can run step by step, got {error.args[0]}; "
                "write `cotangents`, or choose a backend that differentiates by itself"
            ) from error


def derive(estimator: Estimator) -> Derivation:
    """Return the closed form of an estimator's cotangents, derived from its surrogate by SymPy.

    Equal estimators share one.

    Raises:
        EstimatorError: the surrogate cannot be differentiated; names the operation.
        DependencyError: SymPy is not installed.

    Example:
        >>> pg.derive(pg.estimator("reinforce")).text
        {'log_prob': '-advantage'}
    """
    try:
        hash(estimator)
    except TypeError:  # a field that cannot be hashed
        return Derivation(estimator)
    return _kept(estimator)


_kept = lru_cache(KEPT)(Derivation)


def shaped(value: Any, like: Any) -> Any:
    """Return a cotangent in its quantity's shape and dtype; one value for all steps is repeated."""
    if isinstance(value, float | int):
        return np.full_like(like, value)
    if len(value.shape) < len(like.shape):  # the same for all actions
        column = value.reshape(-1, 1)
        return shaped(np.where(np.ones(like.shape, bool), column, column), like)
    # The test kit's numbers have no dtype.
    return (
        value
        if not hasattr(like, "dtype") or value.dtype == like.dtype
        else value.astype(like.dtype)
    )
