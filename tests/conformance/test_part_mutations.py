"""The suite's own test, continued: bugs in the parts of estimators, each planted in the part itself.

The definition of a part is the reference of its terms. Where the formula alone is wrong, it departs from its slope.
Where both are wrong alike, they depart from gradients that were worked out by hand at single points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from mutations_page import listed, planted, section

import pgcore as pg
from pgcore import returns
from pgcore.data.selection import Selection
from pgcore.interfaces.recorded import old_log_probs
from pgcore.parts import composition
from pgcore.parts.composition import Composition
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS
from pgcore_check.cases.kinks import worst_at
from pgcore_check.planted import first_disagreement
from pgcore_check.proofs import kinks, variants
from pgcore_estimators.covariances import covariances
from pgcore_estimators.parts import corrections, dppo, gae, masks, n_step, step_masks
from pgcore_estimators.parts.best_alone import BestAlone
from pgcore_estimators.parts.cispo import ClippedWeight
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.parts.critics import ClippedValue, Huber, Squared
from pgcore_estimators.parts.exact_kl import ExactKL
from pgcore_estimators.parts.gmpo import LimitedRatio
from pgcore_estimators.parts.group_relative import GroupRelative
from pgcore_estimators.parts.grouped import Scaled
from pgcore_estimators.parts.kl import K1, K2, K3, SampledKL, StraightK3
from pgcore_estimators.parts.kl_cov import CovariancePenalty
from pgcore_estimators.parts.levels import GSPOToken, Sequence, SequenceProduct
from pgcore_estimators.parts.sapo import SoftGate
from pgcore_estimators.parts.score import Ratio, Score
from pgcore_estimators.parts.vespo import GammaWeight

ESTIMATORS = variants("estimators")
POINTS = {kink.name: kink for kink in kinks()}

HEADING = "## Parts of estimators"
POINT, REFUSED = "gradient at a point", "refused"

# Given a monkeypatch, plants the bug.
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class PartBug:
    """One planted bug.

    Attributes:
        name: What is wrong.
        planted: In which formula of which part.
        stage: Where it must be found.
        plant: See `Plant`.
        at: Label of the estimator, or name of the point.
    """

    name: str
    planted: str
    stage: str
    plant: Plant
    at: str

    def run(
        self, monkeypatch: pytest.MonkeyPatch, *, planted: bool = True
    ) -> tuple[str | None, float]:
        """Return the first stage that disagrees, or None, and the ratio there or the largest one."""
        if planted:
            self.plant(monkeypatch)
        return at_point(self.at) if self.at in POINTS else of_variant(self.at)


def at_point(name: str) -> tuple[str | None, float]:
    build = partial(pg.policy, backend="numpy", dtype="float64")
    try:
        ratio, _ = worst_at(POINTS[name], build, np.dtype(np.float64))
    except pg.PgcoreError:
        return REFUSED, math.inf
    return (None if ratio <= FACTOR else POINT), ratio


def of_variant(label: str) -> tuple[str | None, float]:
    spec = pg.PolicySpec(NETWORKS["linear"], variants("heads")["categorical"], "separate")
    return first_disagreement(ESTIMATORS[label], spec)


def methods(owner: Any, **replaced: Any) -> Plant:
    """Return a plant of other methods or properties of a class, or functions of a module."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        for name, replacement in replaced.items():
            monkeypatch.setattr(owner, name, replacement)

    return plant


