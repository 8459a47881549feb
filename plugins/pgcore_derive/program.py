"""Expressions as NumPy code: one operation a line, each shared by all expressions that need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pgcore.xp.numpy import host
from pgcore_derive.choices import branches
from pgcore_derive.functions import (
    NUM_ACTIONS,
    Choose,
    EpisodeMean,
    EpisodeSum,
    IsAction,
    LogSumExp,
    OfAction,
    RowSum,
    RowSymbol,
    is_constant,
    is_row,
    magnitude,
    sigmoid,
    sign,
)
from pgcore_derive.library import Expression, sympy

__all__ = ["OPERATIONS", "Program", "compiled"]

# NumPy arrays of any float dtype, and the test kit's numbers.
Number = Any


def row_sum(x: Number) -> Number:
    """Return [B] the sums over actions."""
    return x.sum(axis=1)


def log_sum_exp(x: Number) -> Number:
    """Return [B] log sum_a exp(x_a)."""
    largest = x.max(axis=1, keepdims=True)
    return np.log(np.exp(x - largest).sum(axis=1)) + largest[:, 0]


def of_action(x: Number, index: Any) -> Number:
    """Return [B] the entries at an index."""
    return x[np.arange(x.shape[0]), index]


def is_action(like: Number, index: Any) -> Number:
    """Return [B, A] 1.0 at each step's index, else 0.0."""
    chosen = np.zeros(like.shape)
    chosen[np.arange(like.shape[0]), index] = 1.0
    return chosen


def as_column(x: Number) -> Number:
    """Return [B] numbers as [B, 1], to go with [B, A]."""
    return x.reshape(-1, 1)


def steps_in_episode(episode: Any) -> Number:
    """Return [B] how many steps each step's episode has, float64."""
    return host.episode_sum(np.ones(episode.shape), episode)


def num_actions(like: Number) -> int:
    """Return A of a [B, A] array."""
    return like.shape[1]


# What an expression's function is in NumPy; names of `np`, of `host` or of this module.
OPERATIONS: dict[Any, str] = {
    Choose: "np.where",
    EpisodeMean: "host.episode_mean",
    EpisodeSum: "host.episode_sum",
    LogSumExp: "log_sum_exp",
    RowSum: "row_sum",
    magnitude: "np.abs",
    sigmoid: "host.sigmoid",
    sign: "np.sign",
    sympy.Abs: "np.abs",  # what SymPy makes of sqrt(x * x)
    sympy.And: "np.logical_and",
    sympy.Eq: "np.equal",
    sympy.Ge: "np.greater_equal",
    sympy.Gt: "np.greater",
    sympy.Le: "np.less_equal",
    sympy.Lt: "np.less",
    sympy.Ne: "np.not_equal",
    sympy.Not: "np.logical_not",
    sympy.Or: "np.logical_or",
    sympy.exp: "np.exp",
    sympy.log: "np.log",
    sympy.sign: "np.sign",
    sympy.tanh: "np.tanh",
}


class Program:
    """Expressions of named arrays, compiled.

    Attributes:
        source: The NumPy code of a function `values(named)`, which takes and returns arrays by name.
    """

    def __init__(self, source: str) -> None:
        """Compile the code."""
        self.source = source
        self._names: dict[str, Any] = {each.__name__: each for each in HELPERS} | {
            "np": np,
            "host": host,
        }
        exec(source, self._names)  # noqa: S102 - `compiled` wrote it, of the operations above and of keywords

    def __call__(self, named: Mapping[str, Number]) -> dict[str, Number]:
        """Return the expressions' values by name; what is the same for all steps may be a number."""
        return self._names["values"](named)

    def __reduce__(self) -> tuple[type[Program], tuple[str]]:
        """Compile again in the process that this goes to."""
        return type(self), (self.source,)


HELPERS = (row_sum, log_sum_exp, of_action, is_action, as_column, steps_in_episode, num_actions)


