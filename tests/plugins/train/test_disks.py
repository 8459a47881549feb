"""Disks that are full, read-only or gone while a run writes to them."""

import json
import os
import shutil
import subprocess
import time
from contextlib import ExitStack, suppress

import pytest

from pgcore.errors import FileError
from pgcore_train.command import run_command
from pgcore_train.rollout import rollouts
from pgcore_train.run.checkpoint import load_checkpoint
from pgcore_train.run.folder import RunFolder

SMALL = ["rollout.envs=2", "rollout.length=50", "run.evaluation_episodes=0"]


def train(folder, *settings, updates=10):
    layer = {
        "environment": {"name": "CartPole-v1"},
        "run": {"steps": 100 * updates, "out": str(folder), "checkpoint_updates": 2},
    }
    return run_command(layer, [*SMALL, *settings])


def updates_in(path):
    return [json.loads(line)["update"] for line in path.read_text().splitlines()]


@pytest.fixture
def disk(tmp_path):
    """Return a function that mounts a disk of so many KiB, and one that makes it read-only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("this system mounts no disks")
        return place

    yield mount
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def at_update(monkeypatch, deeds):
    """Do things before the rollouts of some updates."""
    steps, count = rollouts.Rollouts.steps, 0

    def doing(self, length):
        nonlocal count
        count += 1
        if count in deeds:
            deeds[count]()
        return steps(self, length)

    monkeypatch.setattr(rollouts.Rollouts, "steps", doing)


def test_training_goes_on_beside_a_full_disk(disk, monkeypatch, capsys):
    place = disk("size=2m")
    stone = place / "stone"

    def fill():
        with stone.open("wb", buffering=0) as handle, suppress(OSError):
            while True:
                handle.write(bytes(4096))

    # The metrics' last block has room for some lines.
    at_update(monkeypatch, {4: fill, 36: stone.unlink})
    assert train(place / "run", updates=40) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" after update")[0] for line in said] == ["no checkpoint", "no metrics"]
    assert all("No space left on device" in line for line in said)
    # What waited is written once there is room.
    assert updates_in(place / "run" / "metrics.jsonl") == [*range(1, 41)]
    assert load_checkpoint(place / "run").history.updates == 40


def test_a_full_disk_at_the_end_leaves_the_last_checkpoint(disk, monkeypatch, capsys):
    place = disk("size=2m")

    def fill():
        size = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize
        (place / "stone").write_bytes(bytes(size))

    at_update(monkeypatch, {8: fill})
    with pytest.raises(
        FileError, match=r"expected a folder to write to, got No space left on device; choose"
    ):
        train(place / "run")
    said = capsys.readouterr()
    assert "1,000 steps" in said.out
    assert load_checkpoint(place / "run").history.updates == 6
    assert updates_in(place / "run" / "metrics.jsonl")[-1] in (6, 7, 8, 9, 10)
    (place / "stone").unlink()
    assert run_command({}, [], resume=place / "run") == 0
    assert updates_in(place / "run" / "metrics.jsonl") == [*range(1, 11)]


def test_a_full_disk_stops_training_by_choice(disk, monkeypatch):
    place = disk("size=2m")

    def fill():
        size = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize
        (place / "stone").write_bytes(bytes(size))

    at_update(monkeypatch, {5: fill})
    with pytest.raises(FileError, match="No space left on device"):
        train(place / "run", "run.unwritable=stop")
    assert load_checkpoint(place / "run").history.updates == 4


def test_a_disk_that_becomes_read_only_is_told(disk, monkeypatch, capsys):
    place = disk("size=4m")

    # A file that is open to write keeps a disk writable, so the folder alone is protected.
    shut = ["mount", "--bind", str(place / "run"), str(place / "run")]
    read_only = ["mount", "-o", "remount,bind,ro", str(place / "run")]
    at_update(
        monkeypatch,
        {
            5: lambda: [subprocess.run(each, check=True) for each in (shut, read_only)],
            7: lambda: subprocess.run(["umount", "-l", str(place / "run")], check=True),
        },
    )
    assert train(place / "run") == 0
    assert "Read-only file system" in capsys.readouterr().err
    assert load_checkpoint(place / "run").history.updates == 10


def test_a_folder_that_is_deleted_is_made_again(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    at_update(monkeypatch, {5: lambda: shutil.rmtree(folder)})
    assert train(folder) == 0
    assert "deleted during the run; made again" in capsys.readouterr().err
    assert updates_in(folder / "metrics.jsonl") == [*range(5, 11)]
    assert load_checkpoint(folder).history.updates == 10
    assert (folder / "run.toml").exists()


def test_a_folder_that_is_made_again_is_held(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    refused = []

    def intrude():
        with pytest.raises(FileError, match="got one in use"), RunFolder(folder).locked():
            pass
        refused.append(folder)

    deeds = {3: intrude, 5: lambda: shutil.rmtree(folder), 6: intrude}
    deeds |= {7: (folder / ".lock").unlink, 8: intrude, 9: (folder / "metrics.jsonl").unlink}
    at_update(monkeypatch, deeds | {10: intrude})
    assert train(folder) == 0
    assert len(refused) == 4
    assert updates_in(folder / "metrics.jsonl") == [9, 10]


@pytest.mark.parametrize("ending", ["holds", "ended"])
def test_a_folder_that_another_run_made_is_left_to_it(tmp_path, monkeypatch, capsys, ending):
    folder = tmp_path / "run"
    with ExitStack() as stack:

        def intrude():
            shutil.rmtree(folder)
            other = RunFolder(folder)
            lock = other.locked()
            stack.enter_context(lock)
            with other.open("", updates=None) as mine:
                mine.write_metrics({"update": 1})
            if ending == "ended":
                stack.close()

        at_update(monkeypatch, {5: intrude})
        with pytest.raises(FileError, match="that no other run writes to, got one in use"):
            train(folder)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in told] == [
        "no metrics after update 5",
        "no checkpoint after update 6",
    ]
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "metrics.jsonl", "run.toml"]
    assert updates_in(folder / "metrics.jsonl") == [1]
    # Nor is it held.
    with RunFolder(folder).locked():
        pass


def test_metrics_that_are_edited_during_a_run_go_on(tmp_path, monkeypatch):
    metrics = tmp_path / "run" / "metrics.jsonl"

    def edit():
        lines = metrics.read_text().splitlines(keepends=True)
        (tmp_path / "edited").write_text("".join(lines[2:]))
        (tmp_path / "edited").replace(metrics)

    at_update(monkeypatch, {5: edit})
    assert train(tmp_path / "run") == 0
    assert updates_in(metrics) == [*range(3, 11)]


def test_a_clock_that_goes_back_changes_nothing(tmp_path, monkeypatch):
    first = time.time()
    now = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: first - 3600.0 * next(now))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (first - 3600.0 * next(now))))
    assert train(tmp_path / "run") == 0
    assert updates_in(tmp_path / "run" / "metrics.jsonl") == [*range(1, 11)]
    assert load_checkpoint(tmp_path / "run").history.updates == 10
