"""Checkpoints on the way, the ends of a run by signals, and what a killed run leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pgcore.data import files
from pgcore.errors import FileError
from pgcore_train import training
from pgcore_train.command import run_command
from pgcore_train.run import saving
from pgcore_train.run.checkpoint import load_checkpoint, read_checkpoint
from pgcore_train.run.folder import RunFolder

SMALL = ["rollout.envs=2", "rollout.length=50", "run.evaluation_episodes=0"]


def options(tmp_path, **run):
    return {
        "environment": {"name": "CartPole-v1"},
        "run": {"steps": 1000, "out": str(tmp_path), **run},
    }


def updates_in(path):
    return [json.loads(line)["update"] for line in path.read_text().splitlines()]


def test_checkpoints_come_every_so_many_updates_and_the_last_ones_stay(tmp_path):
    assert run_command(options(tmp_path, checkpoint_updates=2), SMALL) == 0
    names = ["checkpoint", "checkpoint-1", "checkpoint-2"]
    saved = [read_checkpoint(tmp_path / f"{name}.safetensors").history.updates for name in names]
    # The end of the run writes one too.
    assert saved == [10, 10, 8]
    assert [file.name for file in tmp_path.glob(".*")] == [".lock"]


def test_the_clock_saves_too(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SHARE", 0)
    run_command(options(tmp_path, checkpoint_minutes=1e-9), SMALL)
    assert read_checkpoint(tmp_path / "checkpoint-2.safetensors").history.updates in range(1, 10)
    other = tmp_path / "none"
    run_command(options(other, checkpoint_minutes=0), SMALL)
    assert not (other / "checkpoint-1.safetensors").exists()


def test_a_disk_that_takes_no_checkpoint_is_told_and_training_goes_on(
    tmp_path, monkeypatch, capsys
):
    save = RunFolder.save
    calls = []

    def full(folder, checkpoint):
        calls.append(checkpoint.history.updates)
        if len(calls) < 3:
            raise FileError("checkpoint: expected a place to write to, got No space left on device")
        save(folder, checkpoint)

    monkeypatch.setattr(RunFolder, "save", full)
    assert run_command(options(tmp_path, checkpoint_updates=4), SMALL) == 0
    assert (
        "no checkpoint after update 4, training goes on: checkpoint: expected"
        in capsys.readouterr().err
    )
    assert updates_in(tmp_path / "metrics.jsonl") == [*range(1, 11)]
    assert calls == [4, 8, 10]


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(tmp_path, capsys, damage):
    run_command(options(tmp_path, checkpoint_updates=5), SMALL)
    latest = tmp_path / "checkpoint.safetensors"
    content = bytearray(latest.read_bytes())
    content[-9] ^= 4
    if damage == "gone":
        latest.unlink()
    else:
        latest.write_bytes(content if damage == "bit" else content[:-20])
    capsys.readouterr()
    assert load_checkpoint(tmp_path).history.updates == 10
    said = capsys.readouterr().err
    assert "going on from the one before it" in said
    assert {"cut": "safetensors", "bit": "damaged", "gone": "nothing of that name"}[damage] in said
    if damage != "gone":
        with pytest.raises(FileError, match=r"safetensors|got a damaged one; use another copy"):
            read_checkpoint(latest)


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"/checkpoint\.safetensors: expected a pgcore\.checkpoint"):
        load_checkpoint(tmp_path)


def test_every_bit_of_a_file_is_checked(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {"a": np.arange(5.0), "b": np.array([True]), "c": np.empty((0, 2), np.float32)}
    files.write(path, "kind", arrays, {"text": "words"})
    read, texts = files.read(path, "kind")
    assert texts == {"format": "kind", "text": "words"}
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in arrays.items()
    }
    content = path.read_bytes()
    start = content.index(b"}", content.index(b"data_offsets")) + 1
    for place in range(start, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            found, found_texts = files.read(path, "kind")
        except FileError:
            continue
        # Spaces of the header are read over.
        assert found_texts == texts
        assert all(np.array_equal(found[name], value) for name, value in arrays.items())


def test_a_file_without_a_checksum_is_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, tmp_path / "old", {"format": "kind"})
    assert files.read(tmp_path / "old", "kind")[0]["a"].tolist() == [1.0, 1.0]


def test_metrics_of_updates_after_the_checkpoint_are_cut(tmp_path):
    run_command(options(tmp_path, checkpoint_updates=4), SMALL)
    metrics, (latest, *_) = tmp_path / "metrics.jsonl", [tmp_path / "checkpoint.safetensors"]
    (tmp_path / "checkpoint-1.safetensors").replace(latest)
    # A killed process may leave half a line.
    with metrics.open("a") as handle:
        handle.write('{"update": 11, "ste')
    assert load_checkpoint(tmp_path).history.updates == 8
    assert run_command({}, ["run.steps=1200"], resume=tmp_path) == 0
    assert updates_in(metrics) == [*range(1, 13)]


def start(folder, *arguments):
    """Start a long run in a process of its own; return it once it has metrics."""
    # The tests may run under `nohup`, which passes on that SIGHUP is ignored.
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    code = f"{heard}; from pgcore.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "CartPole-v1"]
    command += ["--out", str(folder), "--steps", "10000000", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= 3:
            return process
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no metrics: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_results(tmp_path, number):
    process = start(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; go on with: pgcore train --resume {tmp_path}" in err
    assert "interrupted" in out
    updates = updates_in(tmp_path / "metrics.jsonl")
    assert load_checkpoint(tmp_path).history.updates == len(updates) == updates[-1]
    assert (tmp_path / "summary.json").exists()


def test_a_second_signal_keeps_the_summary(tmp_path):
    process = start(tmp_path)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped by SIGINT" in err
    assert "interrupted" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["ending"] == "interrupt"
    # Wherever the second one came, the last checkpoint is a whole update's.
    checkpoints = [*tmp_path.glob("checkpoint*")]
    assert bool(checkpoints) == ("--resume" in err)
    if checkpoints:
        assert load_checkpoint(tmp_path).history.updates <= summary["updates"]


def test_an_update_in_part_is_no_checkpoint(tmp_path, capsys, monkeypatch):
    update = training.update

    def broken_off(policy, estimator, optimizer, *rest, **options):
        metrics = update(policy, estimator, optimizer, *rest, **options)
        if optimizer.steps_taken > 25:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        return metrics

    monkeypatch.setattr(training, "update", broken_off)
    layer = options(tmp_path, checkpoint_updates=1)
    assert run_command(layer, SMALL) == 130
    said = capsys.readouterr()
    assert f"go on with: pgcore train --resume {tmp_path}" in said.err
    before = updates_in(tmp_path / "metrics.jsonl")
    assert load_checkpoint(tmp_path).history.updates == before[-1]
    monkeypatch.undo()
    whole = tmp_path / "whole"
    assert run_command(options(whole), SMALL) == 0
    assert run_command({}, [], resume=tmp_path) == 0
    policies = [load_checkpoint(folder).policy for folder in (tmp_path, whole)]
    assert [*map(str, policies[0].values())] == [*map(str, policies[1].values())]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that end")
def test_nohup_keeps_its_word(tmp_path):
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    code = f"{ignoring}; from pgcore.cli import main; main()"
    arguments = ["train", "CartPole-v1", "--out", str(tmp_path), "--steps", "20000"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    while not (tmp_path / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(120) == 0


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    process = start(tmp_path, "--set", "run.checkpoint_updates=2")
    process.kill()
    process.communicate()
    before = load_checkpoint(tmp_path).history.updates
    assert before >= 2
    steps = (before + 2) * 8 * 128
    run_command({}, [f"run.steps={steps}", "run.evaluation_episodes=0"], resume=tmp_path)
    assert updates_in(tmp_path / "metrics.jsonl") == [*range(1, before + 3)]
