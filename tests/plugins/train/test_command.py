import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from threadpoolctl import threadpool_info, threadpool_limits

import pgcore as pg
from pgcore.errors import FileError, PgcoreError, SpecError
from pgcore_train.command import run_command

QUICK = ["run.steps=1024", "run.evaluation_episodes=2", "network.hidden=[16]"]


def options(out, name="CartPole-v1", **run) -> dict:
    return {"environment": {"name": name}, "run": {"backend": "numpy", "out": str(out), **run}}


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_results_and_says_where(tmp_path, capsys):
    assert run_command(options(tmp_path), QUICK) == 0
    said = capsys.readouterr()
    for name in ("metrics.jsonl", "checkpoint.safetensors", "learning_curve.png"):
        assert (tmp_path / name).stat().st_size > 0
        assert str(tmp_path / name) in said.out
    assert [each["steps"] for each in lines(tmp_path)] == [1024]
    assert "1,024 steps" in said.out
    assert said.err == ""  # No progress bar where nobody watches.
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["ending"], summary["steps"], len(summary["evaluation_returns"])) == (
        "steps",
        1024,
        2,
    )
    assert (
        f"2 episodes of most probable actions: mean return {summary['evaluation_mean_return']:.3g}"
        in said.out
    )
    policy = pg.load(tmp_path / "policy.safetensors", backend="numpy")
    assert policy.mode(np.zeros((1, 4))).shape == (1,)


def test_the_goal_decides_the_exit_status(tmp_path, capsys):
    assert run_command(options(tmp_path / "a", stop_at=5.0), QUICK) == 0
    assert "goal 5 reached" in capsys.readouterr().out
    assert run_command(options(tmp_path / "b", stop_at=400.0), QUICK) == 1
    assert "goal 400 not reached" in capsys.readouterr().out


def test_a_run_can_be_repeated_from_its_own_configuration(tmp_path):
    run_command(options(tmp_path / "a", seed=3), [*QUICK, "estimator.clip=0.3"])
    run_command({"run": {"out": str(tmp_path / "b")}}, [], config=tmp_path / "a" / "run.toml")
    first, second = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert [{**each, "seconds": 0} for each in first] == [{**each, "seconds": 0} for each in second]


def test_settings_come_from_the_file_then_options_then_assignments(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[environment]\nname = "CartPole-v1"\n[run]\nseed = 1\nsteps = 7\n[rollout]\nenvs = 2\nlength = 4\n'
    )
    given = {
        "run": {"backend": "numpy", "out": str(tmp_path / "out"), "seed": 2},
        "rollout": {"envs": 4},
    }
    run_command(given, ["rollout.envs=8", "run.steps=64"], config=file)
    assert [each["steps"] for each in lines(tmp_path / "out")] == [32, 64]
    assert "seed = 2" in (tmp_path / "out" / "run.toml").read_text()


def test_a_run_goes_on_in_its_folder(tmp_path):
    run_command(options(tmp_path), QUICK)
    assert run_command({"run": {"steps": 2048}}, [], resume=tmp_path) == 0
    assert [each["steps"] for each in lines(tmp_path)] == [1024, 2048]


def test_the_latest_run_goes_on_by_its_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"environment": {"name": "CartPole-v1"}}
    for _ in range(2):
        run_command(given, [*QUICK, "run.seed=3"])
    latest, folder = Path("runs/latest"), Path("runs/CartPole-v1-ppo-3-2")
    assert run_command({"run": {"steps": 2048}}, [], resume=latest) == 0
    assert latest.readlink() == Path(folder.name)
    assert [each["steps"] for each in lines(folder)] == [1024, 2048]
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "CartPole-v1-ppo-3-1",
        "CartPole-v1-ppo-3-2",
        "latest",
    ]


def test_a_run_goes_on_in_another_folder(tmp_path):
    run_command(options(tmp_path / "a"), QUICK)
    run_command(
        {"run": {"steps": 2048, "out": str(tmp_path / "b")}},
        [],
        resume=tmp_path / "a" / "checkpoint.safetensors",
    )
    assert [each["steps"] for each in lines(tmp_path / "a")] == [1024]
    assert [each["steps"] for each in lines(tmp_path / "b")] == [2048]


