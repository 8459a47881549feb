"""Gradients of a device whose finiteness has not been read, so that no gradient waits for the device."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from pgcore.errors import NonFiniteError
from pgcore.interfaces.surrogate import SummedSurrogate, Surrogate
from pgcore.xp.namespace import Native

__all__ = ["MOST", "Unread"]

# Gradients between two readings at most; then one waits for the device.
MOST = 64


class Unread:
    """The unread sums of squares, with their losses if those are alive, oldest first.

    Optimizers skip the step of a gradient that is not finite, so that its parameters stay as they are
    until the error is raised: where a number is read, or after `MOST` gradients. A copy of this object,
    or its pickle, is empty.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.squares: deque[tuple[Native, str, weakref.ref[Surrogate]]] = deque()
        self.checks: deque[tuple[Native, Callable[[], None]]] = deque()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the numbers behind: they belong to a device."""
        return type(self), ()

    def add_check(self, valid: Native, check: Callable[[], None]) -> None:
        """Keep a check of a batch, which raises its error where the number is not finite."""
        self.checks.append((valid, check))

    def add(self, policy: Any, square: Native, surrogate: Surrogate) -> None:
        """Keep the sum of squares of a loss's gradient, and read all if there are too many."""
        self.squares.append((square, surrogate.estimator.name, weakref.ref(surrogate)))
        if len(self.squares) > MOST:
            self.check(policy)

    def check(self, policy: Any) -> None:
        """Raise NonFiniteError at the first gradient that is not finite; none is unread afterwards.

        Args:
            policy: The gradients' policy.

        Raises:
            BatchError: a check of a batch failed; it comes first.
        """
        while self.checks:
            number, check = self.checks.popleft()
            if not math.isfinite(policy.number(number)):
                check()
        squares, self.squares = self.squares, deque()
        for number, (square, estimator, loss) in enumerate(squares, 1):
            if math.isfinite(policy.number(square)):
                continue
            # Computed again, the gradient tells its step, unless the parameters have moved since.
            if (surrogate := loss()) is not None:
                if not isinstance(surrogate, SummedSurrogate):
                    surrogate.batch.whole()[0].check_numbers()
                policy.differentiated(surrogate)[0].check_finite()
            raise NonFiniteError(
                f"gradient of {estimator}: expected a finite sum of squares, got "
                f"{policy.number(square)} in gradient {number} of the last {len(squares)}; its step "
                "left the parameters unchanged, scale the rewards down or use float64"
            )
