import json
import math

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import PluginError
from pgcore.interfaces import metrics
from pgcore.registry.registry import registry

LOG_RATIO = np.log([1.0, 2.0, 0.5])
VALUE, RETURN = np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 0.0])

# Name, what the metric is given, and its value worked out by hand.
BY_HAND = {
    "entropy": ({"entropy": np.array([1.0, 3.0])}, 2.0),
    "kl": ({"kl": np.array([0.25, 0.75])}, 0.5),
    # Logarithms of 2 and 1/2 cancel in (0 + (2 - 1 - log 2) + (1/2 - 1 + log 2)) / 3.
    "approx_kl": ({"log_ratio": LOG_RATIO}, 1 / 6),
    "clip_fraction": ({"clipped": np.array([True, False, False, False])}, 0.25),
    # The ratios add up to 7/2, and their squares to 21/4.
    "effective_sample_size": ({"log_ratio": LOG_RATIO}, 7 / 3),
    "ratio_min": ({"log_ratio": LOG_RATIO}, 0.5),
    "ratio_max": ({"log_ratio": LOG_RATIO}, 2.0),
    "action_value": ({"action_value": np.array([2.0, -1.0])}, 0.5),
    # Half the mean of the squared errors 0, 4 and 9.
    "value_loss": ({"value": VALUE, "return_": RETURN}, 13 / 6),
    # Errors 0, 2, -3 have the variance 38/9, and returns 26/9.
    "explained_variance": ({"value": VALUE, "return_": RETURN}, -6 / 13),
    "gradient_norm": ({"gradient_norm": 1.5}, 1.5),
}


@pytest.fixture
def batch(make_batch):
    return make_batch(action_mask=None)


def new_policy(batch, critic="separate", critic_values="state"):
    network = pg.Linear(batch.observations.shape[1])
    return pg.policy(pg.PolicySpec(network, pg.Categorical(3), critic, critic_values), seed=1)


def gradient_of(policy, name, batch, **fields):
    return pg.gradient(policy, pg.estimator(name, **fields), batch)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_metric_is_the_number_worked_out_by_hand(name):
    given, expected = BY_HAND[name]
    assert metrics.METRICS[name](**given) == pytest.approx(expected, rel=1e-14)


def test_every_built_in_metric_is_worked_out_here_and_registered():
    assert metrics.METRICS.keys() == BY_HAND.keys() == set(registry().names("metrics"))
    assert all(registry().load("metrics", name) is metrics.METRICS[name] for name in BY_HAND)


@pytest.mark.parametrize("level", [0.1, 0.0, -7.3])
def test_the_explained_variance_of_equal_returns_is_not_a_number(level):
    # Rounding gives three returns of 0.1 a variance above 0.
    assert math.isnan(metrics.explained_variance(value=VALUE, return_=np.full(3, level)))


def test_ratios_that_overflow_have_an_effective_size_all_the_same():
    log_ratio = np.array([5000.0, 5000.0, -5000.0])
    assert metrics.effective_sample_size(log_ratio=log_ratio) == 2.0
    with np.errstate(over="ignore"):
        assert metrics.ratio_max(log_ratio=log_ratio) == math.inf
        assert metrics.approx_kl(log_ratio=log_ratio) == math.inf


# What a gradient has


RATIOS = {"approx_kl", "effective_sample_size", "ratio_min", "ratio_max"}
CRITIC = {"value_loss", "explained_variance"}
ALWAYS = {"loss", "gradient_norm"}


@pytest.mark.parametrize(
    ("name", "fields", "names"),
    [
        ("reinforce", {}, set()),
        ("reinforce", {"baseline": "value", "entropy_coefficient": 0.1}, CRITIC | {"entropy"}),
        ("a2c", {}, CRITIC | {"entropy"}),
        ("vtrace", {}, CRITIC),
        ("awr", {}, CRITIC | {"mean_weight"}),
        ("trpo", {}, CRITIC | RATIOS),
        ("ppo", {}, CRITIC | RATIOS | {"clip_fraction"}),
        ("ppo", {"objective": "kl"}, CRITIC | RATIOS | {"clip_fraction", "kl"}),
        ("averaged_ratio", {}, RATIOS),
    ],
)
def test_a_metric_is_there_wherever_its_keywords_are(batch, name, fields, names):
    assert gradient_of(new_policy(batch), name, batch, **fields).metrics.keys() == names | ALWAYS


def test_action_values_and_their_targets_are_a_critic_too(batch):
    gradient = gradient_of(new_policy(batch, critic_values="action"), "q_learning", batch)
    given = gradient.given()
    error = given["action_value"] - given["target"]
    assert gradient.metrics.keys() == ALWAYS | CRITIC | {"action_value"}
    assert gradient.metrics["value_loss"] == pytest.approx((error * error).mean() / 2, rel=1e-6)


def test_a_gspo_ratio_is_the_trajectorys(batch):
    gradient = gradient_of(new_policy(batch, "none"), "gspo", batch, group="all")
    given = gradient.given()
    gaps = given["log_prob"] - given["old_log_prob"]
    expected = [np.exp(part.mean()) for part in (gaps[:2], gaps[2:])]
    found = gradient.metrics
    assert (found["ratio_min"], found["ratio_max"]) == pytest.approx(
        (min(expected), max(expected)), rel=1e-6
    )


