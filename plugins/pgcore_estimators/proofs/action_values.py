"""Reference implementations of estimators over action values, which share no code with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.proof import Proof
from pgcore_check.reference.episode_sums import episodes, joined
from pgcore_check.reference.estimator_form import EstimatorForm, Lift, LiftedEvaluate, Number, where
from pgcore_estimators.expected import Expected
from pgcore_estimators.proofs.advantages import state_discounts
from pgcore_estimators.proofs.kinks import HUBER_KINKS, TWIN_KINKS
from pgcore_estimators.q_learning import QLearning
from pgcore_estimators.soft_actor import SoftActor

__all__ = ["PROOFS"]


class ExpectedForm(EstimatorForm):
    """Minus the expectation of constant action values, and expected Sarsa for the critic."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        extra = batch.extras.get("action_values")
        q = self._values(evaluate, "action_values") if extra is None else lift(extra)
        signals = {"q": q * self._discount(batch, lift)}
        if self.fields.value_coefficient == 0:
            return signals
        # The next action is the current policy's, its value the target policy's.
        values, log_pi = self._values(evaluate.target, "action_values"), evaluate("log_probs")
        final_values, final_log_pi = values, log_pi
        # Final rows are not read if every episode terminated, and then cannot be evaluated.
        if not batch.terminated.all():
            final_values = self._values(evaluate.target, "final_action_values")
            final_log_pi = evaluate("final_log_probs")

        def following(t: int) -> Number:
            return self._following(log_pi[t], values[t])

        def final(episode: int) -> Number:
            return self._following(final_log_pi[episode], final_values[episode])

        return signals | {"target": targets(batch, lift, self.fields.gamma, following, final)}

    def terms(self, inputs: Mapping[str, Number]) -> Number:
        """See `EstimatorForm.terms`."""
        pi, log_pi = chances(inputs["log_probs"])
        total = -(pi * self._worth(log_pi, inputs["q"], self._alpha(inputs))).sum(axis=1)
        if "action_value" in inputs:
            error = inputs["action_value"] - inputs["target"]
            total = total + error * error / 2 * self.fields.value_coefficient
        if "entropy" not in inputs:
            return total
        return total - inputs["entropy"] * self.fields.entropy_coefficient

    def cotangents(self, inputs: Mapping[str, Number]) -> dict[str, Number]:
        """See `EstimatorForm.cotangents`."""
        pi, log_pi = chances(inputs["log_probs"])
        # The product rule of pi (Q - alpha log pi) leaves -alpha pi.
        alpha = self._alpha(inputs)
        cotangents = {"log_probs": -(pi * (self._worth(log_pi, inputs["q"], alpha) - alpha))}
        if "action_value" in inputs:
            error = inputs["action_value"] - inputs["target"]
            cotangents["action_value"] = error * self.fields.value_coefficient
        if "entropy" in inputs:
            cotangents["entropy"] = inputs["entropy"] * 0 - self.fields.entropy_coefficient
        return cotangents

    # The entropy's weight, 0 here: `SoftActorForm` changes these four.
    def _alpha(self, inputs: Mapping[str, Number]) -> Number:
        return 0.0

    def _worth(self, log_pi: Number, q: Number, alpha: Number) -> Number:
        return q

    def _values(self, evaluate: LiftedEvaluate, name: str) -> Number:
        return evaluate(name)

    def _following(self, log_probs: Number, q: Number) -> Number:
        pi, log_pi = chances(log_probs)
        return (pi * self._worth(log_pi, q, self._alpha({}))).sum()

    def _discount(self, batch: Batch, lift: Lift) -> Number:
        """Return [B, 1]."""
        if not self.fields.discount_state:
            return lift(np.ones((batch.num_steps, 1)))
        return state_discounts(batch, self.fields.gamma, lift).reshape(-1, 1)


