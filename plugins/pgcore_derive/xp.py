"""The array namespace `xp` over traced arrays, with `ArrayNamespace`'s subgradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from pgcore_derive.functions import (
    ELEMENTWISE,
    Choose,
    EpisodeMean,
    EpisodeSum,
    LogSumExp,
    OfAction,
    RowSum,
)
from pgcore_derive.tracing import Rank, Trace, Traced, TracedCondition

__all__ = ["SymbolicNamespace"]


class SymbolicNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`."""

    def __init__(self, trace: Trace) -> None:
        """Keep the trace, for errors."""
        self.trace = trace

    def __getattr__(self, name: str) -> Callable[[Any], Traced]:
        """Return an elementwise function; raise if the name is unknown."""
        if name not in ELEMENTWISE:
            methods = [method for method in vars(SymbolicNamespace) if not method.startswith("_")]
            self.trace.refuse(f"xp.{name}", f"use {', '.join(sorted([*ELEMENTWISE, *methods]))}, ")

        def function(x: Traced) -> Traced:
            expression = ELEMENTWISE[name](self._traced(name, x).expression)
            return Traced(self.trace, expression, x.rank, x.names)

        return function

    def maximum(self, x: Any, y: Any) -> Traced:
        """See `ArrayNamespace.maximum`."""
        # A number on the left has no traced comparison, so the right operand compares. A tie is x.
        first = self._traced("maximum", x, y)
        return self.where(first >= y if isinstance(x, Traced) else y <= x, x, y)

    def minimum(self, x: Any, y: Any) -> Traced:
        """See `ArrayNamespace.minimum`."""
        first = self._traced("minimum", x, y)
        return self.where(first <= y if isinstance(x, Traced) else y >= x, x, y)

    def clip(self, x: Traced, low: Any, high: Any) -> Traced:
        """See `ArrayNamespace.clip`; the derivative at a bound is 1."""
        self._traced("clip", x)
        return self.where(x < low, low, self.where(x > high, high, x))

    def relu(self, x: Traced) -> Traced:
        """See `ArrayNamespace.relu`; the derivative at 0 is 0."""
        self._traced("relu", x)
        return self.where(x > 0, x, 0.0)

    def where(self, condition: Any, x: Any, y: Any) -> Traced:
        """See `ArrayNamespace.where`."""
        # An array as condition is a signal of flags.
        if isinstance(condition, Traced):
            self.trace.flags |= condition.names
            condition = condition != 0
        if not isinstance(condition, TracedCondition):
            self.trace.refuse(
                f"xp.where over {type(condition).__name__}",
                "compare arrays, or choose with a Python `if`, ",
            )
        a, b = self.trace.array(x, condition), self.trace.array(y, condition)
        branches = (self.trace.operand(array.expression) for array in (a, b))
        choice = Choose(condition.expression, *branches)
        rank, names = self.trace.rank(condition, a, b), condition.names | a.names | b.names
        return Traced(self.trace, choice, rank, names)

    def sum(self, x: Traced, axis: int) -> Traced:
        """See `ArrayNamespace.sum`."""
        self._actions_axis("sum", x, axis)
        # The sum over an axis of length 1 is the entry.
        total = x.expression if x.rank is Rank.COLUMN else RowSum(x.expression)
        return Traced(self.trace, total, Rank.STEP, x.names)

    def log_softmax(self, x: Traced, axis: int) -> Traced:
        """See `ArrayNamespace.log_softmax`."""
        self._actions_axis("log_softmax", x, axis)
        return Traced(self.trace, x.expression - LogSumExp(x.expression), x.rank, x.names)

    def take_last(self, x: Traced, index: Traced) -> Traced:
        """See `ArrayNamespace.take_last`."""
        self._actions_axis("take_last", x, 1)
        self.trace.indices |= index.names
        entry = OfAction(x.expression, index.expression)
        return Traced(self.trace, entry, Rank.STEP, x.names | index.names)

    def broadcast_to(self, x: Traced, like: Traced) -> Traced:
        """See `ArrayNamespace.broadcast_to`."""
        self._traced("broadcast_to", x, like)
        return Traced(self.trace, x.expression, self.trace.rank(x, like), x.names | like.names)

    def full_like(self, x: Traced, value: float) -> Traced:
        """See `ArrayNamespace.full_like`."""
        return self.trace.array(value, self._traced("full_like", x))

    def episode_sum(self, x: Traced, episode: Traced) -> Traced:
        """See `ArrayNamespace.episode_sum`."""
        return self._over_episode(EpisodeSum, x, episode)

    def episode_mean(self, x: Traced, episode: Traced) -> Traced:
        """See `ArrayNamespace.episode_mean`."""
        return self._over_episode(EpisodeMean, x, episode)

    def _over_episode(self, function: Any, x: Traced, episode: Traced) -> Traced:
        # The compiled sum is over runs of equal episode numbers, which only this signal has.
        is_step = self._traced("episode_sum", x).rank is Rank.STEP
        if not is_step or self._traced("episode_sum", episode).keyword != "episode":
            self.trace.refuse(
                f"a sum over episodes of {x} by {episode}",
                "pass an array of shape [B] and the signal `episode`, ",
            )
        return Traced(self.trace, function(x.expression, episode.expression), x.rank, x.names)

    def concatenate(self, arrays: object, axis: int) -> NoReturn:
        """Refuse: a concatenated row has more entries than there are actions."""
        self.trace.refuse("xp.concatenate", "sum the parts separately, ")

    def matmul(self, x: object, y: object) -> NoReturn:
        """Refuse: a product of matrices is a network's, not a step's."""
        self.trace.refuse("xp.matmul", "leave it to the network, ")

    def convolve(self, x: object, kernel: object, stride: int) -> NoReturn:
        """Refuse: a product with windows of images is a network's, not a step's."""
        self.trace.refuse("xp.convolve", "leave it to the network, ")

    def flatten(self, x: object) -> NoReturn:
        """Refuse: a step has no axes beside its actions."""
        self.trace.refuse("xp.flatten", "leave it to the network, ")

    def take_rows(self, x: object, index: object) -> NoReturn:
        """Refuse: a row of a table is a network's output, not a step's quantity."""
        self.trace.refuse("xp.take_rows", "leave it to the network, ")

    def first_largest(self, x: object) -> NoReturn:
        """Refuse: the index of the largest entry has no derivative; `signals` may hold it."""
        self.trace.refuse("xp.first_largest", "choose in `signals`, ")

    def _traced(self, name: str, *arrays: object) -> Traced:
        """Return the first traced array; raise if there is none."""
        for array in arrays:
            if isinstance(array, Traced):
                return array
        kinds = ", ".join(type(array).__name__ for array in arrays)
        return self.trace.refuse(f"xp.{name} of {kinds}", "pass arrays, ")

    def _actions_axis(self, name: str, x: Traced, axis: int) -> None:
        """Raise unless the axis is that of the actions."""
        # A signal that was assumed to be [B] may in truth be [B, A].
        if self._traced(name, x).rank is Rank.STEP and axis == 1:
            self.trace.as_rows(x.names, f" in xp.{name}")
        if axis not in (1, -1) or x.rank is Rank.STEP:
            self.trace.refuse(
                f"xp.{name} over the batch's steps",
                "a step's term depends on that step alone: pass axis=1, or a signal, ",
            )
