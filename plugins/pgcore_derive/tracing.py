"""Arrays without values that remember their expression: the inputs of a traced surrogate."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from enum import Enum
from numbers import Real
from types import EllipsisType
from typing import Any, NoReturn

import numpy as np

from pgcore.errors import EstimatorError
from pgcore_derive.functions import (
    Bracket,
    Expression,
    OfAction,
    RowSymbol,
    magnitude,
    symbol,
    sympy,
)

__all__ = ["NeedsRows", "Rank", "Trace", "Traced", "TracedCondition"]


def divide(x: Any, y: Any) -> Any:
    """Return a quotient."""
    return x / y


def power(x: Any, y: Any) -> Any:
    """Return a power."""
    return x**y


class Rank(Enum):
    """The shape of an array."""

    STEP = "[B]"
    COLUMN = "[B, 1]"
    ROW = "[B, A]"


class NeedsRows(Exception):  # noqa: N818 - no error: the use of a signal shows its shape
    """Signals that were assumed to be [B] are used as [B, A]."""

    def __init__(self, names: frozenset[str]) -> None:
        """Name the signals."""
        super().__init__(*names)
        self.names = names


class Trace:
    """One run of a surrogate on symbols.

    Attributes:
        where: The surrogate's name in errors.
        rows: The keywords of shape [B, A].
        signals: The keywords whose shape only their use shows.
        brackets: Whether a sum that is an operand keeps its bracket, to be computed in its order.
        indices: The signals that were used as indices.
        flags: The signals that were used as conditions.
    """

    def __init__(
        self, where: str, rows: frozenset[str], signals: frozenset[str], *, brackets: bool = False
    ) -> None:
        """Begin without indices and flags."""
        self.where, self.rows, self.signals = where, rows, signals
        self.brackets = brackets
        self.indices: set[str] = set()
        self.flags: set[str] = set()

    def input(self, name: str) -> Traced:
        """Return the traced array of a quantity or signal."""
        row = name in self.rows
        expression = symbol(name, RowSymbol) if row else symbol(name)
        return Traced(self, expression, Rank.ROW if row else Rank.STEP, frozenset([name]), name)

    def operand(self, expression: Expression) -> Expression:
        """Return an expression as an operand, in its bracket where brackets are kept."""
        return Bracket(expression) if self.brackets else expression

    def refuse(self, operation: str, advice: str = "", cause: Exception | None = None) -> NoReturn:
        """Raise the error for an operation that cannot be differentiated.

        Args:
            operation: The operation, as the message names it.
            advice: A remedy, ending in ", ", or nothing.
            cause: The error behind this one, if any.
        """
        raise EstimatorError(
            f"{self.where}: expected operations that can be differentiated symbolically, "
            f"got {operation}; {advice}or write `cotangents`"
        ) from cause

    def rank(self, *arrays: Traced | TracedCondition) -> Rank:
        """Return the common shape of arrays; raise where they have none."""
        ranks = {array.rank for array in arrays}
        if len(ranks) < 2 or Rank.STEP not in ranks:
            return Rank.ROW if Rank.ROW in ranks else arrays[0].rank
        # [B] beside [B, A] or [B, 1]: a signal assumed to be [B] may in truth be [B, A].
        names = frozenset[str]().union(
            *(array.names for array in arrays if array.rank is Rank.STEP)
        )
        return self.as_rows(
            names, f" beside {Rank.ROW.value if Rank.ROW in ranks else Rank.COLUMN.value}"
        )

    def as_rows(self, names: frozenset[str], operation: str) -> NoReturn:
        """Restart with these signals as [B, A]; raise unless all are signals of unknown shape."""
        if names and names <= self.signals - self.rows:
            raise NeedsRows(names)
        self.refuse(
            f"{', '.join(sorted(names)) or 'a number'} of shape [B]{operation}",
            "add an axis with x[:, None], ",
        )

    def number(self, value: object) -> Expression | None:
        """Return a Python or NumPy number as SymPy's, or None for anything else."""
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            return None
        plain = float(value)
        # SymPy's own conversion keeps 2.0 a float, which stays in front of products.
        if math.isnan(plain):
            self.refuse("NaN", "use finite numbers, ")
        if math.isinf(plain):
            return sympy.oo if plain > 0 else -sympy.oo
        return sympy.Integer(int(plain)) if plain.is_integer() else sympy.Float(plain)

    def array(self, value: object, like: Traced | TracedCondition) -> Traced:
        """Return a number as an array of the shape of `like`, and a traced array unchanged."""
        if isinstance(value, Traced):
            return value
        if isinstance(value, TracedCondition):
            self.refuse("a comparison used as a number", "choose with xp.where, ")
        number = self.number(value)
        if number is None:
            self.refuse(f"{type(value).__name__} beside {like}", "pass arrays as signals, ")
        return Traced(self, number, like.rank, like.names)


