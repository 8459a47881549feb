"""Reference implementations of REINFORCE, actor-critic and PPO: plain loops over episodes.

They share no code with the estimators and `pgcore.returns`, and run in any number system of NumPy's
functions: on `np.longdouble` they are the values that an estimator is compared with, on `Bounded`
arrays its rounding-error bounds. `B` steps in `E` episodes, `D` parameters. Rows of padding hold
arbitrary finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.validation.arrays import Array
from pgcore_check.proof import Bug, Proof
from pgcore_check.reference.episode_sums import (
    backwards,
    final_values,
    joined,
    n_step,
    normalised,
    safe_ratio,
    state_values,
)
from pgcore_check.reference.estimator_form import (
    EstimatorForm,
    Lift,
    LiftedEvaluate,
    Number,
    real_episodes,
    where,
)
from pgcore_estimators.preset_classes import A2C, PPO, ActorCritic
from pgcore_estimators.proofs.advantages import (
    critic_advantages,
    normalise_batch,
    state_discounts,
)
from pgcore_estimators.proofs.kinks import PPO_KINKS
from pgcore_estimators.proofs.ratios import clipped_loss, old_log_probs
from pgcore_estimators.reinforce import ComponentBaseline, Reinforce

__all__ = ["A2C_PROOF", "PROOFS"]


class ReinforceForm(EstimatorForm):
    """Returns less a baseline."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`; without a critic no truncated episode is bootstrapped."""
        critic, rewards = self.fields.baseline == "value", lift(batch.rewards)
        final = final_values(batch, evaluate, lift) if critic else np.zeros(batch.num_episodes)
        to_go = backwards(batch, final, lambda t, g_tp1: rewards[t] + g_tp1 * self.fields.gamma)
        g_t = to_go
        if not self.fields.reward_to_go:
            g_t = to_go[batch.episode_starts][batch.episode_of_step]
        baseline = (
            state_values(batch, evaluate, lift)
            if critic
            else self._baseline(batch, g_t, evaluate, lift)
        )
        # Normalisation precedes the discount, which would else be normalised too.
        advantage = normalise_batch(g_t - baseline, batch, self.fields)
        signals = {"advantage": advantage * self._discount(batch, lift)}
        return signals | ({"return_": to_go} if critic else {})

    def combine(
        self,
        batch: Batch,
        evaluate: LiftedEvaluate,
        signals: Mapping[str, Number],
        weights: Array,
        lift: Lift,
    ) -> Number:
        """See `EstimatorForm.combine`: -sum_e w_e (u_e - b_e g_e), b_e a ratio of two sums.

        The sums are of u g and of g^2, over the other episodes.
        """
        if self.fields.baseline != "optimal_per_component":
            return super().combine(batch, evaluate, signals, weights, lift)
        g, u = evaluate.scores(self._discount(batch, lift)), evaluate.scores(signals["advantage"])
        w = lift(weights[batch.episode_starts])
        parts: list[Number] = []
        # One baseline for each parameter: the sums run over episodes alone.
        for episode in real_episodes(batch):
            peers = [i for i in real_episodes(batch) if i != episode]
            b = safe_ratio((u[peers] * g[peers]).sum(axis=0), (g[peers] * g[peers]).sum(axis=0))
            parts.append(((u[episode] - b * g[episode]) * w[episode]).reshape(1, -1))
        return -np.concatenate(parts).sum(axis=0)

    def _discount(self, batch: Batch, lift: Lift) -> Number:
        """Return [B] gamma^t with `discount_state` and the return to go, else 1."""
        if self.fields.discount_state and self.fields.reward_to_go:
            return state_discounts(batch, self.fields.gamma, lift)
        return lift(np.ones(batch.num_steps))

    def _baseline(self, batch: Batch, g_t: Number, evaluate: LiftedEvaluate, lift: Lift) -> Number:
        """Return [B], or one number for all steps."""
        kind, real = self.fields.baseline, real_episodes(batch)
        if kind in ("none", "constant", "optimal_per_component"):
            return self.fields.baseline_value if kind == "constant" else 0
        # A mean is a weighted mean too, of weight 1; the optimal baseline weighs by g^2.
        top, bottom = g_t[batch.episode_starts], lift(np.ones(batch.num_episodes))
        if kind == "optimal":
            discount = self._discount(batch, lift)
            g, u = evaluate.scores(discount), evaluate.scores(g_t * discount)
            top, bottom = (u * g).sum(axis=1), (g * g).sum(axis=1)
        rows: list[Number] = []
        for episode in range(batch.num_episodes):
            among = real if kind == "mean" else [i for i in real if i != episode]
            rows.append(safe_ratio(top[among].sum(), bottom[among].sum()))
        return joined(rows)[batch.episode_of_step]


