"""The array namespace `xp` over traced arrays, with the subgradients that `pgcore.xp.namespace.ArrayNamespace` gives."""

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
        """Return an elementwise function; raise where there is none of that name."""
        if name not in ELEMENTWISE:
            known = sorted(
                [
                    *ELEMENTWISE,
                    *(name for name in vars(SymbolicNamespace) if not name.startswith("_")),
                ]
            )
            self.trace.refuse(f"xp.{name}", f"use {', '.join(known)}, ")

        def function(x: Traced) -> Traced:
            return Traced(
                self.trace, ELEMENTWISE[name](self._traced(name, x).expression), x.rank, x.names
            )

        return function

    def maximum(self, x: Any, y: Any) -> Traced:
        """See `ArrayNamespace.maximum`."""
        return self.where(
            self._traced("maximum", x, y) >= y if isinstance(x, Traced) else y <= x, x, y
        )

    def minimum(self, x: Any, y: Any) -> Traced:
        """See `ArrayNamespace.minimum`."""
        return self.where(
            self._traced("minimum", x, y) <= y if isinstance(x, Traced) else y >= x, x, y
        )

    def clip(self, x: Traced, low: Any, high: Any) -> Traced:
        """See `ArrayNamespace.clip`."""
        self._traced("clip", x)
        return self.where(x < low, low, self.where(x > high, high, x))

    def relu(self, x: Traced) -> Traced:
        """See `ArrayNamespace.relu`."""
        self._traced("relu", x)
        return self.where(x > 0, x, 0.0)

    def where(self, condition: Any, x: Any, y: Any) -> Traced:
        """See `ArrayNamespace.where`."""
        if isinstance(condition, Traced):
            self.trace.flags |= condition.names
            condition = condition != 0
        if not isinstance(condition, TracedCondition):
            self.trace.refuse(
                f"xp.where over {type(condition).__name__}",
                "compare arrays, or choose with a Python `if`, ",
            )
        a, b = self.trace.array(x, condition), self.trace.array(y, condition)
        chosen = Choose(condition.expression, a.expression, b.expression)
        return Traced(
            self.trace,
            chosen,
            self.trace.rank(condition, a, b),
            condition.names | a.names | b.names,
        )

    def sum(self, x: Traced, axis: int) -> Traced:
        """See `ArrayNamespace.sum`."""
        self._actions_axis("sum", x, axis)
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
        return Traced(
            self.trace, OfAction(x.expression, index.expression), Rank.STEP, x.names | index.names
        )

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
        if (
            self._traced("episode_sum", x).rank is not Rank.STEP
            or self._traced("episode_sum", episode).given != "episode"
        ):
            self.trace.refuse(
                f"a sum over episodes of {x} by {episode}",
                "pass an array of shape [B] and the signal `episode`, ",
            )
        return Traced(self.trace, function(x.expression, episode.expression), x.rank, x.names)

    def concatenate(self, arrays: object, axis: int) -> NoReturn:
        """Refuse: an array of another number of actions has no entry for each of them."""
        self.trace.refuse("xp.concatenate", "sum the parts by themselves, ")

    def matmul(self, x: object, y: object) -> NoReturn:
        """Refuse: a product of matrices is a network's, not a step's."""
        self.trace.refuse("xp.matmul", "leave it to the network, ")

    def take_rows(self, x: object, index: object) -> NoReturn:
        """Refuse: a row of a table is a network's output, not a step's quantity."""
        self.trace.refuse("xp.take_rows", "leave it to the network, ")

    def first_largest(self, x: object) -> NoReturn:
        """Refuse: which entry is the largest is not differentiated, and belongs into the signals."""
        self.trace.refuse("xp.first_largest", "choose in `signals`, ")

    def _traced(self, name: str, *arrays: object) -> Traced:
        """Return the first of the arrays that is one."""
        for array in arrays:
            if isinstance(array, Traced):
                return array
        return self.trace.refuse(
            f"xp.{name} of {', '.join(type(array).__name__ for array in arrays)}", "pass arrays, "
        )

    def _actions_axis(self, name: str, x: Traced, axis: int) -> None:
        """Raise unless the axis is that of the actions."""
        if self._traced(name, x).rank is Rank.STEP and axis == 1:
            self.trace.as_rows(x.names, f" in xp.{name}")
        if axis not in (1, -1) or x.rank is Rank.STEP:
            self.trace.refuse(
                f"xp.{name} over the batch's steps",
                "a step's term depends on that step alone: pass axis=1, or a signal, ",
            )
