"""Extras of a rollout: functions named by `module:function`, for what an estimator declares."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ShapeError, SpecError, UnknownNameError
from pgcore.interfaces.extras import Extra
from pgcore.registry.registry import forget_registry, registry
from pgcore_estimators.q_learning import QLearning
from pgcore_train.config.config import RunConfig, read_assignments, read_extras, read_toml
from pgcore_train.rollout.extras import RolloutExtras, check_complete

TAUGHT = """
    from dataclasses import dataclass
    import pgcore as pg

    @dataclass(frozen=True)
    class Taught(pg.Estimator):
        "Pulls the policy towards a teacher."
        name = "taught"
        extras = {
            "teacher": pg.Extra(
                "[B] float",
                "the teacher's log-probabilities, nats",
                lambda batch, shape, rng: batch.log_probs + rng.standard_normal(shape),
            )
        }

        @property
        def claims(self):
            return pg.Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=False)

        def signals(self, batch, evaluate):
            return {"teacher": batch.extras["teacher"], "weight": batch.rewards}

        def surrogate(self, xp, *, log_prob, teacher, weight):
            gap = log_prob - teacher
            return 0.5 * gap * gap - log_prob * weight

        def cotangents(self, *, log_prob, teacher, weight):
            return {"log_prob": log_prob - teacher - weight}
"""
LESSONS = """
import numpy as np

NUMBER = 3
batches = []

def teacher(batch):
    batches.append(batch)
    return np.full(batch.num_steps, -0.5)

def narrow(batch):
    return np.zeros((batch.num_steps, 1))

def whole(batch):
    return np.zeros(batch.num_steps, int)

def endless(batch):
    return np.where(np.arange(batch.num_steps) == 3, np.inf, 0.0)

def lost(batch):
    return batch.nothing

def recorded(batch):
    return batch.log_probs
