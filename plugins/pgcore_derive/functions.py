"""SymPy and pgcore's own expressions: choices and reductions and functions with subgradients.

A [B] array is an expression of one step. A [B, A] array is an expression of its entry for action a,
in `RowSymbol`s. The argument of a sum over actions, or over an episode's steps, stands for every
action, or every step, at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pgcore.errors import DependencyError

__all__ = [
    "ELEMENTWISE",
    "NUM_ACTIONS",
    "REDUCTIONS",
    "Bracket",
    "Choose",
    "EpisodeMean",
    "EpisodeSum",
    "Expression",
    "IsAction",
    "LogSumExp",
    "OfAction",
    "RowSum",
    "RowSymbol",
    "held",
    "is_constant",
    "is_row",
    "magnitude",
    "sigmoid",
    "sign",
    "symbol",
    "sympy",
    "tanh",
]

# A SymPy expression, relation or symbol. SymPy ships no types, so it is typed here once for all.
Expression = Any


def load_sympy() -> Any:
    """Import and return SymPy.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return import_module("sympy")
    except ModuleNotFoundError as error:
        # A module that SymPy itself lacks is another problem.
        if error.name != "sympy":
            raise
        raise DependencyError(
            "derive: expected the package 'sympy', got none installed; "
            "pip install 'pgcore[derive]', or write `cotangents`",
            name="sympy",
        ) from error


sympy: Any = load_sympy()


class RowSymbol(sympy.Symbol):
    """The entry for action a of a [B, A] quantity or signal."""

    __slots__ = ()


def symbol(name: str, kind: Any = sympy.Symbol) -> Expression:
    """Return the symbol of a quantity or signal, a real number or infinite."""
    # A masked action's log-probability is minus infinity.
    return kind(name, extended_real=True)


# A, the number of actions.
NUM_ACTIONS = sympy.Symbol("num_actions", positive=True, integer=True)


class Choose(sympy.Expr):
    """`Choose(condition, x, y)` is x where the condition holds, else y; so is its derivative."""

    is_commutative = True
    is_extended_real = True

    def __new__(cls, condition: Expression, x: Expression, y: Expression) -> Expression:
        """Return the choice, or the branch that is always taken."""
        x, y = sympy.sympify(x), sympy.sympify(y)
        # A choice that is no choice would hide its branch from SymPy's simplifications.
        if condition == sympy.true or x == y:
            return x
        if condition == sympy.false:
            return y
        return sympy.Expr.__new__(cls, condition, x, y)

    def _eval_derivative(self, s: Expression) -> Expression:
        condition, x, y = self.args
        return Choose(condition, x.diff(s), y.diff(s))


class Real(sympy.Function):
    """A real function of real numbers, without SymPy's own simplifications."""

    is_extended_real = True


class sign(Real):  # noqa: N801 - functions are written in lower case
    """1, 0 or -1."""

    @classmethod
    def eval(cls, x: Expression) -> Expression | None:
        """Return the value at a number."""
        return sympy.sign(x) if x.is_number else None


class magnitude(Real):  # noqa: N801
    """|x|, with derivative 0 at 0."""

    @classmethod
    def eval(cls, x: Expression) -> Expression | None:
        """Return the value at a number."""
        return sympy.Abs(x) if x.is_number else None

    def fdiff(self, _argindex: int = 1) -> Expression:
        """Return the derivative."""
        return sign(self.args[0])


class sigmoid(Real):  # noqa: N801
    """1 / (1 + exp(-x))."""

    def fdiff(self, _argindex: int = 1) -> Expression:
        """Return the derivative."""
        y: Expression = self
        return y * (1 - y)


class tanh(Real):  # noqa: N801
    """The hyperbolic tangent; SymPy's own looks for signs to take out, without end in long sums."""

    def fdiff(self, _argindex: int = 1) -> Expression:
        """Return the derivative."""
        y: Expression = self
        return 1 - y**2


class Bracket(Real):
    """A sum that is an operand, added up first as the surrogate does; SymPy's sums have no order."""

    @classmethod
    def eval(cls, x: Expression) -> Expression | None:
        """Return what is no sum without the bracket."""
        return None if x.is_Add and x.free_symbols else x

    def _eval_derivative(self, s: Expression) -> Expression:
        return Bracket(self.args[0].diff(s))


