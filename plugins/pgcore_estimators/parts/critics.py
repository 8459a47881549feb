"""Losses of a critic: squared, Huber's, and clipped around the recorded value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pgcore.parts import CriticLoss
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Positive, choice
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["ClippedValue", "Huber", "Squared"]


class SquaredLoss(CriticLoss):
    """A loss of squared errors.

    Attributes:
        half: Whether the square is halved.
    """

    half: bool

    # Methods, not functions of the module, which compiled code would look up at each call.

    def _square(self, error: Native) -> Native:
        """Return [B] squares, or their halves."""
        # In this order XLA's program of 65,536 steps takes 6 % less time.
        return 0.5 * (error * error) if self.half else error * error

    def _square_slope(self, error: Array) -> Array:
        """Return [B] the derivatives of `_square`."""
        return error if self.half else 2.0 * error


@dataclass(frozen=True)
class Squared(SquaredLoss):
    """(V - R)^2 / 2, or without the half.

    Attributes:
        half: Whether the square is halved.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    half: Flag = True
    name = "squared"

    def term(self, xp: ArrayNamespace, value: Native, return_: Native, old_value: Native) -> Native:
        """See `CriticLoss.term`."""
        return self._square(value - return_)

    def slope(self, value: Array, return_: Array, old_value: Any) -> Array:
        """See `CriticLoss.slope`."""
        return self._square_slope(value - return_)


@dataclass(frozen=True)
class Huber(CriticLoss):
    """e^2 / 2 of an error e = V - R within the bound, and bound (|e| - bound / 2) beyond it.

    Attributes:
        bound: Of the error, reward units.
        scaled: Whether the loss is divided by the bound, as in PyTorch's smooth L1 loss; its slope
            is then at most 1.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    bound: Positive = 1.0
    scaled: Flag = False
    name = "huber"
    sources = ("Huber 1964, Annals of Mathematical Statistics 35",)

    def term(self, xp: ArrayNamespace, value: Native, return_: Native, old_value: Native) -> Native:
        """See `CriticLoss.term`."""
        error = value - return_
        # Within the bound both are the error, beyond it the held one is the bound.
        held = xp.clip(error, -self.bound, self.bound)
        return held * (error - 0.5 * held) / (self.bound if self.scaled else 1.0)

    def slope(self, value: Array, return_: Array, old_value: Any) -> Array:
        """See `CriticLoss.slope`."""
        held = np.clip(value - return_, -self.bound, self.bound)
        return held / (self.bound if self.scaled else 1.0)


@dataclass(frozen=True)
class ClippedValue(SquaredLoss):
    """The squared error of V held within `clip` of the recorded value, or the larger of the two.

    A value at its bound, and a tie of the two errors, count as unclipped.

    Attributes:
        clip: Of the value's move from the recorded one, reward units; None holds no value.
        take: "larger" for the larger of the losses of V and of the held V, "held" for the latter.
        half: Whether the square is halved.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    clip: Positive | None = 0.2
    take: Annotated[str, choice("larger", "held")] = "larger"
    half: Flag = True
    name = "clipped"
    sources = ("OpenAI Baselines, ppo2 (the larger loss)",)

    @property
    def reads_old_value(self) -> bool:
        """See `CriticLoss`."""
        return self.clip is not None

    def term(self, xp: ArrayNamespace, value: Native, return_: Native, old_value: Native) -> Native:
        """See `CriticLoss.term`."""
        return self._square(self._error(xp, value, return_, old_value))

    def slope(self, value: Array, return_: Array, old_value: Any) -> Array:
        """See `CriticLoss.slope`: a held value is constant in V."""
        error = value - return_
        if self.clip is None:
            return self._square_slope(error)
        free = np.abs(value - old_value) <= self.clip
        if self.take == "larger":
            free |= np.abs(error) >= np.abs(self._error(np, value, return_, old_value))
        return np.where(free, self._square_slope(error), 0.0)

    def _error(self, xp: Any, value: Native, return_: Native, old_value: Native) -> Native:
        """Return the held V - R, or V - R where that is taken and at least as large."""
        error = value - return_
        if self.clip is None:
            return error
        moved = value - old_value
        # A choice, not a clip: its derivative at the bound is the same in every framework.
        limited = xp.where(moved > 0, old_value + self.clip, old_value - self.clip)
        held = xp.where(xp.abs(moved) <= self.clip, value, limited) - return_
        if self.take == "held":
            return held
        # The larger of two squares is the square of the error that is larger in magnitude.
        return xp.where(xp.abs(error) >= xp.abs(held), error, held)
