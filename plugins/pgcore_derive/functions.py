"""The expressions that surrogates are made of beyond SymPy's own: choices, functions with pgcore's subgradients, reductions.

A [B] array is an expression of one step; a [B, A] array is one of its entry for action a, in `RowSymbol`s. What sums over actions or over
an episode's steps is an expression whose argument stands for every action, or every step, at once.
"""

from __future__ import annotations

from typing import Any

from pgcore_derive.library import Expression, sympy

__all__ = [
    "ELEMENTWISE",
    "NUM_ACTIONS",
    "REDUCTIONS",
    "Choose",
    "EpisodeMean",
    "EpisodeSum",
    "IsAction",
    "LogSumExp",
    "OfAction",
    "RowSum",
    "RowSymbol",
    "is_constant",
    "is_row",
    "magnitude",
    "sigmoid",
    "sign",
    "symbol",
]


class RowSymbol(sympy.Symbol):
    """The entry for action a of a [B, A] quantity or signal."""

    __slots__ = ()


def symbol(name: str, kind: Any = sympy.Symbol) -> Expression:
    """Return the symbol of a quantity or signal; it may be infinite, as a masked action's log-probability is."""
    return kind(name, extended_real=True)


NUM_ACTIONS = sympy.Symbol("num_actions", positive=True, integer=True)


class Choose(sympy.Expr):
    """`Choose(condition, x, y)` is x where the condition holds, else y; so is its derivative."""

    is_commutative = True
    is_extended_real = True

    def __new__(cls, condition: Expression, x: Expression, y: Expression) -> Expression:
        """Return the choice, or the branch that is always taken."""
        x, y = sympy.sympify(x), sympy.sympify(y)
        if condition == sympy.true or x == y:
            return x
        if condition == sympy.false:
            return y
        return sympy.Expr.__new__(cls, condition, x, y)

    def _eval_derivative(self, s: Expression) -> Expression:
        condition, x, y = self.args
        return Choose(condition, x.diff(s), y.diff(s))


class Real(sympy.Function):
    """A function of real numbers with real values, which SymPy is to leave as it is."""

    is_extended_real = True


class sign(Real):  # noqa: N801 - functions are written in lower case
    """1, 0 or -1."""

    @classmethod
    def eval(cls, x: Expression) -> Expression | None:
        """Return a number's."""
        return sympy.sign(x) if x.is_number else None


class magnitude(Real):  # noqa: N801
    """|x|, with derivative 0 at 0."""

    @classmethod
    def eval(cls, x: Expression) -> Expression | None:
        """Return a number's."""
        return sympy.Abs(x) if x.is_number else None

    def fdiff(self, _argindex: int = 1) -> Expression:
        """Return the derivative."""
        return sign(self.args[0])


class sigmoid(Real):  # noqa: N801
    """1 / (1 + e to the -x)."""

    def fdiff(self, _argindex: int = 1) -> Expression:
        """Return the derivative."""
        y: Expression = self
        return y * (1 - y)


# The elementwise functions of `xp`: a new one is a line here, one in `program.OPERATIONS`, and where SymPy has none a class above.
ELEMENTWISE: dict[str, Any] = {
    "abs": magnitude,
    "exp": sympy.exp,
    "log": sympy.log,
    "sigmoid": sigmoid,
    "sqrt": sympy.sqrt,
    "tanh": sympy.tanh,
}


class IsAction(Real):
    """1 for the action of that index, 0 for the others."""

    is_number = False  # not even of a fixed index


class RowSum(Real):
    """The sum of a row over its actions."""

    @classmethod
    def eval(cls, row: Expression) -> Expression | None:
        """Take out the factors that are the same for all actions; a single action's entry is that entry."""
        if not is_row(row):
            return NUM_ACTIONS * row
        factors = sympy.Mul.make_args(row)
        outside = [factor for factor in factors if not is_row(factor)]
        inside = [factor for factor in factors if is_row(factor)]
        chosen = next((factor for factor in inside if isinstance(factor, IsAction)), None)
        if chosen is not None:
            inside.remove(chosen)
            return sympy.Mul(*outside, OfAction(sympy.Mul(*inside), chosen.args[0]))
        return sympy.Mul(*outside, cls(sympy.Mul(*inside))) if outside else None

    def cotangent(self, adjoint: Expression) -> Expression:
        """Return what reaches each entry of the argument."""
        return adjoint


class LogSumExp(Real):
    """log sum_a exp(x_a) of a row."""

    @classmethod
    def eval(cls, row: Expression) -> Expression | None:
        """Return that of a row whose entries are all the same."""
        return None if is_row(row) else row + sympy.log(NUM_ACTIONS)

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `RowSum.cotangent`."""
        return adjoint * sympy.exp(self.args[0] - self)


class OfAction(Real):
    """The entry of a row at an index."""

    @classmethod
    def eval(cls, row: Expression, _index: Expression) -> Expression | None:
        """Return what has no entries as it is."""
        return None if is_row(row) else row

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `RowSum.cotangent`."""
        return adjoint * IsAction(self.args[1])


class EpisodeSum(Real):
    """The sum over the episode that a step is in; the second argument numbers each step's episode."""

    @classmethod
    def eval(cls, term: Expression, episode: Expression) -> Expression | None:
        """Take out a constant, which leaves the episode's length."""
        return None if term == 1 or not is_constant(term) else term * cls(sympy.Integer(1), episode)

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `RowSum.cotangent`; the loss weighs all steps of an episode alike."""
        return EpisodeSum(adjoint, self.args[1])


class EpisodeMean(Real):
    """The mean over the episode that a step is in."""

    @classmethod
    def eval(cls, term: Expression, _episode: Expression) -> Expression | None:
        """Return a constant as it is."""
        return term if is_constant(term) else None

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `EpisodeSum.cotangent`."""
        return EpisodeMean(adjoint, self.args[1])


REDUCTIONS = (RowSum, LogSumExp, OfAction, EpisodeSum, EpisodeMean)


def is_constant(expression: Expression) -> bool:
    """Return whether an expression is the same at every step, whatever the data."""
    return not expression.free_symbols - {NUM_ACTIONS}


def is_row(expression: Expression) -> bool:
    """Return whether an expression has one value for each action."""
    if isinstance(expression, RowSymbol | IsAction):
        return True
    return not isinstance(expression, RowSum | LogSumExp | OfAction) and any(
        map(is_row, expression.args)
    )
