"""The built-in estimators once more: plain loops over episodes and steps, in any number system that NumPy's functions work on.

Written apart from the estimators and from `pgcore.signals`, and sharing nothing with them. Run on `np.longdouble` a form is the truth
that an estimator is compared with; run on `Bounded` arrays it says how far from the truth an honest result may be. `B` steps in `E`
episodes, `D` parameters. Rows of padding hold finite numbers that mean nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.estimator import Estimator

__all__ = ["EstimatorForm", "LiftedEvaluate", "estimator_form"]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]

where: Callable[..., Number] = np.where  # its own types know NumPy's arrays alone


class LiftedEvaluate(Protocol):
    """The current policy on the batch at hand, in the number system at hand; see `pgcore.estimator.Evaluate`."""

    def __call__(self, name: str) -> Number:
        """Return a quantity: [B]; [E] for "final_value", not read where an episode terminated; [B, width] for "distribution"."""
        ...

    def scores(self, step_weights: Number) -> Number:
        """Return [E, D] per-episode scores, steps weighed by [B] numbers, which are cast to the policy's dtype first."""
        ...


class EstimatorForm(ABC):
    """One estimator's definition.

    Attributes:
        fields: The estimator, asked for its hyper-parameters alone.
    """

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
        real, kind = lift(where(_real(batch), 1.0, 0.0)), self.fields.reduction.value
        if kind == "step":
            return real / int(_real(batch).sum())
        share = real / len(_real_episodes(batch))
        return share / lift(batch.episode_lengths[batch.episode_of_step]) if kind == "episode_step" else share

    def terms(self, named: Mapping[str, Number]) -> Number:
        """Return [B] terms of the loss from quantities and signals: the policy's, plus c_v error^2 / 2, less c_e H."""
        total, _ = self.policy(named)
        if "value" in named:
            error, _ = self.value_error(named)
            total = total + error * error / 2 * self.fields.value_coefficient
        return total - named["entropy"] * self.fields.entropy_coefficient if "entropy" in named else total

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
        self, batch: Batch, evaluate: LiftedEvaluate, signals: Mapping[str, Number], weights: Array, lift: Lift
    ) -> Number:
        """Return [D] the loss's gradient of an estimator that weighs scores; signals and [B] weights are those it is given.

        Raises:
            EstimatorError: the estimator's gradient is that of its surrogate.
        """
        raise EstimatorError(
            f"combine: expected an estimator that weighs scores, got {self.fields}; differentiate its surrogate"
        )


class ReinforceForm(EstimatorForm):
    """Returns less a baseline."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`; without a critic nothing follows an episode that was cut."""
        critic = self.fields.baseline == "value"
        rewards, following = (
            lift(batch.rewards),
            _following(batch, evaluate) if critic else np.zeros(batch.num_episodes),
        )
        to_go = _backwards(batch, following, lambda t, rest: rewards[t] + rest * self.fields.gamma)
        weighing = to_go if self.fields.reward_to_go else to_go[batch.episode_starts][batch.episode_of_step]
        advantage = weighing - (evaluate("value") if critic else self._baseline(batch, weighing, evaluate, lift))
        if self.fields.normalise == "batch":
            advantage = _normalised(advantage, _real(batch), self.fields.ddof)
        found = {"advantage": advantage * self._discount(batch, lift)}
        return found | ({"return_": to_go} if critic else {})

    def combine(
        self, batch: Batch, evaluate: LiftedEvaluate, signals: Mapping[str, Number], weights: Array, lift: Lift
    ) -> Number:
        """See `EstimatorForm.combine`: - sum_e w_e (u_e - b_e g_e), b the others' sum of u g over their sum of g^2."""
        if self.fields.baseline != "optimal_per_component":
            return super().combine(batch, evaluate, signals, weights, lift)
        g, u = evaluate.scores(self._discount(batch, lift)), evaluate.scores(signals["advantage"])
        w = lift(weights[batch.episode_starts])
        parts: list[Number] = []
        for episode in _real_episodes(batch):
            others = [other for other in _real_episodes(batch) if other != episode]
            b = _ratio((u[others] * g[others]).sum(axis=0), (g[others] * g[others]).sum(axis=0))
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

    def _baseline(self, batch: Batch, weighing: Number, evaluate: LiftedEvaluate, lift: Lift) -> Number:
        """Return [B], or one number for all steps."""
        kind, real = self.fields.baseline, _real_episodes(batch)
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
            rows.append(_ratio(top[among].sum(), bottom[among].sum()))
        return _joined(rows)[batch.episode_of_step]