def test_what_is_clipped_depends_on_the_estimator():
    log_ratio, advantage = np.log([2.0, 0.1, 2.0, 0.1, 1.0]), np.array([1.0, 1.0, -1.0, -1.0, 1.0])
    masks = {
        "ppo": [True, False, False, True, False],
        "grpo": [True, False, False, True, False],
        "cispo": [True, False, True, False, False],  # it has no lower bound
    }
    for name, mask in masks.items():
        np.testing.assert_array_equal(pg.estimator(name).clipped(log_ratio, advantage), mask)
    np.testing.assert_array_equal(
        pg.estimator("ppo", objective="kl").clipped(log_ratio, advantage), [False] * 5
    )
    assert pg.estimator("trpo").clipped(log_ratio, advantage) is None


def test_padding_counts_for_nothing(batch):
    policy = new_policy(batch)
    plain, padded = (gradient_of(policy, "ppo", steps).metrics for steps in (batch, batch.pad(11)))
    assert padded == pytest.approx(plain, rel=1e-5)


def test_every_metric_of_padding_alone_is_not_a_number(batch):
    policy, padded, estimator = (
        new_policy(batch),
        batch.pad(9),
        pg.estimator("ppo", normalise="none"),
    )
    part = pg.signals(policy, estimator, padded).steps([6, 7])
    found = pg.gradient(policy, estimator, padded.steps([6, 7]), signals=part).metrics
    assert found.pop("loss") == 0.0
    assert found.keys() == CRITIC | RATIOS | {"clip_fraction", "gradient_norm"}
    assert all(math.isnan(value) for value in found.values())


def test_the_norm_is_that_of_the_gradient_at_hand(batch):
    gradient = gradient_of(new_policy(batch), "ppo", batch)
    assert gradient.metrics["gradient_norm"] == gradient.norm()
    assert gradient.scaled(2.0).metrics["gradient_norm"] == pytest.approx(
        2 * gradient.norm(), rel=1e-6
    )


def test_an_estimators_own_figures_come_last_and_win(batch, monkeypatch):
    estimator = pg.estimator("trpo")
    monkeypatch.setattr(
        type(estimator), "metrics", lambda self, **named: {"approx_kl": -1.0, "mine": 2.0}
    )
    found = pg.gradient(new_policy(batch), estimator, batch).metrics
    assert (found["approx_kl"], found["mine"]) == (-1.0, 2.0)


# A stranger's


def install(site, source, name="mine", owner="mine"):
    site.plugin(
        f"{owner}_plugin",
        f"@hookimpl\ndef pgcore_metrics():\n    return [Provider({name!r}, '{owner}_metrics:figure', 'a figure')]",
    )
    site.module(f"{owner}_metrics", source)
    site.distribution(f"{owner}-dist", {owner: f"{owner}_plugin"})


def test_a_strangers_metric_comes_through_the_hook(site, batch, pgcore):
    install(
        site,
        "def figure(*, advantage, weights, terms, value=None):\n    return (weights * terms).sum() + (value is None)",
    )
    policy = new_policy(batch)
    with_critic, without = (
        gradient_of(policy, name, batch.pad(8)) for name in ("ppo", "reinforce")
    )
    assert with_critic.metrics["mine"] == pytest.approx(with_critic.loss, rel=1e-5)
    assert without.metrics["mine"] == pytest.approx(without.loss + 1, rel=1e-5)
    assert "mine" not in gradient_of(policy, "averaged_ratio", batch).metrics, "it has no advantage"
    _, out, _ = pgcore("list", "metrics", "--json")
    assert {"mine", *BY_HAND} == {row["name"] for row in json.loads(out)["metrics"]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def figure(terms): ...",
            r"metric 'mine': expected keyword-only parameters, got \(terms\); write \(\*, names",
        ),
        ("def figure(*, terms, **others): ...", "metric 'mine': expected keyword-only parameters"),
        ("def figure(): ...", "metric 'mine': expected keyword-only parameters"),
        (
            "def figure(*, terms):\n    return terms",
            r"metric 'mine': expected one number, got ndarray of shape \[6\]; reduce",
        ),
        (
            "def figure(*, terms):\n    return 'much'",
            r"metric 'mine': expected one number, got str of shape \[\];",
        ),
    ],
)
def test_a_metric_that_cannot_be_one_is_refused_by_name(site, batch, source, message):
    install(site, source)
    gradient = gradient_of(new_policy(batch), "reinforce", batch)
    with pytest.raises(PluginError, match=message):
        _ = gradient.metrics


def test_a_metric_with_a_built_ins_name_is_prefixed_by_its_distribution(site, batch):
    install(site, "def figure(*, entropy):\n    return -1.0", name="entropy")
    metrics = gradient_of(new_policy(batch), "a2c", batch).metrics
    assert metrics.keys() == ALWAYS | CRITIC | {"entropy", "mine-dist:entropy"}
    assert metrics["mine-dist:entropy"] == -1.0
