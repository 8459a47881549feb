"""Derivatives of a surrogate's term: SymPy's `diff`, and the chain rule through reductions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgcore_derive.choices import hoist_choices
from pgcore_derive.functions import (
    REDUCTIONS,
    EpisodeMean,
    EpisodeSum,
    Expression,
    RowSum,
    RowSymbol,
    held,
    is_row,
    symbol,
    sympy,
)

__all__ = ["derivatives", "hoisted", "reductions", "simplify"]


def derivatives(term: Expression, symbols: Iterable[Expression]) -> list[Expression]:
    """Return d term_t / d symbol_t for each symbol; of a `RowSymbol`, for the entry of action a.

    They are as the chain rule leaves them; see `simplify` and `hoisted`.

    Where the term holds an episode's sum, every step of the episode takes part. The result is then
    the derivative of the sum of the episode's terms.
    """
    # Reverse mode: a placeholder for each reduction cuts the term into parts without reductions.
    placeholders: dict[Expression, Expression] = {}
    for index, reduction in enumerate(dict.fromkeys(reductions(term))):
        kind = RowSymbol if is_row(reduction) else sympy.Symbol
        placeholders[reduction] = symbol(f"_{index}", kind)
    reduction_of = {placeholder: reduction for reduction, placeholder in placeholders.items()}
    adjoints: dict[Expression, Expression] = {}

    def derivative(s: Expression) -> Expression:
        parts = [term.xreplace(placeholders).diff(s)]
        for placeholder, adjoint in adjoints.items():
            parts.append(pull_back(reduction_of[placeholder], placeholders, adjoint, s))
        return sympy.Add(*parts)

    # The reductions in an argument come before it, so that from the end each adjoint is complete.
    for placeholder in reversed(reduction_of):
        adjoints[placeholder] = derivative(placeholder)
    slopes = [derivative(s).xreplace(reduction_of) for s in symbols]
    # What is held constant is itself in a derivative, which is not differentiated again.
    return [slope.replace(held, lambda x: x) for slope in slopes]


def simplify(expression: Expression) -> Expression:
    """Return an equal expression that reads well: choices at the top, no redundant brackets."""
    return with_integers(hoisted(expression).replace(is_sum, expand_sum))


def hoisted(expression: Expression) -> Expression:
    """Return an equal expression to compute: choices at the top, and every factor where it was.

    Multiplied out, terms that nearly cancel would each be rounded.
    """
    return with_integers(hoist_choices(expression.replace(has_open_power, join_powers)))


def with_integers(expression: Expression) -> Expression:
    """Return an expression with 1 for 1.0, which stays in a product where 1 drops out of it."""
    integers = {
        number: sympy.Integer(int(number))
        for number in expression.atoms(sympy.Float)
        if float(number).is_integer()
    }
    return expression.xreplace(integers)


def is_sum(expression: Expression) -> bool:
    """Return whether an expression is a sum of terms."""
    return expression.is_Add


def has_open_power(expression: Expression) -> bool:
    """Return whether an expression is a product with a power whose exponent is not a number."""
    if not expression.is_Mul:
        return False
    powers = (part for part in expression.args if part.is_Pow and not isinstance(part, sympy.exp))
    return any(not power.exp.is_number for power in powers)


def join_powers(product: Expression) -> Expression:
    """Return a product with x^(n - 1) for x^n / x, which has no value at 0."""
    return sympy.powsimp(product, combine="exp")


def expand_sum(total: Expression) -> Expression:
    """Return a sum with its terms multiplied out, or the sum itself if that is shorter."""
    expanded = sympy.Add(*(sympy.expand_mul(term, deep=False) for term in total.args))
    return expanded if expanded.count_ops() < total.count_ops() else total


def pull_back(
    reduction: Expression,
    placeholders: dict[Expression, Expression],
    adjoint: Expression,
    s: Expression,
) -> Expression:
    """Return the part of a reduction's adjoint that reaches one symbol of its argument.

    Args:
        reduction: The reduction.
        placeholders: The symbol that stands for each reduction, inner ones too.
        adjoint: d term / d reduction.
        s: The symbol.
    """
    slope = reduction.args[0].xreplace(placeholders).diff(s)
    if slope == 0:
        return slope
    flow = reduction.cotangent(adjoint) * slope
    # A symbol that all actions share receives the sum over the actions.
    return flow if isinstance(reduction, EpisodeSum | EpisodeMean) or is_row(s) else RowSum(flow)


def reductions(expression: Expression) -> Iterator[Expression]:
    """Yield all reductions in an expression, inner ones first."""
    for part in expression.args:
        yield from reductions(part)
    if isinstance(expression, REDUCTIONS):
        yield expression
