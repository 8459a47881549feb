"""Whole runs on every usable backend: NumPy's episodes and metrics, and checkpoints that go on on any of them."""

from __future__ import annotations

import functools
import json
import os

import numpy as np
import pytest

import pgcore as pg
from pgcore.registry.registry import registry
from pgcore_train.command import run_command
from pgcore_train.run.checkpoint import load_checkpoint

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ENTRIES = {entry.provider.name: entry for entry in registry().providers("backends")}
NAMES = list(dict.fromkeys([*ENTRIES, *REQUIRED]))
ABSENT = [
    name for name, entry in ENTRIES.items() if entry.status != "usable" and name not in REQUIRED
]

each_other = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            name,
            marks=pytest.mark.skip(f"{name}: {ENTRIES[name].reason}") if name in ABSENT else [],
        )
        for name in NAMES
        if name != "numpy"
    ],
)

# Three updates, each of several epochs in minibatches, with everything on that has a state.
SETTINGS = [
    "run.steps=768",
    "run.dtype=float64",
    "run.evaluation_episodes=2",
    "network.hidden=[16,16]",
    "rollout.envs=4",
    "rollout.length=64",
    "rollout.normalise_observations=true",
    "rollout.normalise_rewards=true",
    "training.epochs=3",
    "training.minibatch=96",
]


def train(folder, backend, *more, resume=None):
    """Train for a few updates and return the metrics without the clock's, the episodes and the evaluation's returns."""
    given = {"run": {"backend": backend, "out": str(folder)}}
    if resume is None:
        given |= {"environment": {"name": "CartPole-v1"}, "run": {**given["run"], "seed": 3}}
    assert run_command(given, [*([] if resume else SETTINGS), *more], resume=resume) == 0
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    history = load_checkpoint(folder).history
    summary = json.loads((folder / "summary.json").read_text())
    episodes = [*zip(history.returns, history.finished_at, strict=True)]
    return [{**line, "seconds": 0.0} for line in metrics], episodes, summary["evaluation_returns"]


@pytest.fixture(scope="module")
def by_numpy(tmp_path_factory):
    """Return a function from an estimator's name to NumPy's folder and results."""

    @functools.cache
    def trained(estimator, *more):
        folder = tmp_path_factory.mktemp(f"numpy-{estimator}")
        return folder, train(folder, "numpy", f"estimator.name={estimator}", *more)

    return trained


def same_runs(found, expected):
    """Check that episodes are the same and that figures differ by rounding alone."""
    assert found[1:] == expected[1:]
    assert len(expected[0]) == 3
    assert len(expected[1]) > 12
    assert [line.keys() for line in found[0]] == [line.keys() for line in expected[0]]
    for line, wanted in zip(found[0], expected[0], strict=True):
        for name in ("update", "steps", "episodes", "mean_return"):
            assert line[name] == wanted[name], name
        assert line.get("learning_rate") == wanted.get("learning_rate")
        assert line == pytest.approx(wanted, rel=1e-9, abs=1e-12)


# A replay buffer is gone over in its own way; the last of the updates has the target's parameters from the middle of it.
REPLAY = (
    "training.epochs=none",
    "training.minibatch=none",
    "replay.start=300",
    "replay.updates=10",
    "target.every=7",
    "estimator.gamma=0.9",
)


@each_other
@pytest.mark.parametrize(
    ("estimator", "more"),
    [
        ("ppo", ()),
        ("actor_critic", ()),
        ("q_learning", (*REPLAY, "exploration.fraction=1.0")),
        ("soft_actor", REPLAY),
    ],
)
def test_a_run_is_numpys_run(tmp_path, backend, estimator, more, by_numpy):
    folder, expected = by_numpy(estimator, *more)
    same_runs(train(tmp_path, backend, f"estimator.name={estimator}", *more), expected)
    found, wanted = (load_checkpoint(each) for each in (tmp_path, folder))
    assert (len(wanted.replay) > 0, len(wanted.target) > 0) == (bool(more), bool(more))
    for name, value in (wanted.replay | wanted.target).items():
        own = found.replay | found.target
        np.testing.assert_allclose(own[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    assert found.config["run"]["backend"] == backend
    for name, value in wanted.policy.items():
        np.testing.assert_allclose(found.policy[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    for name, value in wanted.random.items():
        np.testing.assert_array_equal(found.random[name], value, err_msg=name)
    policy = pg.load(tmp_path / "policy.safetensors", backend="numpy")
    for name, value in found.policy.items():
        np.testing.assert_array_equal(policy.parameters()[name], value, err_msg=name)


@each_other
@pytest.mark.parametrize("way", ["to numpy", "from numpy"])
def test_a_run_goes_on_on_another_backend(tmp_path, backend, way, by_numpy):
    first, second = (backend, "numpy") if way == "to numpy" else ("numpy", backend)
    folder = tmp_path / "first"
    train(folder, first)
    _, expected = by_numpy("ppo")
    longer = train(tmp_path / "second", second, "run.steps=1536", resume=folder)
    reference = tmp_path / "reference"
    beside = train(reference, "numpy", "run.steps=1536", resume=by_numpy("ppo")[0])
    same_runs(longer, beside)
    assert [line["steps"] for line in longer[0]] == [1024, 1280, 1536]
    assert longer[1][: len(expected[1])] == expected[1]
    assert load_checkpoint(tmp_path / "second").config["run"]["backend"] == second
