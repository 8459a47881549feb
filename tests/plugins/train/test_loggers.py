import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from pgcore.registry.registry import forget_registry, registry
from pgcore_train.command import run_command

# 512 steps an update: 4 updates.
QUICK = ["run.steps=2048", "run.evaluation_episodes=2", "rollout.length=64", "network.hidden=[8]"]

# A logger that records all that it hears.
RECORDER = """
EVENTS = []

@hookimpl
def pgcore_before_training(folder, settings):
    EVENTS.append(("start", folder, settings))

@hookimpl
def pgcore_after_update(folder, metrics):
    EVENTS.append(("update", folder, metrics))

@hookimpl
def pgcore_after_training(folder, summary, error):
    EVENTS.append(("end", folder, summary, error))
"""

# One that fails in the hook FAILING with the statement FAILURE, and counts the calls that it gets.
FAILING = """
CALLS = []

def hear(hook):
    CALLS.append(hook)
    if hook == {hook!r}:
        {failure}

@hookimpl
def pgcore_before_training():
    hear("before_training")

@hookimpl
def pgcore_after_update(metrics):
    hear("after_update")

@hookimpl
def pgcore_after_training(summary):
    hear("after_training")
"""


@dataclass
class Recorded:
    """The events that a recorder heard."""

    events: list[tuple[Any, ...]]

    @property
    def words(self) -> list[str]:
        return [event[0] for event in self.events]


@pytest.fixture
def install(site):
    """Return a function that installs a logger as a distribution and returns its module."""

    def add(name: str, source: str):
        site.plugin(f"{name}_plugin", source)
        site.distribution(f"{name}-dist", {name: f"{name}_plugin"})
        forget_registry()
        registry()
        return __import__(f"{name}_plugin")

    return add


@pytest.fixture
def recorder(install) -> Recorded:
    return Recorded(install("recorder", RECORDER).EVENTS)


def train(out: Path, environment: str = "CartPole-v1", settings: tuple[str, ...] = ()) -> int:
    options = {"environment": {"name": environment}, "run": {"backend": "numpy", "out": str(out)}}
    return run_command(options, [*QUICK, *settings])


def test_a_logger_hears_of_start_updates_and_end(recorder, tmp_path):
    assert train(tmp_path, settings=("estimator.clip=0.1",)) == 0
    assert recorder.words == ["start", *["update"] * 4, "end"]
    assert {event[1] for event in recorder.events} == {tmp_path}
    settings = recorder.events[0][2]
    assert settings["estimator.clip"] == 0.1
    assert settings["optimizer.name"] == "adam"
    assert settings["network.hidden"] == (8,)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [dict(event[2]) for event in recorder.events[1:-1]] == [*map(json.loads, lines)]
    _, _, summary, error = recorder.events[-1]
    written = json.loads((tmp_path / "summary.json").read_text())
    assert error is None
    assert json.loads(json.dumps(dict(summary))) == written
    assert (summary["ending"], summary["steps"]) == ("steps", 2048)
    assert len(summary["evaluation_returns"]) == 2


def test_mappings_are_read_only(recorder, tmp_path):
    train(tmp_path)
    for event in recorder.events:
        with pytest.raises(TypeError, match="does not support item assignment"):
            event[2]["steps"] = 0
    with pytest.raises(TypeError, match="does not support item assignment"):
        recorder.events[-1][2]["evaluation_returns"][0] = 0.0


def test_the_results_are_there_at_the_end(install, tmp_path):
    module = install(
        "files",
        """
        FILES = []

        @hookimpl
        def pgcore_after_training(folder):
            FILES.extend(file.name for file in folder.iterdir())
        """,
    )
    train(tmp_path)
    assert {"checkpoint.safetensors", "policy.safetensors", "summary.json"} < {*module.FILES}


@pytest.mark.parametrize(
    ("hook", "calls"),
    [
        ("before_training", ["before_training"]),
        ("after_update", ["before_training", "after_update"]),
        ("after_training", ["before_training", *["after_update"] * 4, "after_training"]),
    ],
)
@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ("raise RuntimeError('no disk')", "RuntimeError: no disk"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_one_that_fails_is_set_aside_and_the_other_hears_all(
    install, recorder, tmp_path, hook, calls, failure, text
):
    module = install("bad", FAILING.format(hook=hook, failure=failure))
    with pytest.warns(
        UserWarning, match=f"logger bad_plugin is set aside: {text}; correct"
    ) as all_:
        assert train(tmp_path) == 0
    assert len(all_) == 1
    assert calls == module.CALLS
    assert recorder.words == ["start", *["update"] * 4, "end"]


def test_ctrl_c_is_an_end(install, recorder, tmp_path):
    install(
        "impatient",
        """
        import os, signal

        @hookimpl
        def pgcore_after_update(metrics):
            if metrics["update"] == 2:
                os.kill(os.getpid(), signal.SIGINT)
        """,
    )
    assert train(tmp_path) == 130
    assert recorder.words == ["start", "update", "update", "end"]
    _, _, summary, error = recorder.events[-1]
    assert (summary["ending"], summary["updates"], error) == ("interrupt", 2, None)


class Interrupted(CartPoleEnv):
    """Sends what Ctrl-C sends after the steps of training."""

    taken = 0

    def step(self, action):
        Interrupted.taken += 1
        if Interrupted.taken == 2049:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt, also where pytest was started in a shell's background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_the_evaluation_is_an_end(recorder, tmp_path, register):
    assert train(tmp_path, register(Interrupted)) == 130
    assert recorder.words == ["start", *["update"] * 4, "end"]
    _, _, summary, error = recorder.events[-1]
    assert (summary["ending"], summary["updates"], error) == ("steps", 4, None)
    assert summary["evaluation_returns"] == ()
    assert (tmp_path / "summary.json").exists()


class Breaking(CartPoleEnv):
    """Fails at a step of its second rollout."""

    taken = 0

    def step(self, action):
        Breaking.taken += 1
        if Breaking.taken == 600:
            raise OSError("the simulator is gone")
        return super().step(action)


def test_an_error_is_an_end(recorder, tmp_path, register):
    with pytest.raises(Exception, match="the simulator is gone") as raised:
        train(tmp_path, register(Breaking))
    assert recorder.words == ["start", "update", "end"]
    _, _, summary, error = recorder.events[-1]
    assert (summary["ending"], summary["updates"]) == ("error", 1)
    assert error is raised.value


def test_a_run_that_cannot_start_is_no_run(recorder, tmp_path):
    (tmp_path / "summary.json").write_text("another program's")
    with pytest.raises(OSError, match="another program's summary"):
        train(tmp_path)
    assert recorder.words == []


def test_the_logger_of_the_guide_works(install, tmp_path, capsys):
    guide = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    source = guide.partition("### A logger")[2].partition("```python\n")[2].partition("```")[0]
    install("guide", source)
    assert train(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"results in {tmp_path} seed 0"
    assert [line.split()[0] for line in lines[1:6]] == ["512", "1024", "1536", "2048", "steps"]
