"""Gradients and steps of a device whose finiteness has not been read, so that none waits for the device."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np

from pgcore.errors import NonFiniteError
from pgcore.interfaces.formula import BoundOptimizer
from pgcore.interfaces.surrogate import SummedSurrogate, Surrogate
from pgcore.validation.arrays import PutOff
from pgcore.xp.namespace import Native

__all__ = ["MOST", "Unread"]

# Gradients, or steps, and checks of batches between two readings at most; then one waits for the device.
MOST, MOST_CHECKS = 64, 8


class Unread:
    """The unread sums of squares, with their losses if those are alive, oldest first.

    Optimizers skip a step of a gradient, or to parameters, that are not finite, so that the parameters
    stay as they are until the error is raised: where a number is read, or after `MOST` gradients. A copy of this object,
    or its pickle, is empty.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.squares: deque[tuple[Native, str, weakref.ref[Surrogate]]] = deque()
        self.steps: deque[tuple[Native, weakref.ref[BoundOptimizer]]] = deque()
        self.checks: deque[tuple[Native, PutOff]] = deque()
        self.added: weakref.WeakSet[PutOff] = weakref.WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the numbers behind: they belong to a device."""
        return type(self), ()

    def add_check(self, policy: Any, check: PutOff) -> None:
        """Keep a check of a batch, unless it is kept or has passed; read all if there are too many."""
        if check.passed or check in self.added:
            return
        number: Any = np.where(check.valid.all(), 0.0, np.nan)
        self.added.add(check)
        self.checks.append((number.native, check))
        if len(self.checks) > MOST_CHECKS:
            self.read_checks(policy)

    def read_checks(self, policy: Any) -> None:
        """Raise the error of the first check that fails; it is kept again by the next computation."""
        while self.checks:
            number, check = self.checks.popleft()
            self.added.discard(check)
            if math.isfinite(policy.number(number)):
                check.passed = True
            else:
                check.run()

    def add(self, policy: Any, square: Native, surrogate: Surrogate) -> None:
        """Keep the sum of squares of a loss's gradient, and read all if there are too many."""
        self.squares.append((square, surrogate.estimator.name, weakref.ref(surrogate)))
        if len(self.squares) > MOST:
            self.check(policy)

    def add_step(self, optimizer: BoundOptimizer, policy: Any, finite: Native) -> None:
        """Keep whether a step's results are finite, 0 or 1, and read all if there are too many."""
        self.steps.append((finite, weakref.ref(optimizer)))
        if len(self.steps) > MOST:
            self.check(policy)

    def check(self, policy: Any) -> None:
        """Raise NonFiniteError at the first gradient or step that is not finite; none is unread afterwards.

        Args:
            policy: The gradients' policy.

        Raises:
            BatchError: a check of a batch failed; it comes first.
        """
        squares, self.squares = self.squares, deque()
        steps, self.steps = self.steps, deque()
        skipped: list[int] = []
        # Counted before an error, since the device has left them out.
        for number, (finite, optimizer) in enumerate(steps, 1):
            if not policy.number(finite):
                skipped.append(number)
                if (bound := optimizer()) is not None:
                    bound.skipped += 1
        self.read_checks(policy)
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
        # After the gradients: one that is not finite explains its step.
        if skipped:
            raise NonFiniteError(
                "Optimizer.step: expected finite numbers after the step, got NaN or infinity in "
                f"step {skipped[0]} of the last {len(steps)}; it left parameters and optimizer "
                "unchanged, lower the learning rate or clip the gradient by max_grad_norm"
            )
