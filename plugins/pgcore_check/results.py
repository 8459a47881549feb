"""Comparisons of single results with the reference, for signals that the caller chooses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.surrogate import Signals, Surrogate
from pgcore.validation.arrays import Array
from pgcore_check.bounds.agreement import allowance
from pgcore_check.bounds.running_error import bounded_in
from pgcore_check.compare import Row, row_of, worst
from pgcore_check.proofs import first_formula
from pgcore_check.reference import reference
from pgcore_check.stages.truth import Expected, Truth

__all__ = ["gradient_row", "loss_row", "quantity_ratios"]


def gradient_row(
    policy: Policy,
    estimator: Estimator,
    batch: Batch,
    signals: Signals,
    gradient: Mapping[str, Array],
) -> Row:
    """Compare a gradient with the reference.

    Args:
        policy: The policy, for its parameters, spec and dtype.
        estimator: Which loss.
        batch: The steps.
        signals: The signals that the backend was given.
        gradient: By canonical parameter name.
    """
    # Any optimizer will do: only later stages read it.
    truth = Truth(policy.spec, policy.parameters(), estimator, batch, first_formula())
    truth.shared_signals = signals
    return row_of(policy.backend, "gradient", gradient, truth.gradient, truth.dtype)


def loss_row(
    policy: Policy, estimator: Estimator, batch: Batch, signals: Signals, loss: float
) -> Row:
    """Compare a loss with the reference; see `gradient_row`."""
    surrogate = Surrogate(policy.spec, estimator, batch, signals)
    inputs = (policy.spec, policy.parameters(), surrogate, batch)
    # One run of the formula gives the exact value, another its rounding-error bound.
    bound = reference.loss(*inputs, lift=bounded_in(policy.dtype))
    expected = Expected(np.asarray(reference.loss(*inputs)), allowance(bound, policy.dtype))
    scalar = np.asarray(loss).astype(policy.dtype)
    return row_of(policy.backend, "loss", {"loss": scalar}, {"loss": expected}, policy.dtype)


def quantity_ratios(
    policy: Policy, batch: Batch, quantities: Mapping[str, Array]
) -> dict[str, float]:
    """Return by name the largest error of quantities, in units of the rounding-error bound.

    Log-probabilities of masked actions must be -inf exactly.

    Args:
        policy: The policy, for its parameters, spec and dtype.
        batch: The steps, with the extra "reference" where a KL is among the quantities.
        quantities: Results of `Policy.evaluate`, by name.
    """
    recorded = batch.extras.get("reference")
    anchor = None if recorded is None else recorded.astype(policy.dtype)
    inputs = (policy.spec, policy.parameters(), batch, list(quantities), anchor)
    bounds = reference.quantities(*inputs, lift=bounded_in(policy.dtype))
    ratios: dict[str, float] = {}
    for name, exact in reference.quantities(*inputs).items():
        expected = {name: Expected(exact, allowance(bounds[name], policy.dtype))}
        ratios[name], *_ = worst(
            {name: quantities[name].astype(policy.dtype)}, expected, policy.dtype
        )
    return ratios
