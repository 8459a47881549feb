"""What heads over finitely many actions share: a description that holds log-probabilities, and one or more choices."""

from __future__ import annotations

import math

import numpy as np

from pgcore.errors import BatchError, ShapeError
from pgcore.heads.head import Head
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["DiscreteHead", "finite_or_zero"]


class DiscreteHead(Head):
    """A head whose [B, width] description holds log-probabilities, -inf where the mask forbids an alternative.

    A step is one or more independent `choices`, and an action holds one alternative of each: an integer [B] where the head is enumerable,
    else integers [B, choices].
    """

    discrete = True

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`: the sum over the choices."""
        if self.enumerable:
            return xp.take_last(distribution, actions)
        chosen = [
            xp.take_last(distribution[:, own], actions[:, k]) for k, own in enumerate(self.choices)
        ]
        return sum(chosen[1:], chosen[0])

    def entropy(self, xp: ArrayNamespace, distribution: Native) -> Native:
        """See `Head.entropy`; 0 log 0 is 0."""
        return -xp.sum(xp.exp(distribution) * finite_or_zero(xp, distribution), 1)

    def kl(self, xp: ArrayNamespace, reference: Native, distribution: Native) -> Native:
        """See `Head.kl`; alternatives that the reference never takes add nothing."""
        possible = reference > -math.inf
        difference = xp.where(
            possible, finite_or_zero(xp, reference) - xp.where(possible, distribution, 0.0), 0.0
        )
        return xp.sum(xp.exp(reference) * difference, 1)

    def fisher(self, xp: ArrayNamespace, distribution: Native, tangent: Native) -> Native:
        """See `Head.fisher`: diag pi, since the score of an action is 1 in its own log-probability."""
        return xp.exp(distribution) * xp.where(distribution > -math.inf, tangent, 0.0)

    def sample(self, distribution: Array, rng: np.random.Generator) -> Array:
        """Draw by inverting the cumulative distribution, one uniform number a step and choice."""
        return self._action([drawn(distribution[:, own], rng) for own in self.choices])

    def mode(self, distribution: Array) -> Array:
        """See `Head.mode`; the first of equally probable alternatives."""
        return self._action([distribution[:, own].argmax(axis=1) for own in self.choices])

    def check_actions(self, actions: Array, mask: Array | None) -> None:
        """See `Head.check_actions`."""
        self._check_numbers(actions)
        if mask is None:
            return
        if mask.shape[1] != self.width:
            raise ShapeError(
                f"Batch.action_mask: expected [B, {self.width}] for {self}, got {list(mask.shape)}; one column an action"
            )
        for k, own in enumerate(self.choices):
            chosen = actions if self.enumerable else actions[:, k]
            allowed = mask[:, own][np.arange(len(mask)), chosen]
            if not allowed.all():
                step = int(allowed.argmin())
                raise BatchError(
                    f"Batch.actions: expected actions that the mask allows, got {actions[step]} at step {step}; check the mask"
                )

    def _check_numbers(self, actions: Array) -> None:
        """Raise ShapeError or BatchError unless every choice has an alternative that exists."""
        choices = self.choices
        columns = actions[:, None] if self.enumerable and actions.ndim == 1 else actions
        if (
            columns.ndim != 2
            or columns.shape[1] != len(choices)
            or (self.enumerable and actions.ndim != 1)
        ):
            shape, what = (
                ("[B]", "a step")
                if self.enumerable
                else (f"[B, {len(choices)}]", "a step and choice")
            )
            raise ShapeError(
                f"Batch.actions: expected shape {shape} for {self}, got {list(actions.shape)}; one integer {what}"
            )
        if actions.dtype.kind not in "iu":
            raise BatchError(
                f"Batch.actions: expected integers for {self}, got {actions.dtype}; use a Gaussian head for real actions"
            )
        for k, own in enumerate(choices):
            count = len(range(self.width)[own])
            outside = (columns[:, k] < 0) | (columns[:, k] >= count)
            if outside.any():
                step = int(outside.argmax())
                raise BatchError(
                    f"Batch.actions: expected integers in [0, {count}), got {columns[step, k]} at step {step}; check the head's number of actions"
                )

    def _action(self, chosen: list[Array]) -> Array:
        """Return the actions of one alternative [B] a choice."""
        return chosen[0] if self.enumerable else np.stack(chosen, axis=1)


def drawn(log_pi: Array, rng: np.random.Generator) -> Array:
    """Return [B] columns drawn from [B, k] log-probabilities."""
    cumulative = np.exp(log_pi).cumsum(axis=1)
    # The last sum need not be exactly 1; scaling the uniform number by it keeps masked last actions out of reach.
    threshold = rng.random(len(log_pi)) * cumulative[:, -1]
    return (cumulative <= threshold[:, None]).sum(axis=1)


def finite_or_zero(xp: ArrayNamespace, log_probs: Native) -> Native:
    """Return the log-probabilities with 0 for -inf, so that multiplying by a probability of 0 gives 0 and no NaN gradient."""
    return xp.where(log_probs > -math.inf, log_probs, 0.0)
