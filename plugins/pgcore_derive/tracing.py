"""What a surrogate is run on to see what it computes: arrays that remember their expression."""

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
from pgcore_derive.functions import OfAction, RowSymbol, symbol
from pgcore_derive.library import Expression, sympy

__all__ = ["NeedsRows", "Rank", "Trace", "Traced", "TracedCondition"]


def over(x: Any, y: Any) -> Any:
    """Return a quotient."""
    return x / y


def to_the(x: Any, y: Any) -> Any:
    """Return a power."""
    return x**y


class Rank(Enum):
    """The shape of an array."""

    STEP = "[B]"
    COLUMN = "[B, 1]"
    ROW = "[B, A]"


class NeedsRows(Exception):  # noqa: N818 - no error: a surrogate shows by how it uses a signal what shape that has
    """Signals that were taken for [B] are used as [B, A]."""

    def __init__(self, names: frozenset[str]) -> None:
        """Keep the names."""
        super().__init__(*names)
        self.names = names


class Trace:
    """One run of a surrogate on symbols.

    Attributes:
        where: How errors name the surrogate.
        rows: The keywords that are [B, A].
        signals: The keywords whose shape only their use tells.
        indices: The signals that were used as indices.
        flags: The signals that were used as conditions.
    """

    def __init__(self, where: str, rows: frozenset[str], signals: frozenset[str]) -> None:
        """Keep all."""
        self.where, self.rows, self.signals = where, rows, signals
        self.indices: set[str] = set()
        self.flags: set[str] = set()

    def given(self, name: str) -> Traced:
        """Return a quantity or signal."""
        row = name in self.rows
        expression = symbol(name, RowSymbol) if row else symbol(name)
        return Traced(self, expression, Rank.ROW if row else Rank.STEP, frozenset([name]), name)

    def refuse(self, operation: str, advice: str = "", cause: Exception | None = None) -> NoReturn:
        """Raise the error for an operation that cannot be differentiated."""
        raise EstimatorError(
            f"{self.where}: expected operations that can be differentiated symbolically, got {operation}; {advice}or write `cotangents`"
        ) from cause

    def rank(self, *arrays: Traced | TracedCondition) -> Rank:
        """Return the shape that arrays have together; raise where they do not go together."""
        ranks = {array.rank for array in arrays}
        if len(ranks) < 2 or Rank.STEP not in ranks:
            return Rank.ROW if Rank.ROW in ranks else arrays[0].rank
        names = frozenset[str]().union(
            *(array.names for array in arrays if array.rank is Rank.STEP)
        )
        return self.as_rows(
            names, f" beside {Rank.ROW.value if Rank.ROW in ranks else Rank.COLUMN.value}"
        )

    def as_rows(self, names: frozenset[str], operation: str) -> NoReturn:
        """Start again with these signals as [B, A]; raise where they are no signals of unknown shape."""
        if names and names <= self.signals - self.rows:
            raise NeedsRows(names)
        self.refuse(
            f"{', '.join(sorted(names)) or 'a number'} of shape [B]{operation}",
            "add an axis with x[:, None], ",
        )

    def number(self, value: object) -> Expression | None:
        """Return a Python or NumPy number as SymPy's, or None for anything else; whole floats are integers."""
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            return None
        plain = float(value)
        if math.isnan(plain):
            self.refuse("NaN", "use finite numbers, ")
        if math.isinf(plain):
            return sympy.oo if plain > 0 else -sympy.oo
        return sympy.Integer(int(plain)) if plain.is_integer() else sympy.Float(plain)

    def array(self, value: object, like: Traced | TracedCondition) -> Traced:
        """Return a number as an array of no shape of its own, and a traced array as it is."""
        if isinstance(value, Traced):
            return value
        if isinstance(value, TracedCondition):
            self.refuse("a comparison used as a number", "choose with xp.where, ")
        number = self.number(value)
        if number is None:
            self.refuse(f"{type(value).__name__} beside {like}", "pass arrays as signals, ")
        return Traced(self, number, like.rank, like.names)


class Node:
    """What arrays and conditions refuse alike, each with what to do instead."""

    trace: Trace
    rank: Rank
    names: frozenset[str]
    expression: Expression

    def __bool__(self) -> bool:  # noqa: PLE0304 - it never returns
        """Refuse: what is chosen would depend on the data."""
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

    def __array__(self, *arguments: object, **named: object) -> NoReturn:
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


def binary(
    operation: Callable[[Any, Any], Any], *, swapped: bool = False
) -> Callable[[Any, Any], Any]:
    """Return the method for an arithmetic operator or a comparison."""

    def method(self: Traced, other: object) -> Any:
        right = self.trace.array(other, self)
        rank = self.trace.rank(self, right)
        first, second = (right, self) if swapped else (self, right)
        kind = TracedCondition if operation in COMPARISONS else Traced
        result = COMPARISONS.get(operation, operation)(first.expression, second.expression)
        return kind(self.trace, result, rank, self.names | right.names)

    return method


