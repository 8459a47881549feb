import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import ParameterError
from pgcore_train.learning.replay import Replay
from pgcore_train.learning.replay_plan import ReplayPlan
from pgcore_train.learning.target import Target
from pgcore_train.learning.updates import Plan, replay_update, update

Q = pg.estimator("q_learning")


def new_policy(seed: int = 0, hidden: int = 3) -> pg.Policy:
    return pg.policy(
        pg.PolicySpec(pg.MLP(2, (hidden,)), pg.EpsilonGreedy(3)),
        backend="numpy",
        seed=seed,
        dtype="float64",
    )


def moved(policy: pg.Policy, by: float) -> None:
    policy.load({name: value + by for name, value in policy.parameters().items()})


def same(one: pg.Policy, other: pg.Policy) -> bool:
    return all(
        np.array_equal(value, other.parameters()[name]) for name, value in one.parameters().items()
    )


def a_batch(steps: int = 12) -> pg.Batch:
    rng = np.random.default_rng(2)
    return pg.Batch(
        observations=rng.normal(size=(steps, 2)),
        actions=rng.integers(0, 3, steps),
        rewards=rng.normal(size=steps),
        episode_lengths=[steps],
        terminated=[False],
        final_observations=np.ones((1, 2)),
        log_probs=np.full(steps, -1.0),
    )


def test_a_copy_is_made_every_so_many_steps():
    policy, target = new_policy(), Target(new_policy(), every=3)
    equal = []
    for step in range(1, 8):
        moved(policy, 0.5)
        target.follow(policy, step)
        equal.append(same(target.policy, policy))
    assert equal == [False, False, True, False, False, True, False]


def test_a_part_of_the_way_at_every_step():
    policy, target = new_policy(1), Target(new_policy(), rate=0.25)
    start, goal = target.policy.parameters(), policy.parameters()
    for step in range(1, 4):
        target.follow(policy, step)
        for name, value in target.policy.parameters().items():
            np.testing.assert_allclose(
                value, goal[name] + 0.75**step * (start[name] - goal[name]), rtol=1e-12, atol=1e-15
            )


def test_a_rate_of_1_is_the_policy_itself():
    policy, target = new_policy(1), Target(new_policy(), rate=1.0)
    target.follow(policy, 1)
    for name, value in policy.parameters().items():
        np.testing.assert_allclose(target.policy.parameters()[name], value, rtol=1e-15, atol=1e-15)


def test_the_policy_does_not_follow_the_target():
    policy, target = new_policy(1), Target(new_policy(), every=1)
    target.follow(policy, 1)
    moved(target.policy, 1.0)
    assert not same(policy, target.policy)


def test_a_target_goes_on_from_its_state():
    target, other = Target(new_policy(1), every=5), Target(new_policy(), every=5)
    other.load(target.state())
    assert same(other.policy, target.policy)
    with pytest.raises(ParameterError):
        other.load(new_policy(hidden=4).parameters())


@pytest.mark.parametrize(("every", "copies"), [(1, {1, 2, 3, 4, 5, 6}), (4, {4}), (7, set())])
def test_replay_updates_bootstrap_from_the_target_and_refresh_it(every, copies):
    """The same steps taken by hand, with the target kept as a list of parameters."""
    policy, by_hand, old = new_policy(), new_policy(), new_policy()
    replay, target = Replay(20), Target(new_policy(), every=every)
    replay.add(a_batch())
    optimizer, other = (pg.optimizer("sgd", learning_rate=0.1) for _ in range(2))
    metrics = replay_update(
        policy, Q, optimizer, replay, ReplayPlan(20, 5, 6, 1), pg.generator(3), target
    )
    rng, found = pg.generator(3), None
    for step in range(1, 7):
        found = pg.gradient(by_hand, Q, replay.sample(5, rng), target=old)
        other.step(by_hand, found)
        if step in copies:
            old.load(by_hand.parameters())
    assert same(policy, by_hand)
    assert same(target.policy, old)
    assert found is not None
    assert metrics == found.metrics
    assert optimizer.steps_taken == 6


def test_a_target_makes_a_difference():
    results = []
    for target in (Target(new_policy(), every=10), None):
        policy, replay = new_policy(), Replay(20)
        replay.add(a_batch())
        plan = ReplayPlan(20, 5, 6, 1)
        replay_update(
            policy, Q, pg.optimizer("sgd", learning_rate=0.1), replay, plan, pg.generator(3), target
        )
        results.append(policy)
    assert not same(*results)


def test_nothing_is_learned_before_the_buffer_holds_enough():
    policy, replay, optimizer = new_policy(), Replay(20), pg.optimizer("sgd", learning_rate=0.1)
    replay.add(a_batch(12))
    assert (
        replay_update(policy, Q, optimizer, replay, ReplayPlan(20, 5, 6, 13), pg.generator(3)) == {}
    )
    assert same(policy, new_policy())
    assert optimizer.steps_taken == 0
    replay.add(a_batch(1))
    assert replay_update(policy, Q, optimizer, replay, ReplayPlan(20, 5, 6, 13), pg.generator(3))
    assert optimizer.steps_taken == 6


@pytest.mark.parametrize("minibatch", [None, 5])
def test_an_update_without_a_buffer_takes_a_target_too(minibatch):
    policy, older = new_policy(), new_policy(4)
    target = Target(new_policy(4), every=100)
    batch = a_batch()
    update(
        policy,
        Q,
        pg.optimizer("sgd", learning_rate=0.1),
        batch,
        Plan(1, minibatch),
        pg.generator(0),
        target,
    )
    other = new_policy()
    constants = pg.signals(other, Q, batch, target=older)
    optimizer = pg.optimizer("sgd", learning_rate=0.1)
    parts = [slice(None)] if minibatch is None else batch.minibatches(minibatch, pg.generator(0))
    for index in parts:
        optimizer.step(
            other, pg.gradient(other, Q, batch.steps(index), signals=constants.steps(index))
        )
    for name, value in policy.parameters().items():
        np.testing.assert_allclose(other.parameters()[name], value, rtol=1e-12)
