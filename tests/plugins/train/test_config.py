import tomllib

import pytest

from pgcore.errors import FileError, SpecError, UnknownNameError
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.parts.gae import GAE
from pgcore_estimators.parts.kl import K3
from pgcore_estimators.policy_gradient import PolicyGradient
from pgcore_train.building import make_estimator
from pgcore_train.config.config import RunConfig, merge, read_assignments, read_toml

CARTPOLE = {"environment": {"name": "CartPole-v1"}}


def test_defaults():
    config = RunConfig.of(CARTPOLE)
    assert (config.estimator, config.optimizer) == ({"name": "ppo"}, {})
    assert (config.run.seed, config.run.dtype, config.rollout.envs, config.network.hidden) == (
        0,
        "float32",
        8,
        None,
    )


def test_the_backend_is_the_environment_variables(monkeypatch):
    monkeypatch.setenv("PGCORE_BACKEND", "elsewhere")
    assert RunConfig.of(CARTPOLE).run.backend == "elsewhere"
    monkeypatch.delenv("PGCORE_BACKEND")
    assert RunConfig.of(CARTPOLE).run.backend == "numpy"


def test_later_layers_win_key_by_key():
    layer = merge(
        {"run": {"seed": 1, "steps": 5}}, {"run": {"seed": 2}}, {"estimator": {"clip": 0.1}}
    )
    assert layer == {"run": {"seed": 2, "steps": 5}, "estimator": {"clip": 0.1}}


def test_every_character_of_a_path_comes_back_from_toml():
    out = "".join(map(chr, range(1, 0x100)))
    config = RunConfig.of({"environment": {"name": "CartPole-v1"}, "run": {"out": out}})
    assert tomllib.loads(config.to_toml())["run"]["out"] == out


def test_assignments_are_toml_values_or_text():
    layer = read_assignments(
        [
            "estimator.clip=0.1",
            "network.hidden=[32, 16]",
            "head.log_std=fixed",
            "run.steps=200_000",
            "rollout.normalise_rewards=true",
        ]
    )
    assert layer == {
        "estimator": {"clip": 0.1},
        "network": {"hidden": [32, 16]},
        "head": {"log_std": "fixed"},
        "run": {"steps": 200_000},
        "rollout": {"normalise_rewards": True},
    }
    assert RunConfig.of(merge(CARTPOLE, layer)).network.hidden == (32, 16)


def test_none_is_none_where_a_setting_takes_it():
    assert RunConfig.of(merge(CARTPOLE, read_assignments(["run.stop_at=none"]))).run.stop_at is None
    with pytest.raises(SpecError, match=r"run.steps: expected an integer"):
        RunConfig.of(merge(CARTPOLE, read_assignments(["run.steps=none"])))


def test_a_run_can_be_written_down_and_read_back(tmp_path):
    assignments = [
        "estimator.clip=0.1",
        'environment.label="a \\"b\\" \u00fc"',
        "run.stop_at=475",
        "network.hidden=[8]",
        "head.temperature=2",
    ]
    config = RunConfig.of(merge(CARTPOLE, read_assignments(assignments)))
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert RunConfig.of(read_toml(path)) == config
    assert RunConfig.of(config.layer()) == config


def test_tables_of_parts_come_from_files_and_assignments(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        """
        [estimator]
        name = "policy_gradient"
        penalty = [{name = "k3", coefficient = 0.1}]
        [estimator.objective]
        name = "clip"
        low = 0.1
        """
    )
    set_options = ["estimator.objective.high=0.28", "estimator.advantage.gamma=0.9"]
    config = RunConfig.of(merge(CARTPOLE, read_toml(file), read_assignments(set_options)))
    assert make_estimator(config) == PolicyGradient(
        advantage=GAE(0.9), objective=Clip(0.1, 0.28), penalty=(K3(0.1),)
    )
    # As a run's folder records it, and as a checkpoint does.
    file.write_text(config.to_toml(), encoding="utf-8")
    assert RunConfig.of(read_toml(file)) == config
    assert RunConfig.of(config.layer()) == config


@pytest.mark.parametrize("assignment", ["estimator.objective.hi-gh=1", "estimator.objective.x=nan"])
def test_tables_of_parts_hold_plain_values(assignment):
    with pytest.raises(SpecError, match=r"^estimator\.objective\.(hi-gh|x): expected"):
        RunConfig.of(merge(CARTPOLE, read_assignments([assignment])))


