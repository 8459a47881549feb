"""Environments in processes of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from pgcore.errors import UnsupportedEnvironmentError
from pgcore_train.rollout.environments import make_environments

POSIX = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and process groups")

# Modules of environments, which other processes import.
MODULE = '''
import os
import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Faulty(gymnasium.Env):
    """Counts steps; at the fifth it does what `fault` says, and tells a pipe that it lives."""

    observation_space = Box(-1.0, 1e6, (1,))
    action_space = Discrete(2)

    def __init__(self, fault="none", pipe=None):
        self.fault, self.pipe, self.told = fault, pipe, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return np.zeros(1, np.float32), {"action_mask": np.array([1, 0])}

    def step(self, action):
        self.now += 1
        if self.now == 5 and self.pipe and self.told is None:
            # Open until the end of this process.
            self.told = os.open(self.pipe, os.O_WRONLY)
            os.write(self.told, b".")
        if self.now == 5 and self.fault == "error":
            raise ValueError("the fifth step")
        if self.now == 5 and self.fault == "death":
            os._exit(9)
        if self.now == 5 and self.fault == "hang":
            os.read(os.pipe()[0], 1)
        return np.full(1, self.now, np.float32), 1.0, False, self.now == 20, {"action_mask": np.array([1, 0])}


gymnasium.register("Faulty-v0", entry_point=Faulty)
'''


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Return the name of an environment that processes can import."""
    (tmp_path / "faulty_env.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "faulty_env:Faulty-v0"


@pytest.mark.parametrize("name", ["CartPole-v1", "Taxi-v4", "Pendulum-v1"])
def test_episodes_are_those_of_one_process(new_training, name):
    batches = []
    for processes in (False, True):
        training = new_training(name, rollout={"processes": processes, "envs": 2})
        rollouts = training.start()
        batches.append([rollouts.steps(60).batch for _ in range(3)])
    for one, many in zip(*batches, strict=True):
        np.testing.assert_array_equal(one.observations, many.observations)
        np.testing.assert_array_equal(one.actions, many.actions)
        np.testing.assert_array_equal(one.rewards, many.rewards)
        np.testing.assert_array_equal(one.episode_lengths, many.episode_lengths)
        np.testing.assert_array_equal(one.final_observations, many.final_observations)
        if one.action_mask is not None:
            np.testing.assert_array_equal(one.action_mask, many.action_mask)


def test_closing_ends_every_process(faulty):
    environments = make_environments(faulty, 2, processes=True)
    environments.reset()
    assert len([child for child in active_children() if "Worker" in child.name]) == 2
    environments.close()
    environments.close()
    assert not [child for child in active_children() if "Worker" in child.name]


def test_an_environment_that_does_not_fit_leaves_no_process(tmp_path, monkeypatch):
    (tmp_path / "odd_env.py").write_text(
        "import gymnasium\nfrom gymnasium.spaces import Discrete, Text\n\n\n"
        "class Odd(gymnasium.Env):\n    observation_space = Text(3)\n"
        "    action_space = Discrete(2)\n\n\n"
        'gymnasium.register("Odd-v0", entry_point=Odd)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsupportedEnvironmentError, match="got Text"):
        make_environments("odd_env:Odd-v0", 2, processes=True)
    assert not [child for child in active_children() if "Worker" in child.name]


@pytest.mark.filterwarnings("ignore:.*Received the following error|.*Raising the last|.*Traceback")
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("error", ValueError, "the fifth step"),
        ("death", UnsupportedEnvironmentError, "expected processes that stay alive"),
    ],
)
def test_an_environment_that_fails_is_told_and_ends_every_process(faulty, fault, error, message):
    environments = make_environments(faulty, 2, {"fault": fault}, processes=True)
    environments.reset()
    for _ in range(4):
        environments.step(np.zeros(2, np.intp))
    with pytest.raises(error, match=message):
        environments.step(np.zeros(2, np.intp))
    environments.close()
    assert not [child for child in active_children() if "Worker" in child.name]


class Run:
    """A run of two processes, which the pipe tells of."""

    def __init__(self, folder: Path, name: str, *more: str) -> None:
        self.folder, pipe = folder, folder / "pipe"
        os.mkfifo(pipe)
        # With a writer here there is no end before the processes write.
        both = os.open(pipe, os.O_RDWR)
        # The tests may run under `nohup`, which passes on that SIGHUP is ignored.
        heard = "hasattr(signal, 'SIGHUP') and signal.signal(signal.SIGHUP, signal.SIG_DFL)"
        code = f"import signal; {heard}; from pgcore.cli import main; main()"
        command = [sys.executable, "-c", code, "train", name, "--envs", "2", "--processes"]
        command += [
            "--out",
            "run",
            "--steps",
            "100000000",
            "--set",
            f"environment.pipe={pipe}",
            *more,
        ]
        self.process = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for _ in range(2):
            self.await_pipe(both)
            os.read(both, 1)
        self.pipe = os.open(pipe, os.O_RDONLY)
        os.close(both)

    def await_pipe(self, pipe: int) -> None:
        """Wait until a pipe can be read."""
        ready, _, _ = select.select([pipe], [], [], 60)
        assert ready, "no word within a minute"

    def stopped(self, number: int) -> tuple[int, str]:
        """Return status and errors of a run that a signal stops, all of its processes gone."""
        if number == signal.SIGKILL:
            self.process.kill()
        else:
            os.killpg(self.process.pid, number)
        _, said = self.process.communicate(timeout=60)
        self.await_pipe(self.pipe)
        assert os.read(self.pipe, 1) == b""
        return self.process.returncode, said


@pytest.fixture
def run(tmp_path):
    """Return a function that starts a run."""
    runs = []

    def start(*arguments: str) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield start
    for each in runs:
        os.close(each.pipe)
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.communicate()


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("fault", ["none", "hang"])
def test_a_run_that_is_stopped_leaves_no_process(faulty, run, number, fault, tmp_path):
    # As a terminal or Slurm does it: to all processes of the group.
    status, said = run(faulty, "--set", f"environment.fault={fault}").stopped(number)
    assert status == 128 + number, said
    assert said.startswith(f"stopped by {number.name}; go on with: "), said
    assert said.count("\n") == 1, said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ending"] == "interrupt"


@POSIX
def test_a_run_that_is_killed_leaves_no_process(faulty, run):
    status, _ = run(faulty).stopped(signal.SIGKILL)
    assert status == -signal.SIGKILL
