"""REINFORCE, actor-critic and PPO once more: plain loops over episodes and steps, in any number system of NumPy's functions.

Written apart from the estimators and from `pgcore.returns`, and sharing nothing with them. Run on `np.longdouble` a form is the truth
that an estimator is compared with; run on `Bounded` arrays it says how far from the truth an honest result may be. `B` steps in `E`
episodes, `D` parameters. Rows of padding hold finite numbers that mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.proof import Proof
from pgcore_check.reference.episode_sums import (
    backwards,
    final_values,
    gae,
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
    real_steps,
    where,
)
from pgcore_estimators.actor_critic import A2C, ActorCritic
from pgcore_estimators.ppo import PPO
from pgcore_estimators.proofs.kinks import PPO_KINKS
from pgcore_estimators.reinforce import ComponentBaseline, Reinforce

__all__ = ["A2C_PROOF", "PROOFS"]


class ReinforceForm(EstimatorForm):
    """Returns less a baseline."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`; without a critic nothing follows an episode that was cut."""
        critic = self.fields.baseline == "value"
        rewards, following = (
            lift(batch.rewards),
            final_values(batch, evaluate, lift) if critic else np.zeros(batch.num_episodes),
        )
        to_go = backwards(batch, following, lambda t, rest: rewards[t] + rest * self.fields.gamma)
        weighing = (
            to_go
            if self.fields.reward_to_go
            else to_go[batch.episode_starts][batch.episode_of_step]
        )
        advantage = weighing - (
            state_values(batch, evaluate, lift)
            if critic
            else self._baseline(batch, weighing, evaluate, lift)
        )
        if self.fields.normalise == "batch":
            advantage = normalised(advantage, real_steps(batch), self.fields.ddof)
        found = {"advantage": advantage * self._discount(batch, lift)}
        return found | ({"return_": to_go} if critic else {})

    def combine(
        self,
        batch: Batch,
        evaluate: LiftedEvaluate,
        signals: Mapping[str, Number],
        weights: Array,
        lift: Lift,
    ) -> Number:
        """See `EstimatorForm.combine`: - sum_e w_e (u_e - b_e g_e), b the others' sum of u g over their sum of g^2."""
        if self.fields.baseline != "optimal_per_component":
            return super().combine(batch, evaluate, signals, weights, lift)
        g, u = evaluate.scores(self._discount(batch, lift)), evaluate.scores(signals["advantage"])
        w = lift(weights[batch.episode_starts])
        parts: list[Number] = []
        for episode in real_episodes(batch):
            others = [other for other in real_episodes(batch) if other != episode]
            b = safe_ratio((u[others] * g[others]).sum(axis=0), (g[others] * g[others]).sum(axis=0))
            parts.append(((u[episode] - b * g[episode]) * w[episode]).reshape(1, -1))
        return -np.concatenate(parts).sum(axis=0)

    def _discount(self, batch: Batch, lift: Lift) -> Number:
        """Return [B] gamma^t where states are discounted and returns are not from the start already, else 1."""
        powers = lift(np.ones(batch.num_steps))
        if self.fields.discount_state and self.fields.reward_to_go:
            for t in range(batch.step_in_episode.max()):
                later = batch.step_in_episode > t
                powers = where(later, powers * self.fields.gamma, powers)
        return powers

    def _baseline(
        self, batch: Batch, weighing: Number, evaluate: LiftedEvaluate, lift: Lift
    ) -> Number:
        """Return [B], or one number for all steps."""
        kind, real = self.fields.baseline, real_episodes(batch)
        if kind in ("none", "constant", "optimal_per_component"):
            return self.fields.baseline_value if kind == "constant" else 0
        top, bottom = weighing[batch.episode_starts], lift(np.ones(batch.num_episodes))
        if kind == "optimal":
            discount = self._discount(batch, lift)
            g, u = evaluate.scores(discount), evaluate.scores(weighing * discount)
            top, bottom = (u * g).sum(axis=1), (g * g).sum(axis=1)
        rows: list[Number] = []
        for episode in range(batch.num_episodes):
            among = [other for other in real if other != episode or kind == "mean"]
            rows.append(safe_ratio(top[among].sum(), bottom[among].sum()))
        return joined(rows)[batch.episode_of_step]