def test_without_matplotlib_there_is_no_picture_and_a_hint(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr("sys.meta_path", [_Missing("matplotlib"), *sys.meta_path])
    assert run_command(options(tmp_path), QUICK) == 0
    assert "pip install 'pgcore[plot]'" in capsys.readouterr().out
    assert not (tmp_path / "learning_curve.png").exists()


def test_settings_that_matplotlib_refuses_cost_the_picture_alone(tmp_path):
    pytest.importorskip("matplotlib")
    words = ("--backend", "numpy", "--steps", "64", "--envs", "2", "--evaluation-episodes", "1")
    done = pgcore(
        *("train", "CartPole-v1", *words, "--out", tmp_path),
        env={**os.environ, "MPLBACKEND": "nonsense"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("no picture: ValueError: Key backend: 'nonsense' is not a valid")
    assert done.stderr.count("\n") == 1
    assert "picture     none, ValueError" in done.stdout
    assert not (tmp_path / "learning_curve.png").exists()
    assert len(json.loads((tmp_path / "summary.json").read_text())["evaluation_returns"]) == 1


class Huge(CartPoleEnv):
    """Takes almost the largest number there is at an episode's end."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, -1.7e308 * terminated, terminated, truncated, info


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
def test_returns_that_cannot_be_drawn_cost_the_picture_alone(tmp_path, register, capsys):
    pytest.importorskip("matplotlib")
    off = ["rollout.normalise_rewards=false", "training.on_divergence=skip"]
    assert run_command(options(tmp_path, register(Huge)), [*QUICK, *off]) == 0
    assert "\nno picture: " in capsys.readouterr().err
    assert len(json.loads((tmp_path / "summary.json").read_text())["evaluation_returns"]) == 2


class _Missing:
    """Finds a package to be missing."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("out", ["file", "file/deeper"])
def test_an_unwritable_folder_is_refused_before_any_step(tmp_path, out, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("pgcore_train.training.Training.run", lambda *_: pytest.fail("trained"))
    with pytest.raises(FileError, match="expected a folder to write to"):
        run_command(options(tmp_path / out), QUICK)


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(
        FileError, match=r"expected a pgcore.checkpoint file, got nothing of that name"
    ):
        run_command(options(tmp_path), QUICK, resume=tmp_path / "elsewhere")
    assert list(tmp_path.iterdir()) == []


class Failing(CartPoleEnv):
    """Gives NaN in its 700th step; its episodes may last."""

    taken = 0

    def __init__(self, *, lasts: bool = False) -> None:
        super().__init__()
        self.lasts = lasts

    def step(self, action):
        self.taken += 1
        if self.lasts:
            return (
                np.full(4, np.nan if self.taken == 700 else 0.5, np.float32),
                1.0,
                False,
                False,
                {},
            )
        observation, reward, terminated, truncated, info = super().step(action)
        seen = np.full_like(observation, np.nan) if self.taken == 700 else observation
        return seen, reward, terminated, truncated, info


def test_a_run_that_fails_keeps_what_was_learned(tmp_path, register):
    name = register(Failing)
    with pytest.raises(
        PgcoreError, match="observations: expected finite numbers, got NaN at step 0"
    ):
        run_command(
            options(tmp_path, name),
            ["rollout.envs=1", "rollout.length=256", "run.evaluation_episodes=0"],
        )
    assert [each["steps"] for each in lines(tmp_path)] == [256, 512]
    assert (tmp_path / "learning_curve.png").exists()
    run_command({}, ["run.steps=768"], resume=tmp_path)
    assert [each["steps"] for each in lines(tmp_path)] == [256, 512, 768]


def test_an_evaluation_that_fails_costs_no_result_of_training(tmp_path, register, capsys):
    # Those of training take 256 steps each, and one of an evaluation the 700th.
    name = register(lambda: Failing(lasts=True), max_episode_steps=800)
    few = ["rollout.envs=4", "rollout.length=256", "run.steps=1024", "run.evaluation_episodes=1"]
    with pytest.raises(PgcoreError, match="observations: expected finite numbers, got NaN"):
        run_command(options(tmp_path, name), few)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["ending"], summary["steps"]) == ("steps", 1024)
    assert summary["evaluation_returns"] == []
    assert "1,024 steps" in capsys.readouterr().out


class Watching(CartPoleEnv):
    """Notes how many threads BLAS has at its first step, and then goes wrong where it should."""

    def __init__(self, seen: list, *, fails: bool) -> None:
        super().__init__()
        self.seen, self.fails = seen, fails

    def step(self, action):
        if not self.seen:
            self.seen += blas_threads()
        if self.fails:
            raise OverflowError("as it should")
        return super().step(action)


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


class Threads(CartPoleEnv):
    """Notes how many threads PyTorch has at its first step."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def step(self, action):
        self.seen.append(importlib.import_module("torch").get_num_threads())
        return super().step(action)


def test_pytorch_has_one_thread_while_training(tmp_path, register):
    torch, seen = pytest.importorskip("torch"), []
    name = register(lambda: Threads(seen))
    before = torch.get_num_threads()
    run_command(options(tmp_path, name, backend="torch"), QUICK)
    # The evaluation is played with one thread too.
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("fails", [False, True])
def test_one_blas_thread_while_training_and_as_many_as_before_after_it(tmp_path, register, fails):
    seen = []
    name = register(lambda: Watching(seen, fails=fails))
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        if fails:
            with pytest.raises(OverflowError, match="as it should"):
                run_command(options(tmp_path, name), QUICK)
        else:
            run_command(options(tmp_path, name), QUICK)
        after = blas_threads()
    assert set(seen) == {1}
    assert set(before[: len(seen)]) == {2}
    assert after[: len(before)] == before


class Stopping(CartPoleEnv):
    """Sends this process what Ctrl-C sends, in its 600th step."""

    taken = 0

    def step(self, action):
        self.taken += 1
        if self.taken == 600:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


def test_an_interrupted_run_leaves_its_results_and_can_go_on(tmp_path, register, capsys):
    name = register(Stopping)
    assert run_command(options(tmp_path, name), ["rollout.envs=2", "rollout.length=250"]) == 130
    said = capsys.readouterr()
    assert "interrupted" in said.out
    assert f"pgcore train --resume {tmp_path}" in said.err
    assert [each["steps"] for each in lines(tmp_path)] == [500, 1000]
    for file in (
        "checkpoint.safetensors",
        "policy.safetensors",
        "learning_curve.png",
        "summary.json",
    ):
        assert (tmp_path / file).exists()
    run_command({}, ["run.steps=1500"], resume=tmp_path)
    assert [each["steps"] for each in lines(tmp_path)] == [500, 1000, 1500]


def pgcore(*arguments, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from pgcore.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def test_the_command_line(tmp_path):
    done = pgcore(
        *(
            "train",
            "CartPole-v1",
            "--estimator",
            "actor_critic",
            "--backend",
            "numpy",
            "--seed",
            1,
            "--dtype",
            "float64",
            "--envs",
            2,
        ),
        *(
            "--steps",
            64,
            "--normalise-observations",
            "--normalise-rewards",
            "--evaluation-episodes",
            1,
            "--set",
            "network.hidden=[8]",
        ),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "runs" / "CartPole-v1-actor_critic-1-1"
    assert [each["steps"] for each in lines(folder)] == [10 * update for update in range(1, 8)]
    written = (folder / "run.toml").read_text()
    for line in (
        'dtype = "float64"',
        "envs = 2",
        "seed = 1",
        "normalise_rewards = true",
        "hidden = [8]",
        'name = "actor_critic"',
    ):
        assert line in written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["CartPool-v1"],
            "error: environment: expected a known name, got 'CartPool-v1'; did you mean 'CartPole-v1'",
        ),
        (
            ["CartPole-v1", "--envs", "0"],
            "error: rollout.envs: expected an integer of at least 1, got 0",
        ),
        (["CartPole-v1", "--set", "estimator.clip"], "error: --set: expected section.key=value"),
    ],
)
def test_errors_are_one_line_and_status_2(tmp_path, arguments, message):
    done = pgcore("train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_registering_the_command_imports_nothing_heavy():
    code = "import sys, pgcore_train.plugin, pgcore_train.cli; print(sorted({'numpy', 'gymnasium', 'rich', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_that_do_not_fit_are_refused_before_the_folder_is_touched(tmp_path):
    with pytest.raises(SpecError, match=r"network.type"):
        run_command(options(tmp_path / "out"), ["network.type=table"])
    assert not (tmp_path / "out").exists()
