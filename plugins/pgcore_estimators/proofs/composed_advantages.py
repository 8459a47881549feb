"""Reference implementations of advantages as parts: plain loops over episodes.

They share no code with `pgcore.returns`, and run in any number system of NumPy's functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.bounds.numbers import plain
from pgcore_check.reference.episode_sums import (
    backwards,
    episodes,
    final_values,
    gae,
    joined,
    n_step,
    next_values,
    state_values,
)
from pgcore_check.reference.estimator_form import (
    Lift,
    LiftedEvaluate,
    Number,
    real_episodes,
    where,
)
from pgcore_estimators.proofs.advantages import state_discounts
from pgcore_estimators.proofs.group_relative import by_group, groups_of
from pgcore_estimators.proofs.off_policy import PerDecisionISForm, VTraceForm, WeightedISForm
from pgcore_estimators.proofs.ratios import log_ratios, old_log_probs

__all__ = ["ADVANTAGES"]


def returns_to_go(batch: Batch, rewards: Number, gamma: float, final: Number) -> Number:
    """Return [B] discounted sums of the rewards from each step on, and of what follows the last."""
    return backwards(batch, final, lambda t, g_tp1: rewards[t] + g_tp1 * gamma)


def whole(batch: Batch, rewards: Number, part: Any) -> Number:
    """Return [B] returns to go without a bootstrap."""
    return returns_to_go(batch, rewards, part.gamma, np.zeros(batch.num_episodes))


def gae_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return GAE advantages and their targets."""
    values, final = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
    advantage = gae(batch, rewards, values, final, part.gamma, part.gae_lambda)
    return {"advantage": advantage, "return_": advantage + values}


def n_step_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return n-step returns less the values."""
    values, final = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
    target = n_step(batch, rewards, values, final, part.gamma, getattr(part, "n", 1))
    return {"advantage": target - values, "return_": target}


def vtrace_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return V-trace's advantages and targets."""
    # The sums of the estimator's reference, of these rewards.
    form = VTraceForm(part)
    target = form.signals(batch, evaluate, lambda x: rewards if x is batch.rewards else lift(x))
    target = target["return_"]
    values, final = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
    ahead = next_values(batch, target, final)
    if part.bootstrap == "mixed":
        later = next_values(batch, values, final)
        ahead = ahead * part.trace_lambda + later * (1.0 - part.trace_lambda)
    advantage = rewards + ahead * part.gamma - values
    if part.weighted:
        bound = part.rho_bar if part.pg_rho_bar is None else part.pg_rho_bar
        ratio = np.exp(log_ratios(batch, evaluate, lift))
        advantage = advantage * where(ratio > bound, bound, ratio)
    return {"advantage": advantage, "return_": target}