class held(Real):  # noqa: N801
    """x, with derivative 0."""

    @classmethod
    def eval(cls, x: Expression) -> Expression | None:
        """Return a number unchanged."""
        return x if x.is_number else None

    def fdiff(self, _argindex: int = 1) -> Expression:
        """Return the derivative."""
        return sympy.Integer(0)


# The elementwise functions of `xp`. A new one is a line here, a line in `program.OPERATIONS`, and
# where SymPy has none a class above.
ELEMENTWISE: dict[str, Any] = {
    "abs": magnitude,
    "exp": sympy.exp,
    "log": sympy.log,
    "sigmoid": sigmoid,
    "sqrt": sympy.sqrt,
    "stop_gradient": held,
    "tanh": tanh,
}


class IsAction(Real):
    """1 for the action of that index, 0 for all others."""

    # It depends on the action, also where the index is a number.
    is_number = False


class RowSum(Real):
    """The sum of a row over its actions."""

    @classmethod
    def eval(cls, row: Expression) -> Expression | None:
        """Take out the factors that all actions share; one action's entry needs no sum."""
        if not is_row(row):
            return NUM_ACTIONS * row
        outside, inside = list[Expression](), list[Expression]()
        for factor in sympy.Mul.make_args(row):
            (inside if is_row(factor) else outside).append(factor)
        indicator = next((factor for factor in inside if isinstance(factor, IsAction)), None)
        # sum_a [a = index] x_a is x at the index.
        if indicator is not None:
            inside.remove(indicator)
            return sympy.Mul(*outside, OfAction(sympy.Mul(*inside), indicator.args[0]))
        return sympy.Mul(*outside, cls(sympy.Mul(*inside))) if outside else None

    def cotangent(self, adjoint: Expression) -> Expression:
        """Return the adjoint of each entry of the argument.

        Args:
            adjoint: d term / d (this expression), one value a step.
        """
        return adjoint


class LogSumExp(Real):
    """log sum_a exp(x_a) of a row."""

    @classmethod
    def eval(cls, row: Expression) -> Expression | None:
        """Return the value for a row of equal entries."""
        return None if is_row(row) else row + sympy.log(NUM_ACTIONS)

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `RowSum.cotangent`: the adjoint times the softmax."""
        return adjoint * sympy.exp(self.args[0] - self)


class OfAction(Real):
    """The entry of a row at an index."""

    @classmethod
    def eval(cls, row: Expression, _index: Expression) -> Expression | None:
        """Return an expression without entries unchanged."""
        return None if is_row(row) else row

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `RowSum.cotangent`."""
        return adjoint * IsAction(self.args[1])


class EpisodeSum(Real):
    """The sum over a step's episode; the second argument is the episode's number."""

    @classmethod
    def eval(cls, term: Expression, episode: Expression) -> Expression | None:
        """Take out a constant: its factor is the episode's length."""
        return None if term == 1 or not is_constant(term) else term * cls(sympy.Integer(1), episode)

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `RowSum.cotangent`: the loss weighs all steps of an episode alike."""
        return EpisodeSum(adjoint, self.args[1])


class EpisodeMean(Real):
    """The mean over a step's episode."""

    @classmethod
    def eval(cls, term: Expression, _episode: Expression) -> Expression | None:
        """Return a constant unchanged."""
        return term if is_constant(term) else None

    def cotangent(self, adjoint: Expression) -> Expression:
        """See `EpisodeSum.cotangent`."""
        return EpisodeMean(adjoint, self.args[1])


# The chain rule passes through these by their `cotangent`, not by SymPy's `diff`.
REDUCTIONS = (RowSum, LogSumExp, OfAction, EpisodeSum, EpisodeMean)


def is_constant(expression: Expression) -> bool:
    """Return whether an expression has the same value at every step, for any data."""
    return not expression.free_symbols - {NUM_ACTIONS}


def is_row(expression: Expression) -> bool:
    """Return whether an expression has one value for each action."""
    if isinstance(expression, RowSymbol | IsAction):
        return True
    # A reduction over actions has one value a step, though its argument is a row.
    return not isinstance(expression, RowSum | LogSumExp | OfAction) and any(
        map(is_row, expression.args)
    )
