"""Base of heads over finitely many actions, whose distribution parameters are log-probabilities."""

from __future__ import annotations

import math

import numpy as np

from pgcore.errors import BatchError, ShapeError
from pgcore.heads.head import Head
from pgcore.validation.arrays import Array, check_rows, is_host
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["DiscreteHead", "finite_or_zero"]


class DiscreteHead(Head):
    """A head whose distribution parameters [B, width] are log-probabilities, -inf where masked.

    An action holds one alternative of each of the step's independent `choices`: an integer [B] if
    the head is enumerable, else integers [B, choices].
    """

    discrete = True

    @property
    def width(self) -> int:
        """One log-probability an output."""
        return self.outputs

    @property
    def choices(self) -> tuple[slice, ...]:
        """See `Head.choices`: one of all columns."""
        return (slice(self.width),)

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`: the sum over the choices."""
        if self.enumerable:
            return xp.take_last(distribution, actions)
        first, *further = (
            xp.take_last(distribution[:, columns], actions[:, k])
            for k, columns in enumerate(self.choices)
        )
        return sum(further, first)

    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """See `Head.entropy`; 0 log 0 is 0."""
        return -xp.sum(xp.exp(distribution) * finite_or_zero(xp, distribution), 1)

    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """See `Head.kl`; alternatives of probability 0 in the reference add nothing."""
        # A masked alternative is -inf in both, and their difference would be NaN.
        possible = reference > -math.inf
        log_ratio = finite_or_zero(xp, reference) - xp.where(possible, distribution, 0.0)
        return xp.sum(xp.exp(reference) * xp.where(possible, log_ratio, 0.0), 1)

    def fisher(self, xp: ArrayNamespace, distribution: Native, tangent: Native) -> Native:
        """See `Head.fisher`: diag pi, as an action's score is 1 in its own log-probability."""
        return xp.exp(distribution) * xp.where(distribution > -math.inf, tangent, 0.0)

    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """See `Head.sample`: inverts the cumulative distribution, one uniform number a choice."""
        alternatives: list[Array] = []
        for columns in self.choices:
            cumulative = np.exp(distribution[:, columns]).cumsum(axis=1)
            # Scaled by the last sum, which need not be exactly 1: no masked last action is drawn.
            threshold = rng.random(len(cumulative)) * cumulative[:, -1]
            alternatives.append((cumulative <= threshold[:, None]).sum(axis=1))
        return self._action(alternatives)

    def mode(self, distribution: Array) -> Array:
        """See `Head.mode`; the first of equally probable alternatives."""
        return self._action([distribution[:, columns].argmax(axis=1) for columns in self.choices])

    def _action(self, alternatives: list[Array]) -> Array:
        """Return the actions of one alternative [B] a choice."""
        return alternatives[0] if self.enumerable else np.stack(alternatives, axis=1)

    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """See `Head.check_actions`."""
        # Shape, dtype and range in this order: each needs the one before it.
        steps, choices = len(actions), self.choices
        if actions.shape != ((steps,) if self.enumerable else (steps, len(choices))):
            rule = "[B]" if self.enumerable else f"[B, {len(choices)}]"
            raise ShapeError(
                f"Batch.actions: expected shape {rule} for {self}, got {list(actions.shape)}; "
                "one integer a step and choice"
            )
        if actions.dtype.kind not in "iu":
            raise BatchError(
                f"Batch.actions: expected integers for {self}, got {actions.dtype}; "
                "use a Gaussian head for continuous actions"
            )
        if mask is not None and mask.shape[1] != self.width:
            raise ShapeError(
                f"Batch.action_mask: expected [B, {self.width}] for {self}, "
                f"got {list(mask.shape)}; one column an action"
            )
        for number, choice in zip(actions.reshape(steps, -1).T, choices, strict=True):
            count = len(range(self.width)[choice])
            rule, inside = f"integers in [0, {count})", (number >= 0) & (number < count)
            check_rows("Batch.actions", rule, inside, number, "check the head's number of actions")
            if mask is not None:
                rule, columns = "actions that the mask allows", mask[:, choice]
                if is_host(mask) and is_host(number):
                    allowed = columns[np.arange(steps), number]
                else:
                    allowed = np.any(
                        columns & (np.arange(count, dtype=number.dtype) == number[:, None]), axis=1
                    )
                check_rows("Batch.actions", rule, allowed, actions, "check the mask")


def finite_or_zero(xp: ArrayNamespace, log_probs: Native) -> Native:
    """Return log-probabilities with 0 for -inf, so that 0 log 0 and its derivative are 0, not NaN."""
    return xp.where(log_probs > -math.inf, log_probs, 0.0)
