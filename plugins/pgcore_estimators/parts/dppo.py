"""The ratio to the rollout policy, without steps that lead too far away from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.recorded import old_log_probs
from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array, check_rows
from pgcore.validation.fields import Flag, NonNegative, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import ROLLOUT_LOG_PROBS, log_ratio_of_gain

__all__ = ["DPPO", "DPPOKL", "DPPOTV"]

# The smallest probability of the other actions, below which its logarithm is not taken.
LEAST = 1e-4
# log mu beyond this is no rounding of a probability, nats.
MOST = 1e-3


@dataclass(frozen=True)
class DPPO(Objective):
    """gain = M r A with r = pi / mu; M = 0 where the step leads away and has led too far, else 1.

    It leads away where A > 0 and pi > mu, or A < 0 and pi < mu. It has led too far where the binary
    divergence, between taking the action and taking another one, exceeds delta.

    Attributes:
        delta: The largest divergence; one at delta does not exceed it.
        symmetric: Whether M = 0 wherever the divergence exceeds delta, on both sides.
        behaviour: mu: "rollout" for the batch's extra `rollout_log_probs`, "old" for its
            `log_probs`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    delta: NonNegative = 0.1
    symmetric: Flag = False
    behaviour: Annotated[str, choice("rollout", "old")] = "rollout"
    extras: ClassVar = {"rollout_log_probs": ROLLOUT_LOG_PROBS}
    references = ("rollout_log_prob",)
    reads_ratio = False
    sources = ("DPPO 2026, eqs. 11 to 14, arXiv:2602.04879",)

    @abstractmethod
    def divergence(self, xp: ArrayNamespace, log_mu: Native, log_pi: Native) -> Native:
        """Return [B] binary divergences of pi from mu, from log-probabilities of the actions."""

    @property
    def discrete_only(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Part.discrete_only`; an old policy's densities cannot be told from probabilities."""
        return self.behaviour == "rollout"

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Part.reads`."""
        return ("rollout_log_prob",)

    @property
    def used_extras(self) -> dict[str, Any]:
        """See `Part.used_extras`."""
        return super().used_extras if self.behaviour == "rollout" else {}

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Part.signals`.

        Raises:
            BatchError: an extra is a density above 1, not a probability.
        """
        if self.behaviour == "old":
            return {"rollout_log_prob": old_log_probs(batch, evaluate)}
        rollout = batch.extras["rollout_log_probs"]
        rule = f"logarithms of probabilities, which {self} compares"
        advice = "divide densities into bins, or choose the objective 'clip'"
        valid = rollout <= MOST
        check_rows(
            f"{type(batch).__name__}.extras['rollout_log_probs']", rule, valid, rollout, advice
        )
        return {"rollout_log_prob": rollout}

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        log_mu = inputs["rollout_log_prob"]
        dropped = self._dropped(xp, log_prob, log_mu, advantage)
        # Chosen before the exponential, which may overflow where the gain is dropped.
        log_ratio = log_ratio_of_gain(xp, log_prob - log_mu, advantage)
        log_ratio = xp.where(dropped, 0.0, log_ratio)
        return xp.where(dropped, 0.0, advantage * xp.exp(log_ratio))

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`: the gain again."""
        return None, self.gain(host, log_ratio, log_prob, advantage, **inputs)

    def _dropped(self, xp: Any, log_pi: Native, log_mu: Native, advantage: Native) -> Native:
        """Return [B] bool, true where M = 0."""
        log_pi = xp.stop_gradient(log_pi)
        far = self.divergence(xp, log_mu, log_pi) > self.delta
        if self.symmetric:
            return far
        up, down = (advantage > 0) & (log_pi > log_mu), (advantage < 0) & (log_pi < log_mu)
        return (up | down) & far


@dataclass(frozen=True)
class DPPOTV(DPPO):
    """The gain of `DPPO` with the divergence |pi - mu|, half the distance of the two binaries.

    Attributes:
        delta: See `DPPO`.
        symmetric: See `DPPO`.
        behaviour: See `DPPO`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    delta: NonNegative = 0.1
    name = "dppo_tv"

    def divergence(self, xp: ArrayNamespace, log_mu: Native, log_pi: Native) -> Native:
        """See `DPPO.divergence`."""
        return xp.abs(xp.exp(log_pi) - xp.exp(log_mu))


@dataclass(frozen=True)
class DPPOKL(DPPO):
    """The gain of `DPPO` with the divergence mu log(mu/pi) + (1 - mu) log((1 - mu)/(1 - pi)), nats.

    1 - pi and 1 - mu count as 1e-4 at least: beside a certain action they are rounding alone, and the
    choice of M would be.

    Attributes:
        delta: See `DPPO`.
        symmetric: See `DPPO`.
        behaviour: See `DPPO`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    delta: NonNegative = 0.05
    name = "dppo_kl"

    def divergence(self, xp: ArrayNamespace, log_mu: Native, log_pi: Native) -> Native:
        """See `DPPO.divergence`."""
        mu = xp.exp(log_mu)
        # 0 log 0 is 0 of an action that is taken always.
        other_mu, other_pi = xp.maximum(1.0 - mu, LEAST), xp.maximum(1.0 - xp.exp(log_pi), LEAST)
        return mu * (log_mu - log_pi) + other_mu * (xp.log(other_mu) - xp.log(other_pi))
