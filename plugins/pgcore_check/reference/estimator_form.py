"""The base of estimators' reference implementations, in any number system of NumPy's functions.

`B` steps in `E` episodes, `D` parameters. Rows of padding hold finite numbers that mean nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array
from pgcore_check.proofs import reference_of

__all__ = [
    "EstimatorForm",
    "Lift",
    "LiftedEvaluate",
    "Number",
    "estimator_form",
    "real_episodes",
    "real_steps",
    "term_form",
    "where",
]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]

where: Callable[..., Number] = np.where  # its own types know NumPy's arrays alone


class LiftedEvaluate(Protocol):
    """The current policy on a batch, in a number system.

    See `pgcore.interfaces.estimator.Evaluate`.
    """

    def __call__(self, name: str) -> Number:
        """Return a quantity by name.

        Shapes are [B]; [E, ...] for names that start with "final_", whose rows of terminated
        episodes are not read; and [B, width] for "distribution".
        """
        ...

    @property
    def target(self) -> LiftedEvaluate:
        """The target policy, which in the kit's cases is the current one."""
        ...

    def scores(self, step_weights: Number) -> Number:
        """Return [E, D] per-episode scores, weighed by [B] numbers cast to the policy's dtype."""
        ...


class EstimatorForm(ABC):
    """One estimator's definition.

    Attributes:
        fields: The estimator, for its hyper-parameters alone.
        earlier: The signals of an earlier policy or critic, which an epoch's later gradients see
            unchanged. The kit adds noise to them, or clipping would never be active.
        signals_alone: Whether terms and their derivatives are those of the surrogate in forward mode,
            as without a reference implementation.
    """

    earlier: ClassVar[tuple[str, ...]] = ()
    signals_alone: ClassVar[bool] = False

    def __init__(self, estimator: Any) -> None:
        """Keep the estimator."""
        self.fields = estimator

    def serves(self) -> bool:
        """Return whether it holds under the estimator's options; by default under all."""
        return True

    @abstractmethod
    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """Return [B, ...] signals by name, before the cast to the policy's dtype.

        Args:
            batch: The episodes; rewards and old log-probabilities are taken as exact.
            evaluate: The current policy.
            lift: From NumPy arrays to the number system to compute in.
        """

    def finalise(self, signals: dict[str, Number], padding: Array | None) -> dict[str, Number]:
        """Return the signals that the surrogate gets; see `Estimator.finalise`."""
        return signals

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """Return [B] weights of the steps' terms in the loss, before the cast; 0 for padding."""
        real, kind = lift(where(real_steps(batch), 1.0, 0.0)), self.fields.reduction.value
        if kind == "step":
            return real / int(real_steps(batch).sum())
        # Episodes count alike, as sums over their steps or as means.
        share = real / len(real_episodes(batch))
        if kind == "episode_step":
            return share / lift(batch.episode_lengths[batch.episode_of_step])
        return share

    def terms(self, inputs: Mapping[str, Number], /) -> Number:
        """Return [B] terms of the loss: the policy's, plus c_v error^2 / 2, less c_e H.

        Args:
            inputs: Quantities and signals by name, as the surrogate gets them.
        """
        total, _ = self.policy(inputs)
        if "value" in inputs:
            error, _ = self.value_error(inputs)
            total = total + error * error / 2 * self.fields.value_coefficient
        if "entropy" in inputs:
            total = total - inputs["entropy"] * self.fields.entropy_coefficient
        return total

    def cotangents(self, inputs: Mapping[str, Number], /) -> dict[str, Number]:
        """Return [B] d term_t / d quantity_t for every quantity in `inputs`; see `terms`."""
        _, slope = self.policy(inputs)
        derivatives = {"log_prob": slope}
        if "value" in inputs:
            error, slope = self.value_error(inputs)
            derivatives["value"] = error * slope * self.fields.value_coefficient
        if "entropy" in inputs:
            derivatives["entropy"] = inputs["entropy"] * 0 - self.fields.entropy_coefficient
        if "kl" in inputs:
            derivatives["kl"] = inputs["kl"] * 0 + self.fields.kl_coefficient
        return derivatives

    def policy(self, inputs: Mapping[str, Number], /) -> tuple[Number, Number]:
        """Return [B] the policy's part of the terms, and its derivatives in log pi; see `terms`."""
        return -(inputs["log_prob"] * inputs["advantage"]), -inputs["advantage"]

    def value_error(self, inputs: Mapping[str, Number], /) -> tuple[Number, Number]:
        """Return [B] the critic's error before squaring, and its derivatives in the value."""
        return inputs["value"] - inputs["return_"], 1

    def combine(
        self,
        batch: Batch,
        evaluate: LiftedEvaluate,
        signals: Mapping[str, Number],
        weights: Array,
        lift: Lift,
    ) -> Number:
        """Return [D] the loss's gradient of an estimator that weighs scores.

        Args:
            batch: The episodes.
            evaluate: The current policy.
            signals: By name, as the estimator gets them.
            weights: [B] weights of the steps.
            lift: From NumPy arrays to the number system of the result.

        Raises:
            EstimatorError: the estimator's gradient is that of its surrogate.
        """
        raise EstimatorError(
            f"combine: expected an estimator that weighs scores, got {self.fields}; "
            "differentiate its surrogate"
        )


def estimator_form(estimator: Estimator) -> EstimatorForm | None:
    """Return the reference implementation of an estimator, None where its class has none."""
    form = reference_of(type(estimator))
    if form is None:
        return None
    written: EstimatorForm = form(estimator)
    return written if written.serves() else None


def term_form(estimator: Estimator) -> EstimatorForm | None:
    """Return the reference implementation of an estimator's terms, None where there is none."""
    form = estimator_form(estimator)
    return None if form is None or form.signals_alone else form


def real_steps(batch: Batch) -> Array:
    """Return [B] bool, False for padding."""
    return batch.episode_weights[batch.episode_of_step] > 0


def real_episodes(batch: Batch) -> list[int]:
    """Return the numbers of the episodes that are no padding."""
    return np.flatnonzero(batch.episode_weights).tolist()
