"""A reference implementation of an estimator: its definition, in any number system that NumPy's functions work on.

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
    "where",
]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]

where: Callable[..., Number] = np.where  # its own types know NumPy's arrays alone


class LiftedEvaluate(Protocol):
    """The current policy on the batch at hand, in the number system at hand; see `pgcore.interfaces.estimator.Evaluate`."""

    def __call__(self, name: str) -> Number:
        """Return a quantity: [B]; [E, ...] for what starts with "final_", not read where an episode terminated; [B, width] for "distribution"."""
        ...

    @property
    def target(self) -> LiftedEvaluate:
        """The target policy, which in the kit's cases is the current one."""
        ...

    def scores(self, step_weights: Number) -> Number:
        """Return [E, D] per-episode scores, steps weighed by [B] numbers, which are cast to the policy's dtype first."""
        ...


class EstimatorForm(ABC):
    """One estimator's definition.

    Attributes:
        fields: The estimator, asked for its hyper-parameters alone.
        earlier: The signals that an epoch's later gradients see as an earlier policy or critic left them. The kit moves them,
            or a bound on the change since would never be active.
    """

    earlier: ClassVar[tuple[str, ...]] = ()

    def __init__(self, estimator: Any) -> None:
        """Keep the estimator."""
        self.fields = estimator

    @abstractmethod
    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """Return [B, ...] signals by name, before the cast to the policy's dtype.

        Args:
            batch: The episodes; rewards and old log-probabilities are taken as exact.
            evaluate: The current policy.
            lift: From NumPy arrays to the number system to compute in.
        """

    def finalise(self, signals: dict[str, Number], padding: Array | None) -> dict[str, Number]:
        """Return the signals as the surrogate is given them; see `Estimator.finalise`."""
        return signals

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """Return [B] weights of the steps' terms in the loss, before the cast; 0 for padding."""
        real, kind = lift(where(real_steps(batch), 1.0, 0.0)), self.fields.reduction.value
        if kind == "step":
            return real / int(real_steps(batch).sum())
        share = real / len(real_episodes(batch))
        return (
            share / lift(batch.episode_lengths[batch.episode_of_step])
            if kind == "episode_step"
            else share
        )

    def terms(self, named: Mapping[str, Number]) -> Number:
        """Return [B] terms of the loss from quantities and signals: the policy's, plus c_v error^2 / 2, less c_e H."""
        total, _ = self.policy(named)
        if "value" in named:
            error, _ = self.value_error(named)
            total = total + error * error / 2 * self.fields.value_coefficient
        return (
            total - named["entropy"] * self.fields.entropy_coefficient
            if "entropy" in named
            else total
        )

    def cotangents(self, named: Mapping[str, Number]) -> dict[str, Number]:
        """Return [B] d term_t / d quantity_t for every quantity among `named`."""
        _, slope = self.policy(named)
        found = {"log_prob": slope}
        if "value" in named:
            error, slope = self.value_error(named)
            found["value"] = error * slope * self.fields.value_coefficient
        if "entropy" in named:
            found["entropy"] = named["entropy"] * 0 - self.fields.entropy_coefficient
        if "kl" in named:
            found["kl"] = named["kl"] * 0 + self.fields.kl_coefficient
        return found

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """Return [B] the policy's part of the terms, and its derivatives in log pi."""
        return -(named["log_prob"] * named["advantage"]), -named["advantage"]

    def value_error(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """Return [B] the critic's error that is squared, and its derivatives in the value."""
        return named["value"] - named["return_"], 1

    def combine(
        self,
        batch: Batch,
        evaluate: LiftedEvaluate,
        signals: Mapping[str, Number],
        weights: Array,
        lift: Lift,
    ) -> Number:
        """Return [D] the loss's gradient of an estimator that weighs scores; signals and [B] weights are those it is given.

        Raises:
            EstimatorError: the estimator's gradient is that of its surrogate.
        """
        raise EstimatorError(
            f"combine: expected an estimator that weighs scores, got {self.fields}; differentiate its surrogate"
        )


def estimator_form(estimator: Estimator) -> EstimatorForm | None:
    """Return the reference implementation at an estimator's hyper-parameters; None where its class has none."""
    form = reference_of(type(estimator))
    return None if form is None else form(estimator)


def real_steps(batch: Batch) -> Array:
    """Return [B] whether a step is no padding."""
    return batch.episode_weights[batch.episode_of_step] > 0


def real_episodes(batch: Batch) -> list[int]:
    """Return the numbers of the episodes that are no padding."""
    return np.flatnonzero(batch.episode_weights).tolist()
