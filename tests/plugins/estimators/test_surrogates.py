"""Each surrogate's terms against the papers' formulas, written once more: a derivative says nothing of a constant branch's value."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.xp.numpy import host
from pgcore_estimators.preset_classes import PPO

B = 400


def points(seed=0):
    """Return quantities and signals of both signs, on both sides of every kink, in extended precision."""
    rng = np.random.default_rng(seed)
    names = ("value", "old_log_prob", "advantage", "return_", "entropy", "kl", "old_value")
    found = {name: rng.standard_normal(B).astype(np.longdouble) for name in names}
    found["log_prob"] = found["old_log_prob"] + 0.6 * rng.standard_normal(B)
    found["advantage"][:20] = 0.0
    return found


def terms(estimator, given):
    return estimator.surrogate(host, **{name: given[name] for name in estimator.keywords})


def value_loss(given, clip):
    """Return (V - R)^2 / 2, with clipping the larger one of V's and the clipped V's."""
    plain = (given["value"] - given["return_"]) ** 2 / 2
    if clip is None:
        return plain
    limited = np.clip(given["value"], given["old_value"] - clip, given["old_value"] + clip)
    return np.maximum(plain, (limited - given["return_"]) ** 2 / 2)


@pytest.mark.parametrize("value_clip", [None, 0.5])
@pytest.mark.parametrize("clip", [0.2, 0.5, 1.0, 1.5])
def test_ppo_clips_the_ratio_and_takes_the_smaller(clip, value_clip):
    """Schulman et al. 2017, eq. 7: E[min(r A, clip(r, 1 - eps, 1 + eps) A)], and eq. 9 with signs turned."""
    estimator = pg.estimator(
        "ppo", clip=clip, value_clip=value_clip, value_coefficient=0.7, entropy_coefficient=0.3
    )
    given = points()
    ratio, advantage = np.exp(given["log_prob"] - given["old_log_prob"]), given["advantage"]
    # A ratio cannot be below 0, so neither can its lower bound.
    clipped = np.clip(ratio, max(1 - np.longdouble(clip), 0), 1 + np.longdouble(clip))
    expected = (
        -np.minimum(ratio * advantage, clipped * advantage)
        + np.longdouble(0.7) * value_loss(given, value_clip)
        - np.longdouble(0.3) * given["entropy"]
    )
    np.testing.assert_allclose(terms(estimator, given), expected, rtol=0, atol=1e-15)
    above, below = (advantage > 0) & (ratio > 1 + clip), (advantage < 0) & (ratio < 1 - clip)
    assert above.sum() > 5
    assert below.sum() > 5 or clip > 0.5


@pytest.mark.parametrize("value_clip", [None, 0.5])
def test_ppo_penalises_the_divergence(value_clip):
    """Schulman et al. 2017, eq. 8: E[r A - beta KL(old, new)]."""
    estimator = pg.estimator(
        "ppo", objective="kl", kl_coefficient=0.7, value_clip=value_clip, entropy_coefficient=0.3
    )
    given = points(1)
    ratio = np.exp(given["log_prob"] - given["old_log_prob"])
    expected = (
        -(ratio * given["advantage"] - np.longdouble(0.7) * given["kl"])
        + value_loss(given, value_clip) / 2
        - np.longdouble(0.3) * given["entropy"]
    )
    np.testing.assert_allclose(terms(estimator, given), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "estimator",
    [
        pg.estimator("actor_critic", value_coefficient=0.7, entropy_coefficient=0.3),
        pg.estimator("reinforce", baseline="value", value_coefficient=0.7, entropy_coefficient=0.3),
    ],
    ids=lambda estimator: estimator.name,
)
def test_the_score_weighs_the_advantage(estimator):
    """Mnih et al. 2016, algorithm S3; Williams 1992, eq. 11 without the critic's part."""
    given = points(2)
    expected = (
        -given["log_prob"] * given["advantage"]
        + np.longdouble(0.7) * value_loss(given, None)
        - np.longdouble(0.3) * given["entropy"]
    )
    np.testing.assert_allclose(terms(estimator, given), expected, rtol=0, atol=1e-15)
    plain = pg.estimator("reinforce", baseline="leave_one_out")
    np.testing.assert_array_equal(terms(plain, given), -given["log_prob"] * given["advantage"])


def test_trpo_weighs_the_advantage_by_the_ratio():
    """Schulman et al. 2015, eq. 14: E[r A], with signs turned; no ratio is too far."""
    estimator = pg.estimator("trpo", value_coefficient=0.7, entropy_coefficient=0.3)
    given = points(3)
    ratio = np.exp(given["log_prob"] - given["old_log_prob"])
    expected = (
        -ratio * given["advantage"]
        + np.longdouble(0.7) * value_loss(given, None)
        - np.longdouble(0.3) * given["entropy"]
    )
    np.testing.assert_allclose(terms(estimator, given), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("log_ratio", [-1e4, -1000.0, 1000.0, 1e4])
def test_clipped_terms_stay_finite_where_the_ratio_does_not(log_ratio):
    estimator = pg.estimator("ppo", clip=0.2, value_coefficient=0.0, normalise="none")
    advantage = np.array([np.sign(log_ratio)])
    zeros = np.zeros(1)
    given = {
        "log_prob": zeros,
        "old_log_prob": zeros - log_ratio,
        "advantage": advantage,
        "value": zeros,
        "return_": zeros,
    }
    assert terms(estimator, given).tolist() == [
        pytest.approx(-1.2 if log_ratio > 0 else 0.8, rel=1e-15)
    ]
    assert estimator.cotangents(**given)["log_prob"].tolist() == [0.0]


def the_other_bound(original):
    def surrogate(self, xp, **named):
        advantage, log_ratio = named["advantage"], named["log_prob"] - named["old_log_prob"]
        below = (advantage < 0) & (log_ratio < np.log1p(-self.clip))
        # The branch's derivative is still 0, so no gradient shows that its value is wrong.
        return original(self, xp, **named) - np.where(below, 2 * self.clip * advantage, 0.0)

    return surrogate


def the_larger(original):
    return lambda self, xp, **named: (
        -original(self, xp, **(named | {"advantage": -named["advantage"]}))
    )


@pytest.mark.parametrize("plant", [the_other_bound, the_larger])
def test_a_wrong_term_is_not_the_papers(monkeypatch, plant):
    test_ppo_clips_the_ratio_and_takes_the_smaller(0.2, None)
    monkeypatch.setattr(PPO, "surrogate", plant(PPO.surrogate))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_ppo_clips_the_ratio_and_takes_the_smaller(0.2, None)
