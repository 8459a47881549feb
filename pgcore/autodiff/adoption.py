"""Trials of a user's own network: errors that name it, and outputs of one observation each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pgcore.autodiff.inputs import arrays_in, each
from pgcore.errors import BatchError, SpecError
from pgcore.validation.arrays import Array

__all__ = ["EVALUATION", "STEPS", "Probe", "refusal", "refused_derivative"]

Forward = Callable[[Any], tuple[Array, Array | None]]

# Advice of backends whose `adopt` can do it.
EVALUATION = "evaluation_mode=True switches off what is for training"

# Limits of a trial: steps of a batch, and inconclusive batches.
STEPS, BATCHES = 64, 16


@dataclass(eq=False)
class Probe:
    """A trial of a network on the first observations that it gets.

    They are run again, then with half of them replaced, then half alone. One observation shows whether
    outputs repeat. Whether they depend on it alone takes two that differ, and outputs that differ.
    """

    network: str  # its name in messages
    preserved: Callable[[], AbstractContextManager[None]] = nullcontext  # undoes side effects
    mode: Callable[[], object] = bool  # such as training; another mode means another trial
    advice: str = ""  # for the end of a message
    _tried: object = field(default=None, init=False)  # the mode that the next two belong to
    _repeats: bool = field(default=False, init=False)
    _batches_left: int = field(default=BATCHES, init=False)

    @property
    def finished(self) -> bool:
        """Whether a call in the present mode would try nothing."""
        return not self._batches_left and self.mode() == self._tried

    def __call__(self, forward: Forward, observations: Any) -> None:
        """Raise SpecError unless [N, ...] outputs repeat and depend on one observation alone."""
        # Another mode is another function of the observations.
        mode = self.mode()
        if mode != self._tried:
            self._tried, self._repeats, self._batches_left = mode, False, BATCHES
        steps = len(arrays_in(observations)[0])
        if not self._batches_left or (self._repeats and steps < 2):
            return
        # Three more runs of the network: few rows keep them cheap.
        with self.preserved():
            conclusive = self._try(forward, each(lambda array: array[:STEPS], observations))
        self._repeats = True
        if conclusive:
            self._batches_left = 0
        elif steps > 1:
            self._batches_left -= 1

    def _try(self, forward: Forward, rows: Any) -> bool:
        """Return whether the trial was conclusive; raise SpecError where it failed."""
        count = len(arrays_in(rows)[0])
        advice = self.advice and f", {self.advice}"
        reference = parts(forward(rows))
        step = first_difference(parts(forward(rows)), reference)
        if step is not None:
            raise SpecError(
                f"{self.network}: expected the same outputs whenever observations are the same, "
                f"got others at a second call, first at step {step}; "
                f"draw no random numbers and keep nothing between calls{advice}"
            )
        differ = np.zeros(count, np.bool_)
        for array in arrays_in(rows):
            differ |= (array != array[0]).reshape(count, -1).any(axis=1)
        different = np.flatnonzero(differ)
        if not len(different):
            return False
        # The second half becomes one observation, which is not what all of it was already.
        half = count // 2
        source = 0 if different[-1] >= half else int(different[0])
        index = np.append(np.arange(half), np.full(count - half, source))
        replaced = each(lambda array: array[index], rows)
        step = first_difference(parts(forward(replaced)), [part[index] for part in reference])
        if step is None:
            # A dependence on their number remains. Other shapes round in other ways: a wider bound.
            halves = [part[:half] for part in reference]
            shown = each(lambda array: array[:half], rows)
            step = first_difference(parts(forward(shown)), halves, 1 / 3)
        if step is not None:
            raise SpecError(
                f"{self.network}: expected outputs that depend on one observation alone, got others "
                f"at step {step} where other steps of the batch changed; "
                f"normalise over features or by constants{advice}"
            )
        return bool((reference[0] != reference[0][0]).any())


def refusal(network: str, observations: Any, error: Exception, reason: str = "") -> BatchError:
    """Return the error for a network that fails on observations.

    Args:
        network: Its name.
        observations: [B, ...], NumPy's or native, or a dict of them.
        error: The framework's.
        reason: Stands for the error's first line.
    """
    reason = reason or str(error).strip().partition("\n")[0]
    return BatchError(
        f"{network}: expected a network that takes observations {each(kind, observations)}, got "
        f"{type(error).__name__} ({reason}); check the observations' shape and dtype, and the network"
    )


def kind(array: Any) -> str:
    """Return the shape and dtype of [B, ...], NumPy's or native."""
    shape = ", ".join(map(str, ("B", *array.shape[1:])))
    return f"[{shape}] {getattr(array.dtype, 'name', array.dtype)}"


def refused_derivative(network: str, error: Exception) -> SpecError:
    """Return the error for a network whose outputs its framework cannot differentiate."""
    reason = str(error).strip().partition("\n")[0]
    return SpecError(
        f"{network}: expected outputs that can be differentiated, got {type(error).__name__} "
        f"({reason}); write to no array in place, and detach none"
    )


def parts(results: tuple[Array, Array | None]) -> list[Array]:
    """Return outputs and values as [N, K] arrays."""
    return [part.reshape(len(part), -1) for part in results if part is not None]


def first_difference(arrays: list[Array], reference: list[Array], power: float = 0.5) -> int | None:
    """Return the first row that differs by more than rounding explains, or None; NaN is passed over."""
    for actual, expected in zip(arrays, reference, strict=True):
        finite = np.isfinite(actual) & np.isfinite(expected)
        # The dtype's resolution to this power, relative to the largest number.
        resolution = float(np.finfo(expected.dtype).eps) ** power
        bound = resolution * float(np.abs(expected[finite]).max(initial=0.0))
        apart = (finite & ~np.isclose(actual, expected, rtol=0, atol=bound)).any(axis=1)
        if apart.any():
            return int(apart.argmax())
    return None
