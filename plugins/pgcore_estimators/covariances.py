"""Covariances of advantages and log-probabilities, step by step."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.returns import centre
from pgcore.validation.arrays import Array
from pgcore.validation.fields import CountFromZero, Rule

__all__ = ["Fraction", "Seed", "covariances", "fraction_of"]

Fraction = Annotated[float, Rule[float]("a number in (0, 1]", lambda x: 0 < x <= 1)]
Seed = CountFromZero


def covariances(batch: Batch, evaluate: Evaluate, advantage: Array) -> tuple[Array, Array]:
    """Return [B] (A - mean A)(log pi - mean log pi), 0 for padding; and [B] bool, False for padding.

    Args:
        batch: The steps, padding of which is in no mean.
        evaluate: The policy pi.
        advantage: [B] A.
    """
    log_prob = evaluate("log_prob")["log_prob"]
    if batch.step_weights is None:
        return centre(advantage) * centre(log_prob), np.ones(batch.num_steps, np.bool_)
    real = batch.step_weights > 0
    products = centre(advantage[real]) * centre(log_prob[real])
    covariance = np.zeros_like(products, shape=(batch.num_steps,))
    covariance[real] = products
    return covariance, real


def fraction_of(real: Array, fraction: float) -> int:
    """Return a fraction of the real steps, rounded down, and at least 1."""
    return max(int(fraction * np.count_nonzero(real)), 1)