def returns_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return returns less a baseline."""
    valued, real = part.baseline == "value", real_episodes(batch)
    final = final_values(batch, evaluate, lift) if valued else np.zeros(batch.num_episodes)
    target = returns_to_go(batch, rewards, part.gamma, final)
    firsts = target[batch.episode_starts]
    g_t = target if part.reward_to_go else firsts[batch.episode_of_step]
    signals: dict[str, Number] = {}
    if part.discount_state and part.reward_to_go:
        signals["discount"] = state_discounts(batch, part.gamma, lift)
    if valued:
        advantage = g_t - state_values(batch, evaluate, lift)
        return {**signals, "advantage": advantage, "return_": target}
    if part.baseline == "constant":
        return {**signals, "advantage": g_t - part.baseline_value}
    if part.baseline in ("mean", "leave_one_out"):
        rows: list[Number] = []
        for episode in range(batch.num_episodes):
            own = part.baseline == "mean"
            peers = [i for i in real if own or i != episode]
            mean = firsts[peers].sum() / len(peers)
            rows.append(mean if episode in real else mean * 0)
        return {**signals, "advantage": g_t - joined(rows)[batch.episode_of_step]}
    return {**signals, "advantage": g_t}


def weighed_of(form: Callable[[Any], PerDecisionISForm]) -> Callable[..., dict[str, Number]]:
    """Return the function of an advantage from weighed rewards."""

    def estimate(
        part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
    ) -> dict[str, Number]:
        plain = form(dataclasses.replace(part, discount_state=False))
        signals = plain.signals(
            batch, evaluate, lambda x: rewards if x is batch.rewards else lift(x)
        )
        if part.discount_state:
            signals["discount"] = state_discounts(batch, part.gamma, lift)
        return signals

    return estimate


def counted_in(part: Any, batch: Batch) -> list[int]:
    """Return the numbers of the episodes that count in a baseline."""
    mask: Array = np.ones(batch.num_steps, np.bool_)
    if not part.count_masked:
        mask = batch.extras["loss_mask"]
    steps = list(episodes(batch))
    return [i for i in real_episodes(batch) if mask[steps[i].start : steps[i].stop].any()]


def mean_of(
    part: Any, batch: Batch, lift: Lift, episode: int, among: list[int], totals: Number
) -> Number:
    """Return the mean of a group's rewards, with the episode or without, by steps or episodes."""
    lengths = batch.episode_lengths.astype(np.float64)
    by_steps = getattr(part, "mean", "episodes") == "steps"
    weights = lift(lengths if by_steps else np.ones(batch.num_episodes))
    peers = [i for i in among if i != episode] if part.leave_one_out else among
    return (totals[peers] * weights[peers]).sum() / weights[peers].sum()


def relative_of(part: Any, batch: Batch, rewards: Number, lift: Lift) -> Number:
    """Return [B] rewards of episodes against their group's."""
    counted = counted_in(part, batch)

    def relative(episode: int, among: list[int], totals: Number) -> Number:
        own, among = totals[episode], [i for i in among if i in counted]
        if episode not in counted:
            return own * 0
        if len(among) == 1:
            centred = own if part.lone == "raw" else own * 0
            scaled = counted if part.scale == "batch" else []
        else:
            scaled = {"group": among, "batch": counted, "none": []}[part.scale]
            centred = centred_of(episode, among, totals)
        return centred if len(scaled) < 2 else over(centred, totals[scaled])

    def centred_of(episode: int, among: list[int], totals: Number) -> Number:
        if part.name != "best_alone":
            return totals[episode] - mean_of(part, batch, lift, episode, among, totals)
        order = sorted(among, key=lambda i: -float(plain(totals[i])))
        best, second = order[:2]
        return totals[best] - totals[second] if episode == best else totals[episode] * 0

    def over(centred: Number, members: Number) -> Number:
        mean = members.sum() / len(members)
        if part.name == "success_normalised":
            return centred / (mean + part.eps) if plain(mean) > 0 else centred * 0
        spread = members - mean
        variance = (spread * spread).sum() / (len(members) - part.ddof)
        # Not every number system has a root.
        return centred / (np.exp(np.log(variance) / 2) + part.eps)

    return by_group(batch, part.group, rewards, relative)


def group_relative_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, *_: object
) -> dict[str, Number]:
    """Return the advantages of one reward an episode."""
    advantage = relative_of(part, batch, rewards, lift)
    if part.name == "gpg":
        counted = counted_in(part, batch)
        totals = [batch.rewards[steps.start : steps.stop].sum() for steps in episodes(batch)]
        factor = len(counted) / max(sum(totals[i] != 0 for i in counted), 1)
        advantage = advantage * factor / part.norm
    return {"advantage": advantage}


def several_rewards_of(
    part: Any, batch: Batch, _rewards: Number, lift: Lift, *_: object
) -> dict[str, Number]:
    """Return the weighted advantages of several rewards, or the advantage of their weighted sum."""
    table = batch.extras["rewards"].astype(np.float64)
    if part.rows == "episode":
        # All of an episode's rewards at its first step.
        table = np.where((batch.step_in_episode == 0)[:, None], table, 0.0)
    columns = [lift(table[:, k]) for k in range(len(part.weights))]
    if part.first == "sum":
        total = columns[0] * part.weights[0]
        for weight, column in zip(part.weights[1:], columns[1:], strict=True):
            total = total + column * weight
        return {"advantage": relative_of(part, batch, total, lift)}
    advantage = relative_of(part, batch, columns[0], lift) * part.weights[0]
    for weight, column in zip(part.weights[1:], columns[1:], strict=True):
        advantage = advantage + relative_of(part, batch, column, lift) * weight
    return {"advantage": advantage}