class ActorCriticForm(EstimatorForm):
    """Advantages and targets from the critic's values."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        if getattr(self.fields, "advantage", "gae") == "gae":
            advantage, values = critic_advantages(batch, evaluate, lift, self.fields)
            target = advantage + values
        else:
            values, final = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
            # The TD error is the one-step return less V.
            n = 1 if self.fields.advantage == "td" else self.fields.n_steps
            target = n_step(batch, lift(batch.rewards), values, final, self.fields.gamma, n)
            advantage = target - values
        return {"advantage": normalise_batch(advantage, batch, self.fields), "return_": target}


class PPOForm(EstimatorForm):
    """The clipped ratio, or the ratio and a penalty."""

    earlier = ("old_value",)

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        advantage, values = critic_advantages(batch, evaluate, lift, self.fields)
        signals = {
            "advantage": normalise_batch(advantage, batch, self.fields),
            "return_": advantage + values,
            "old_log_prob": old_log_probs(batch, evaluate, lift),
        }
        if self.fields.value_clip is not None:
            signals["old_value"] = values
        # The penalty measures from the old policy's distribution, by default the current one's.
        if self.fields.objective == "kl":
            extra = batch.extras.get("reference")
            signals["reference"] = evaluate("distribution") if extra is None else lift(extra)
        return signals

    def finalise(self, signals: dict[str, Number], padding: Array | None) -> dict[str, Number]:
        """See `EstimatorForm.finalise`: normalised over the real steps of the minibatch."""
        if self.fields.normalise != "minibatch":
            return signals
        advantage = signals["advantage"]
        real = np.ones(advantage.shape, np.bool_) if padding is None else padding > 0
        return signals | {"advantage": normalised(advantage, real, self.fields.ddof)}

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        log_ratio, clip = inputs["log_prob"] - inputs["old_log_prob"], self.fields.clip
        if self.fields.objective == "clip":
            return clipped_loss(inputs, log_ratio, clip, clip)
        gain = inputs["advantage"] * np.exp(log_ratio)
        return inputs["kl"] * self.fields.kl_coefficient - gain, -gain

    def value_error(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.value_error`: the larger of the errors of V and of the clipped V."""
        error, slope = super().value_error(inputs)
        value, old, reach = inputs["value"], inputs.get("old_value"), self.fields.value_clip
        if reach is None:
            return error, slope
        # The clipped V is constant; on a tie the slope is the unclipped one's.
        clipped = where(value > old, old + reach, old - reach) - inputs["return_"]
        free = (np.abs(value - old) <= reach) | (np.abs(error) >= np.abs(clipped))
        return where(free, error, clipped), where(free, slope, 0)


class OwnRewardForgotten(Reinforce):
    """Returns that leave out the step's own reward."""

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`."""
        found = super().signals(batch, evaluate)
        return {**found, "advantage": found["advantage"] - batch.rewards}


class Ascending(Reinforce):
    """Derivatives of the other sign."""

    def cotangents(self, *arguments: Any, **inputs: Any) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {name: -value for name, value in super().cotangents(**inputs).items()}


# One option for each branch of the signals; the kit crosses them with heads, networks and padding.
PROOFS = (
    Proof(
        Reinforce,
        {
            "reinforce": {"gamma": 0.9},
            "full return": {
                "gamma": 0.9,
                "reward_to_go": False,
                "baseline": "constant",
                "baseline_value": 0.3,
            },
            "mean baseline": {"gamma": 0.95, "baseline": "mean", "entropy_coefficient": 0.05},
            "leave one out": {"gamma": 0.95, "baseline": "leave_one_out", "discount_state": True},
            "optimal baseline": {"gamma": 0.9, "baseline": "optimal", "reduction": "episode_step"},
            "value baseline": {"gamma": 0.9, "baseline": "value", "entropy_coefficient": 0.02},
        },
        ReinforceForm,
        bugs=(
            Bug("returns without the own reward", OwnRewardForgotten(), "signals"),
            Bug("sign of the score", Ascending(), "cotangents"),
        ),
    ),
    Proof(ComponentBaseline, {"component baseline": {"gamma": 0.9}}, ReinforceForm),
    Proof(
        ActorCritic,
        {
            # The three advantages, one of them normalised.
            "td": {"advantage": "td", "gamma": 0.9},
            "n-step": {
                "advantage": "n_step",
                "n_steps": 3,
                "gamma": 0.9,
                "entropy_coefficient": 0.01,
                "reduction": "group_step",
            },
            "gae": {"gamma": 0.9, "gae_lambda": 0.8, "normalise": "batch"},
        },
        ActorCriticForm,
    ),
    Proof(
        PPO,
        {
            # Both objectives, all three normalisations.
            "ppo": {"clip": 0.2, "entropy_coefficient": 0.01},
            "ppo value clip": {"clip": 0.3, "value_clip": 0.2, "normalise": "batch"},
            "ppo kl": {
                "objective": "kl",
                "kl_coefficient": 0.7,
                "normalise": "none",
                "entropy_coefficient": 0.02,
            },
        },
        PPOForm,
        PPO_KINKS,
        # The behaviour policy's distribution parameters, which the penalty measures from.
        extras={
            "reference": lambda mdp, behaviour: np.repeat(
                np.log(behaviour)[:, None], mdp.actions, axis=1
            )
        },
    ),
)
# A2C shares the implementation with its parent: what differs are defaults.
A2C_PROOF = Proof(A2C, {"a2c": {"gamma": 0.9}}, ActorCriticForm)
