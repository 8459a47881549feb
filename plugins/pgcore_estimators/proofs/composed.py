"""Reference implementations of the signals of compositions: plain loops over episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.bounds.numbers import numbers
from pgcore_check.reference.episode_sums import (
    backwards,
    final_values,
    gae,
    normalised,
    state_values,
)
from pgcore_check.reference.estimator_form import (
    EstimatorForm,
    Lift,
    LiftedEvaluate,
    Number,
    real_episodes,
    real_steps,
)
from pgcore_estimators.proofs.group_relative import by_group
from pgcore_estimators.proofs.ratios import old_log_probs

__all__ = ["ComposedForm"]


class ComposedForm(EstimatorForm):
    """The signals of the built-in parts; the terms are the surrogate's."""

    earlier = ("old_value",)
    signals_alone = True

    def serves(self) -> bool:
        """See `EstimatorForm.serves`: a composition of the parts that this module writes out."""
        parts = self.fields.composition
        written = parts.advantage.name in ADVANTAGES and self.fields.signal_names <= SIGNALS
        return written and all(map(is_built_in, parts))

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        parts = self.fields.composition
        rewards, old = lift(batch.rewards), old_log_probs(batch, evaluate, lift)
        for penalty in parts.penalties:
            if penalty.in_reward:
                gap = old - lift(batch.extras["reference_log_probs"])
                rewards = rewards - penalty.estimate(numbers, gap) * penalty.coefficient
        estimate = ADVANTAGES[parts.advantage.name]
        signals = estimate(parts.advantage, batch, rewards, lift, evaluate)
        if parts.normalise == "batch":
            signals["advantage"] = normalised(signals["advantage"], real_steps(batch), parts.ddof)
        optional: dict[str, Callable[[], Number]] = {
            "old_log_prob": lambda: old,
            "old_value": lambda: lift(np.asarray(batch.values)),
            "reference_log_prob": lambda: lift(batch.extras["reference_log_probs"]),
        }
        for name, value in optional.items():
            if name in parts.keywords:
                signals[name] = value()
        if "reference" in self.fields.signal_names:
            extra = batch.extras.get("reference")
            signals["reference"] = evaluate("distribution") if extra is None else lift(extra)
        if parts.critic is None:
            signals.pop("return_", None)
        return signals

    def finalise(self, signals: dict[str, Number], padding: Array | None) -> dict[str, Number]:
        """See `EstimatorForm.finalise`: normalised over the real steps of the minibatch."""
        parts = self.fields.composition
        if parts.normalise != "minibatch":
            return signals
        advantage = signals["advantage"]
        real = np.ones(advantage.shape, np.bool_) if padding is None else padding > 0
        return signals | {"advantage": normalised(advantage, real, parts.ddof)}


def is_built_in(part: object) -> bool:
    """Return whether a part is one of this package's, and not of a stranger or a test."""
    return type(part).__module__.startswith("pgcore_estimators.")


def gae_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return GAE advantages and their targets."""
    values, final = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
    advantage = gae(batch, rewards, values, final, part.gamma, part.gae_lambda)
    return {"advantage": advantage, "return_": advantage + values}


def returns_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return the returns to go, less the values where they are the baseline."""
    valued = part.baseline == "value"
    final = final_values(batch, evaluate, lift) if valued else np.zeros(batch.num_episodes)
    g_t = backwards(batch, final, lambda t, g_tp1: rewards[t] + g_tp1 * part.gamma)
    if not valued:
        return {"advantage": g_t}
    return {"advantage": g_t - state_values(batch, evaluate, lift), "return_": g_t}


def group_relative_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, *_: object
) -> dict[str, Number]:
    """Return rewards less their group's mean, over a deviation."""
    real, lengths = real_episodes(batch), batch.episode_lengths.astype(np.float64)
    weights = lift(lengths if part.mean == "steps" else np.ones(batch.num_episodes))

    def relative(episode: int, among: list[int], totals: Number) -> Number:
        own, scaled = totals[episode], {"group": among, "batch": real, "none": []}[part.scale]
        if len(among) == 1:
            own, mean = own if part.lone == "raw" else own * 0, 0
            scaled = real if part.scale == "batch" else []
        else:
            peers = [i for i in among if i != episode] if part.leave_one_out else among
            mean = (totals[peers] * weights[peers]).sum() / weights[peers].sum()
        return own - mean if len(scaled) < 2 else (own - mean) / deviation(totals[scaled])

    def deviation(members: Number) -> Number:
        spread = members - members.sum() / len(members)
        variance = (spread * spread).sum() / (len(members) - part.ddof)
        # Not every number system has a root.
        return np.exp(np.log(variance) / 2) + part.eps

    return {"advantage": by_group(batch, part.group, rewards, relative)}


# The signals written out here, and the episodes' numbers; masks and corrections have others.
SIGNALS = frozenset(("advantage", "return_", "old_log_prob", "old_value", "reference", "episode"))
SIGNALS |= {"reference_log_prob"}
# By the registered name of the advantage.
ADVANTAGES: dict[str, Callable[..., dict[str, Number]]] = {
    "gae": gae_of,
    "returns": returns_of,
    "group_relative": group_relative_of,
}
