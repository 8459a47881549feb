"""Action masks that environments give in their infos."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import pgcore as pg
from pgcore.errors import UnsupportedEnvironmentError
from pgcore_train.learning.replay import Replay
from pgcore_train.rollout.evaluation import evaluate
from pgcore_train.rollout.rollouts import Rollouts


class Doors(gymnasium.Env):
    """State s of five shuts door s, and door s + 1 too where the step is odd; a shut door is counted.

    Episodes have three steps, terminated and truncated in turn. Door (s + 2) % 5 pays.
    """

    observation_space = Discrete(5)
    action_space = Discrete(5)

    def __init__(self) -> None:
        self.episode, self.shut, self.entered = -1, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.left = self.episode + 1, 3
        return self._observe()

    def step(self, action):
        self.shut += int(not self.mask[action])
        self.entered += 1
        reward = float(action == (self.state + 2) % 5)
        self.left -= 1
        over = self.left == 0
        state, info = self._observe()
        if over and self.episode % 2:
            info["action_mask"] = np.zeros(5, np.int8)  # no door leads out of a terminal state
        return state, reward, over and bool(self.episode % 2), over and not self.episode % 2, info

    def _observe(self):
        self.state = int(self.np_random.integers(5))
        self.mask = self.mask_of(self.state)
        return self.state, {"action_mask": self.mask.copy()}

    @staticmethod
    def mask_of(state):
        mask = np.ones(5, np.int8)
        mask[[state, (state + state % 2) % 5]] = 0
        return mask


MASKS = np.array([Doors.mask_of(state) for state in range(5)], np.bool_)


def table_policy(head) -> pg.Policy:
    return pg.policy(pg.PolicySpec(pg.Table(5), head), backend="numpy", seed=0)


def rollout_of(environments, length: int) -> pg.Batch:
    policy = table_policy(pg.Categorical(5))
    return Rollouts(environments, policy, pg.generator(1)).steps(length).batch


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_each_step_has_the_mask_of_its_state_and_that_of_the_next(vector_of, length):
    instances = [Doors(), Doors()]
    policy = table_policy(pg.Categorical(5))
    rollouts = Rollouts(vector_of(instances), policy, pg.generator(1))
    for _ in range(5):
        batch = rollouts.steps(length).batch
        np.testing.assert_array_equal(batch.action_mask, MASKS[batch.observations])
        expected = MASKS[batch.next_observations]
        # After a terminal state there is no action, and nothing reads the mask.
        terminal = batch.episode_ends[batch.terminated]
        expected[terminal] = True
        np.testing.assert_array_equal(batch.next_action_mask, expected)
    assert [each.shut for each in instances] == [0, 0]
    assert instances[0].entered == 5 * length


def test_whole_episodes_have_the_masks_of_their_own_steps(vector_of):
    policy = table_policy(pg.Categorical(5))
    rollouts = Rollouts(vector_of([Doors(), Doors()]), policy, pg.generator(1))
    for _ in range(2):
        batch = rollouts.episodes(2, 100).batch
        np.testing.assert_array_equal(batch.action_mask, MASKS[batch.observations])
        inside = np.setdiff1d(np.arange(batch.num_steps), batch.episode_ends[batch.terminated])
        expected = MASKS[batch.next_observations]
        np.testing.assert_array_equal(batch.next_action_mask[inside], expected[inside])


def test_without_the_setting_masks_are_not_read(new_training, register):
    training = new_training(register(Doors), rollout={"action_masks": False, "envs": 1})
    batch = training.start().steps(60).batch
    assert batch.action_mask is None
    assert training.environments._vector.envs[0].unwrapped.shut > 0


def test_the_evaluation_takes_possible_actions_alone(vector_of):
    instances = [Doors(), Doors()]
    policy = table_policy(pg.EpsilonGreedy(5, 0.0))
    # The largest value is that of a door which is shut.
    policy.load({"network.table": np.eye(5)})
    evaluate(policy, vector_of(instances), limit=10)
    assert [each.shut for each in instances] == [0, 0]


@pytest.mark.parametrize("estimator", ["ppo", "q_learning", "soft_actor", "expected", "rloo"])
def test_training_takes_possible_actions_alone_and_finds_the_best_of_them(
    new_training, register, estimator
):
    small = estimator in ("q_learning", "soft_actor")
    training = new_training(
        register(Doors),
        estimator={"name": estimator},
        run={"steps": 4_000 if small else 6_000},
        rollout={"envs": 4},
        **({"replay": {"start": 200, "batch": 64}} if small else {}),
    )
    before = [each.unwrapped for each in training.environments._vector.envs]
    training.run(lambda metrics: None)
    assert sum(each.entered for each in before) >= training.config.run.steps
    assert sum(each.shut for each in before) == 0
    policy = training.policy
    action = policy.mode(np.arange(5), MASKS)
    # In states 0 to 4 the paying door is open: s + 2 is neither s nor s + 1.
    assert action.tolist() == [2, 3, 4, 0, 1]


def test_a_replay_buffer_returns_masks_with_their_states(vector_of):
    replay = Replay(100)
    replay.add(rollout_of(vector_of([Doors(), Doors()]), 30))
    batch = replay.sample(200, pg.generator(2))
    np.testing.assert_array_equal(batch.action_mask, MASKS[batch.observations])
    rows = ~batch.terminated
    expected = MASKS[batch.final_observations]
    np.testing.assert_array_equal(batch.next_action_mask[rows], expected[rows])


def test_exploration_draws_possible_actions_alone(new_training, register):
    training = new_training(register(Doors), estimator={"name": "q_learning"})
    actions, log_probs = training.exploration.act(
        np.repeat(np.arange(5), 200), pg.generator(0), np.repeat(MASKS, 200, axis=0)
    )
    assert MASKS[np.repeat(np.arange(5), 200), actions].all()
    assert len({*actions[:200].tolist()}) == 4
    # All of k possible actions are equally probable at first.
    counts = np.repeat(MASKS.sum(axis=1), 200)
    np.testing.assert_allclose(log_probs, -np.log(counts), rtol=1e-12)


def test_taxi_is_played_by_its_masks(new_training):
    training = new_training("Taxi-v4", rollout={"envs": 2})
    batch = training.start().steps(50).batch
    assert batch.action_mask.shape == (100, 6)
    assert not batch.action_mask.all()
    assert batch.action_mask[np.arange(100), batch.actions].all()
    # A forbidden pick-up or drop-off costs 10.
    assert batch.rewards.min() > -10.0


class Masked(gymnasium.Env):
    """Gives one mask for ever; a function of the step says whether the info has it."""

    observation_space = Box(-1.0, 1.0, (2,))

    def __init__(self, space, mask, at=lambda step: True) -> None:
        self.action_space, self.mask, self.at = space, mask, at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken, self.now = [], 0
        return np.zeros(2, np.float32), self._info()

    def step(self, action):
        self.taken.append(np.asarray(action).tolist())
        self.now += 1
        return np.zeros(2, np.float32), 0.0, False, False, self._info()

    def _info(self):
        return {"action_mask": self.mask} if self.at(self.now) else {}


@pytest.mark.parametrize(
    ("space", "mask", "flat"),
    [
        (Discrete(3, start=4), np.array([0, 1, 1], np.int8), [0, 1, 1]),
        (Discrete(3), [False, True, True], [0, 1, 1]),
        (MultiDiscrete([2, 3]), (np.array([1, 0]), np.array([0, 1, 1])), [1, 0, 0, 1, 1]),
        (MultiDiscrete([2, 3]), np.array([1, 0, 0, 1, 1], np.bool_), [1, 0, 0, 1, 1]),
        (MultiBinary(3), np.array([0, 1, 2], np.int8), [1, 0, 1, 0, 1, 1]),
    ],
    ids=str,
)
def test_masks_are_those_that_the_space_samples_with(new_training, register, space, mask, flat):
    name = register(Masked, kwargs={"space": space, "mask": mask})
    training = new_training(name, rollout={"envs": 2})
    rollouts = training.start()
    batch = rollouts.steps(40).batch
    assert batch.action_mask.astype(int).tolist() == [flat] * 80
    taken = np.unique(np.array(training.environments._vector.envs[0].unwrapped.taken), axis=0)
    # What Gymnasium itself draws under the mask.
    native = tuple(np.asarray(part, np.int8) for part in mask) if isinstance(mask, tuple) else mask
    if not (isinstance(space, MultiDiscrete) and isinstance(mask, np.ndarray)):
        drawn = [
            space.sample(mask=native if isinstance(native, tuple) else np.asarray(native, np.int8))
            for _ in range(200)
        ]
        assert taken.tolist() == np.unique(np.array(drawn), axis=0).tolist()


@pytest.mark.parametrize(
    ("space", "mask", "message"),
    [
        (Discrete(3), np.ones(2, np.int8), r"expected a mask for Discrete\(3\).* got int8 \[2\]"),
        (Discrete(3), np.array([2, 1, 1]), "expected a mask for"),
        (Discrete(3), "all", "got str"),
        (Discrete(3), np.zeros(3, np.int8), "expected a possible action"),
        (MultiDiscrete([2, 2]), np.array([1, 1, 0, 0]), "expected a possible action"),
        (Box(-1.0, 1.0, (2,)), np.ones(2), "expected none for continuous actions"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(register, new_training, space, mask, message):
    training = new_training(register(Masked, kwargs={"space": space, "mask": mask}))
    with pytest.raises(UnsupportedEnvironmentError, match=message) as refused:
        training.start()
    assert "rollout.action_masks=false" in str(refused.value)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (lambda step: step > 0, "expected one at each reset too"),
        (lambda step: step < 2, "got none from environment 0"),
    ],
)
def test_masks_that_come_and_go_are_refused(register, new_training, at, message):
    keywords = {"space": Discrete(3), "mask": np.ones(3, np.int8), "at": at}
    training = new_training(register(Masked, kwargs=keywords))
    with pytest.raises(UnsupportedEnvironmentError, match=message):
        training.start().steps(3)