class ActorCriticForm(EstimatorForm):
    """Advantages and targets from the critic's values."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
        if self.fields.advantage == "gae":
            advantage = gae(
                batch,
                lift(batch.rewards),
                values,
                following,
                self.fields.gamma,
                self.fields.gae_lambda,
            )
            target = advantage + values
        else:
            n = 1 if self.fields.advantage == "td" else self.fields.n_steps
            target = n_step(batch, lift(batch.rewards), values, following, self.fields.gamma, n)
            advantage = target - values
        if self.fields.normalise == "batch":
            advantage = normalised(advantage, real_steps(batch), self.fields.ddof)
        return {"advantage": advantage, "return_": target}


class PPOForm(EstimatorForm):
    """The clipped ratio, or the ratio and a penalty."""

    earlier = ("old_value",)

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
        advantage = gae(
            batch, lift(batch.rewards), values, following, self.fields.gamma, self.fields.gae_lambda
        )
        found = {"advantage": advantage, "return_": advantage + values}
        if self.fields.normalise == "batch":
            found["advantage"] = normalised(advantage, real_steps(batch), self.fields.ddof)
        found["old_log_prob"] = (
            evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)
        )
        if self.fields.value_clip is not None:
            found["old_value"] = values
        if self.fields.objective == "kl":
            given = batch.extras.get("reference")
            found["reference"] = evaluate("distribution") if given is None else lift(given)
        return found

    def finalise(self, signals: dict[str, Number], padding: Array | None) -> dict[str, Number]:
        """See `EstimatorForm.finalise`: over the real steps at hand."""
        if self.fields.normalise != "minibatch":
            return signals
        advantage = signals["advantage"]
        real = np.ones(advantage.shape, np.bool_) if padding is None else padding > 0
        return signals | {"advantage": normalised(advantage, real, self.fields.ddof)}

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`: a ratio past the bound that the advantage pushes it towards counts as the bound."""
        advantage, log_ratio, clip = (
            named["advantage"],
            named["log_prob"] - named["old_log_prob"],
            self.fields.clip,
        )
        if self.fields.objective == "kl":
            gain = advantage * np.exp(log_ratio)
            return named["kl"] * self.fields.kl_coefficient - gain, -gain
        up = advantage >= 0
        highest, lowest = math.log1p(clip), math.log1p(-clip) if clip < 1 else -math.inf
        past = (up & (log_ratio > highest)) | (~up & (log_ratio < lowest))
        gain = advantage * np.exp(where(past, where(up, highest, lowest), log_ratio))
        return -gain, -where(past, 0, gain)

    def value_error(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.value_error`: that of the value held near the old one, where held it is further from the target."""
        error, slope = super().value_error(named)
        value, old, reach = named["value"], named.get("old_value"), self.fields.value_clip
        if reach is None:
            return error, slope
        higher = value > old
        held = where(higher, old + reach, old - reach) - named["return_"]
        free = (np.abs(value - old) <= reach) | (np.abs(error) >= np.abs(held))
        return where(free, error, held), where(free, slope, 0)


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
    ),
    Proof(ComponentBaseline, {"component baseline": {"gamma": 0.9}}, ReinforceForm),
    Proof(
        ActorCritic,
        {
            "td": {"advantage": "td", "gamma": 0.9},
            "n-step": {
                "advantage": "n_step",
                "n_steps": 3,
                "gamma": 0.9,
                "entropy_coefficient": 0.01,
            },
            "gae": {"gamma": 0.9, "gae_lambda": 0.8, "normalise": "batch"},
        },
        ActorCriticForm,
    ),
    Proof(
        PPO,
        {
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
        # The behaviour policy, as the distribution that the penalty measures from.
        extras={
            "reference": lambda mdp, behaviour: np.repeat(
                np.log(behaviour)[:, None], mdp.actions, axis=1
            )
        },
    ),
)
A2C_PROOF = Proof(A2C, {"a2c": {"gamma": 0.9}}, ActorCriticForm)