class Node:
    """The operations that arrays and conditions both refuse, each with its remedy."""

    trace: Trace
    rank: Rank
    names: frozenset[str]
    expression: Expression

    def __bool__(self) -> bool:  # noqa: PLE0304 - it never returns
        """Refuse: the branch would depend on the data."""
        self.trace.refuse(
            f"a Python `if`, `and`, `or`, `min` or `max` over {self}", "choose with xp.where, "
        )

    def __float__(self) -> float:
        """Refuse: there is no number yet."""
        self.trace.refuse(f"float({self}) or a function of `math`", "use the functions of xp, ")

    def __int__(self) -> int:
        """Refuse: there is no number yet."""
        self.trace.refuse(f"int({self})", "use the functions of xp, ")

    def __len__(self) -> int:  # noqa: PLE0303 - it never returns
        """Refuse: the batch may be of any size."""
        self.trace.refuse(f"len({self})", "use the functions of xp, ")

    def __iter__(self) -> NoReturn:
        """Refuse: the batch may be of any size."""
        self.trace.refuse(f"a loop over {self}", "use the functions of xp, ")

    def __setitem__(self, index: object, value: object) -> NoReturn:
        """Refuse: an expression does not change."""
        self.trace.refuse(f"an assignment to entries of {self}", "choose with xp.where, ")

    def __array__(self, *arguments: object, **options: object) -> NoReturn:
        """Refuse: there are no numbers yet."""
        self.trace.refuse(f"a conversion of {self} to a NumPy array", "use the functions of xp, ")

    def __array_function__(self, function: Callable[..., Any], *arguments: object) -> NoReturn:
        """Refuse NumPy's functions."""
        self.trace.refuse(f"np.{function.__name__}", "use the functions of xp, ")

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse arrays' methods: frameworks differ in them."""
        if name.startswith("_"):
            raise AttributeError(name)
        self.trace.refuse(f".{name} of {self}", "use the functions of xp, ")

    def __str__(self) -> str:
        """Return the expression."""
        return str(self.expression)

    __repr__ = __str__


def binary_method(
    operation: Callable[[Any, Any], Any], *, swapped: bool = False
) -> Callable[[Any, Any], Any]:
    """Return the method for an arithmetic operator or a comparison.

    Args:
        operation: The operator's function.
        swapped: Whether the array is the right operand.
    """

    def method(self: Traced, operand: object) -> Any:
        right = self.trace.array(operand, self)
        rank = self.trace.rank(self, right)
        first, second = (right, self) if swapped else (self, right)
        # Python's operators on SymPy's objects compare structure, so comparisons have a table.
        kind = TracedCondition if operation in COMPARISONS else Traced
        operands = map(self.trace.operand, (first.expression, second.expression))
        result = COMPARISONS.get(operation, operation)(*operands)
        return kind(self.trace, result, rank, self.names | right.names)

    return method


def in_place_method(operation: Callable[[Any, Any], Any], sign: str) -> Callable[[Any, Any], Any]:
    """Return the method for an augmented assignment, which gives a new array.

    Args:
        operation: The operator's function.
        sign: The operator, for errors.
    """

    def method(self: Traced, operand: object) -> Any:
        name = self.keyword
        # On a framework's arrays it would overwrite the surrogate's input.
        if name is not None:
            self.trace.refuse(f"{name} {sign}=", f"write {name} = {name} {sign} ..., ")
        return operation(self, operand)

    return method


def refused_method(sign: str) -> Callable[..., NoReturn]:
    """Return the method for an operator without a derivative, or not in every framework."""

    def method(self: Node, *_operands: object) -> NoReturn:
        self.trace.refuse(f"`{sign}` of {self}", "use the functions of xp, ")

    return method


COMPARISONS: dict[Any, Any] = {
    operator.eq: sympy.Eq,
    operator.ne: sympy.Ne,
    operator.lt: sympy.Lt,
    operator.le: sympy.Le,
    operator.gt: sympy.Gt,
    operator.ge: sympy.Ge,
}
# The functions that NumPy's own scalars call when they are the left operand.
UFUNCS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": divide,
    "power": power,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}


