"""Derivatives of a surrogate's term: SymPy's where no reduction is in the way, and the chain rule through reductions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgcore_derive.choices import settled
from pgcore_derive.functions import (
    REDUCTIONS,
    EpisodeMean,
    EpisodeSum,
    RowSum,
    RowSymbol,
    is_row,
    symbol,
)
from pgcore_derive.library import Expression, sympy

__all__ = ["derivatives", "reductions", "simplified"]


def derivatives(term: Expression, symbols: Iterable[Expression]) -> list[Expression]:
    """Return d term_t / d symbol_t for each symbol; of a `RowSymbol`, for the entry of action a.

    Where an episode's sum is in the term, every step of the episode takes part: what is returned is the derivative of the sum of the
    episode's terms.
    """
    placeholders = {
        found: symbol(f"_{index}", RowSymbol if is_row(found) else sympy.Symbol)
        for index, found in enumerate(dict.fromkeys(reductions(term)))
    }
    found_at = {placeholder: found for found, placeholder in placeholders.items()}
    # What a reduction's argument depends on comes before it, so adjoints are complete when they are taken from the end.
    adjoints: dict[Expression, Expression] = {}

    def derivative(s: Expression) -> Expression:
        parts = [term.xreplace(placeholders).diff(s)]
        for placeholder, adjoint in adjoints.items():
            parts.append(through(found_at[placeholder], placeholders, adjoint, s))
        return sympy.Add(*parts)

    for placeholder in reversed(found_at):
        adjoints[placeholder] = derivative(placeholder)
    return [simplified(derivative(s).xreplace(found_at)) for s in symbols]


def simplified(expression: Expression) -> Expression:
    """Return an equal expression that reads well: choices at the top, no brackets that cancel, and 1 for 1.0, which drops out of products."""
    expression = settled(expression.replace(has_open_power, powers_joined)).replace(
        is_sum, without_brackets
    )
    whole = [each for each in expression.atoms(sympy.Float) if float(each).is_integer()]
    return expression.xreplace({each: sympy.Integer(int(each)) for each in whole})


def is_sum(expression: Expression) -> bool:
    """Return whether an expression is a sum of terms."""
    return expression.is_Add


def has_open_power(expression: Expression) -> bool:
    """Return whether an expression is a product with a power whose exponent is not a number."""
    return expression.is_Mul and any(
        part.is_Pow and not isinstance(part, sympy.exp) and not part.exp.is_number
        for part in expression.args
    )


def powers_joined(product: Expression) -> Expression:
    """Return a product with x^(n - 1) for x^n / x, which has no value at 0."""
    return sympy.powsimp(product, combine="exp")


def without_brackets(total: Expression) -> Expression:
    """Return a sum without the brackets in it where that makes it shorter."""
    opened = sympy.Add(*(sympy.expand_mul(term, deep=False) for term in total.args))
    return opened if opened.count_ops() < total.count_ops() else total


def through(
    reduction: Expression,
    placeholders: dict[Expression, Expression],
    adjoint: Expression,
    s: Expression,
) -> Expression:
    """Return what of a reduction's adjoint reaches a symbol in its argument."""
    slope = reduction.args[0].xreplace(placeholders).diff(s)
    if slope == 0:
        return slope
    flow = reduction.cotangent(adjoint) * slope
    # A symbol that all actions share gets what all of them pass on.
    return flow if isinstance(reduction, EpisodeSum | EpisodeMean) or is_row(s) else RowSum(flow)


def reductions(expression: Expression) -> Iterator[Expression]:
    """Yield all reductions in an expression, inner ones first."""
    for part in expression.args:
        yield from reductions(part)
    if isinstance(expression, REDUCTIONS):
        yield expression
