"""The loss of one batch: policy, estimator, batch and signals, checked where they meet."""

from __future__ import annotations

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.data.spec_checks import check_observations
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.signals import Signals, check_names, check_reference

__all__ = ["Surrogate", "check_batch"]


class Surrogate:
    """An estimator bound to one batch and its signals: the loss that `Policy.gradient` differentiates.

    Its existence proves that they fit policies of its spec, so that nothing checks them again.
    """

    __slots__ = ("batch", "estimator", "spec", "values", "weights")

    def __init__(
        self, spec: PolicySpec, estimator: Estimator, batch: Batch, signals: Signals
    ) -> None:
        """Check that they fit, and finalise the signals; see `pgcore.gradient` for the errors."""
        estimator.check_fits(spec)
        check_batch(spec, batch)
        if len(signals.weights) != batch.num_steps:
            raise EstimatorError(
                f"gradient: expected signals for {batch.num_steps} steps, got them for "
                f"{len(signals.weights)}; slice batch and signals alike"
            )
        # The names were checked where the signals were computed, unless for another estimator.
        if not estimator.signal_names <= signals.values.keys():
            check_names(estimator, signals.values)
        self.spec = spec
        self.estimator = estimator
        self.batch = batch
        padding = signals.weights if signals.padded else None
        self.values = estimator.finalise(signals.values, padding)  # [B, ...] by name
        self.weights = signals.weights  # [B] of each term in the loss


def check_batch(spec: PolicySpec, batch: Batch) -> None:
    """Raise ShapeError or BatchError unless a batch fits a spec; its own minibatches fit too."""
    if batch.fits(spec):
        return
    check_observations("Batch.observations", spec, batch.observations)
    spec.head.check_actions(batch.actions, batch.action_mask)
    if "reference" in batch.extras:
        check_reference("Batch.extras['reference']", batch.extras["reference"], spec.head.width)
    batch.remember_fit(spec)
