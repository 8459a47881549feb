import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError
from pgcore_train.config.settings import TrainingSettings
from pgcore_train.learning.updates import Plan, update


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return pg.Batch(
        observations=rng.normal(size=(30, 2)),
        actions=rng.integers(0, 3, 30),
        rewards=rng.normal(size=30),
        episode_lengths=[10, 20],
        terminated=[True, True],
    )


def new_policy(critic: str = "separate") -> pg.Policy:
    return pg.policy(
        pg.PolicySpec(pg.Linear(2), pg.Categorical(3), critic),
        backend="numpy",
        seed=0,
        dtype="float64",
    )


@pytest.mark.parametrize(
    ("name", "settings", "plan"),
    [
        ("ppo", {}, Plan(10, 128)),
        ("ppo", {"epochs": 3}, Plan(3, 128)),
        ("ppo", {"epochs": 1}, Plan(1, None)),
        ("reinforce", {}, Plan(1, None)),
        ("actor_critic", {}, Plan(1, None)),
        ("actor_critic", {"epochs": 2, "minibatch": 5}, Plan(2, 5)),
    ],
)
def test_several_epochs_are_for_estimators_that_correct_for_them(name, settings, plan):
    assert Plan.of(TrainingSettings(**settings), pg.estimator(name)) == plan


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ({}, Plan(1, None, whole_batch=True)),
        ({"epochs": 2, "minibatch": 10}, Plan(2, 10, whole_batch=True)),
    ],
)
def test_an_optimizer_that_wants_the_whole_batch_has_it_once(settings, plan):
    found = Plan.of(TrainingSettings(**settings), pg.estimator("trpo"), whole_batch=True)
    assert found == plan
    assert found.rollout_length == 128


def test_a_trust_regions_report_is_among_the_metrics(batch):
    plan, optimizer = Plan(1, None, whole_batch=True), pg.optimizer("trpo")
    metrics = update(new_policy(), pg.estimator("trpo"), optimizer, batch, plan, pg.generator(0))
    assert metrics["step_accepted"] == 1.0
    assert 0.0 < metrics["step_kl"] <= 0.01
    assert {"loss", "step_size", "cg_iterations", "line_search_steps"} <= metrics.keys()


@pytest.mark.parametrize(
    ("plan", "steps"),
    [(Plan(1, None), 1), (Plan(4, None), 4), (Plan(2, 10), 6), (Plan(2, 16), 4), (Plan(3, 99), 3)],
)
def test_optimizer_steps_are_as_many_as_the_plan_says(batch, plan, steps):
    optimizer = pg.optimizer("sgd", learning_rate=0.1)
    update(new_policy(), pg.estimator("ppo"), optimizer, batch, plan, pg.generator(0))
    assert optimizer.steps_taken == plan.optimizer_steps(30) == steps


def test_one_pass_over_the_whole_batch_is_one_gradient_step(batch):
    estimator = pg.estimator("reinforce")
    one, other = new_policy("none"), new_policy("none")
    gradient = pg.gradient(one, estimator, batch)
    metrics = update(
        other,
        estimator,
        pg.optimizer("sgd", learning_rate=0.1),
        batch,
        Plan(1, None),
        pg.generator(0),
    )
    assert metrics["loss"] == pytest.approx(gradient.loss)
    for name, value in one.parameters().items():
        np.testing.assert_allclose(
            other.parameters()[name], value - 0.1 * gradient.numpy()[name], rtol=1e-12
        )


def test_minibatches_of_one_epoch_cover_the_batch(batch):
    # Without normalisation and with a tiny rate, the minibatches' steps add up to the whole batch's, three times over.
    estimator = pg.estimator("actor_critic")
    one, other = new_policy(), new_policy()
    before = one.parameters()
    gradient = pg.gradient(one, estimator, batch).numpy()
    update(
        other,
        estimator,
        pg.optimizer("sgd", learning_rate=1e-8),
        batch,
        Plan(1, 10),
        pg.generator(0),
    )
    for name, value in other.parameters().items():
        np.testing.assert_allclose(
            (before[name] - value) / 3e-8, gradient[name], rtol=1e-5, atol=1e-6
        )


def test_a_batch_that_lacks_what_the_estimator_needs_is_refused():
    cut = pg.Batch(
        observations=np.ones((2, 2)),
        actions=[0, 1],
        rewards=[1.0, 1.0],
        episode_lengths=[2],
        terminated=[False],
    )
    with pytest.raises(BatchError, match=r"Batch.final_observations"):
        update(
            new_policy(),
            pg.estimator("ppo"),
            pg.optimizer("sgd"),
            cut,
            Plan(1, None),
            pg.generator(0),
        )


def test_values_are_clipped_around_those_before_the_first_step(batch, monkeypatch):
    policy, old_values = new_policy(), []

    def noted(*args, **named):
        found = pg.gradient(*args, **named)
        old_values.append(found.surrogate.values["old_value"])
        return found

    monkeypatch.setattr("pgcore_train.divergence.guard.gradient", noted)
    before = policy.evaluate(batch, ("value",))["value"]
    optimizer = pg.optimizer("sgd", learning_rate=0.5)
    update(
        policy,
        pg.estimator("ppo", value_clip=0.2),
        optimizer,
        batch,
        Plan(3, None),
        pg.generator(0),
    )
    assert np.abs(policy.evaluate(batch, ("value",))["value"] - before).max() > 0.1
    np.testing.assert_array_equal(old_values, [before] * 3)