class Traced(Node):
    """An array without values: a shape and an expression."""

    def __init__(
        self,
        trace: Trace,
        expression: Expression,
        rank: Rank,
        names: frozenset[str],
        keyword: str | None = None,
    ) -> None:
        """Set the array's parts.

        Args:
            trace: The run that it belongs to.
            expression: Its entry at one step, and for one action.
            rank: Its shape.
            names: The keywords that determine its shape.
            keyword: The surrogate's keyword, for an input.
        """
        self.trace, self.expression, self.rank = trace, expression, rank
        self.names, self.keyword = names, keyword

    # The operators that every framework's arrays have, and that `Node` does not refuse for all.

    __add__, __radd__ = binary_method(operator.add), binary_method(operator.add, swapped=True)
    __sub__, __rsub__ = binary_method(operator.sub), binary_method(operator.sub, swapped=True)
    __mul__, __rmul__ = binary_method(operator.mul), binary_method(operator.mul, swapped=True)
    __truediv__, __rtruediv__ = binary_method(divide), binary_method(divide, swapped=True)
    __pow__, __rpow__ = binary_method(power), binary_method(power, swapped=True)
    __lt__, __le__ = binary_method(operator.lt), binary_method(operator.le)
    __gt__, __ge__ = binary_method(operator.gt), binary_method(operator.ge)
    __iadd__, __isub__ = in_place_method(operator.add, "+"), in_place_method(operator.sub, "-")
    __imul__, __itruediv__ = in_place_method(operator.mul, "*"), in_place_method(divide, "/")
    __floordiv__, __rfloordiv__, __ifloordiv__ = (
        refused_method("//"),
        refused_method("//"),
        refused_method("//="),
    )
    __mod__, __rmod__, __imod__ = refused_method("%"), refused_method("%"), refused_method("%=")
    __matmul__, __rmatmul__ = refused_method("@"), refused_method("@")
    __round__ = refused_method("round")
    __and__, __or__, __invert__, __ipow__ = (
        refused_method("&"),
        refused_method("|"),
        refused_method("~"),
        refused_method("**="),
    )
    # Equality gives a condition, so there is no hash.
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, operand: object) -> Any:
        """Return the elementwise comparison."""
        return binary_method(operator.eq)(self, operand)

    def __ne__(self, operand: object) -> Any:
        """Return the elementwise comparison."""
        return binary_method(operator.ne)(self, operand)

    def __neg__(self) -> Traced:
        """Return minus the array."""
        return Traced(self.trace, -self.expression, self.rank, self.names)

    def __abs__(self) -> Traced:
        """Return the absolute value."""
        return Traced(self.trace, magnitude(self.expression), self.rank, self.names)

    def __pos__(self) -> Traced:
        """Return the array."""
        return self

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Refuse NumPy's functions, but for an operator with a NumPy number on the left."""
        if options.get("out") is not None:
            self.trace.refuse(f"np.{function.__name__} with out=", "make a new array, ")
        if method != "__call__" or function.__name__ not in UFUNCS or isinstance(inputs[0], Traced):
            self.trace.refuse(
                f"np.{function.__name__}", f"use xp.{function.__name__} if there is one, "
            )
        return UFUNCS[function.__name__](self.trace.array(inputs[0], self), inputs[1])

    def __getitem__(self, index: object) -> Traced:
        """Add an axis, or take the entry of one action."""
        # x[:, None], x[..., None] and x[:, 2]; all else would mix steps.
        match index:
            case (slice() | EllipsisType(), None) if (
                index[0] in (ALL, ...) and self.rank is Rank.STEP
            ):
                return Traced(self.trace, self.expression, Rank.COLUMN, self.names)
            case (slice(), int() as action) if index[0] == ALL:
                if self.rank is Rank.STEP:
                    self.trace.as_rows(self.names, f"[:, {action}]")
                return Traced(self.trace, OfAction(self.expression, action), Rank.STEP, self.names)
            case _:
                return self.trace.refuse(f"the index {index} of {self}", "use xp.take_last, ")


# The index `:`.
ALL = slice(None)


class TracedCondition(Node):
    """A comparison of arrays."""

    def __init__(
        self, trace: Trace, expression: Expression, rank: Rank, names: frozenset[str]
    ) -> None:
        """Set the condition's parts; see `Traced`."""
        self.trace, self.rank, self.names = trace, rank, names
        # A relation of two numbers is Python's bool.
        self.expression = sympy.sympify(expression)

    def _refuse_number(self, *_operands: object) -> NoReturn:
        self.trace.refuse("a comparison used as a number", "choose with xp.where, ")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = (
        _refuse_number
    )

    def __and__(self, operand: object) -> TracedCondition:
        """Return the condition that both hold."""
        return self._combine(operand, sympy.And)

    def __or__(self, operand: object) -> TracedCondition:
        """Return the condition that one of them holds."""
        return self._combine(operand, sympy.Or)

    def __invert__(self) -> TracedCondition:
        """Return the opposite condition."""
        return TracedCondition(self.trace, sympy.Not(self.expression), self.rank, self.names)

    def _combine(self, operand: object, operation: Callable[..., Any]) -> TracedCondition:
        # An array beside a condition is a signal of flags.
        if isinstance(operand, Traced):
            self.trace.flags |= operand.names
            operand = operand != 0
        if not isinstance(operand, TracedCondition):
            sign = "&" if operation is sympy.And else "|"
            self.trace.refuse(
                f"`{sign}` of {self} and {type(operand).__name__}",
                "combine comparisons of arrays, ",
            )
        rank, names = self.trace.rank(self, operand), self.names | operand.names
        expression = operation(self.expression, operand.expression)
        return TracedCondition(self.trace, expression, rank, names)