@pytest.mark.parametrize("assignment", ["estimator.clip", "clip=0.1", "=1", "estimator.=1", ""])
def test_malformed_assignments_are_refused(assignment):
    with pytest.raises(SpecError, match=r"--set: expected section.key=value, got"):
        read_assignments([assignment])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "estimatr.clip=1",
            "section: expected a known name, got 'estimatr'; did you mean 'estimator'",
        ),
        ("rollout.lenght=1", "rollout setting: .*did you mean 'length'"),
        ("run.sed=1", "run setting: .*did you mean 'seed'"),
        ("replay.capcity=1", "replay setting: .*did you mean 'capacity'"),
        ("target.evry=1", "target setting: .*did you mean 'every'"),
        ("exploration.fracton=1", "exploration setting: .*did you mean 'fraction'"),
        ("training.epoch=1", "training setting: .*did you mean 'epochs'"),
        (
            "network.width=1",
            "network setting: .*known: activation, channels, critic, factory, hidden, kernels, strides, type",
        ),
    ],
)
def test_unknown_settings_are_answered_with_near_ones(assignment, message):
    with pytest.raises(UnknownNameError, match=message):
        RunConfig.of(merge(CARTPOLE, read_assignments([assignment])))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("rollout.envs=0", "rollout.envs: expected an integer of at least 1, got 0"),
        ("rollout.envs=2.5", "rollout.envs"),
        ("rollout.length=-1", "rollout.length"),
        ("rollout.episodes=0", "rollout.episodes"),
        ("rollout.normalise_rewards=1", "rollout.normalise_rewards: expected true or false, got 1"),
        ("run.steps=0", "run.steps: expected an integer of at least 1, got 0"),
        ("run.seed=-1", "run.seed: expected an integer of at least 0, got -1"),
        ("run.seed=true", "run.seed"),
        ("run.dtype=float16", "run.dtype: expected one of 'float32', 'float64', got 'float16'"),
        ("run.stop_at=soon", "run.stop_at: expected a finite number"),
        ("run.stop_at=inf", "run.stop_at"),
        ("run.evaluation_episodes=-1", "run.evaluation_episodes"),
        ("run.backend=7", "run.backend: expected a name, got 7"),
        ("run.out=''", "run.out: expected a name"),
        ("training.epochs=0", "training.epochs"),
        ("training.minibatch=0.5", "training.minibatch"),
        ("replay.capacity=-1", "replay.capacity: expected an integer of at least 0, got -1"),
        ("replay.capacity=1.5e0", "replay.capacity"),
        ("replay.batch=0", "replay.batch: expected an integer of at least 1, got 0"),
        ("replay.updates=0.5", "replay.updates"),
        ("replay.start=0", "replay.start"),
        ("target.every=-1", "target.every: expected an integer of at least 0, got -1"),
        ("target.rate=0", "target.rate: expected a positive number, got 0"),
        ("target.rate=1.5", r"target.rate: expected a number in \[0, 1\], got 1.5"),
        ("exploration.fraction=2", r"exploration.fraction: expected a number in \[0, 1\], got 2"),
        ("exploration.initial_epsilon=high", "exploration.initial_epsilon"),
        (
            "network.type=cnn",
            "network.type: expected one of 'auto', 'conv', 'linear', 'mlp', 'table', got 'cnn'",
        ),
        ("network.critic=two", "network.critic"),
        ("estimator.name=3", "estimator.name: expected a name, got 3"),
        ("environment.start=2024-01-01", "environment.start: expected a name with a string"),
        ("environment.gravity=nan", "environment.gravity: expected finite numbers"),
        ("environment.a b=1", "environment.a b: expected a name"),
    ],
)
def test_values_that_cannot_be_taken_are_refused(assignment, message):
    with pytest.raises(SpecError, match=message):
        RunConfig.of(merge(CARTPOLE, read_assignments([assignment])))


def test_a_target_is_copied_or_follows():
    with pytest.raises(
        SpecError,
        match=r"target: expected every or rate, got every=5 and rate=0.1; give one of the two",
    ):
        RunConfig.of(merge(CARTPOLE, {"target": {"every": 5, "rate": 0.1}}))


def test_an_environment_must_be_named():
    with pytest.raises(SpecError, match=r"environment.name: expected a name, got None"):
        RunConfig.of({})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[run", "expected TOML"), (b"\xff", "expected TOML"), (b"seed = 1", "expected tables")],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, content, message):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        read_toml(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match="expected a TOML file, got No such file"):
        read_toml(tmp_path / "none.toml")


def test_the_example_in_the_repository_is_a_configuration(request):
    config = RunConfig.of(read_toml(request.config.rootpath / "examples" / "pendulum.toml"))
    assert config.environment["name"] == "Pendulum-v1"
