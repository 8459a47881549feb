"""Settings that no run can take: each ends in one line and exit status 2, before anything is trained."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple

from pgcore.data import files
from pgcore.errors import FileError, PgcoreError, SpecError
from pgcore_train.command import run_command
from pgcore_train.config.config import RunConfig
from pgcore_train.memory import available_memory, check_memory, measured, written
from pgcore_train.rollout.sizes import bytes_of, check_environments

LONG = "a" * 5000
NOT_A_PATH = "expected a path that a file can have, got"
BRIEF = ("--steps", "64", "--evaluation-episodes", "0")

# The words after `pgcore train CartPole-v1`, and the line that they end in.
SETTINGS = {
    "a head that is a number": (
        ["--set", "head.name=1.5"],
        r"head\.name: expected a name, got 1\.5; give one",
    ),
    "drawing on a screen": (
        ["--set", "environment.render_mode=human"],
        r"environment\.render_mode: expected none, .* got 'human'; leave it out",
    ),
    "keeping every frame": (
        ["--set", "environment.render_mode=rgb_array_list"],
        r"environment\.render_mode: expected none, .* got 'rgb_array_list'; leave it out",
    ),
    "episodes of no step": (
        ["--set", "environment.max_episode_steps=0"],
        r"environment\.max_episode_steps: expected an integer of at least 1, .*, got 0; give",
    ),
    "episodes of half a step": (
        ["--set", "environment.max_episode_steps=0.5"],
        r"environment\.max_episode_steps: expected an integer of at least 1, .*, got 0\.5; give",
    ),
    "an argument's value that the environment refuses": (
        ["--set", "environment.sutton_barto_reward=1", "--set", "environment.x=2"],
        (
            r"environment 'CartPole-v1': expected keyword arguments that it takes, got "
            r"sutton_barto_reward, x \(TypeError: "
        ),
    ),
    "a buffer beyond memory": (
        ["--estimator", "q_learning", "--set", "replay.capacity=1e13"],
        (
            r"replay\.capacity: expected a number that fits into memory, got 10,000,000,000,000, which "
            r"needs at least \d+ TiB where [\d.,]+ \wiB are free; lower it to [\d,]+ or less"
        ),
    ),
    "a replay batch beyond memory": (
        ["--estimator", "q_learning", "--set", "replay.batch=1_000_000_000_000"],
        r"replay\.batch: expected a number that fits into memory, got 1,000,000,000,000, which",
    ),
    "environments beyond memory": (
        ["--envs", "1e9"],
        (
            r"rollout\.envs: expected a number that fits into memory, got 1,000,000,000, which needs at "
            r"least [\d.,]+ TiB where [\d.,]+ \wiB are free; lower it to [\d,]+ or less"
        ),
    ),
    "evaluation beyond memory": (
        ["--set", "run.evaluation_episodes=1e9"],
        r"run\.evaluation_episodes: expected a number that fits into memory, got 1,000,000,000, which",
    ),
    "rollouts beyond memory": (
        ["--set", "rollout.length=1e12"],
        r"rollout\.length: expected a number that fits into memory, got 1,000,000,000,000, which",
    ),
    "a network beyond memory": (
        ["--set", "network.hidden=[100_000_000_000]"],
        r"PolicySpec: expected sizes that fit into memory, got .*Unable to allocate ",
    ),
    "part of an environment": (
        ["--set", "rollout.envs=1.5"],
        r"rollout\.envs: expected an integer of at least 1, got 1\.5; give a count",
    ),
    "a folder with NUL": (
        ["--set", r'run.out="a\u0000b"'],
        rf"run\.out: {NOT_A_PATH} 'a\\x00b' \(embedded null byte\); leave that character out",
    ),
    "a folder that is not UTF-8": (
        ["--out", "a\udcff\udcfeb"],
        r"run\.out: expected a path in UTF-8, which run\.toml can have, got 'a\\udcff\\udcfeb'; leave",
    ),
    "a folder of 5,000 characters": (
        ["--out", LONG],
        rf"run\.out: {NOT_A_PATH} one of 5,000 characters, a{{77}}\.\.\. \(File name too long\); choose",
    ),
    "a file of 5,000 characters": (
        ["--config", LONG],
        rf"--config: {NOT_A_PATH} one of 5,000 characters, a{{77}}\.\.\. ",
    ),
    "a checkpoint of 5,000 characters": (
        ["--resume", LONG],
        rf"--resume: {NOT_A_PATH} one of 5,000 characters, a{{77}}\.\.\. ",
    ),
    "a folder that is a file": (
        ["--out", "file"],
        r"file: expected a folder to write to, got the file file; choose one",
    ),
    "a folder in a file": (
        ["--out", "file/run"],
        r"file/run: expected a folder to write to, got the file file; choose one",
    ),
}


@pytest.mark.parametrize(("words", "line"), SETTINGS.values(), ids=SETTINGS)
def test_a_bad_setting_ends_in_one_line(pgcore, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    status, out, err = pgcore("train", "CartPole-v1", *BRIEF, "--backend", "numpy", *words)
    assert (status, out) == (2, "")
    assert re.match(f"error: {line}", err), err
    assert err.count("\n") == 1
    assert len(err) < 700
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


RESUMED = {
    "a number": ("run.out=5", r"run\.out: expected a name, got 5; give one"),
    "a list": ("run.out=[1]", r"run\.out: expected a name, got \[1\]; give one"),
    "a table": ("run.out.x=1", r"run\.out: expected a name, got \{'x': 1\}; give one"),
    "NUL": (r'run.out="a\u0000b"', rf"run\.out: {NOT_A_PATH} 'a\\x00b' \(embedded null byte\)"),
}


@pytest.mark.parametrize(("setting", "line"), RESUMED.values(), ids=RESUMED)
def test_a_bad_folder_of_a_resumed_run_ends_in_one_line(pgcore, tmp_path, setting, line):
    folder = str(tmp_path / "run")
    assert pgcore("train", "CartPole-v1", *BRIEF, "--out", folder)[0] == 0
    status, out, err = pgcore("train", "--resume", folder, "--steps", "99999", "--set", setting)
    assert (status, out) == (2, "")
    assert re.match(f"error: {line}", err), err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["", "notes.txt", "policy.safetensors"])
def test_a_failed_resumption_leaves_nothing_behind(pgcore, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    files.write(folder / "policy.safetensors", "pgcore.policy", {}, {})
    before = sorted(folder.iterdir())
    status, _, err = pgcore("train", "--resume", str(folder / name))
    assert status == 2
    assert "expected a pgcore.checkpoint file, got" in err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("words", [["--envs", "1e9x"], ["--envs", "1.5e0"], ["--steps", "1e999"]])
def test_a_number_that_is_not_whole_is_refused(pgcore, words):
    status, _, err = pgcore("train", "CartPole-v1", *words)
    assert status == 2
    assert f"Invalid value for '{words[0]}'" in err


@pytest.mark.parametrize("words", [["--envs", "2e0"], ["--set", "rollout.envs=2e0"]])
def test_a_whole_number_may_have_an_exponent(pgcore, tmp_path, words):
    status, _, err = pgcore("train", "CartPole-v1", *BRIEF, "--out", str(tmp_path / "run"), *words)
    assert (status, err) == (0, "")
    assert "envs = 2\n" in (tmp_path / "run" / "run.toml").read_text()


def test_the_usual_number_of_environments_is_not_measured(tmp_path):
    settings = {
        "environment": {
            "name": "CartPole-v1",
            "render_mode": "rgb_array",
            "max_episode_steps": -1,
        },
        "run": {"out": str(tmp_path / "run"), "steps": 64, "evaluation_episodes": 0},
    }
    assert run_command(settings, []) == 0


def test_the_settings_of_an_api_are_checked_alike():
    for out in ("a\0b", LONG):
        with pytest.raises(FileError, match=rf"run\.out: {NOT_A_PATH}"):
            RunConfig.of({"environment": {"name": "CartPole-v1"}, "run": {"out": out}})
    with pytest.raises(SpecError, match=r"run\.out: expected a name, got 3"):
        RunConfig.of({"environment": {"name": "CartPole-v1"}, "run": {"out": 3}})


# Environments whose packages are missing


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("HalfCheetah-v5", "mujoco", r"gymnasium\[mujoco\]"),
        ("LunarLander-v3", "Box2D", r"gymnasium\[box2d\]"),
        ("ALE/Pong-v5", "ale_py", r"pip install ale-py, and write ale_py:ALE/Pong-v5"),
        ("ale_py:ALE/Pong-v5", "ale_py", r"install ale-py"),
    ],
)
def test_the_package_of_an_environment_is_named(pgcore, name, module, package):
    try:
        __import__(module)
    except ImportError:
        status, _, err = pgcore("train", name)
        assert status == 2
        assert re.match(rf"error: environment.*: expected .*, got .*{package}", err), err
        assert err.count("\n") == 1
    else:
        pytest.skip(f"{module} is installed")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'rooms'", name="rooms"),
            "got none that has the module 'rooms'; install the package that has rooms",
        ),
        (ImportError("moved to rooms."), "can be imported, got moved to rooms; install that, or"),
        (gymnasium.error.DependencyNotInstalled("get rooms"), "got get rooms; install it, or"),
    ],
)
def test_an_environment_that_misses_a_module_is_refused(pgcore, error, words):
    def broken(**_):
        raise error

    gymnasium.register("Missing-v0", broken)
    try:
        status, _, err = pgcore("train", "Missing-v0")
    finally:
        del gymnasium.registry["Missing-v0"]
    assert status == 2
    assert words in err


# Memory


def test_memory_is_counted_in_bytes():
    free = available_memory()
    assert free > 0
    check_memory("x", 10, free / 11)
    with pytest.raises(SpecError, match=r"x: .* got 10, which needs .*; lower it to 9 or less"):
        check_memory("x", 10, free / 9.5)


def test_an_object_is_as_large_as_what_it_holds():
    class Holder:
        def __init__(self):
            self.array = np.ones(250_000)

        def close(self):
            pass

    assert 2_000_000 <= measured(Holder) < 2_100_000


def test_processes_that_do_not_fit_are_refused_in_any_number(new_training):
    free = available_memory()
    if free == np.inf:
        pytest.skip("the system does not tell its memory")
    count, environment = int(free // 2**23), {"name": "CartPole-v1"}
    check_environments(environment, count, count)
    for where, counts in (("rollout.envs", (count, 1)), ("run.evaluation_episodes", (1, count))):
        with pytest.raises(SpecError, match=f"{where}: expected a number that fits into memory"):
            check_environments(environment, *counts, processes=True)
    check_environments(environment, 2, 2, processes=True)
    one = {"processes": True, "envs": 1}
    with pytest.raises(SpecError, match=r"run\.evaluation_episodes: expected a number that fits"):
        new_training("CartPole-v1", rollout=one, run={"evaluation_episodes": count})


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (Box(-1.0, 1.0, (3, 2)), 24),
        (Discrete(5), 8),
        (MultiBinary(7), 7),
        (
            Dict(a=Box(0, 255, (8, 8, 3), np.uint8), b=Tuple([Discrete(2), Box(-1.0, 1.0, (2,))])),
            208,
        ),
    ],
)
def test_a_space_takes_the_bytes_of_its_parts(space, size):
    assert bytes_of(space) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 bytes"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB"), (2.0**60, "1,024 PiB")],
)
def test_bytes_have_a_unit_of_which_there_are_few(size, text):
    assert written(size) == text


def test_settings_that_python_has_no_memory_for_end_in_a_sentence(monkeypatch, tmp_path):
    settings = {"environment": {"name": "CartPole-v1"}, "run": {"out": str(tmp_path / "run")}}

    def full(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("pgcore_train.command.train_into_folder", full)
    with pytest.raises(PgcoreError, match=r"expected settings that fit into memory, got no room"):
        run_command(settings, [])
