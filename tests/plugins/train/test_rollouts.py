import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import pgcore as pg
from pgcore.errors import UnsupportedEnvironmentError
from pgcore_train.rollout.environments import Environments
from pgcore_train.rollout.normalisers import ObservationNormaliser, RewardNormaliser
from pgcore_train.rollout.rollouts import Rollouts


def policy_for(environments: Environments) -> pg.Policy:
    observations, actions = environments.observations, environments.actions
    assert isinstance(observations, Box)
    head = (
        pg.DiagonalGaussian(actions.shape[0], std=3.0)
        if isinstance(actions, Box)
        else pg.Categorical(4)
    )
    spec = pg.PolicySpec(pg.Linear(observations.shape[0]), head)
    return pg.policy(spec, backend="numpy", seed=3, dtype="float64")


def rollouts_of(environments: Environments, **normalisers) -> Rollouts:
    return Rollouts(
        environments,
        policy_for(environments),
        pg.generator(5),
        **normalisers,
    )


def transitions(batch: pg.Batch, number: int) -> list[tuple]:
    """Return one environment's steps in a batch in the form of its log, each followed by what came next."""
    assert batch.final_observations is not None
    found = []
    for episode in range(batch.num_episodes):
        steps = range(batch.episode_starts[episode], batch.episode_ends[episode] + 1)
        for t in steps:
            own, index, step = batch.observations[t]
            if own != number:
                continue
            last = t == steps[-1]
            following = batch.final_observations[episode] if last else batch.observations[t + 1]
            found.append(
                (
                    int(index),
                    int(step),
                    int(batch.actions[t]),
                    batch.rewards[t],
                    last and bool(batch.terminated[episode]),
                    tuple(following),
                )
            )
    return found


def expected(log: list[tuple], number: int) -> list[tuple]:
    """Return what `transitions` has to give: a step's next observation is of its own episode, one step on."""
    return [
        (episode, step, action, reward, terminated, (number, episode, step + 1))
        for episode, step, action, reward, terminated, _ in log
    ]


