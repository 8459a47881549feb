"""Runs whose estimator is in a file: the commands that they print know the file too."""

from __future__ import annotations

import os
import shlex
import signal

import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from pgcore.registry.registry import forget_registry

MINE = """
from dataclasses import dataclass
import numpy as np
import pgcore as pg

@dataclass(frozen=True)
class Mine(pg.Estimator):
    name = "mine"
    claims = pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"advantage": np.where(batch.rewards > 1.0, np.inf, batch.rewards)}

    def surrogate(self, xp, *, log_prob, advantage):
        return -log_prob * advantage
"""


class Stopping(CartPoleEnv):
    """Sends this process Ctrl-C in its 40th step, once."""

    taken = 0

    def step(self, action):
        Stopping.taken += 1
        if Stopping.taken == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


class Generous(CartPoleEnv):
    """Gives rewards that the estimator takes for infinite."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 2.0, terminated, truncated, info


@pytest.fixture
def train(site, pgcore, monkeypatch):
    """Return a function that trains by the estimator of a file whose folder's name has a space."""
    folder = site.folder.parent / "my work"
    folder.mkdir()
    (folder / "mine_file.py").write_text(MINE)
    monkeypatch.chdir(folder)
    words = ("--backend", "numpy", "--envs", "1", "--evaluation-episodes", "0", "--steps", "64")
    words += ("--set", "rollout.length=32", "--set", "rollout.normalise_rewards=false")

    def run(name):
        return pgcore(
            *("train", name, "--estimator", "mine", "--plugin", "mine_file.py", "--out", "my run"),
            *words,
        )

    return run


@pytest.fixture
def follow(pgcore, monkeypatch):
    """Return a function that runs a printed command as another shell does."""

    def run(command):
        monkeypatch.setenv("PGCORE_PLUGINS", "")
        forget_registry()
        program, *words = shlex.split(command)
        assert program == "pgcore"
        return pgcore(*words)

    return run


def test_the_step_is_seen_again(register, train, follow):
    status, _, err = train(register(Generous))
    assert status == 2
    reason, _, command = err.partition("; see it again by: ")
    assert reason.startswith("error: mine.signals['advantage']: expected finite numbers, got inf")
    status, _, err = follow(command)
    assert (status, err.strip()) == (2, reason)


def test_the_run_goes_on(register, train, follow, monkeypatch):
    monkeypatch.setattr(Stopping, "taken", 0)
    status, _, err = train(register(Stopping))
    assert status == 128 + signal.SIGINT
    status, out, err = follow(err.partition("; go on with: ")[2])
    assert (status, err) == (0, "")
    assert "64 steps" in out