def group_returns_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, *_: object
) -> dict[str, Number]:
    """Return returns to go less the mean of a group's rewards."""
    counted = counted_in(part, batch)

    def baseline(episode: int, among: list[int], totals: Number) -> Number:
        among = [i for i in among if i in counted]
        if episode not in counted or (len(among) == 1 and part.lone != "raw"):
            return totals[episode]
        if len(among) == 1:
            return totals[episode] * 0
        return mean_of(part, batch, lift, episode, among, totals)

    # The baseline is of rewards without a penalty; padding has none.
    means = by_group(batch, part.group, lift(batch.rewards), baseline)
    # An answer that does not count has A = 0, whatever its length and discount.
    counts = np.isin(batch.episode_of_step, counted).astype(np.float64)
    return {"advantage": (whole(batch, rewards, part) - means) * lift(counts)}


def greedy_baseline_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, *_: object
) -> dict[str, Number]:
    """Return returns to go less the greedy answer's reward."""
    greedy = lift(batch.extras["greedy_rewards"].astype(np.float64))
    return {"advantage": whole(batch, rewards, part) - greedy}


def given_of(
    _part: Any, batch: Batch, _rewards: Number, lift: Lift, *_: object
) -> dict[str, Number]:
    """Return the batch's own advantages."""
    return {"advantage": lift(batch.extras["advantages"].astype(np.float64))}


def optimal_token_baseline_of(
    part: Any, batch: Batch, rewards: Number, lift: Lift, evaluate: LiftedEvaluate
) -> dict[str, Number]:
    """Return returns to go less the group's weighted mean at each position."""
    g_t, counted = whole(batch, rewards, part), counted_in(part, batch)
    groups, steps = groups_of(batch, part.group), list(episodes(batch))
    probability = np.exp(old_log_probs(batch, evaluate, lift))
    squares = lift(batch.extras["squared_probs"].astype(np.float64))
    energy = squares + 1.0 - probability * 2.0
    if part.corrected:
        weight = lift(batch.extras["correction_weights"].astype(np.float64))
        energy = energy * weight * weight
    rows: list[Number] = []
    for episode, own in enumerate(steps):
        for t, step in enumerate(own):
            among = [i for i in counted if groups[i] == groups[episode] and t < len(steps[i])]
            if episode not in counted or (len(among) == 1 and part.lone != "raw"):
                rows.append(g_t[step] * 0)
                continue
            if len(among) == 1:
                rows.append(g_t[step])
                continue
            sums = [energy[steps[i].start : steps[i].start + t + 1].sum() for i in among]
            total = product = sums[0] * 0
            for i, upto in zip(among, sums, strict=True):
                total, product = total + upto, product + upto * g_t[steps[i].start + t]
            rows.append(g_t[step] - product / total if plain(total) > 0 else g_t[step])
    return {"advantage": joined(rows)}


# By the registered name of the advantage.
ADVANTAGES: dict[str, Callable[..., dict[str, Number]]] = {
    "gae": gae_of,
    "n_step": n_step_of,
    "td": n_step_of,
    "vtrace": vtrace_of,
    "returns": returns_of,
    "per_decision": weighed_of(PerDecisionISForm),
    "self_normalised": weighed_of(WeightedISForm),
    "group_relative": group_relative_of,
    "success_normalised": group_relative_of,
    "best_alone": group_relative_of,
    "gpg": group_relative_of,
    "several_rewards": several_rewards_of,
    "group_returns": group_returns_of,
    "greedy_baseline": greedy_baseline_of,
    "given": given_of,
    "optimal_token_baseline": optimal_token_baseline_of,
}
