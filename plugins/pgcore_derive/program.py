"""Expressions as NumPy code: one operation a line, shared by all expressions that use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pgcore.xp.numpy import host
from pgcore_derive.choices import branches
from pgcore_derive.functions import (
    NUM_ACTIONS,
    Bracket,
    Choose,
    EpisodeMean,
    EpisodeSum,
    Expression,
    IsAction,
    LogSumExp,
    OfAction,
    RowSum,
    RowSymbol,
    held,
    is_constant,
    is_row,
    magnitude,
    sigmoid,
    sign,
    sympy,
    tanh,
)

__all__ = ["OPERATIONS", "Program", "compile_expressions"]

# NumPy arrays of any float dtype, and the test kit's numbers.
Number = Any


def row_sum(x: Number) -> Number:
    """Return [B] the sums over actions."""
    return x.sum(axis=1)


def log_sum_exp(x: Number) -> Number:
    """Return [B] log sum_a exp(x_a)."""
    # Without the largest entry exp would overflow.
    largest = x.max(axis=1, keepdims=True)
    return np.log(np.exp(x - largest).sum(axis=1)) + largest[:, 0]


def of_action(x: Number, index: Any) -> Number:
    """Return [B] the entries at an index."""
    return x[np.arange(x.shape[0]), index]


def is_action(like: Number, index: Any) -> Number:
    """Return [B, A] 1.0 at each step's index, else 0.0."""
    indicator = np.zeros(like.shape)
    indicator[np.arange(like.shape[0]), index] = 1.0
    return indicator


def as_column(x: Number) -> Number:
    """Return [B] numbers as [B, 1], to broadcast against [B, A]."""
    return x.reshape(-1, 1)


def steps_in_episode(episode: Any) -> Number:
    """Return [B] the number of steps of each step's episode, float64."""
    return host.episode_sum(np.ones(episode.shape), episode)


def num_actions(like: Number) -> int:
    """Return A of a [B, A] array."""
    return like.shape[1]


# The NumPy function of each of SymPy's and ours: a name of `np`, of `host` or of this module.
OPERATIONS: dict[Any, str] = {
    Choose: "np.where",
    EpisodeMean: "host.episode_mean",
    EpisodeSum: "host.episode_sum",
    LogSumExp: "log_sum_exp",
    RowSum: "row_sum",
    held: "host.stop_gradient",
    magnitude: "np.abs",
    sigmoid: "host.sigmoid",
    sign: "np.sign",
    sympy.Abs: "np.abs",  # SymPy's value of sqrt(x * x)
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
    tanh: "np.tanh",
}


class Program:
    """Expressions of named arrays, compiled.

    Attributes:
        source: The NumPy code of a function `values(arrays)`, from and to arrays by name.
    """

    def __init__(self, source: str) -> None:
        """Compile the code."""
        self.source = source
        self._globals: dict[str, Any] = {helper.__name__: helper for helper in HELPERS}
        self._globals |= {"np": np, "host": host}
        # `compile_expressions` wrote the code, of the operations above and of keywords.
        exec(source, self._globals)  # noqa: S102

    def __call__(self, arrays: Mapping[str, Number]) -> dict[str, Number]:
        """Return the expressions' values by name; a value that all steps share may be a number."""
        return self._globals["values"](arrays)

    def __reduce__(self) -> tuple[type[Program], tuple[str]]:
        """Return the source, to compile again in another process."""
        return type(self), (self.source,)


# The functions that compiled code calls by name.
HELPERS = (row_sum, log_sum_exp, of_action, is_action, as_column, steps_in_episode, num_actions)


def compile_expressions(expressions: Mapping[str, Expression], rows: Iterable[str] = ()) -> Program:
    """Return the program of expressions by name.

    Args:
        expressions: The expressions that the program computes.
        rows: The keywords of shape [B, A]. One of them tells A where no expression holds a row.

    Raises:
        LookupError: an expression has a function without a NumPy operation; names it.
    """
    return Writer(expressions, rows).program()


