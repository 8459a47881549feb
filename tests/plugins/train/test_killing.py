"""Runs that are killed at random moments; `python test_killing.py 50` kills fifty, over all backends."""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from rich.progress import track

from pgcore_train.run.checkpoint import Checkpoint, load_checkpoint

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