def compiled(expressions: Mapping[str, Expression], rows: Iterable[str] = ()) -> Program:
    """Return the program of expressions by name.

    Args:
        expressions: What the program computes.
        rows: The keywords that are [B, A]; any of them tells the number of actions where no expression holds one.

    Raises:
        LookupError: an expression has a function without a NumPy operation; names it.
    """
    return Writer(expressions, rows).program()


class Writer:
    """Writes a program, an operation a line."""

    def __init__(self, expressions: Mapping[str, Expression], rows: Iterable[str] = ()) -> None:
        """Write the lines that read the arrays, and then all others; see `compiled`."""
        self.rows = sorted(rows)
        free = set[Any]().union(*(found.free_symbols for found in expressions.values())) - {
            NUM_ACTIONS
        }
        symbols: list[Any] = sorted(free, key=str)
        self.lines: dict[str, str] = {}  # the name of each operation's result
        self.known: dict[Any, str] = {each: self.do(f"named[{each.name!r}]") for each in symbols}
        self.row = next((self.known[each] for each in symbols if isinstance(each, RowSymbol)), None)
        self.outputs = {name: self.of(found) for name, found in expressions.items()}

    def program(self) -> Program:
        """Return what was written."""
        lines = [f"    {name} = {line}" for line, name in self.lines.items()]
        result = ", ".join(f"{name!r}: {value}" for name, value in self.outputs.items())
        return Program("\n".join(["def values(named):", *lines, f"    return {{{result}}}", ""]))

    def do(self, line: str) -> str:
        """Return the name of an operation's result, written down at most once."""
        return self.lines.setdefault(line, f"x{len(self.lines)}")

    def of(self, expression: Expression) -> str:
        """Return the name of an expression's value, or a number."""
        if expression not in self.known:
            self.known[expression] = self.written(expression)
        return self.known[expression]

    def written(self, expression: Expression) -> str:
        """Write an expression and return its name."""
        if expression == NUM_ACTIONS:
            return self.do(f"num_actions({self.any_row()})")
        if expression.is_number:
            return constant(expression)
        if expression.is_Add:
            return self.sum(expression)
        if expression.is_Mul:
            return self.product(*expression.as_coeff_mul(), row=is_row(expression))
        if expression.is_Pow and not isinstance(expression, sympy.exp):
            return self.power(expression)
        if isinstance(expression, Choose):
            return self.choice(expression)
        return (
            self.entry(expression)
            if isinstance(expression, IsAction | OfAction)
            else self.function(expression)
        )

    def entry(self, expression: Expression) -> str:
        """Write what has an index, which comes last."""
        index = expression.args[-1]
        place = str(int(index)) if index.is_Integer else self.of(index)
        if isinstance(expression, IsAction):
            return self.do(f"is_action({self.any_row()}, {place})")
        return self.do(f"of_action({self.of(expression.args[0])}, {place})")

    def function(self, expression: Expression) -> str:
        """Write a function of other expressions, or a condition."""
        if expression.func not in OPERATIONS:
            raise LookupError(type(expression).__name__)
        if isinstance(expression, EpisodeSum) and is_constant(expression.args[0]):
            return self.do(f"steps_in_episode({self.of(expression.args[1])})")
        operation, row = OPERATIONS[expression.func], is_row(expression)
        operands = [self.operand(part, row=row) for part in expression.args]
        if isinstance(expression, sympy.And | sympy.Or):
            return self.chain(f"{operation}({{}}, {{}})", operands)
        return self.do(f"{operation}({', '.join(operands)})")

    def choice(self, expression: Expression) -> str:
        """Write a choice; of two values, however often they occur, with one choice of conditions."""
        row = is_row(expression)
        values = list(dict.fromkeys(value for value, _ in branches(expression)))
        if len(values) == 2:
            condition = self.condition(expression, values[0], row=row)
            operands = [condition, *(self.operand(value, row=row) for value in values)]
            return self.do(f"np.where({', '.join(operands)})")
        return self.function(expression)

    def condition(self, tree: Expression, wanted: Expression, *, row: bool) -> str:
        """Write where a decision tree has a value."""
        if not isinstance(tree, Choose):
            return str(tree == wanted)
        relation = self.operand(tree.args[0], row=row)
        x, y = (self.condition(branch, wanted, row=row) for branch in tree.args[1:])
        if (x, y) == ("True", "False"):
            return relation
        if (x, y) == ("False", "True"):
            return self.do(f"~{relation}")
        if x == "True":
            return self.do(f"{relation} | {y}")
        if y == "False":
            return self.do(f"{relation} & {x}")
        if x == "False":
            return self.do(f"~{relation} & {y}")
        return (
            self.do(f"~{relation} | {x}")
            if y == "True"
            else self.do(f"np.where({relation}, {x}, {y})")
        )

    def sum(self, expression: Expression) -> str:
        """Add what has a positive coefficient, then subtract the rest."""
        row, added, subtracted = is_row(expression), list[str](), list[str]()
        for term in expression.args:
            coefficient, factors = term.as_coeff_mul()
            negative = bool(coefficient.is_extended_negative)
            value = self.product(
                -coefficient if negative else coefficient, factors, row=is_row(term)
            )
            (subtracted if negative else added).append(self.widened(value, term, row=row))
        first = self.chain("{} + {}", added) if added else self.do(f"-{subtracted.pop(0)}")
        return self.chain("{} - {}", [first, *subtracted])

    def product(self, coefficient: Expression, factors: Iterable[Expression], *, row: bool) -> str:
        """Multiply, and divide at the end."""
        above, below = list[Expression](), list[Expression]()
        for factor in factors:
            divides = factor.is_Pow and factor.exp.is_number and factor.exp.is_negative
            (below if divides else above).append(1 / factor if divides else factor)
        size = abs(coefficient)
        if size.is_Rational and size.q != 1:
            size, below = sympy.Integer(size.p), [sympy.Integer(size.q), *below]
        if size != 1 or not above:
            above.insert(0, size)
        value = self.chain("{} * {}", [self.operand(factor, row=row) for factor in above])
        value = self.chain("{} / {}", [value, *(self.operand(factor, row=row) for factor in below)])
        return self.do(f"-{value}") if coefficient.is_extended_negative else value

    def power(self, expression: Expression) -> str:
        """Write a power: products, roots and quotients where they do."""
        base, exponent = expression.args
        row = is_row(expression)
        if exponent.is_number and exponent.is_negative:
            return self.product(sympy.Integer(1), [expression], row=row)
        operand = self.operand(base, row=row)
        if exponent == sympy.S.Half:
            return self.do(f"np.sqrt({operand})")
        if exponent.is_Integer and exponent <= 4:
            return self.chain("{} * {}", [operand] * int(exponent))
        return self.do(f"np.power({operand}, {self.operand(exponent, row=row)})")

    def chain(self, operation: str, operands: list[str]) -> str:
        """Write an operation of two operands from left to right."""
        first, *others = operands
        for other in others:
            first = self.do(operation.format(first, other))
        return first

    def operand(self, expression: Expression, *, row: bool) -> str:
        """Return an operand of a row, or of what is one number a step."""
        return self.widened(self.of(expression), expression, row=row)

    def widened(self, value: str, expression: Expression, *, row: bool) -> str:
        """Return a value as it goes with a row, if it is to."""
        if row and not is_row(expression) and expression.free_symbols - {NUM_ACTIONS}:
            return self.do(f"as_column({value})")
        return value

    def any_row(self) -> str:
        """Return an array that has as many columns as there are actions."""
        if self.row is not None:
            return self.row
        if not self.rows:
            raise LookupError("a number of actions that no array tells")
        return self.do(f"named[{self.rows[0]!r}]")


def constant(number: Expression) -> str:
    """Return a number in Python; raise LookupError where it is none, as 1/0 and the root of -1."""
    if number.is_extended_real is not True:
        raise LookupError(str(number))
    value = float(number)
    return repr(value) if np.isfinite(value) else f"{'-' if value < 0 else ''}np.inf"