class Writer:
    """Writes a program, an operation a line."""

    def __init__(self, expressions: Mapping[str, Expression], rows: Iterable[str] = ()) -> None:
        """Write the lines that read the arrays, then the operations; see `compile_expressions`."""
        self.rows = sorted(rows)
        # The variable of each operation's result, and of each expression's value.
        self.lines: dict[str, str] = {}
        self.variables: dict[Any, str] = {}
        self.row: str | None = None
        free = set[Any]().union(*(expression.free_symbols for expression in expressions.values()))
        # Sorted, so that equal expressions give equal code.
        for symbol in sorted(free - {NUM_ACTIONS}, key=str):
            self.variables[symbol] = self.emit(f"arrays[{symbol.name!r}]")
            if self.row is None and isinstance(symbol, RowSymbol):
                self.row = self.variables[symbol]
        self.outputs = {name: self.value(expression) for name, expression in expressions.items()}

    def program(self) -> Program:
        """Return the program of the lines."""
        lines = [f"    {name} = {line}" for line, name in self.lines.items()]
        result = ", ".join(f"{name!r}: {value}" for name, value in self.outputs.items())
        return Program("\n".join(["def values(arrays):", *lines, f"    return {{{result}}}", ""]))

    def emit(self, line: str) -> str:
        """Return the variable of an operation's result; equal operations share one."""
        return self.lines.setdefault(line, f"x{len(self.lines)}")

    def value(self, expression: Expression) -> str:
        """Return the variable of an expression's value, or a number."""
        # What is inside a bracket has its own lines.
        if isinstance(expression, Bracket):
            expression = expression.args[0]
        if expression not in self.variables:
            self.variables[expression] = self.write(expression)
        return self.variables[expression]

    def write(self, expression: Expression) -> str:
        """Write an expression and return its variable."""
        if expression == NUM_ACTIONS:
            return self.emit(f"num_actions({self.any_row()})")
        if expression.is_number:
            return literal(expression)
        if expression.is_Add:
            return self.sum(expression)
        if expression.is_Mul:
            return self.product(*expression.as_coeff_mul(), row=is_row(expression))
        if expression.is_Pow and not isinstance(expression, sympy.exp):
            return self.power(expression)
        if isinstance(expression, Choose):
            return self.choice(expression)
        if isinstance(expression, IsAction | OfAction):
            return self.entry(expression)
        return self.function(expression)

    def entry(self, expression: Expression) -> str:
        """Write an expression with an action's index, its last argument."""
        index = expression.args[-1]
        place = str(int(index)) if index.is_Integer else self.value(index)
        if isinstance(expression, IsAction):
            return self.emit(f"is_action({self.any_row()}, {place})")
        return self.emit(f"of_action({self.value(expression.args[0])}, {place})")

    def function(self, expression: Expression) -> str:
        """Write a function of expressions, or a condition.

        Raises:
            LookupError: it has no NumPy operation.
        """
        if expression.func not in OPERATIONS:
            raise LookupError(type(expression).__name__)
        # A sum of ones has no array to sum.
        if isinstance(expression, EpisodeSum) and is_constant(expression.args[0]):
            return self.emit(f"steps_in_episode({self.value(expression.args[1])})")
        operation, row = OPERATIONS[expression.func], is_row(expression)
        operands = [self.operand(part, row=row) for part in expression.args]
        # These have any number of operands, NumPy's two.
        if isinstance(expression, sympy.And | sympy.Or):
            return self.chain(f"{operation}({{}}, {{}})", operands)
        return self.emit(f"{operation}({', '.join(operands)})")

    def choice(self, expression: Expression) -> str:
        """Write a choice; one between two values becomes one `where`."""
        row = is_row(expression)
        values = list(dict.fromkeys(value for value, _ in branches(expression)))
        if len(values) == 2:
            condition = self.condition(expression, values[0], row=row)
            operands = [condition, *(self.operand(value, row=row) for value in values)]
            return self.emit(f"np.where({', '.join(operands)})")
        return self.function(expression)

    def condition(self, tree: Expression, value: Expression, *, row: bool) -> str:
        """Write the condition under which a decision tree has a value.

        Args:
            tree: The decision tree.
            value: One of its leaves.
            row: Whether the result is [B, A].
        """
        if not isinstance(tree, Choose):
            return str(tree == value)
        relation = self.operand(tree.args[0], row=row)
        x, y = (self.condition(branch, value, row=row) for branch in tree.args[1:])
        # (relation and x) or (not relation and y), without the operations that change nothing.
        if (x, y) == ("True", "False"):
            return relation
        if (x, y) == ("False", "True"):
            return self.emit(f"~{relation}")
        if x == "True":
            return self.emit(f"{relation} | {y}")
        if y == "False":
            return self.emit(f"{relation} & {x}")
        if x == "False":
            return self.emit(f"~{relation} & {y}")
        if y == "True":
            return self.emit(f"~{relation} | {x}")
        return self.emit(f"np.where({relation}, {x}, {y})")

    def sum(self, expression: Expression) -> str:
        """Add the terms with a positive coefficient, then subtract those with a negative one."""
        row, added, subtracted = is_row(expression), list[str](), list[str]()
        for term in expression.args:
            coefficient, factors = term.as_coeff_mul()
            negative = bool(coefficient.is_extended_negative)
            size = -coefficient if negative else coefficient
            value = self.product(size, factors, row=is_row(term))
            (subtracted if negative else added).append(self.widen(value, term, row=row))
        first = self.chain("{} + {}", added) if added else self.emit(f"-{subtracted.pop(0)}")
        return self.chain("{} - {}", [first, *subtracted])

    def product(self, coefficient: Expression, factors: Iterable[Expression], *, row: bool) -> str:
        """Multiply the factors, and divide at the end."""
        above, below = list[Expression](), list[Expression]()
        for factor in factors:
            divides = factor.is_Pow and factor.exp.is_number and factor.exp.is_negative
            (below if divides else above).append(1 / factor if divides else factor)
        # 2/3 x becomes 2 * x / 3: it rounds once less than 0.666 * x.
        size = abs(coefficient)
        if size.is_Rational and size.q != 1:
            size, below = sympy.Integer(size.p), [sympy.Integer(size.q), *below]
        if size != 1 or not above:
            above.insert(0, size)
        value = self.chain("{} * {}", [self.operand(factor, row=row) for factor in above])
        value = self.chain("{} / {}", [value, *(self.operand(factor, row=row) for factor in below)])
        return self.emit(f"-{value}") if coefficient.is_extended_negative else value

    def power(self, expression: Expression) -> str:
        """Write a power: as product, root or quotient if one of them suffices."""
        base, exponent = expression.args
        row = is_row(expression)
        if exponent.is_number and exponent.is_negative:
            return self.product(sympy.Integer(1), [expression], row=row)
        operand = self.operand(base, row=row)
        if exponent == sympy.S.Half:
            return self.emit(f"np.sqrt({operand})")
        # Products are faster than `np.power`, and the test kit's numbers have them.
        if exponent.is_Integer and exponent <= 4:
            return self.chain("{} * {}", [operand] * int(exponent))
        return self.emit(f"np.power({operand}, {self.operand(exponent, row=row)})")

    def chain(self, operation: str, operands: list[str]) -> str:
        """Write an operation of two operands from left to right."""
        result, *remaining = operands
        for operand in remaining:
            result = self.emit(operation.format(result, operand))
        return result

    def operand(self, expression: Expression, *, row: bool) -> str:
        """Return an operand of a [B, A] or a [B] result."""
        return self.widen(self.value(expression), expression, row=row)

    def widen(self, value: str, expression: Expression, *, row: bool) -> str:
        """Return a [B] value as [B, 1] where the result is a row, and all else unchanged."""
        if row and not is_row(expression) and expression.free_symbols - {NUM_ACTIONS}:
            return self.emit(f"as_column({value})")
        return value

    def any_row(self) -> str:
        """Return the variable of an array with one column for each action."""
        if self.row is not None:
            return self.row
        if not self.rows:
            raise LookupError("a number of actions that no array tells")
        return self.emit(f"arrays[{self.rows[0]!r}]")


def literal(number: Expression) -> str:
    """Return a number in Python; raise LookupError for 1/0, the root of -1 and their like."""
    if number.is_extended_real is not True:
        raise LookupError(str(number))
    value = float(number)
    return repr(value) if np.isfinite(value) else f"{'-' if value < 0 else ''}np.inf"