def results(owner: Any, change: Callable[..., Any], *names: str) -> Plant:
    """Return a plant that lets methods or functions return what `change` makes of their result and arguments."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        for name in names:
            monkeypatch.setattr(owner, name, changed(getattr(owner, name), change))

    return plant


def changed(original: Any, change: Callable[..., Any]) -> Any:
    return lambda *args, **kwargs: change(original(*args, **kwargs), *args)


def negative(result: Any, *_: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(None if part is None else -part for part in result)
    return {name: -part for name, part in result.items()} if isinstance(result, dict) else -result


def doubled(result: Any, *_: Any) -> Any:
    return 2.0 * result


# Objectives, which compute [B] gains.


def larger_gain(self, xp, log_ratio, log_prob, advantage):
    low, high, _ = self._bounds
    limited = xp.clip(log_ratio, low, high)
    return xp.maximum(xp.exp(log_ratio) * advantage, xp.exp(limited) * advantage)


def gain_of_the_other_side(self, xp, log_ratio, log_prob, advantage):
    (low, high, _), gaining = self._bounds, advantage < 0
    least = xp.where(gaining, xp.full_like(advantage, -math.inf), low)
    most = xp.where(gaining, xp.full_like(advantage, high), math.inf)
    return advantage * xp.exp(xp.clip(log_ratio, least, most))


def clipped_on_the_other_side(self, log_ratio, advantage):
    low, high, _ = self._bounds
    return np.where(advantage < 0, log_ratio > high, log_ratio < low)


right_bounds: Any = Clip._bounds.func


def dual_of_gains(self):
    low, high, losing_high = right_bounds(self)
    return low, max(high, losing_high or high), None


def unclipped_slope(self, log_ratio, log_prob, advantage):
    return advantage * np.exp(log_ratio), None


def clipped_everywhere(self, log_ratio, advantage):
    low, high, _ = self._bounds
    return (log_ratio > high) | (log_ratio < low)


def unclipped_on_ties(self, log_ratio, advantage):
    low, high, _ = self._bounds
    return np.where(advantage >= 0, log_ratio >= high, log_ratio <= low)


def differentiated_weight(self, xp, log_ratio, log_prob, advantage):
    return advantage * xp.exp(xp.clip(log_ratio, *self._bounds))


def gate_without_factor(self, xp, log_ratio, log_prob, advantage):
    tau, _ = self._by_sign(xp, advantage)
    return advantage * xp.sigmoid(tau * (xp.exp(log_ratio) - 1.0))


def gate_of_log_ratio(self, xp, log_ratio, log_prob, advantage):
    tau, _ = self._by_sign(xp, advantage)
    return advantage * (4.0 / tau) * xp.sigmoid(tau * log_ratio)


def gate_slope_of_log_ratio(self, log_ratio, log_prob, advantage):
    tau, _ = self._by_sign(host, advantage)
    gate = host.sigmoid(tau * log_ratio)
    return 4.0 * advantage * gate * (1.0 - gate), None


def limit_of_losses(self, xp, log_ratio, advantage):
    return right_limit(self, xp, log_ratio, -advantage)


right_limit: Any = LimitedRatio.limit


def limited_losses(self, log_ratio, advantage):
    return np.where(advantage < 0, log_ratio > self.high, log_ratio < -self.low)


def moving_weight(self, xp, log_ratio, log_prob, advantage):
    return self._weight(xp, log_ratio, advantage) * advantage * log_prob


def kept_beyond(dropped, self, xp, log_pi, log_mu, advantage):
    return ~dropped


def old_over_new(self, inputs):
    return inputs["old_log_prob"] - inputs["log_prob"]


# Levels, which compute the log ratio and pull derivatives back.


def summed_ratio(self, xp, log_ratio, log_prob, episode):
    return xp.episode_sum(log_ratio, episode)


def summed_slope(self, slope, episode):
    return host.episode_sum(slope, episode), None


def mean_ratio(self, xp, log_ratio, log_prob, episode):
    return xp.episode_mean(log_ratio, episode)


def mean_slope(self, slope, episode):
    return host.episode_mean(slope, episode), None


def own_slope(self, slope, episode):
    return slope, None


def moving_mean(self, xp, log_ratio, log_prob, episode):
    return xp.episode_mean(log_ratio, episode) + (log_prob - xp.stop_gradient(log_prob))


# Corrections and masks of the gain, which compute [B] weights.


def capped_below(self, ratio):
    return np.maximum(ratio, self.cap)


def inside_left_out(self, ratio):
    return np.where((ratio < self.low) | (ratio > self.high), ratio, 0.0)


def rollout_over_old(self, ratio):
    return right_truncation(self, 1.0 / ratio)


right_truncation: Any = corrections.Truncated.limited


def summed_weights(self, batch, weights):
    real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
    return weights / (weights * real).sum()


def token_for_sequence(self, batch, evaluate, advantage):
    log_ratio = old_log_probs(batch, evaluate) - batch.extras["rollout_log_probs"]
    return self.limited(np.exp(log_ratio))


def sum_for_mean(self, batch, evaluate, advantage):
    log_ratio = old_log_probs(batch, evaluate) - batch.extras["rollout_log_probs"]
    return self.limited(np.exp(host.episode_sum(log_ratio, batch.episode_of_step)))


def old_after_all(self, batch, evaluate):
    return {"old_log_prob": old_log_probs(batch, evaluate)}


def winners_left_out(self, batch, evaluate, advantage):
    return right_sequence_mask(self, batch, evaluate, -advantage)


right_sequence_mask: Any = masks.OffPolicySequence.weights


def old_less_rollout(self, batch, evaluate, advantage):
    gap = old_log_probs(batch, evaluate) - batch.extras["rollout_log_probs"]
    gap = host.episode_mean(gap, batch.episode_of_step)
    return np.where((gap > self.delta) & (advantage < 0), 0.0, 1.0)


def lowest_entropies(self, batch, evaluate, advantage):
    entropy = evaluate("entropy")["entropy"]
    return np.where(entropy <= np.quantile(entropy, self.fraction), 1.0, 0.0)


def not_centred(result, batch, evaluate, advantage):
    return advantage * evaluate("log_prob")["log_prob"], result[1]


def lowest_covariances(self, batch, evaluate, advantage):
    return right_covariances(self, batch, evaluate, -advantage)


right_covariances: Any = CovariancePenalty.signals_of


def inverted(kept, *_):
    return ~kept


# Penalties, which compute [B] terms, and critics' losses.


def other_sign_of_l(self, xp, log_ratio):
    return xp.exp(log_ratio) - log_ratio - 1.0


def other_sign_slope(self, log_ratio):
    return np.expm1(log_ratio)


def whole_square(self, xp, log_ratio):
    return log_ratio * log_ratio


def ratio_not_held(self, xp, **inputs):
    log_prob = inputs["log_prob"]
    ratio = xp.exp(log_prob - inputs["old_log_prob"])
    return self.coefficient * self.estimate(xp, log_prob - inputs["reference_log_prob"]) * ratio


def estimate_left_out(self, **inputs):
    log_prob = inputs["log_prob"]
    slope = self.estimate_slope(log_prob - inputs["reference_log_prob"])
    if self.ratio != "none":
        slope = slope * np.exp(log_prob - inputs["old_log_prob"])
    return {"log_prob": self.coefficient * slope}


def other_direction(self):
    return ("reverse_kl" if self.direction == "kl" else "kl",)


def opposite_term(self, xp, **inputs):
    return self.coefficient * inputs[other_direction(self)[0]]


def opposite_slope(self, **inputs):
    name = other_direction(self)[0]
    return {name: np.full_like(inputs[name], self.coefficient)}


def whole_error(self, xp, value, return_, old_value):
    return (value - return_) * (value - return_)


def unlimited_slope(self, value, return_, old_value):
    return (value - return_) / (self.bound if self.scaled else 1.0)


def smaller_error(self, xp, value, return_, old_value):
    error, moved = value - return_, xp.clip(value - old_value, -self.clip, self.clip)
    held = old_value + moved - return_
    return xp.where(xp.abs(error) <= xp.abs(held), error, held)


def smaller_term(self, xp, value, return_, old_value):
    error = smaller_error(self, xp, value, return_, old_value)
    return (0.5 if self.half else 1.0) * error * error


def smaller_slope(self, value, return_, old_value):
    error, held = value - return_, smaller_error(self, host, value, return_, old_value)
    return np.where(error == held, (1.0 if self.half else 2.0) * error, 0.0)


def around_the_target(self, xp, value, return_, old_value):
    error = value - return_
    return xp.clip(error, -self.clip, self.clip)


def bonus_as_cost(terms, self, xp, inputs):
    return terms + 2 * self.entropy_coefficient * inputs["entropy"]


# Advantages, which are signals.


def this_value_for_the_next(rewards, v_t, v_tp1, lengths, gamma, gae_lambda):
    return returns.gae(rewards, v_t, v_t, lengths, gamma, gae_lambda)


def lambda_twice(rewards, v_t, v_tp1, lengths, gamma, gae_lambda):
    return returns.gae(rewards, v_t, v_tp1, lengths, gamma, gae_lambda * gae_lambda)


def one_step_more(rewards, v_t, v_tp1, lengths, gamma, n):
    return returns.n_step_returns(rewards, v_t, v_tp1, lengths, gamma, n + 1)


def own_among_others(self, rewards, lengths):
    return rewards - rewards.mean()


def best_less_mean(self, rewards, lengths):
    return np.where(rewards == rewards.max(), rewards - rewards.mean(), 0.0)


def variance(spread, *_):
    return spread * spread


def without_rewards_left_out(self):
    return self.whole.rewards[self.steps]


DUAL, GATE, LIMIT = "dual clip, huber", "soft gate, smooth L1", "limited ratios of single steps, k2"
PRODUCT = "product of ratios, ratio-weighted k3"
THREE = "sequence, penalties, squared error, V - R = 1.5"
WEIGHED = "product, weighed penalties, square, V - R = 1.5"
EXACT = "gspo_token, exact KLs, larger loss, V = 1, R = 2"
SEVERAL = "masks of whole steps, 3 of 6 count"
TOP = "masked by token, top entropies"
SEQUENCE = "truncated by token, loss mask, sequence level"

BUGS = (
    PartBug(
        "max for min", "objective clip: gain", "cotangents", methods(Clip, gain=larger_gain), DUAL
    ),
    PartBug(
        "bound on the wrong side",
        "objective clip: gain and slope",
        POINT,
        methods(Clip, gain=gain_of_the_other_side, clipped=clipped_on_the_other_side),
        "dual, above the dual bound, A > 0",
    ),
    PartBug(
        "dual bound of a gain for that of a loss",
        "objective clip: gain and slope",
        POINT,
        methods(Clip, _bounds=property(dual_of_gains)),
        "dual, above the dual bound, A < 0",
    ),
    PartBug(
        "gradient beyond the bound",
        "objective clip: slope",
        "cotangents",
        methods(Clip, slope=unclipped_slope),
        DUAL,
    ),
    PartBug(
        "no gradient beyond either bound",
        "objective clip: slope",
        "cotangents",
        methods(Clip, clipped=clipped_everywhere),
        DUAL,
    ),
    PartBug(
        "no gradient at the bound",
        "objective clip: slope",
        POINT,
        methods(Clip, clipped=unclipped_on_ties),
        "dual, at 1 + high, A > 0",
    ),
    PartBug(
        "old over new",
        "composition: ratio",
        "cotangents",
        methods(Composition, _ratio_by_step=old_over_new),
        "n-step of a ratio",
    ),
    PartBug(
        "clipped weight differentiated",
        "objective cispo: gain",
        "cotangents",
        methods(ClippedWeight, gain=differentiated_weight),
        "clipped weight, held value",
    ),
    PartBug(
        "4 / tau left out",
        "objective sapo: gain",
        "cotangents",
        methods(SoftGate, gain=gate_without_factor),
        GATE,
    ),
    PartBug(
        "log ratio for the ratio less 1",
        "objective sapo: gain and slope",
        POINT,
        methods(SoftGate, gain=gate_of_log_ratio, slope=gate_slope_of_log_ratio),
        "soft gate, ratio exp(0.5)",
    ),
    PartBug(
        "limit of the other sign of A",
        "objective gmpo: limit and its slope",
        POINT,
        methods(LimitedRatio, limit=limit_of_losses, limited=limited_losses),
        "limited ratio, above high, A > 0",
    ),
    PartBug(
        "missing stop-gradient",
        "objective vespo: gain",
        "cotangents",
        methods(GammaWeight, gain=moving_weight),
        "vespo",
    ),
    PartBug(
        "mask on the wrong side",
        "objective dppo_tv: gain and slope",
        POINT,
        results(dppo.DPPO, kept_beyond, "_dropped"),
        "dppo_tv, beyond delta, away, A > 0",
    ),
    PartBug(
        "wrong sign",
        "objective ratio: gain and slope",
        POINT,
        results(Ratio, negative, "gain"),
        THREE,
    ),
    PartBug(
        "wrong sign",
        "objective score: slope",
        "cotangents",
        results(Score, negative, "slope"),
        "remax",
    ),
    PartBug(
        "episode_sum for episode_mean",
        "level sequence: ratio",
        "cotangents",
        methods(Sequence, log_ratio=summed_ratio),
        SEQUENCE,
    ),
    PartBug(
        "episode_sum for episode_mean",
        "level sequence: ratio and slope",
        POINT,
        methods(Sequence, log_ratio=summed_ratio, pull=summed_slope),
        THREE,
    ),
    PartBug(
        "slope of the step's own ratio",
        "level sequence: slope",
        "cotangents",
        methods(Sequence, pull=own_slope),
        SEQUENCE,
    ),
    PartBug(
        "episode_mean for episode_sum",
        "level sequence_product: ratio and slope",
        POINT,
        methods(SequenceProduct, log_ratio=mean_ratio, pull=mean_slope),
        WEIGHED,
    ),
    PartBug(
        "missing stop-gradient",
        "level gspo_token: ratio",
        "cotangents",
        methods(GSPOToken, log_ratio=moving_mean),
        "gspo_token",
    ),
    PartBug(
        "cap below",
        "correction truncated",
        "signals",
        methods(corrections.Truncated, limited=capped_below),
        "tis",
    ),
    PartBug(
        "rollout policy over old policy",
        "correction truncated",
        "signals",
        methods(corrections.Truncated, limited=rollout_over_old),
        "tis",
    ),
    PartBug(
        "a step's ratio for the sequence's",
        "correction truncated",
        "signals",
        methods(corrections.ImportanceWeight, weights=token_for_sequence),
        "tis",
    ),
    PartBug(
        "sum for the geometric mean",
        "correction masked",
        "signals",
        methods(corrections.ImportanceWeight, weights=sum_for_mean),
        "masked by geometric mean",
    ),
    PartBug(
        "inside left out",
        "correction masked",
        "signals",
        methods(corrections.Masked, limited=inside_left_out),
        TOP,
    ),
    PartBug(
        "ratio to the old policy after all",
        "correction bypass",
        "signals",
        methods(corrections.Bypass, signals=old_after_all),
        "bypass",
    ),
    PartBug(
        "winning answers left out",
        "mask off_policy_sequence",
        "signals",
        methods(masks.OffPolicySequence, weights=winners_left_out),
        "off-policy answers, ratio-weighted k3",
    ),
    PartBug(
        "sign of the log ratio",
        "mask off_policy_sequence",
        "signals",
        methods(masks.OffPolicySequence, weights=old_less_rollout),
        "off-policy answers, ratio-weighted k3",
    ),
    PartBug(
        "lowest entropies for the highest",
        "mask entropy_quantile",
        "signals",
        methods(masks.EntropyQuantile, weights=lowest_entropies),
        TOP,
    ),
    PartBug(
        "denominator of all steps",
        "mask entropy_quantile",
        "signals",
        methods(composition, has_own_denominator=lambda part: False),
        TOP,
    ),
    PartBug(
        "covariance not centred",
        "mask clip_cov",
        "signals",
        methods(masks, covariances=changed(covariances, not_centred)),
        "clip_cov",
    ),
    PartBug(
        "mask on the wrong side",
        "mask loss",
        REFUSED,
        results(step_masks.LossMask, inverted, "keeps"),
        "loss mask, old log-probability -inf",
    ),
    PartBug(
        "reward of a step that does not count left out",
        "mask loss",
        POINT,
        methods(Selection, _rewards=without_rewards_left_out),
        "loss mask, reward of the other step",
    ),
    PartBug(
        "mask on the wrong side",
        "mask zero_variance",
        POINT,
        results(step_masks.ZeroVariance, inverted, "keeps"),
        SEVERAL,
    ),
    PartBug(
        "mask on the wrong side",
        "mask truncated",
        POINT,
        results(step_masks.TruncatedEpisodes, inverted, "keeps"),
        SEVERAL,
    ),
    PartBug(
        "wrong sign",
        "penalty k1: term",
        "cotangents",
        results(K1, negative, "estimate"),
        "score, k1 in loss and reward",
    ),
    PartBug(
        "factor 1/2 lost",
        "penalty k2: term",
        "cotangents",
        methods(K2, estimate=whole_square),
        LIMIT,
    ),
    PartBug(
        "factor 1/2 lost",
        "penalty k2: term and slope",
        POINT,
        results(K2, doubled, "estimate", "estimate_slope"),
        WEIGHED,
    ),
    PartBug(
        "sign of the log ratio",
        "penalty k3: term",
        "cotangents",
        methods(K3, estimate=other_sign_of_l),
        PRODUCT,
    ),
    PartBug(
        "sign of the log ratio",
        "penalty k3: term and slope",
        POINT,
        methods(K3, estimate=other_sign_of_l, estimate_slope=other_sign_slope),
        THREE,
    ),
    PartBug(
        "missing stop-gradient",
        "penalty k3_straight: term",
        "cotangents",
        methods(StraightK3, estimate=K3.estimate),
        "delta below the bound, straight-through k3",
    ),
    PartBug(
        "missing stop-gradient",
        "penalty of a constant ratio: term",
        "cotangents",
        methods(SampledKL, term=ratio_not_held),
        LIMIT,
    ),
    PartBug(
        "ratio not differentiated",
        "penalty of a ratio: slope",
        "cotangents",
        methods(SampledKL, slope=estimate_left_out),
        PRODUCT,
    ),
    PartBug(
        "added to the reward",
        "penalty in the reward",
        "signals",
        results(SampledKL, negative, "reward"),
        "score, k1 in loss and reward",
    ),
    PartBug(
        "KL in the other direction",
        "penalty exact: term and slope",
        POINT,
        methods(ExactKL, reads=property(other_direction), term=opposite_term, slope=opposite_slope),
        EXACT,
    ),
    PartBug(
        "lowest covariances for the highest",
        "penalty kl_cov",
        "signals",
        methods(CovariancePenalty, signals_of=lowest_covariances),
        "kl_cov",
    ),
    PartBug(
        "sign of the log ratio",
        "penalty kl_cov: slope",
        "cotangents",
        results(CovariancePenalty, negative, "slope"),
        "kl_cov",
    ),
    PartBug(
        "factor 1/2 lost",
        "critic squared: term",
        "cotangents",
        methods(Squared, term=whole_error),
        "ratio, exact KL",
    ),
    PartBug(
        "factor 1/2 lost",
        "critic squared: term and slope",
        POINT,
        results(Squared, doubled, "term", "slope"),
        THREE,
    ),
    PartBug(
        "slope without the bound",
        "critic huber: slope",
        "cotangents",
        methods(Huber, slope=unlimited_slope),
        DUAL,
    ),
    PartBug(
        "min for max",
        "critic clipped: term and slope",
        POINT,
        methods(ClippedValue, term=smaller_term, slope=smaller_slope),
        EXACT,
    ),
    PartBug(
        "clipped around the target",
        "critic clipped: term",
        "cotangents",
        methods(ClippedValue, _error=around_the_target),
        "clipped weight, held value",
    ),
    PartBug(
        "sign of the entropy",
        "composition: terms",
        "cotangents",
        results(Composition, bonus_as_cost, "terms"),
        DUAL,
    ),
    PartBug(
        "V of the step for that of the next",
        "advantage gae",
        "signals",
        methods(gae, gae=this_value_for_the_next),
        DUAL,
    ),
    PartBug(
        "lambda squared",
        "advantage gae",
        "signals",
        methods(gae, gae=lambda_twice),
        DUAL,
    ),
    PartBug(
        "one step more",
        "advantage n_step",
        "signals",
        methods(n_step, n_step_returns=one_step_more),
        "n-step of a ratio",
    ),
    PartBug(
        "own reward among the others",
        "advantage group_relative",
        "signals",
        methods(GroupRelative, centred=own_among_others),
        "opo",
    ),
    PartBug(
        "variance for the deviation",
        "advantage group_relative",
        "signals",
        results(Scaled, variance, "spread"),
        "dapo",
    ),
    PartBug(
        "mean for the second best",
        "advantage best_alone",
        "signals",
        methods(BestAlone, centred=best_less_mean),
        "pass_at_k",
    ),
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.name} in {bug.planted}")
def test_a_planted_bug_is_found_at_its_stage(bug, monkeypatch):
    stage, ratio = bug.run(monkeypatch)
    assert stage == bug.stage
    assert ratio > 10 * FACTOR


@pytest.mark.parametrize("at", dict.fromkeys(bug.at for bug in BUGS))
def test_nothing_is_found_without_a_bug(at, monkeypatch):
    bug = next(bug for bug in BUGS if bug.at == at)
    assert bug.run(monkeypatch, planted=False)[0] is None


def section_of_bugs() -> str:
    """Return the page's section, from a run."""
    text = [
        "A part's definition is the reference of its terms. Where the formula alone is wrong, it departs from its slope. Where",
        "both are wrong alike, they depart from gradients that were worked out by hand at single points.",
    ]
    columns = ("bug", "planted in", "found at", "times the limit")
    return section(HEADING, text, columns, planted(BUGS))


def test_the_page_lists_these_bugs_at_these_stages():
    assert listed(HEADING, 3) == [(bug.name, bug.planted, bug.stage) for bug in BUGS]