"""
SMALL = {"run": {"steps": 64, "evaluation_episodes": 0}, "rollout": {"envs": 2, "length": 16}}


@pytest.fixture
def lessons(site, tmp_path, monkeypatch):
    """Install the estimator `taught`, and work in a folder with the module `lessons`."""
    site.module("taught", TAUGHT)
    line = "    return [Provider('taught', 'taught:Taught', '')]\n"
    site.plugin("taught_plugin", f"@hookimpl\ndef pgcore_estimators():\n{line}")
    site.distribution("taught-dist", {"taught": "taught_plugin"})
    forget_registry()
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "lessons.py").write_text(LESSONS)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    sys.modules.pop("lessons", None)


def taught(new_training, target, **sections):
    return new_training(
        "CartPole-v1",
        **{"estimator": {"name": "taught"}, "extras": {"teacher": target}, **SMALL, **sections},
    )


def test_a_function_gives_each_rollout_its_extra(lessons, new_training):
    training = taught(new_training, "lessons:teacher")
    training.run(lambda _: None)
    batches = sys.modules["lessons"].batches
    assert [batch.num_steps for batch in batches] == [32, 32]
    assert all(batch.log_probs is not None for batch in batches)
    # Pulled towards a probability of exp(-0.5), the policy learns from what the function returned.
    untaught = taught(new_training, "lessons:recorded")
    untaught.run(lambda _: None)
    left, right = (run.policy.parameters() for run in (training, untaught))
    assert any((left[name] != right[name]).any() for name in left)


def test_the_command_takes_an_option_and_a_file(lessons, pgcore):
    options = [
        "--set",
        "rollout.length=16",
        "--set",
        "rollout.envs=2",
        "--evaluation-episodes",
        "0",
    ]
    run = ["train", "CartPole-v1", "--estimator", "taught", "--steps", "64", *options]
    status, _, err = pgcore(*run, "--out", "runs/a", "--extras", "teacher=lessons:teacher")
    assert (status, err) == (0, "")
    written = read_toml("runs/a/run.toml")
    assert written["extras"] == {"teacher": "lessons:teacher"}
    status, _, err = pgcore("train", "--config", "runs/a/run.toml", "--out", "runs/b")
    assert (status, err) == (0, "")
    # A resumed run finds the function again.
    status, _, err = pgcore("train", "--resume", "runs/a", "--steps", "96")
    assert (status, err.partition(":")[0]) == (0, "learning rate")
    assert sum(batch.num_steps for batch in sys.modules["lessons"].batches) == 64 + 64 + 32


def test_without_a_function_the_run_is_refused_at_its_start(lessons, pgcore):
    status, _, err = pgcore("train", "CartPole-v1", "--estimator", "taught", "--out", "runs/a")
    assert status == 2
    assert err == (
        "error: extras.teacher: expected [B] float, the teacher's log-probabilities, nats, which "
        "taught reads, got none; give --extras teacher=module:function, a function of the "
        "rollout's batch\n"
    )
    assert not (lessons / "runs").exists()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("lessons", r"got 'lessons'; write it as in --extras teacher=my_module:teacher"),
        (3, "got 3; write it as"),
        ("lessons:teacher.batch", "got 'lessons:teacher.batch'; write it as"),
        (
            "unwritten:teacher",
            r"got .*, which fails with ModuleNotFoundError \(No module named 'unwritten'",
        ),
        (
            "lessons:pupil",
            r"got .*, which fails with AttributeError .*check the name, and that the module",
        ),
        ("lessons:NUMBER", "got 'lessons:NUMBER', of type int; name a function of a batch"),
    ],
)
def test_targets_that_are_no_function_are_refused_at_the_start(
    lessons, new_training, target, words
):
    with pytest.raises(SpecError, match=rf"^extras\.teacher: expected module:function, {words}"):
        taught(new_training, target)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (
            "lessons:narrow",
            ShapeError,
            r"expected \[B\] floats, the teacher's .* got \[32, 1\] flo",
        ),
        (
            "lessons:whole",
            BatchError,
            r"expected \[B\] floats, .* got \[32\] int64; convert it fir",
        ),
        ("lessons:endless", BatchError, "expected finite numbers, got infinity at step 3"),
        ("lessons:lost", SpecError, r"expected \[B\] float of the batch, got AttributeError"),
    ],
)
def test_results_that_are_not_the_extra_name_the_option(
    lessons, new_training, target, error, words
):
    training = taught(new_training, target)
    with pytest.raises(error, match=rf"^extras\.teacher, {target}: {words}"):
        training.run(lambda _: None)


def test_a_name_that_the_estimator_does_not_declare_is_refused(lessons, new_training):
    words = "extra of taught: expected a known name, got 'techer'; did you mean 'teacher'"
    with pytest.raises(UnknownNameError, match=words):
        taught(new_training, "lessons:teacher", extras={"techer": "lessons:teacher"})


def test_built_ins_take_functions_too(lessons, new_training):
    penalised = {"name": "grpo", "kl_coefficient": 0.1}
    whole = {"run": SMALL["run"] | {"steps": 2000}, "rollout": {"envs": 2}}
    with pytest.raises(SpecError, match=r"extras\.reference_log_probs: .*batch \(add them, or"):
        new_training("CartPole-v1", estimator=penalised, **whole)
    targets = {"reference_log_probs": "lessons:recorded"}
    new_training("CartPole-v1", estimator=penalised, extras=targets, **whole).run(lambda _: None)


@dataclass(frozen=True)
class Weighted(QLearning):
    """Reads one more extra."""

    extras: ClassVar = {
        "teacher": pg.Extra("[B] float", "anything", lambda b, shape, r: np.zeros(shape))
    }

    def signals(self, batch, evaluate):
        return {"target": super().signals(batch, evaluate)["target"] + batch.extras["teacher"]}


def test_with_a_replay_buffer_each_drawn_batch_has_the_extra(lessons, new_training, monkeypatch):
    monkeypatch.setitem(registry()._loaded, ("estimators", "q_learning"), Weighted)
    training = new_training(
        "CartPole-v1",
        estimator={"name": "q_learning"},
        extras={"teacher": "lessons:teacher"},
        replay={"capacity": 64, "batch": 8, "updates": 3, "start": 32},
        **SMALL,
    )
    training.run(lambda _: None)
    batches = sys.modules["lessons"].batches
    assert [batch.num_steps for batch in batches] == [8] * 6
    assert all(batch.num_episodes == 8 for batch in batches)


def test_assignments_are_of_one_form():
    assert read_extras(["a=b:c", " d = e:f "]) == {"a": "b:c", "d": "e:f"}
    for text in ("a", "=b:c", ""):
        with pytest.raises(SpecError, match=r"--extras: expected name=module:function, got"):
            read_extras([text])
    layer = read_assignments(["extras.teacher=lessons:teacher", "environment.name=CartPole-v1"])
    assert RunConfig.of(layer).extras == {"teacher": "lessons:teacher"}


def test_without_functions_a_batch_stays_itself(make_batch):
    estimator, batch = pg.estimator("reinforce"), make_batch()
    assert RolloutExtras({}, estimator, ()).add_to(batch, estimator, 3) is batch
    np.testing.assert_array_equal(batch.extras["teacher"], np.arange(6))


@pytest.mark.usefixtures("lessons")
def test_a_function_gives_the_extra_of_a_part(make_batch):
    penalty = {"name": "k3", "coefficient": 0.1}
    estimator, batch = pg.estimator("policy_gradient", penalty=penalty), make_batch()
    functions = RolloutExtras({"reference_log_probs": "lessons:recorded"}, estimator, ())
    found = functions.add_to(batch, estimator, 3).extras["reference_log_probs"]
    np.testing.assert_array_equal(found, batch.log_probs)


def test_an_extra_without_a_meaning_is_missed_by_its_form():
    reader: Any = SimpleNamespace(
        name="h1",
        used_extras={"hint": Extra("[B] float", example=lambda b, shape, r: np.zeros(shape))},
    )
    with pytest.raises(
        SpecError, match=r"^extras\.hint: expected \[B\] float, which h1 reads, got"
    ):
        check_complete(reader, ())