def in_place(operation: Callable[[Any, Any], Any], sign: str) -> Callable[[Any, Any], Any]:
    """Return the method for an augmented assignment: a new array, except where it would change what the surrogate was given."""

    def method(self: Traced, other: object) -> Any:
        if self.given is not None:
            self.trace.refuse(
                f"{self.given} {sign}=", f"write {self.given} = {self.given} {sign} ..., "
            )
        return operation(self, other)

    return method


def refused(sign: str) -> Callable[..., NoReturn]:
    """Return the method for an operator that has no derivative, or is not every framework's."""

    def method(self: Node, *_others: object) -> NoReturn:
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
# What NumPy's own scalars call when they stand on the left.
UFUNCS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": over,
    "power": to_the,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}


class Traced(Node):
    """An array of which only the shape and the expression are known."""

    def __init__(
        self,
        trace: Trace,
        expression: Expression,
        rank: Rank,
        names: frozenset[str],
        given: str | None = None,
    ) -> None:
        """Keep all; `names` are the keywords that its shape comes from, `given` the keyword that it is."""
        self.trace, self.expression, self.rank, self.names, self.given = (
            trace,
            expression,
            rank,
            names,
            given,
        )

    __add__, __radd__ = binary(operator.add), binary(operator.add, swapped=True)
    __sub__, __rsub__ = binary(operator.sub), binary(operator.sub, swapped=True)
    __mul__, __rmul__ = binary(operator.mul), binary(operator.mul, swapped=True)
    __truediv__, __rtruediv__ = binary(over), binary(over, swapped=True)
    __pow__, __rpow__ = binary(to_the), binary(to_the, swapped=True)
    __lt__, __le__ = binary(operator.lt), binary(operator.le)
    __gt__, __ge__ = binary(operator.gt), binary(operator.ge)
    __iadd__, __isub__ = in_place(operator.add, "+"), in_place(operator.sub, "-")
    __imul__, __itruediv__ = in_place(operator.mul, "*"), in_place(over, "/")
    __floordiv__, __rfloordiv__, __ifloordiv__ = refused("//"), refused("//"), refused("//=")
    __mod__, __rmod__, __imod__ = refused("%"), refused("%"), refused("%=")
    __matmul__, __rmatmul__ = refused("@"), refused("@")
    __round__, __abs__ = refused("round"), refused("abs")
    __and__, __or__, __invert__, __ipow__ = refused("&"), refused("|"), refused("~"), refused("**=")
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> Any:
        """Compare, as arrays do."""
        return binary(operator.eq)(self, other)

    def __ne__(self, other: object) -> Any:
        """Compare, as arrays do."""
        return binary(operator.ne)(self, other)

    def __neg__(self) -> Traced:
        """Return minus the array."""
        return Traced(self.trace, -self.expression, self.rank, self.names)

    def __pos__(self) -> Traced:
        """Return the array."""
        return self

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **named: Any) -> Any:
        """Refuse NumPy's functions; a NumPy number on the left of an operator is welcome."""
        if named.get("out") is not None:
            self.trace.refuse(f"np.{function.__name__} with out=", "make a new array, ")
        if method != "__call__" or function.__name__ not in UFUNCS or isinstance(inputs[0], Traced):
            self.trace.refuse(
                f"np.{function.__name__}", f"use xp.{function.__name__} if there is one, "
            )
        return UFUNCS[function.__name__](self.trace.array(inputs[0], self), inputs[1])

    def __getitem__(self, index: object) -> Traced:
        """Add an axis, or take the entry of one action."""
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


ALL = slice(None)


class TracedCondition(Node):
    """A comparison of arrays."""

    def __init__(
        self, trace: Trace, expression: Expression, rank: Rank, names: frozenset[str]
    ) -> None:
        """Keep all."""
        self.trace, self.expression, self.rank, self.names = (
            trace,
            sympy.sympify(expression),
            rank,
            names,
        )

    def _number(self, *_others: object) -> NoReturn:
        self.trace.refuse("a comparison used as a number", "choose with xp.where, ")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = _number

    def __and__(self, other: object) -> TracedCondition:
        """Return where both hold."""
        return self._with(other, sympy.And)

    def __or__(self, other: object) -> TracedCondition:
        """Return where one of them holds."""
        return self._with(other, sympy.Or)

    def __invert__(self) -> TracedCondition:
        """Return where it does not hold."""
        return TracedCondition(self.trace, sympy.Not(self.expression), self.rank, self.names)

    def _with(self, other: object, operation: Callable[..., Any]) -> TracedCondition:
        if isinstance(other, Traced):
            self.trace.flags |= other.names
            other = other != 0
        if not isinstance(other, TracedCondition):
            sign = "&" if operation is sympy.And else "|"
            self.trace.refuse(
                f"`{sign}` of {self} and {type(other).__name__}", "combine comparisons of arrays, "
            )
        rank = self.trace.rank(self, other)
        return TracedCondition(
            self.trace, operation(self.expression, other.expression), rank, self.names | other.names
        )
