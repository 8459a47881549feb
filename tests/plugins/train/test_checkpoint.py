import numpy as np
import pytest

import pgcore as pg
from pgcore.data import files
from pgcore.errors import FileError, OptimizerError, ParameterError, SpecError
from pgcore_train.config.config import RunConfig, merge
from pgcore_train.resuming import restore
from pgcore_train.run.checkpoint import generator_state, load_checkpoint, restore_generator
from pgcore_train.training import Training

ADAPTIVE = {"name": "ppo", "objective": "kl", "kl_target": 1e-6}
BOTH = {"normalise_observations": True, "normalise_rewards": True}


@pytest.fixture
def checkpointed(new_training, tmp_path):
    """Return a trained run and its checkpoint's path."""
    training = new_training(
        "CartPole-v1", estimator=ADAPTIVE, rollout=BOTH, run={"steps": 2048, "seed": 2}
    )
    training.run(lambda _: None)
    path = tmp_path / "checkpoint.safetensors"
    training.checkpoint().save(path)
    return training, path


def longer(path, *layers) -> Training:
    """Return a training that goes on from a checkpoint, with settings changed."""
    checkpoint = load_checkpoint(path)
    training = Training(RunConfig.of(merge(checkpoint.config, {"run": {"steps": 4096}}, *layers)))
    restore(training, checkpoint)
    return training


def test_everything_comes_back(checkpointed):
    training, path = checkpointed
    again = longer(path)
    for name, value in training.policy.parameters().items():
        np.testing.assert_array_equal(again.policy.parameters()[name], value)
    state, restored = training.optimizer.state(training.policy), again.optimizer.state(again.policy)
    assert state.keys() == restored.keys()
    assert all(np.any(value) for value in state.values())
    for name, value in state.items():
        np.testing.assert_array_equal(restored[name], value)
    assert again.optimizer.steps_taken == training.optimizer.steps_taken > 0
    assert again.estimator == training.estimator
    assert getattr(again.estimator, "kl_coefficient") == 4.0  # noqa: B009 - only some estimators have one
    for name in ("observations", "rewards"):
        for key, value in getattr(training, name).state().items():
            np.testing.assert_array_equal(getattr(again, name).state()[key], value)
    assert again.observations is not None
    row = np.ones((1, 4))
    np.testing.assert_array_equal(again.observations(row), training.observations(row))
    np.testing.assert_array_equal(again.rng.random(50), training.rng.random(50))
    assert again.history == training.history
    assert again.history.episodes > 20


def test_a_resumed_run_goes_on_counting(checkpointed):
    training, path = checkpointed
    metrics = []
    again = longer(path)
    again.run(lambda found: metrics.append(dict(found)))
    assert [(each["update"], each["steps"]) for each in metrics] == [(3, 3072), (4, 4096)]
    assert metrics[0]["learning_rate"] < 1e-3 * 3 / 4
    assert metrics[0]["seconds"] > training.history.seconds


def test_resuming_repeats_itself(checkpointed):
    runs = []
    for _ in range(2):
        training = longer(checkpointed[1])
        training.run(lambda _: None)
        runs.append(training.history.returns)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["none.safetensors", "."])
def test_a_missing_checkpoint_is_refused(tmp_path, name):
    with pytest.raises(
        FileError, match=r"expected a pgcore.checkpoint file, got nothing of that name"
    ):
        load_checkpoint(tmp_path / name)


def test_foreign_files_are_refused(checkpointed, tmp_path):
    training, _ = checkpointed
    policy, text = tmp_path / "policy.safetensors", tmp_path / "notes.txt"
    training.policy.save(policy)
    text.write_text("not a checkpoint, whatever it may be called")
    with pytest.raises(FileError, match=r"got format 'pgcore.policy'"):
        load_checkpoint(policy)
    with pytest.raises(FileError, match="got one that is not safetensors"):
        load_checkpoint(text)


def test_a_checkpoint_that_lacks_something_is_refused(checkpointed, tmp_path):
    arrays, metadata = files.read(checkpointed[1], "pgcore.checkpoint")
    path = tmp_path / "part.safetensors"
    del metadata["counters"]
    files.write(
        path,
        "pgcore.checkpoint",
        arrays,
        {name: value for name, value in metadata.items() if name != "format"},
    )
    with pytest.raises(FileError, match="got one that lacks 'counters'"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (
            {"run": {"steps": 2048}},
            SpecError,
            "expected more than the 2048 that the checkpoint has behind it",
        ),
        ({"network": {"hidden": [8]}}, ParameterError, "network"),
        (
            {"optimizer": {"name": "sgd"}},
            OptimizerError,
            "load the checkpoint of the same optimizer",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(checkpointed, layer, error, message):
    with pytest.raises(error, match=message):
        longer(checkpointed[1], layer)


def test_a_normaliser_that_was_not_there_is_refused(new_training, tmp_path):
    plain = {"normalise_rewards": False}
    training = new_training("CartPole-v1", run={"steps": 1024}, rollout=plain)
    training.run(lambda _: None)
    training.checkpoint().save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(FileError, match="expected statistics of rewards, got none"):
        longer(tmp_path, {"rollout": {"normalise_rewards": True}})


def test_an_adapted_estimator_does_not_pass_its_fields_to_another(new_training, checkpointed):
    checkpoint = load_checkpoint(checkpointed[1])
    other = new_training("CartPole-v1", estimator={"name": "actor_critic"}, rollout=BOTH)
    restore(other, checkpoint)
    assert other.estimator == pg.estimator("actor_critic", entropy_coefficient=0.01)


@pytest.mark.parametrize("drawn", [0, 1, 5])
def test_a_generator_goes_on_from_its_state(drawn):
    rng, other = pg.generator(1), pg.generator(2)
    rng.integers(0, 10, size=drawn, dtype=np.int32)
    restore_generator(other, generator_state(rng))
    np.testing.assert_array_equal(other.random(20), rng.random(20))
    np.testing.assert_array_equal(
        other.integers(0, 99, 3, dtype=np.int32), rng.integers(0, 99, 3, dtype=np.int32)
    )
