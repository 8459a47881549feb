"""Environments and runs to test training with."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pgcore_train.config.config import RunConfig, merge
from pgcore_train.rollout.environments import Environments
from pgcore_train.training import Training


class Counting(gymnasium.Env):
    """Observes (own number, episode, step); episode e has lengths[e % len] steps and terminates or is truncated in turn.

    Its log is what really happened: one (episode, step, action, reward, terminated, truncated) for each step taken. Every
    observation is the same array, overwritten, as some environments do it to save time.
    """

    observation_space = Box(-1.0, 1e6, (3,))
    action_space = Discrete(4)

    def __init__(self, number: int, lengths: tuple[int, ...]) -> None:
        self.number, self.lengths = number, lengths
        self.episode, self.step_index = -1, 0
        self.buffer = np.zeros(3, np.float32)
        self.log = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_index = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action):
        reward = 1000.0 * self.number + 100.0 * self.episode + self.step_index + 0.1 * int(action)
        taken = self.step_index
        self.step_index += 1
        over = self.step_index == self.lengths[self.episode % len(self.lengths)]
        terminated, truncated = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        self.log.append((self.episode, taken, int(action), reward, terminated, truncated))
        return self._observe(), reward, terminated, truncated, {}

    def _observe(self):
        self.buffer[:] = self.number, self.episode, self.step_index
        return self.buffer


@pytest.fixture
def vector_of():
    """Return a function that makes environments of instances that the test keeps."""

    def make(
        instances: list[gymnasium.Env], mode: AutoresetMode = AutoresetMode.DISABLED
    ) -> Environments:
        return Environments(
            SyncVectorEnv(
                [lambda each=each: each for each in instances], copy=False, autoreset_mode=mode
            )
        )

    return make


@pytest.fixture
def counting(vector_of):
    """Return three counting environments of different rhythms, and themselves as one vector."""
    instances = [Counting(0, (3, 5, 1)), Counting(1, (4,)), Counting(2, (11, 2))]
    return instances, vector_of(instances)


@pytest.fixture
def register():
    """Return a function that registers an environment class for the test and returns its name."""
    names = []

    def add(cls, **kwargs) -> str:
        name = f"PgcoreTest{len(names)}-v0"
        gymnasium.register(name, entry_point=cls, **kwargs)
        names.append(name)
        return name

    yield add
    for name in names:
        del gymnasium.registry[name]


@pytest.fixture
def new_training():
    """Return a function that makes a run's training from its environment's name and settings."""
    made = []

    def make(name: str, **sections) -> Training:
        layer = merge({"environment": {"name": name}, "run": {"backend": "numpy"}}, sections)
        made.append(Training(RunConfig.of(layer)))
        return made[-1]

    yield make
    for training in made:
        training.close()
