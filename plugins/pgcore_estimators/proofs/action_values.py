"""The estimators over action values once more: written apart from the estimators, and sharing nothing with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.proof import Proof
from pgcore_check.reference.episode_sums import episodes, joined
from pgcore_check.reference.estimator_form import EstimatorForm, Lift, LiftedEvaluate, Number, where
from pgcore_estimators.expected import Expected
from pgcore_estimators.proofs.kinks import HUBER_KINKS
from pgcore_estimators.q_learning import QLearning
from pgcore_estimators.soft_actor import SoftActor

__all__ = ["PROOFS"]


class ExpectedForm(EstimatorForm):
    """Minus the expectation of constant action values, and expected Sarsa for the critic."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        given = batch.extras.get("action_values")
        q = evaluate("action_values") if given is None else lift(given)
        found = {"q": q * self._discount(batch, lift)}
        if self.fields.value_coefficient == 0:
            return found
        values, log_pi = evaluate.target("action_values"), evaluate("log_probs")
        after, final_log_pi = final_rows(batch, evaluate)
        rewards, rows = lift(batch.rewards), dict[int, Number]()
        for episode, steps in enumerate(episodes(batch)):
            for t in steps:
                rows[t] = rewards[t]
                if t + 1 < steps.stop:
                    rows[t] = (
                        rows[t] + self._following(log_pi[t + 1], values[t + 1]) * self.fields.gamma
                    )
                elif not batch.terminated[episode]:
                    rows[t] = (
                        rows[t]
                        + self._following(final_log_pi[episode], after[episode]) * self.fields.gamma
                    )
        return found | {"target": joined([rows[t] for t in sorted(rows)])}

    def terms(self, named: Mapping[str, Number]) -> Number:
        """See `EstimatorForm.terms`."""
        pi, log_pi = chances(named["log_probs"])
        total = -(pi * self._worth(log_pi, named["q"])).sum(axis=1)
        if "action_value" in named:
            error = named["action_value"] - named["target"]
            total = total + error * error / 2 * self.fields.value_coefficient
        return (
            total - named["entropy"] * self.fields.entropy_coefficient
            if "entropy" in named
            else total
        )

    def cotangents(self, named: Mapping[str, Number]) -> dict[str, Number]:
        """See `EstimatorForm.cotangents`."""
        pi, log_pi = chances(named["log_probs"])
        found = {"log_probs": -(pi * (self._worth(log_pi, named["q"]) - self._alpha))}
        if "action_value" in named:
            found["action_value"] = (
                named["action_value"] - named["target"]
            ) * self.fields.value_coefficient
        if "entropy" in named:
            found["entropy"] = named["entropy"] * 0 - self.fields.entropy_coefficient
        return found

    @property
    def _alpha(self) -> float:
        return 0.0

    def _worth(self, log_pi: Number, q: Number) -> Number:
        return q

    def _following(self, log_probs: Number, q: Number) -> Number:
        pi, log_pi = chances(log_probs)
        return (pi * self._worth(log_pi, q)).sum()

    def _discount(self, batch: Batch, lift: Lift) -> Number:
        powers = lift(np.ones(batch.num_steps))
        if self.fields.discount_state:
            for t in range(batch.step_in_episode.max()):
                powers = where(batch.step_in_episode > t, powers * self.fields.gamma, powers)
        return powers.reshape(-1, 1)


class SoftActorForm(ExpectedForm):
    """The same with alpha log pi taken off every value."""

    @property
    def _alpha(self) -> float:
        return self.fields.alpha

    def _worth(self, log_pi: Number, q: Number) -> Number:
        return q - log_pi * self.fields.alpha

    def _discount(self, batch: Batch, lift: Lift) -> Number:
        return lift(np.ones((batch.num_steps, 1)))


class QLearningForm(EstimatorForm):
    """Half the squared error to the best next action's value, or Huber's."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        current, values, rewards = (
            evaluate("action_values"),
            evaluate.target("action_values"),
            lift(batch.rewards),
        )
        if batch.terminated.all():
            first = after = values
        else:
            first, after = evaluate("final_action_values"), evaluate.target("final_action_values")
        rows: dict[int, Number] = {}
        mask = batch.next_action_mask
        for episode, steps in enumerate(episodes(batch)):
            for t in steps:
                rows[t] = rewards[t]
                possible = range(values.shape[1]) if mask is None else mask[t].nonzero()[0]
                if t + 1 < steps.stop:
                    rows[t] = (
                        rows[t]
                        + self._best(current[t + 1], values[t + 1], possible) * self.fields.gamma
                    )
                elif not batch.terminated[episode]:
                    rows[t] = (
                        rows[t]
                        + self._best(first[episode], after[episode], possible) * self.fields.gamma
                    )
        return {"target": joined([rows[t] for t in sorted(rows)])}

    def terms(self, named: Mapping[str, Number]) -> Number:
        """See `EstimatorForm.terms`."""
        error, size = self._error(named)
        bound = self.fields.huber
        squared = error * error / 2
        return (
            squared if bound is None else where(size <= bound, squared, (size - bound / 2) * bound)
        )

    def cotangents(self, named: Mapping[str, Number]) -> dict[str, Number]:
        """See `EstimatorForm.cotangents`."""
        error, size = self._error(named)
        bound = self.fields.huber
        limited = (
            error
            if bound is None
            else where(size <= bound, error, where(error > 0, error * 0 + bound, error * 0 - bound))
        )
        return {"action_value": limited}

    def _error(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        error = named["action_value"] - named["target"]
        return error, where(error > 0, error, -error)  # which a complex step passes

    def _best(self, current: Number, values: Number, possible: range | Array) -> Number:
        choosing = current if self.fields.double else values
        best = possible[0]
        for action in possible:
            if choosing[action] > choosing[best]:
                best = action
        return values[best]


def chances(log_probs: Number) -> tuple[Number, Number]:
    """Return pi and log pi, both 0 where an action is impossible."""
    possible = log_probs > -np.inf
    log_pi = where(possible, log_probs, 0)
    return where(possible, np.exp(log_pi), 0), log_pi


def final_rows(batch: Batch, evaluate: LiftedEvaluate) -> tuple[Number, Number]:
    """Return [E, A] target's Q and log pi at the final observations; neither is read where an episode terminated."""
    if batch.terminated.all():
        return evaluate("action_values"), evaluate("log_probs")
    return evaluate.target("final_action_values"), evaluate("final_log_probs")


PROOFS = (
    Proof(
        Expected,
        {"expected": {"gamma": 0.9, "discount_state": True, "entropy_coefficient": 0.03}},
        ExpectedForm,
    ),
    Proof(
        QLearning,
        {
            "q-learning": {"gamma": 0.9},
            "double q-learning": {"gamma": 0.9, "double": True, "huber": 0.8},
        },
        QLearningForm,
        HUBER_KINKS,
    ),
    Proof(SoftActor, {"soft actor": {"alpha": 0.3, "gamma": 0.9}}, SoftActorForm),
)