@pytest.mark.parametrize("length", [1, 2, 7, 24])
def test_no_transition_is_lost_doubled_or_joined(counting, length):
    instances, environments = counting
    rollouts = rollouts_of(environments)
    batches = [rollouts.steps(length).batch for _ in range(48 // length)]
    for instance in instances:
        found = [each for batch in batches for each in transitions(batch, instance.number)]
        assert len(found) == length * (48 // length)
        assert found == expected(instance.log, instance.number)


def test_steps_of_an_environment_lie_together_and_are_cut_at_ends_and_at_the_last_step(counting):
    instances, environments = counting
    batch = rollouts_of(environments).steps(7).batch
    np.testing.assert_array_equal(batch.observations[:, 0], np.repeat([0, 1, 2], 7))
    np.testing.assert_array_equal(batch.episode_lengths, [3, 4, 4, 3, 7])
    # Even episodes terminate, odd ones are truncated, and the rollout cuts the last one of every environment.
    np.testing.assert_array_equal(batch.terminated, [True, False, True, False, False])
    assert batch.final_observations is not None
    np.testing.assert_array_equal(
        batch.final_observations[[1, 3, 4]], [[0, 1, 4], [1, 1, 3], [2, 0, 7]]
    )
    assert [len(instance.log) for instance in instances] == [7, 7, 7]


def test_returns_of_finished_episodes_span_rollouts_in_the_order_of_time(counting):
    instances, environments = counting
    rollouts = rollouts_of(environments)
    found, offset = [], 0
    for length in (4, 3, 1, 9, 3):  # Some end with an episode, some within one.
        rollout = rollouts.steps(length)
        assert rollout.steps == 3 * length
        found += [
            (offset + at, pytest.approx(value))
            for at, value in zip(rollout.finished_at, rollout.returns, strict=True)
        ]
        offset += rollout.steps
    truth = []
    for instance in instances:
        total = 0.0
        for t, (_, _, _, reward, terminated, truncated) in enumerate(instance.log):
            total += reward
            if terminated or truncated:
                truth.append((3 * (t + 1), instance.number, total))
                total = 0.0
    assert found == [(at, value) for at, _, value in sorted(truth)]


def test_whole_episodes_are_as_many_from_each_environment_and_always_new(counting):
    instances, environments = counting
    rollouts = rollouts_of(environments)
    first, second = rollouts.episodes(2, limit=1000), rollouts.episodes(2, limit=1000)
    np.testing.assert_array_equal(first.batch.episode_lengths, [3, 5, 4, 4, 11, 2])
    assert (first.steps, set(first.batch.extras["group"].tolist())) == (39, {0})
    np.testing.assert_array_equal(first.finished_at, [9, 12, 24, 24, 33, 39])
    ended = [index for instance in instances for index in transitions(first.batch, instance.number)]
    logs = [expected(instance.log, instance.number) for instance in instances]
    assert ended == [
        each for log, length in zip(logs, (8, 8, 13), strict=True) for each in log[:length]
    ]
    for instance in instances:
        steps = transitions(second.batch, instance.number)
        resets = [index for index, step, *_ in steps if step == 0]
        assert len(resets) == len(set(resets)) == 2
        assert min(resets) > max(index for index, *_ in transitions(first.batch, instance.number))
        assert set(steps) <= set(expected(instance.log, instance.number))
    np.testing.assert_allclose(
        np.sort(first.returns),
        np.sort(np.add.reduceat(first.batch.rewards, first.batch.episode_starts)),
    )


def test_whole_episodes_stop_at_the_limit(counting):
    _, environments = counting
    with pytest.raises(
        UnsupportedEnvironmentError,
        match="expected 2 from each of 3 environments within 12 steps, got 0 from one",
    ):
        rollouts_of(environments).episodes(2, limit=12)


def test_log_probs_are_those_of_the_policy_that_acted(counting):
    _, environments = counting
    policy = policy_for(environments)
    batch = Rollouts(environments, policy, pg.generator(5)).steps(20).batch
    assert batch.log_probs is not None
    np.testing.assert_allclose(
        batch.log_probs, policy.evaluate(batch, ("log_prob",))["log_prob"], rtol=1e-12
    )


def test_the_policy_sees_normalised_observations_and_the_batch_holds_what_it_saw(counting):
    instances, environments = counting
    rollouts = rollouts_of(environments, observations=ObservationNormaliser(3))
    raw = rollouts.steps(10).batch.observations.astype(np.float64)
    mean, std = raw.mean(axis=0), raw.std(axis=0)
    batch = rollouts.steps(10).batch
    truth = np.array([(each.number, *each.log[t][:2]) for each in instances for t in range(10, 20)])
    np.testing.assert_allclose(
        batch.observations, np.clip((truth - mean) / std, -10, 10), rtol=1e-6, atol=1e-7
    )
    assert batch.final_observations is not None
    cut = np.array([(each.number, each.episode, each.step_index) for each in instances])
    last = np.searchsorted(batch.episode_ends, [9, 19, 29])
    ended = [log[19][4] or log[19][5] for log in (each.log for each in instances)]
    for row, is_ended, observation in zip(last, ended, cut, strict=True):
        if not is_ended:
            np.testing.assert_allclose(
                batch.final_observations[row],
                np.clip((observation - mean) / std, -10, 10),
                rtol=1e-6,
                atol=1e-7,
            )
    assert not all(ended)


def test_rewards_are_scaled_in_the_batch_and_raw_in_the_returns(counting):
    instances, environments = counting
    rollout = rollouts_of(environments, rewards=RewardNormaliser(3, 0.9)).steps(12)
    raw = np.array([entry[3] for instance in instances for entry in instance.log])
    ratio = rollout.batch.rewards[raw > 0] / raw[raw > 0]
    np.testing.assert_allclose(ratio, ratio[0])
    assert 0 < ratio[0] < 0.1
    assert rollout.returns.max() > 1000


class Bounded(gymnasium.Env):
    """Takes real actions within +-0.5 and remembers them."""

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Box(-0.5, 0.5, (1,))

    def __init__(self) -> None:
        self.taken = []

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.taken.append(action)
        return np.zeros(2, np.float32), 0.0, False, False, {}


def test_real_actions_are_clipped_for_the_environment_alone(vector_of):
    instance = Bounded()
    batch = rollouts_of(vector_of([instance])).steps(30).batch
    taken = np.array(instance.taken)
    assert taken.dtype == np.float32
    assert np.abs(batch.actions).max() > 0.5
    np.testing.assert_allclose(taken, np.clip(batch.actions, -0.5, 0.5).astype(np.float32))
