import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgcore.errors import FileError
from pgcore_train.command import run_command
from pgcore_train.run.checkpoint import Checkpoint
from pgcore_train.run.folder import RunFolder
from pgcore_train.run.metrics import cut


def test_metrics_are_in_the_file_line_by_line(tmp_path):
    with RunFolder(tmp_path / "a" / "b").open("[run]\n", updates=None) as folder:
        folder.write_metrics({"update": 1, "loss": 0.5})
        assert folder.metrics.read_text() == '{"update": 1, "loss": 0.5}\n'
        folder.write_metrics({"update": 2, "loss": float("nan"), "kl": float("inf")})
        assert json.loads(folder.metrics.read_text().splitlines()[1]) == {
            "update": 2,
            "loss": None,
            "kl": None,
        }
    assert folder.config.read_text().endswith("[run]\n")


def test_a_new_run_overwrites_no_results(tmp_path):
    with RunFolder(tmp_path).open("", updates=None) as folder:
        # A run that failed before its first update has left nothing to lose.
        RunFolder(tmp_path).open("", updates=None).__exit__(None, None, None)
        folder.write_metrics({"update": 1})
    with pytest.raises(FileError, match=r"got one with a run's metrics.jsonl; .* --resume"):
        RunFolder(tmp_path).open("", updates=None)
    folder.metrics.unlink()
    folder.picture.write_bytes(b"old")
    with pytest.raises(FileError, match=r"got one with a run's learning_curve.png"):
        RunFolder(tmp_path).open("", updates=None)
    assert folder.picture.read_bytes() == b"old"


def test_folders_without_a_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [RunFolder.new("ALE/Pong-v5-ppo-0") for _ in range(3)]
    assert [str(each.path) for each in made] == [f"runs/ALE-Pong-v5-ppo-0-{n}" for n in (1, 2, 3)]
    for folder in (made[1], made[0]):
        with folder.open("", updates=None):
            assert Path("runs/latest").resolve() == folder.path.resolve()
    Path("runs/latest").unlink()
    Path("runs/latest").write_text("mine")
    with made[2].open("", updates=None):
        assert Path("runs/latest").read_text() == "mine"


def test_no_link_is_made_elsewhere(tmp_path):
    with RunFolder(tmp_path / "a").open("", updates=None):
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_runs_in_one_folder_are_refused(tmp_path):
    code = "import sys; from pgcore_train.run.folder import RunFolder\nwith RunFolder(sys.argv[1]).locked(): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "1\n"
    message = "expected a folder that no other run writes to, got one in use"
    with pytest.raises(FileError, match=message), RunFolder(tmp_path).locked():
        pass
    # The system gives up the hold of a process that is killed.
    other.kill()
    other.communicate()
    with RunFolder(tmp_path).locked():
        pass


def test_what_killed_runs_left_is_removed(tmp_path):
    with RunFolder(tmp_path).open("", updates=None):
        pass
    left = [tmp_path / f".{name}.123" for name in ("run.toml", "checkpoint.safetensors")]
    left.append(tmp_path / "..checkpoint.safetensors.new.77")
    left.append(tmp_path / ".checkpoint.safetensors.new")
    (tmp_path / ".metrics.jsonl.99").mkdir()
    left.append(tmp_path / ".metrics.jsonl.99" / "half")
    mine = tmp_path / ".notes.txt"
    for path in (*left, mine):
        path.write_text("half")
    with RunFolder(tmp_path).open("", updates=None):
        assert [path.exists() for path in (*left, mine)] == [False] * 5 + [True]


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    with RunFolder(tmp_path).open("", updates=None) as folder:
        folder.write_metrics({"update": 1})
    folder.picture.write_bytes(b"old")
    with RunFolder(tmp_path).open("", updates=1) as folder:
        folder.write_metrics({"update": 2})
    assert folder.metrics.read_text() == '{"update": 1}\n{"update": 2}\n'
    assert folder.picture.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ("1 2 3 4 5 6", None),
        # A run that went on in a folder of its own.
        ("4 5 6 7", None),
        ("1 2", "3-6"),
        ("2 3 5 6", "4"),
        ("1 4", "2-3, 5-6"),
        ("", "1-6"),
        (None, "1-6"),
    ],
)
def test_metrics_that_a_checkpoint_lacks_are_told(tmp_path, capsys, content, missing):
    metrics = tmp_path / "metrics.jsonl"
    if content is not None:
        lines = [f'{{"update": {update}}}\n' for update in content.split()]
        # A machine that fails may leave zeros.
        metrics.write_text("".join(lines) + "\0" * 9)
    cut(metrics, 6)
    line = f"{metrics}: lacks the metrics of updates {missing}; going on without them\n"
    assert capsys.readouterr().err == (line if missing else "")


def test_metrics_are_on_the_disk_before_a_checkpoint(tmp_path, monkeypatch):
    layer = {"environment": {"name": "CartPole-v1"}, "run": {"out": str(tmp_path), "steps": 40}}
    events = []
    fsync, save = os.fsync, Checkpoint.save

    def record(number):
        events.append(os.fstat(number).st_ino)
        fsync(number)

    def check(checkpoint, path):
        assert events[-1] == (tmp_path / "metrics.jsonl").stat().st_ino
        save(checkpoint, path)
        events.append("saved")

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(Checkpoint, "save", check)
    settings = ["rollout.envs=2", "rollout.length=10", "run.checkpoint_updates=1"]
    assert run_command(layer, [*settings, "run.evaluation_episodes=0"]) == 0
    assert events.count("saved") == 3


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.toml", "checkpoint.safetensors"])
def test_another_programs_files_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(FileError, match=f"got another program's {name}; choose another"):
        RunFolder(tmp_path).open("", updates=None)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "theirs"


@pytest.mark.parametrize("config", [None, "mine = 1"])
def test_a_checkpoint_apart_from_its_run_goes_on_elsewhere_alone(tmp_path, config):
    (tmp_path / "checkpoint.safetensors").write_text("a run's")
    if config is not None:
        (tmp_path / "run.toml").write_text(config)
    with pytest.raises(
        FileError, match=r"with the run\.toml that it wrote, got none or another; put"
    ):
        RunFolder(tmp_path).open("", updates=3)


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FileError, match=r"expected a folder to write to, got .*; choose one you can write to"
    ):
        RunFolder(tmp_path / below).open("", updates=None)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(FileError, match="got Permission denied; choose one you can write to"):
        RunFolder(tmp_path).open("", updates=None)
