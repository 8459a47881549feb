"""The usual settings of training: what they depend on, and that they learn."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest

import pgcore as pg
from pgcore.interfaces.estimator import Claims, Reduction
from pgcore.registry.registry import registry
from pgcore_estimators.preset_classes import ActorCritic
from pgcore_train.command import run_command
from pgcore_train.run.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Stranger(ActorCritic):
    """An estimator that nothing here knows, with the traits of its base class."""

    name = "stranger"


@dataclass(frozen=True)
class ScoreAlone(pg.Estimator):
    """An estimator without a critic or an entropy bonus."""

    reduction = Reduction.STEP
    name = "score_alone"

    @property
    def claims(self):
        return Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"reward": batch.rewards}

    def surrogate(self, xp, *, log_prob, reward):
        return -log_prob * reward


@pytest.fixture
def strangers(monkeypatch):
    """Put both classes in the place of estimators of other names."""
    for name, cls in (("vtrace", Stranger), ("opo", ScoreAlone)):
        monkeypatch.setitem(registry()._loaded, ("estimators", name), cls)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("environment", "estimator", "observations", "rewards"),
    [
        ("CartPole-v1", "ppo", False, True),
        ("CartPole-v1", "vtrace", False, True),
        ("CartPole-v1", "opo", False, False),
        ("CartPole-v1", "reinforce", False, False),
        ("CartPole-v1", "q_learning", False, False),
        ("Pendulum-v1", "ppo", True, True),
        ("Pendulum-v1", "trpo", True, True),
        ("Pendulum-v1", "vtrace", True, True),
        ("FrozenLake-v1", "ppo", False, False),
        ("FrozenLake-v1", "vtrace", False, False),
    ],
)
def test_critics_get_normalised_rewards_and_continuous_actions_observations(
    new_training, environment, estimator, observations, rewards
):
    training = new_training(environment, estimator={"name": estimator})
    assert (training.observations is not None, training.rewards is not None) == (
        observations,
        rewards,
    )


@pytest.mark.parametrize("wanted", [True, False])
def test_normalisation_that_is_set_is_kept(new_training, wanted):
    settings = {"normalise_observations": wanted, "normalise_rewards": wanted}
    for name in ("CartPole-v1", "Pendulum-v1"):
        training = new_training(name, rollout=settings)
        assert (training.observations is not None) is (training.rewards is not None) is wanted


def test_a_rate_of_the_optimizers_own_gets_rewards_as_they_are(new_training):
    for name, scaled in (("natural_gradient", False), ("trpo", True)):
        training = new_training(
            "CartPole-v1", estimator={"name": "actor_critic"}, optimizer={"name": name}
        )
        assert (training.rewards is not None) is scaled


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("environment", "estimator", "rate", "beta2", "length"),
    [
        ("CartPole-v1", "ppo", 1e-3, 0.999, 128),
        ("CartPole-v1", "vtrace", 3e-3, 0.99, 5),
        ("CartPole-v1", "opo", 3e-3, 0.99, 5),
        ("Pendulum-v1", "ppo", 1e-3, 0.999, 128),
        ("Pendulum-v1", "vtrace", 1e-2, 0.99, 128),
        ("CartPole-v1", "q_learning", 2e-3, 0.999, 16),
        ("FrozenLake-v1", "ppo", 2e-2, 0.999, 128),
        ("FrozenLake-v1", "vtrace", 5e-2, 0.99, 5),
        ("FrozenLake-v1", "q_learning", 2e-2, 0.999, 16),
        ("FrozenLake-v1", "soft_actor", 1e-2, 0.999, 16),
    ],
)
def test_rates_depend_on_the_steps_of_a_batch_and_on_the_network(
    new_training, environment, estimator, rate, beta2, length
):
    training = new_training(environment, estimator={"name": estimator})
    assert training.optimizer.spec.rate(0) == rate
    assert training.optimizer.spec.beta2 == beta2
    assert training.length == length


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("environment", "estimator", "coefficient"),
    [
        ("CartPole-v1", {"name": "ppo"}, 0.0),
        ("CartPole-v1", {"name": "trpo"}, 0.0),
        ("CartPole-v1", {"name": "vtrace"}, 0.01),
        ("CartPole-v1", {"name": "vtrace", "entropy_coefficient": 0.0}, 0.0),
        ("CartPole-v1", {"name": "reinforce"}, 0.0),
        ("FrozenLake-v1", {"name": "ppo"}, 0.02),
        ("FrozenLake-v1", {"name": "ppo", "entropy_coefficient": 0.0}, 0.0),
        ("FrozenLake-v1", {"name": "a2c"}, 0.02),
        ("FrozenLake-v1", {"name": "trpo"}, 0.0),
    ],
)
def test_a_bonus_for_tables_and_for_one_step_a_batch(
    new_training, environment, estimator, coefficient
):
    assert new_training(environment, estimator=estimator).estimator.entropy_coefficient == (
        coefficient
    )


@pytest.mark.usefixtures("strangers")
def test_an_estimator_without_an_entropy_bonus_has_none_on_a_table(new_training):
    training = new_training("FrozenLake-v1", estimator={"name": "opo"})
    assert [field.name for field in dataclasses.fields(training.estimator)] == []


def test_no_bonus_for_a_head_without_an_entropy(new_training):
    head, estimator = {"name": "squashed_gaussian"}, {"name": "actor_critic"}
    training = new_training("Pendulum-v1", head=head, estimator=estimator)
    assert training.estimator.entropy_coefficient == 0.0
    assert new_training("Pendulum-v1", estimator=estimator).estimator.entropy_coefficient == 0.01


def test_the_usual_bonus_is_not_recorded(new_training):
    training = new_training("FrozenLake-v1", estimator={"name": "ppo"})
    assert dict(training.config.estimator) == {"name": "ppo"}


@pytest.mark.parametrize(
    ("environment", "estimator", "least"),
    [
        ("CartPole-v1", "a2c", 450.0),
        ("Pendulum-v1", "ppo", -400.0),
        ("FrozenLake-v1", "ppo", 0.5),
        ("CliffWalking-v1", "a2c", -17.0),
    ],
)
def test_the_usual_settings_learn(new_training, environment, estimator, least):
    training = new_training(
        environment,
        estimator={"name": estimator},
        run={"steps": 50_000, "seed": 1, "evaluation_episodes": 50},
    )
    training.run(lambda _: None)
    assert np.mean(training.evaluate()) >= least


def test_the_summary_has_what_a_saved_policy_needs(new_training, tmp_path):
    layer = {"environment": {"name": "Pendulum-v1"}, "run": {"out": str(tmp_path)}}
    assert run_command(layer, ["run.steps=1024", "run.backend=numpy"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    training = new_training("Pendulum-v1")
    training.observations.load(load_checkpoint(tmp_path).normalisers["observations"])
    observation = np.array([[0.3, -0.7, 2.5]])
    mean, deviation = summary["observation_mean"], summary["observation_deviation"]
    expected = np.clip((observation - mean) / deviation, -10, 10)
    np.testing.assert_allclose(training.observations(observation), expected, rtol=1e-12)
    assert np.abs(expected - observation).max() > 0.1


def test_the_files_of_a_step_that_diverged_have_the_usual_bonus(new_training, tmp_path):
    training = new_training("FrozenLake-v1", estimator={"name": "a2c"})
    training.keep_evidence(tmp_path)
    fields = dict(training.guard.evidence.table(training.estimator))
    assert fields["entropy_coefficient"] > 0.0
    assert pg.estimator(fields.pop("name"), **fields) == training.estimator
