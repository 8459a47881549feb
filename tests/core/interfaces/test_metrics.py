import json
import math

import numpy as np
import pytest

import pgcore as pg
from pgcore_estimators import metrics


@pytest.fixture
def batch(make_batch):
    return make_batch(action_mask=None)


def new_policy(batch, critic="separate", critic_values="state"):
    network = pg.Linear(batch.observations.shape[1])
    return pg.policy(pg.PolicySpec(network, pg.Categorical(3), critic, critic_values), seed=1)


def gradient_of(policy, name, batch, **fields):
    return pg.gradient(policy, pg.estimator(name, **fields), batch)


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
        ("ppo", {"objective": "kl"}, CRITIC | RATIOS | {"kl"}),
        ("averaged_ratio", {}, RATIOS),
    ],
)
def test_a_metric_is_there_wherever_its_keywords_are(batch, name, fields, names):
    assert gradient_of(new_policy(batch), name, batch, **fields).metrics.keys() == names | ALWAYS


def test_action_values_and_their_targets_are_a_critic_too(batch):
    gradient = gradient_of(new_policy(batch, critic_values="action"), "q_learning", batch)
    given = gradient.arguments()
    error = given["action_value"] - given["target"]
    assert gradient.metrics.keys() == ALWAYS | CRITIC | {"action_value"}
    assert gradient.metrics["value_loss"] == pytest.approx((error * error).mean() / 2, rel=1e-6)


def test_a_gspo_ratio_is_the_trajectorys(batch):
    gradient = gradient_of(new_policy(batch, "none"), "gspo", batch, group="all")
    given = gradient.arguments()
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
    for unclipped in (pg.estimator("ppo", objective="kl"), pg.estimator("trpo")):
        assert unclipped.clipped(log_ratio, advantage) is None


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


def test_metrics_of_episodes_of_which_nothing_is_left_are_not_numbers(make_batch):
    ratios = {"objective": "ratio", "level": "sequence", "critic": None}
    estimator = pg.estimator(
        "policy_gradient", advantage="group_relative", mask="zero_variance", **ratios
    )
    equal = make_batch(action_mask=None, rewards=np.zeros(6)).with_extras(group=np.zeros(6, int))
    found = pg.gradient(new_policy(equal, "none"), estimator, equal).metrics
    assert found.pop("loss") == 0.0
    assert found.keys() == RATIOS | {"gradient_norm"}
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("padding", [0, 3])
def test_a_step_of_weight_0_counts_in_metrics(batch, padding):
    policy, weights = new_policy(batch), np.arange(6.0)
    plain = gradient_of(policy, "policy_gradient", batch).metrics
    weighed = batch.with_extras(weights=weights).pad(6 + padding)
    found = gradient_of(policy, "policy_gradient", weighed, reduction="weighted").metrics
    for name in RATIOS | CRITIC:
        assert found[name] == pytest.approx(plain[name], rel=1e-5), name
    estimator = pg.estimator("policy_gradient", reduction="weighted")
    signals = pg.signals(policy, estimator, weighed)
    gradients = [
        pg.gradient(policy, estimator, weighed.steps(part), signals=signals.part(part))
        for part in (slice(3), slice(3, None))
    ]
    summed = gradients[0].plus(gradients[1]).metrics
    assert summed["value_loss"] == pytest.approx(plain["value_loss"], rel=1e-5)


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
    values = pg.policy(
        pg.PolicySpec(pg.Linear(3), pg.EpsilonGreedy(3, epsilon=0.2)), dtype="float64"
    )
    gradient = pg.gradient(values, pg.estimator("q_learning"), batch)
    assert "mine" not in gradient.metrics, "it has no advantage"
    _, out, _ = pgcore("list", "metrics", "--json")
    assert {"mine", *metrics.__all__} == {row["name"] for row in json.loads(out)["metrics"]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def figure(terms): ...",
            r"metric 'mine' is left out: PluginError: expected keyword-only parameters, got \(terms\); write",
        ),
        (
            "def figure(*, terms, **others): ...",
            "metric 'mine' is left out: .* expected keyword-only parameters",
        ),
        ("def figure(): ...", "metric 'mine' is left out: .* expected keyword-only parameters"),
        (
            "def figure(*, terms):\n    return terms",
            r"metric 'mine' is left out: .* expected one number, got ndarray of shape \[6\]; reduce",
        ),
        (
            "def figure(*, terms):\n    return 'much'",
            r"metric 'mine' is left out: .* expected one number, got str of shape \[\];",
        ),
        (
            "def figure(*, terms):\n    return 1 / 0",
            "left out: ZeroDivisionError: division by zero; correct or uninstall its plugin",
        ),
        ("raise RuntimeError('no import')", "metric 'mine' is left out: RuntimeError: no import"),
    ],
)
def test_a_metric_that_cannot_be_one_is_left_out_with_a_warning(site, batch, source, message):
    install(site, source)
    gradient = gradient_of(new_policy(batch), "reinforce", batch)
    with pytest.warns(UserWarning, match=message):
        metrics = gradient.metrics
    assert "mine" not in metrics
    assert metrics


def test_a_metric_that_two_provide_is_passed_over(site, batch):
    for owner in ("mine", "yours"):
        install(site, "def figure(*, entropy):\n    return -1.0", name="twin", owner=owner)
    metrics = gradient_of(new_policy(batch), "a2c", batch).metrics
    assert metrics.keys() == ALWAYS | CRITIC | {"entropy"}


def test_a_metric_with_a_built_ins_name_is_prefixed_by_its_distribution(site, batch):
    install(site, "def figure(*, entropy):\n    return -1.0", name="entropy")
    metrics = gradient_of(new_policy(batch), "a2c", batch).metrics
    assert metrics.keys() == ALWAYS | CRITIC | {"entropy", "mine-dist:entropy"}
    assert metrics["mine-dist:entropy"] == -1.0
