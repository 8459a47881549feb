"""`--plugin` of every command: what is not installed, for this run."""

import json
import os
import re
import sys

import pytest

from pgcore.cli.plugins import command_line

MINE = """
from dataclasses import dataclass
import pgcore as pg

@dataclass(frozen=True)
class Mine(pg.Estimator):
    name = "mine"
    claims = pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}

    def surrogate(self, xp, *, log_prob, advantage):
        return -log_prob * advantage
"""


@pytest.fixture
def mine(site, monkeypatch):
    """A file with an estimator, in the current folder."""
    folder = site.folder.parent / "work"
    folder.mkdir()
    (folder / "mine_file.py").write_text(MINE)
    monkeypatch.chdir(folder)
    return folder / "mine_file.py"


@pytest.mark.parametrize(
    "words",
    [
        ("list", "estimators", "--json", "--plugin", "mine_file.py"),
        ("--plugin=mine_file", "list", "--json"),
        ("list", "--plugin", "mine_file.py", "--plugin", "./mine_file.py", "--json"),
    ],
)
def test_the_option_stands_before_or_after_the_command(pgcore, mine, words):
    status, out, err = pgcore(*words)
    assert (status, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)["estimators"]}
    assert rows["mine"]["version"] == "unpackaged"
    assert rows["ppo"]["status"] == "usable"


def test_other_processes_find_the_file_wherever_they_run(pgcore, mine):
    os.environ["PGCORE_PLUGINS"] = "json.tool"
    pgcore("list", "--plugin", "mine_file.py")
    assert os.environ["PGCORE_PLUGINS"] == f"json.tool{os.pathsep}{mine}"


def test_a_printed_command_names_each_plugin_once(monkeypatch):
    monkeypatch.setenv("PGCORE_PLUGINS", "")
    assert command_line(["train", "--resume", "my run"]) == "pgcore train --resume 'my run'"
    monkeypatch.setenv("PGCORE_PLUGINS", os.pathsep.join(["a.py", "b", "a.py"]))
    assert command_line(["list"]) == "pgcore --plugin a.py --plugin b list"


def test_a_command_without_it_knows_no_file(pgcore, mine):
    status, _, err = pgcore("derive", "mine")
    assert status == 2
    assert "estimator: expected a known name, got 'mine'" in err


def test_derive_audit_and_train_take_it(pgcore, mine, tmp_path):
    status, out, _ = pgcore("derive", "mine", "--plugin", "mine_file.py")
    assert status == 0
    assert "-advantage*log_prob" in out
    status, out, _ = pgcore("--plugin", "mine_file.py", "audit", "mine")
    assert status == 0
    assert "unbiased" in out
    status, _, err = pgcore(
        *("train", "CartPole-v1", "--estimator", "mine", "--steps", "200", "--set"),
        *("run.evaluation_episodes=0", "--out", str(tmp_path / "run"), "--plugin", "mine_file.py"),
    )
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("list", "--plugin", "gone.py"), "PluginError: .*: expected a file, got none at"),
        (("--plugin", "gone", "check"), "ModuleNotFoundError: No module named 'gone'"),
        (("audit", "ppo", "--plugin", "bad.py"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line_and_exit_status_1(pgcore, mine, words, reason):
    mine.with_name("bad.py").write_text("1 / 0")
    status, out, err = pgcore(*words)
    assert (status, out) == (1, "")
    assert err.startswith("error: --plugin ")
    assert err.count("\n") == 1
    assert re.search(reason, err)


def test_the_error_says_where_the_plugin_was_named(pgcore, mine, monkeypatch):
    monkeypatch.setenv("PGCORE_PLUGINS", "gone")
    _, _, err = pgcore("list", "--plugin", "lost")
    first, second = err.splitlines()
    assert first.startswith("error: PGCORE_PLUGINS: gone: expected a plugin that can be loaded")
    assert first.endswith("; see pgcore doctor")
    assert second.startswith("error: --plugin lost: expected a plugin that can be loaded")
    assert second.endswith("; see pgcore doctor --plugin lost")


def test_doctor_shows_its_traceback(pgcore, mine):
    mine.write_text("1 / 0")
    status, out, _ = pgcore("doctor", "--plugin", "mine_file.py")
    assert status == 1
    assert f"Quarantined: {mine} (mine_file.py unpackaged)" in out
    assert "ZeroDivisionError" in out


def test_doctor_examines_its_targets(pgcore, mine):
    status, out, _ = pgcore("doctor", "--plugin", "mine_file.py")
    assert (status, "mine_file.py unpackaged): estimators mine" in out) == (0, True), out
    mine.write_text(
        MINE.replace('name = "mine"', 'name = "mine"\n    def __post_init__(self): 1 / 0')
    )
    sys.modules.pop("mine_file")
    status, out, _ = pgcore("doctor", "--plugin", "mine_file.py")
    assert status == 1
    assert "estimator 'mine' of mine_file.py: expected an object of the default options" in out


def test_doctor_examines_what_a_file_registers(pgcore, mine):
    mine.write_text(
        MINE.replace("@dataclass", "print('noise')\n\n@pg.register\n@dataclass").replace(
            'name = "mine"', 'name = "mine"\n    def __post_init__(self): 1 / 0'
        )
    )
    status, out, _ = pgcore("doctor", "--plugin", "mine_file.py")
    assert status == 1
    assert "estimator 'mine' of pg.register: expected an object of the default options" in out
    # The output is the file's, not that of the objects that it registers.
    assert "of mine_file.py: expected an import that prints nothing" in out
    assert "of pg.register: expected an import that prints nothing" not in out


@pytest.mark.parametrize("words", [("list", "--plugin"), ("--plugin=", "list")])
def test_the_option_needs_a_value(pgcore, words):
    status, _, err = pgcore(*words)
    assert status == 2
    assert err == "error: --plugin: expected a module or a file, got none; name one\n"


def test_after_two_dashes_there_are_arguments_alone(pgcore, mine):
    status, _, err = pgcore("derive", "--", "--plugin")
    assert status == 2
    assert "got '--plugin'" in err


@pytest.mark.parametrize("words", [("--help",), ("list", "--help"), ("check", "--help")])
def test_help_shows_it(pgcore, words):
    assert "--plugin FILE.py" in pgcore(*words)[1].replace("\n  ", " ")


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("relu", "network.activation=relu"),
        ("networks:mlp", "network.type=mlp"),
        ("linear", "optimizer.schedule=linear"),
        ("ppo", "estimator.name=ppo"),
        ("categorical", "head.name=categorical"),
    ],
)
def test_training_with_a_disabled_name_names_the_variable(pgcore, mine, monkeypatch, word, setting):
    monkeypatch.setenv("PGCORE_DISABLE", word)
    status, out, err = pgcore(*("train", "CartPole-v1", "--steps", "10", "--set"), setting)
    assert (status, out) == (2, "")
    assert f"PGCORE_DISABLE={word!r}; take it out of the variable" in err