class SoftActorForm(ExpectedForm):
    """`ExpectedForm` of the values Q - alpha log pi, with Q the smaller of twin critics'."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        signals = super().signals(batch, evaluate, lift)
        if self.fields.target_entropy is None:
            return signals
        return signals | {"temperature": lift(np.full(batch.num_steps, self._alpha({})))}

    def terms(self, inputs: Mapping[str, Number]) -> Number:
        """See `EstimatorForm.terms`."""
        total = super().terms(inputs)
        if "twin_action_value" not in inputs:
            return total
        error = inputs["twin_action_value"] - inputs["target"]
        return total + error * error / 2 * self.fields.value_coefficient

    def cotangents(self, inputs: Mapping[str, Number]) -> dict[str, Number]:
        """See `EstimatorForm.cotangents`."""
        cotangents = super().cotangents(inputs)
        if "twin_action_value" in inputs:
            error = inputs["twin_action_value"] - inputs["target"]
            cotangents["twin_action_value"] = error * self.fields.value_coefficient
        return cotangents

    def _alpha(self, inputs: Mapping[str, Number]) -> Number:
        if "temperature" in inputs:
            return inputs["temperature"].reshape(-1, 1)
        learned = self.fields.temperature
        return self.fields.alpha if learned is None else learned

    def _worth(self, log_pi: Number, q: Number, alpha: Number) -> Number:
        return q - log_pi * alpha

    def _values(self, evaluate: LiftedEvaluate, name: str) -> Number:
        first = evaluate(name)
        if not self.fields.twin:
            return first
        second = evaluate(name.replace("action_values", "twin_action_values"))
        return where(first < second, first, second)

    def _discount(self, batch: Batch, lift: Lift) -> Number:
        return lift(np.ones((batch.num_steps, 1)))


class QLearningForm(EstimatorForm):
    """Half the squared error to the best next action's value, or Huber's."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        current, values = evaluate("action_values"), evaluate.target("action_values")
        # Final rows are not read if every episode terminated, and then cannot be evaluated.
        ended = batch.terminated.all()
        final_current = current if ended else evaluate("final_action_values")
        final_values = values if ended else evaluate.target("final_action_values")
        mask = batch.next_action_mask

        # The mask of step t is of the actions possible at t + 1.
        def possible(t: int) -> range | Array:
            return range(values.shape[1]) if mask is None else mask[t].nonzero()[0]

        def following(t: int) -> Number:
            return self._best(current[t], values[t], possible(t - 1))

        def final(episode: int) -> Number:
            last = int(batch.episode_ends[episode])
            return self._best(final_current[episode], final_values[episode], possible(last))

        return {"target": targets(batch, lift, self.fields.gamma, following, final)}

    def terms(self, inputs: Mapping[str, Number]) -> Number:
        """See `EstimatorForm.terms`."""
        error, size = self._error(inputs)
        bound = self.fields.huber
        squared = error * error / 2
        if bound is None:
            return squared
        # Beyond the bound a straight line, that meets the square with the same slope.
        return where(size <= bound, squared, (size - bound / 2) * bound)

    def cotangents(self, inputs: Mapping[str, Number]) -> dict[str, Number]:
        """See `EstimatorForm.cotangents`."""
        error, size = self._error(inputs)
        bound = self.fields.huber
        if bound is None:
            return {"action_value": error}
        limited = where(error > 0, error * 0 + bound, error * 0 - bound)
        return {"action_value": where(size <= bound, error, limited)}

    def _error(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        error = inputs["action_value"] - inputs["target"]
        # Not np.abs, which has no derivative by a complex step.
        return error, where(error > 0, error, -error)

    def _best(self, current: Number, values: Number, possible: range | Array) -> Number:
        selector = current if self.fields.double else values
        best = possible[0]
        for action in possible:
            if selector[action] > selector[best]:
                best = action
        return values[best]


def targets(
    batch: Batch,
    lift: Lift,
    gamma: float,
    following: Callable[[int], Number],
    final: Callable[[int], Number],
) -> Number:
    """Return [B] r_t + gamma V(s_{t+1}), without the second term after a terminal step.

    Args:
        batch: The episodes.
        lift: From NumPy arrays to the number system at hand.
        gamma: Discount.
        following: V at the observation of a step.
        final: V at an episode's final observation.
    """
    rewards = lift(batch.rewards)
    rows: list[Number] = []
    for episode, steps in enumerate(episodes(batch)):
        # Every step but the last is followed by another of the batch.
        rows.extend(rewards[t] + following(t + 1) * gamma for t in steps[:-1])
        last = rewards[steps[-1]]
        rows.append(last if batch.terminated[episode] else last + final(episode) * gamma)
    return joined(rows)


def chances(log_probs: Number) -> tuple[Number, Number]:
    """Return pi and log pi, both 0 for an impossible action."""
    # Impossible actions have log pi = -inf, which times 0 is NaN.
    possible = log_probs > -np.inf
    log_pi = where(possible, log_probs, 0)
    return where(possible, np.exp(log_pi), 0), log_pi


# Every field away from the value that leaves its term out.
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
            # Weights as those of prioritised replay.
            "double q-learning": {
                "gamma": 0.9,
                "double": True,
                "huber": 0.8,
                "reduction": "weighted",
            },
        },
        QLearningForm,
        HUBER_KINKS,
    ),
    Proof(
        SoftActor,
        {
            "soft actor": {
                "alpha": 0.3,
                "gamma": 0.9,
                "reduction": {"name": "constant", "divisor": 5.0},
            },
            "twin soft actor": {
                "gamma": 0.9,
                "twin": True,
                "target_entropy": 0.7,
                "temperature": 0.35,
            },
        },
        SoftActorForm,
        TWIN_KINKS,
    ),
)
