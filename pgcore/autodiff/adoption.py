"""What backends make sure of when they run a network of the user's own: errors that name it, and outputs that are one observation's each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from pgcore.errors import BatchError, SpecError
from pgcore.validation.arrays import Array

__all__ = ["EVALUATION", "Probe", "refusal", "refused_derivative"]

Forward = Callable[[Array], tuple[Array, Array | None]]

# Advice where `Backend.adopt` can do it.
EVALUATION = "evaluation_mode=True switches off what is for training"

# At most so many steps are tried out, and so many batches, where nothing follows from the first ones.
STEPS, BATCHES = 64, 16


class Probe:
    """Tries a network out on the first observations it is given: the same ones again, with half of the others replaced, and half alone.

    One observation shows whether outputs repeat. Whether they are one observation's alone takes two that differ, and outputs that do:
    a network that starts from zeros gives all the same.
    """

    def __init__(
        self,
        network: str,
        preserved: Callable[[], AbstractContextManager[None]] = nullcontext,
        mode: Callable[[], object] = bool,
        advice: str = "",
    ) -> None:
        """Keep what to try out.

        Args:
            network: What to call it.
            preserved: Returns the context that puts back what running it changes.
            mode: Returns the mode that it is in; in another one it is tried out again.
            advice: What to do beside, for the end of a message.
        """
        self._network = network
        self._preserved = preserved
        self._advice = advice and f", {advice}"
        self._mode_of = mode
        self._mode = mode()
        self._repeats = False
        self._left = BATCHES

    def __call__(self, forward: Forward, observations: Array) -> None:
        """Raise SpecError unless outputs repeat and are one observation's alone, as far as these observations tell.

        Args:
            forward: The network; [N, ...] outputs and values.
            observations: [N, ...] as the network takes them.
        """
        mode = self._mode_of()
        if mode != self._mode:
            self._mode, self._repeats, self._left = mode, False, BATCHES
        if not self._left or (self._repeats and len(observations) < 2):
            return
        rows = observations[:STEPS]
        with self._preserved():
            conclusive = self._tried(forward, rows)
        self._repeats = True
        if conclusive:
            self._left = 0
        elif len(rows) > 1:
            self._left -= 1

    def _tried(self, forward: Forward, rows: Array) -> bool:
        """Return whether there is nothing left to try out."""
        found = parts(forward(rows))
        step = first_difference(parts(forward(rows)), found)
        if step is not None:
            raise SpecError(
                f"{self._network}: expected the same outputs whenever it is given the same observations, got others at a second call, first at "
                f"step {step}; let it draw no random numbers and keep nothing between calls{self._advice}"
            )
        flat = rows.reshape(len(rows), -1)
        others = np.flatnonzero((flat != flat[0]).any(axis=1))
        if not len(others):
            return False
        # The second half becomes one observation, which is not what all of it was already.
        half = len(rows) // 2
        source = 0 if others[-1] >= half else int(others[0])
        chosen = np.append(np.arange(half), np.full(len(rows) - half, source))
        step = first_difference(parts(forward(rows[chosen])), [part[chosen] for part in found])
        if (
            step is None
        ):  # what depends on their number is left; other shapes are rounded in other ways
            step = first_difference(
                parts(forward(rows[:half])), [part[:half] for part in found], 1 / 3
            )
        if step is not None:
            raise SpecError(
                f"{self._network}: expected outputs that depend on one observation alone, got others at step {step} where other steps of the batch "
                f"changed; normalise over features or by constants{self._advice}"
            )
        return bool((found[0] != found[0][0]).any())


def refusal(network: str, observations: Any, error: Exception, reason: str = "") -> BatchError:
    """Return what to raise where a network fails on observations, native or not; the reason is what the error says, unless given."""
    shape = ", ".join(map(str, ("B", *observations.shape[1:])))
    dtype = getattr(observations.dtype, "name", observations.dtype)
    return BatchError(
        f"{network}: expected a network that takes observations [{shape}] {dtype}, got {type(error).__name__} ({reason or first_line(error)}); "
        "check the observations' shape and dtype, and the network"
    )


def refused_derivative(network: str, error: Exception) -> SpecError:
    """Return what to raise where a network has outputs that its framework cannot differentiate."""
    return SpecError(
        f"{network}: expected outputs that can be differentiated, got {type(error).__name__} ({first_line(error)}); write to no array in place, "
        "and detach none"
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), "")


def parts(found: tuple[Array, Array | None]) -> list[Array]:
    """Return outputs and values as [N, K] arrays."""
    return [part.reshape(len(part), -1) for part in found if part is not None]


def first_difference(found: list[Array], expected: list[Array], power: float = 1 / 2) -> int | None:
    """Return the first row that differs by more than rounding can explain, None where there is none; NaN is another's business.

    Args:
        found: [N, K] arrays.
        expected: The same.
        power: Of the dtype's resolution, for what is allowed relative to the largest number.
    """
    for own, other in zip(found, expected, strict=True):
        finite = np.isfinite(own) & np.isfinite(other)
        allowed = float(np.finfo(other.dtype).eps) ** power * float(
            np.abs(other[finite]).max(initial=0.0)
        )
        with np.errstate(invalid="ignore"):
            apart = (finite & (np.abs(own - other) > allowed)).any(axis=1)
        if apart.any():
            return int(apart.argmax())
    return None
