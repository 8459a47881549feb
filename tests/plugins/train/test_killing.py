"""Runs that are killed at random moments; `python test_killing.py 50` kills fifty, over all backends."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from rich.progress import track

from pgcore_train.command import run_command
from pgcore_train.run.checkpoint import Checkpoint, checkpoint_files, load_checkpoint
from pgcore_train.run.checkpoint import updates_of as updates_of_file
from pgcore_train.run.folder import RunFolder

BACKENDS = ("numpy", "torch", "jax", "tensorflow")
# A checkpoint after each update, so that much of the time is writing.
OFTEN = ("--set", "run.checkpoint_updates=1")
SETTINGS = "rollout.envs=2 rollout.length=20 network.hidden=[8] run.schedule_steps=100000"
STEPS = 40  # of an update


def command(folder: Path, *arguments: str) -> list[str]:
    code = "from pgcore.cli import main; main()"
    return [sys.executable, "-c", code, "train", *arguments, *OFTEN, "--evaluation-episodes", "0"]


def begin(folder: Path, backend: str) -> list[str]:
    settings = [word for each in SETTINGS.split() for word in ("--set", each)]
    return [
        *command(folder, "CartPole-v1", "--backend", backend, "--out", str(folder), *settings),
        *("--normalise-observations", "--normalise-rewards"),
    ]


def kill(folder: Path, backend: str, delay: float) -> int:
    """Let a run go on for some seconds after its first checkpoint, and kill it; return its updates."""
    before = updates_of(folder)
    line = command(folder, "--resume", str(folder)) if before else begin(folder, backend)
    process = subprocess.Popen(
        [*line, "--steps", "100000000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The learning rate's schedule ends elsewhere, but has a length of its own.
    while updates_of(folder) == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    _, said = process.communicate()
    assert process.returncode == -9, said
    return updates_of(folder)


def updates_of(folder: Path) -> int:
    """Return the updates of the latest sound checkpoint; 0 without one."""
    return load_checkpoint(folder).history.updates if [*folder.glob("check*")] else 0


def metrics_of(folder: Path) -> list[dict]:
    """Return the whole lines of metrics, without their times."""
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            found.append(json.loads(line))
            del found[-1]["seconds"]
    return found


def survive(folder: Path, backend: str, delays: list[float]) -> tuple[int, list[int]]:
    """Kill a run after each delay, let it end, and compare it with one that was not killed.

    Returns:
        Updates of both, and those of the checkpoint after each kill.
    """
    killed, whole = folder / "killed", folder / "whole"
    kept = []
    for delay in track(delays, f"{backend:<10}", disable=not sys.stderr.isatty()):
        kept.append(kill(killed, backend, delay))
        # Nothing that a checkpoint has is missing, and nothing is there twice.
        updates = [line["update"] for line in metrics_of(killed)]
        assert updates == [*range(1, len(updates) + 1)]
        assert len(updates) >= kept[-1]
    assert kept == sorted(kept)
    steps = str(STEPS * (kept[-1] + 3))
    for line in (command(killed, "--resume", str(killed)), begin(whole, backend)):
        done = subprocess.run(
            [*line, "--steps", steps], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert metrics_of(killed) == metrics_of(whole)
    assert arrays_of(load_checkpoint(killed)) == arrays_of(load_checkpoint(whole))
    return kept[-1] + 3, kept


def arrays_of(checkpoint: Checkpoint) -> dict[str, list[float]]:
    groups = {
        "policy": checkpoint.policy,
        "optimizer": checkpoint.optimizer,
        "random": checkpoint.random,
        "rollouts": checkpoint.rollouts,
        **checkpoint.normalisers,
    }
    return {
        f"{group}.{name}": np.asarray(value).tolist()
        for group, arrays in groups.items()
        for name, value in arrays.items()
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_run_is_the_run_that_was_not_killed(tmp_path, backend):
    if backend != "numpy":
        pytest.importorskip(backend)
    chance = random.Random(backend)
    kills = 5 if backend == "numpy" else 1
    survive(tmp_path, backend, [chance.uniform(0.0, 0.2) for _ in range(kills)])


def train(folder: Path, steps: int, *settings: str, resume: Path | None = None) -> None:
    """Run to so many steps, with a checkpoint after each update."""
    layer = {"environment": {"name": "CartPole-v1"}, "run": {"out": str(folder)}}
    more = ["run.checkpoint_updates=1", "run.evaluation_episodes=0", f"run.steps={steps}"]
    assignments = [*SETTINGS.split(), *more, *settings]
    assert run_command({} if resume else layer, assignments, resume=resume) == 0


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Path:
    """Return the folder of a run with checkpoints of 5, 5 and 4 updates, the latest first."""
    folder = tmp_path_factory.mktemp("long") / "run"
    train(folder, 5 * STEPS)
    return folder


def saved(folder: Path) -> list[int]:
    return [updates_of_file(file) or 0 for file in checkpoint_files(folder) if file.exists()]


def test_a_run_that_goes_back_leaves_no_later_checkpoint(tmp_path, long_run, capsys):
    folder = tmp_path / "run"
    shutil.copytree(long_run, folder)
    earlier = folder / "checkpoint-2.safetensors"
    train(folder, 5 * STEPS, "run.checkpoint_updates=0", resume=earlier)
    line = (
        "going on from update 4; later checkpoints are removed: "
        "checkpoint.safetensors, checkpoint-1.safetensors\n"
    )
    assert line in capsys.readouterr().err
    assert saved(folder) == [5, 4]
    assert metrics_of(folder) == metrics_of(long_run)


@pytest.mark.parametrize("updates", [4, 5])
def test_a_copy_under_another_name_becomes_the_latest(tmp_path, long_run, updates):
    folder = tmp_path / "run"
    shutil.copytree(long_run, folder)
    name = {4: "checkpoint-2.safetensors", 5: "checkpoint.safetensors"}[updates]
    shutil.copyfile(folder / name, folder / "mine")
    with RunFolder(folder).open("", updates=updates, resumed=Path("mine")):
        pass
    assert saved(folder) == {4: [4, 4], 5: [5, 5, 5]}[updates]
    assert updates_of_file(folder / "mine") == updates


class Kill(BaseException):
    """Ends a run at once."""


@pytest.mark.parametrize("name", ["checkpoint-2.safetensors", "mine"])
def test_a_run_that_is_killed_while_it_goes_back_is_whole(tmp_path, long_run, monkeypatch, name):
    shutil.copytree(long_run, tmp_path / "0")
    shutil.copyfile(long_run / "checkpoint-2.safetensors", tmp_path / "0" / "mine")
    calls, last, folder = 0, -1, tmp_path / "0"

    def counted(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == last:
                raise Kill
            return function(*arguments, **options)

        return call

    # Each step that changes the folder may be the first that does not happen.
    for owner, step in ((Path, "replace"), (Path, "unlink"), (os, "fsync")):
        monkeypatch.setattr(owner, step, counted(getattr(owner, step)))
    for last in range(1, 100):
        folder, calls = tmp_path / str(last), 0
        shutil.copytree(tmp_path / "0", folder)
        try:
            with RunFolder(folder).open("", updates=4, resumed=folder / name):
                pass
        except Kill:
            updates = [line["update"] for line in metrics_of(folder)]
            assert updates == [*range(1, len(updates) + 1)]
            checkpoints = saved(folder)
            assert checkpoints == sorted(checkpoints, reverse=True)
            assert 4 <= checkpoints[0] <= len(updates)
        else:
            break
    assert last > 8
    assert saved(folder)[0] == len(metrics_of(folder)) == 4


def test_a_run_that_is_killed_after_it_went_back_goes_on(tmp_path, long_run):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(long_run, folder)
    line = command(folder, "--resume", str(folder / "checkpoint-2.safetensors"))
    # The first update of the other branch is the last: no checkpoint of it is written.
    killing = (
        "import os\nfrom pgcore_train.run.folder import RunFolder\n"
        "RunFolder.save = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    line[2] = killing + line[2]
    line += ["--set", "optimizer.learning_rate=0.01", "--steps", str(6 * STEPS)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert "going on from update 4" in done.stderr
    train(folder, 6 * STEPS, resume=folder)
    train(whole, 6 * STEPS)
    assert metrics_of(folder) == metrics_of(whole)


if __name__ == "__main__":
    number = int(sys.argv[1])
    chance = random.Random(number)
    for place, backend in enumerate(BACKENDS):
        share = len(range(place, number, len(BACKENDS)))
        with tempfile.TemporaryDirectory() as folder:
            delays = [chance.uniform(0.0, 0.5) for _ in range(share)]
            updates, kept = survive(Path(folder), backend, delays)
        sys.stdout.write(
            f"{backend:<10} {share} of {share} kills survived; the {updates} updates are those of a "
            f"run without, checkpoints at {kept}\n"
        )