class ActorCriticForm(EstimatorForm):
    """Advantages and targets from the critic's values."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = evaluate("value"), _following(batch, evaluate)
        if self.fields.advantage == "gae":
            advantage = _gae(batch, lift(batch.rewards), values, following, self.fields.gamma, self.fields.gae_lambda)
            target = advantage + values
        else:
            n = 1 if self.fields.advantage == "td" else self.fields.n_steps
            target = _n_step(batch, lift(batch.rewards), values, following, self.fields.gamma, n)
            advantage = target - values
        if self.fields.normalise == "batch":
            advantage = _normalised(advantage, _real(batch), self.fields.ddof)
        return {"advantage": advantage, "return_": target}


class PPOForm(EstimatorForm):
    """The clipped ratio, or the ratio and a penalty."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = evaluate("value"), _following(batch, evaluate)
        advantage = _gae(batch, lift(batch.rewards), values, following, self.fields.gamma, self.fields.gae_lambda)
        found = {"advantage": advantage, "return_": advantage + values}
        if self.fields.normalise == "batch":
            found["advantage"] = _normalised(advantage, _real(batch), self.fields.ddof)
        found["old_log_prob"] = evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)
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
        return signals | {"advantage": _normalised(advantage, real, self.fields.ddof)}

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`: a ratio past the bound that the advantage pushes it towards counts as the bound."""
        advantage, log_ratio, clip = named["advantage"], named["log_prob"] - named["old_log_prob"], self.fields.clip
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


class TRPOForm(EstimatorForm):
    """The ratio alone."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = evaluate("value"), _following(batch, evaluate)
        advantage = _gae(batch, lift(batch.rewards), values, following, self.fields.gamma, self.fields.gae_lambda)
        old = evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)
        found = {"advantage": advantage, "return_": advantage + values, "old_log_prob": old}
        if self.fields.normalise == "batch":
            found["advantage"] = _normalised(advantage, _real(batch), self.fields.ddof)
        return found

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        gain = named["advantage"] * np.exp(named["log_prob"] - named["old_log_prob"])
        return -gain, -gain


FORMS: dict[str, type[EstimatorForm]] = {
    "reinforce": ReinforceForm,
    "actor_critic": ActorCriticForm,
    "ppo": PPOForm,
    "trpo": TRPOForm,
}


def estimator_form(estimator: Estimator) -> EstimatorForm | None:
    """Return the form of a built-in estimator, looked up by its name; None where there is none."""
    form = FORMS.get(estimator.name)
    return None if form is None else form(estimator)


def _episodes(batch: Batch) -> Iterator[range]:
    """Yield the step numbers of each episode."""
    for start, length in zip(batch.episode_starts.tolist(), batch.episode_lengths.tolist(), strict=True):
        yield range(start, start + length)


def _real(batch: Batch) -> Array:
    """Return [B] whether a step is no padding."""
    return batch.episode_weights[batch.episode_of_step] > 0


def _real_episodes(batch: Batch) -> list[int]:
    """Return the numbers of the episodes that are no padding."""
    return np.flatnonzero(batch.episode_weights).tolist()


def _joined(rows: list[Number]) -> Number:
    """Return [n] from n single numbers."""
    return np.concatenate([row.reshape(1) for row in rows])


def _ratio(numerator: Number, denominator: Number) -> Number:
    """Return the quotient, 0 where the denominator is."""
    some = denominator > 0
    return where(some, numerator / where(some, denominator, 1), 0)


def _following(batch: Batch, evaluate: LiftedEvaluate) -> Number:
    """Return [E] the value of what followed each episode's last step: 0 where the episode terminated."""
    ended = batch.terminated
    return np.zeros(len(ended)) if ended.all() else where(ended, 0, evaluate("final_value"))


def _backwards(batch: Batch, last: Number, step: Callable[[int, Number], Number]) -> Number:
    """Return [B] y_t = step(t, y_{t+1}), with `last` [E] after each episode's last step."""
    rows: dict[int, Number] = {}
    for episode, steps in enumerate(_episodes(batch)):
        y = last[episode]
        for t in reversed(steps):
            y = rows[t] = step(t, y)
    return _joined([rows[t] for t in sorted(rows)])


def _next_values(batch: Batch, values: Number, following: Number) -> Number:
    """Return [B] V(s_{t+1}) from [B] V(s_t) and what followed each episode's last step."""
    rows = [values[t] for t in range(1, batch.num_steps)] + [following[-1]]
    for episode, steps in enumerate(_episodes(batch)):
        rows[steps[-1]] = following[episode]
    return _joined(rows)


def _gae(batch: Batch, rewards: Number, values: Number, following: Number, gamma: float, gae_lambda: float) -> Number:
    """Return [B] the sum of (gamma lambda)^k (r_{t+k} + gamma V_{t+k+1} - V_{t+k}) to the episode's end."""
    delta = rewards + _next_values(batch, values, following) * gamma - values
    return _backwards(batch, np.zeros(batch.num_episodes), lambda t, rest: delta[t] + rest * gae_lambda * gamma)


def _n_step(batch: Batch, rewards: Number, values: Number, following: Number, gamma: float, n: int) -> Number:
    """Return [B] r_t + ... + gamma^{m-1} r_{t+m-1} + gamma^m V_{t+m}, m the less of n and the steps left."""
    ahead = _next_values(batch, values, following)
    rows: list[Number] = []
    for steps in _episodes(batch):
        for t in steps:
            counted = range(t, min(t + n, steps.stop))
            total = ahead[counted[-1]]
            for k in reversed(counted):
                total = rewards[k] + total * gamma
            rows.append(total)
    return _joined(rows)


def _normalised(x: Number, real: Array, ddof: int) -> Number:
    """Return [B] (x - mean) / (std + 1e-8) over real steps and 0 at others; equal steps give 0, a single one stays as it is."""
    own, count = x[real], int(real.sum())
    if count <= 1:
        return where(real, x, 0)
    if not ((own > own[0]) | (own < own[0])).any():
        return x * 0
    mean = own.sum() / count
    variance = ((own - mean) * (own - mean)).sum() / (count - ddof)
    # The number systems have no root.
    return where(real, (x - mean) / (np.exp(np.log(variance) / 2) + 1e-8), 0)
