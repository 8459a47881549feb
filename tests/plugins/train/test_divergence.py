"""The guard of training: real divergence, on each backend, stopped, left out, made smaller and seen again."""

# Runs are set up from tables of settings.
# pyright: reportArgumentType=false

import json
import re
import shlex

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import pgcore as pg
from pgcore.data import files
from pgcore.errors import BatchError, EstimatorError, FileError, NonFiniteError, UnknownNameError
from pgcore_train.command import run_command
from pgcore_train.divergence.attempt import Attempt, OptimizerState, load_attempt
from pgcore_train.divergence.command import run_gradient
from pgcore_train.divergence.evidence import Evidence
from pgcore_train.divergence.guard import Guard
from pgcore_train.learning.target import Target
from pgcore_train.learning.updates import Plan, update
from pgcore_train.run.checkpoint import load_checkpoint

BACKENDS = ["numpy", "torch", "tensorflow", "jax"]
# A minibatch is half of a rollout; the first rollout is the one that diverges.
SETTINGS = ["run.steps=256", "run.evaluation_episodes=0", "network.hidden=[8]", "rollout.envs=1"]
SETTINGS += ["rollout.length=64", "training.epochs=2", "training.minibatch=32"]
# Normalised, the odd reward would flatten all others in place of overflowing.
SETTINGS += ["rollout.normalise_rewards=false"]


class Odd(gymnasium.Env):
    """Gives 1 for each of 8 steps, but an odd reward or final observation once."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float64), Discrete(2)

    def __init__(self, reward="1", seen="0.5", at=11):
        self.reward, self.seen, self.at, self.taken = float(reward), float(seen), at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2), {}

    def step(self, action):
        self.taken += 1
        odd, last = self.taken == self.at, self.taken % 8 == 0
        seen = np.full(2, self.seen if odd else 0.5)
        # Truncated episodes read their final observation, which no action is chosen by.
        return seen, self.reward if odd else 1.0, False, last, {}


@pytest.fixture
def train(register, tmp_path):
    """Return a function that trains in an odd environment and returns the metrics."""
    name = register(Odd)

    def run(*assignments, backend="numpy", **environment):
        layer = {
            "environment": {"name": name, **environment},
            "run": {"backend": backend, "out": str(tmp_path)},
        }
        assert run_command(layer, [*SETTINGS, *assignments]) == 0
        return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    return run


def command_in(text):
    """Return the options of the command in an error's text, by name."""
    _, _, command = text.partition("see it again by: pgcore gradient ")
    words = shlex.split(command)
    return dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))


def assert_seen_again(text, capsys):
    """Run the command in an error's text, and raise unless it ends in the same error."""
    with pytest.raises((NonFiniteError, BatchError)) as again:
        run_gradient(**command_in(text))
    assert text.startswith(f"{again.value}; see it again by: pgcore gradient --policy ")
    capsys.readouterr()


DIVERGED = {
    "a NaN reward": ({"reward": "nan"}, [], r"^Batch\.rewards: .* got NaN at step 10; "),
    "an infinite reward": ({"reward": "inf"}, [], r"^Batch\.rewards: .* got infinity at step 10; "),
    "a reward that only float64 holds": (
        {"reward": 1e200},
        [],
        r"^ppo\.signals\['advantage'\]: .* got inf at step 8; ",
    ),
    "a loss that overflows alone": (
        {"reward": 1e25},
        [],
        r"^loss of ppo: .* got inf at step \d+; ",
    ),
    "an observation that only float64 holds": (
        {"seen": 1e300, "at": 16},
        [],
        r"^final_value: .* at episode 1; ",
    ),
    "a final observation of NaN": (
        {"seen": "nan", "at": 16},
        [],
        r"^Batch\.final_observations: .* got NaN at episode 1; ",
    ),
    "a rate at which parameters overflow": (
        {},
        ["optimizer.learning_rate=1e38"],
        r"^Optimizer\.step: .* NaN or infinity in \S+; parameters and optimizer are unchanged",
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", DIVERGED)
def test_training_stops_before_the_step_and_the_command_sees_it_again(
    train, tmp_path, capsys, backend, case
):
    pytest.importorskip(backend)
    environment, assignments, message = DIVERGED[case]
    with pytest.raises((NonFiniteError, BatchError), match=message) as stop:
        train(*assignments, backend=backend, **environment)
    assert_seen_again(str(stop.value), capsys)
    # The policy is that of the beginning: no step of the first update was applied.
    checkpoint, policy = load_checkpoint(tmp_path), pg.load(tmp_path / "policy.safetensors")
    written = pg.load(tmp_path / "diverged-policy.safetensors")
    for name, value in checkpoint.policy.items():
        assert value.tobytes() == policy.parameters()[name].tobytes(), name
        assert value.tobytes() == written.parameters()[name].tobytes(), name
    if checkpoint.optimizer_steps == 0:
        assert not any(value.any() for value in checkpoint.optimizer.values())
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_gradient_that_overflows_stops_training(train, capsys):
    # Finite parameters of 1e20 and more, whose products overflow.
    with pytest.raises(NonFiniteError, match=r"^gradient of ppo: .* got .*; ") as stop:
        train("optimizer.learning_rate=1e25")
    assert_seen_again(str(stop.value), capsys)


def test_a_replay_buffer_with_a_target_is_seen_again(train, tmp_path, capsys):
    settings = ["estimator.name=q_learning", "replay.start=32", "replay.batch=64"]
    with pytest.raises(NonFiniteError, match=r"^loss of q_learning: .* at step \d+; ") as stop:
        train(*settings, "training.epochs=none", "training.minibatch=none", reward=1e25)
    assert_seen_again(str(stop.value), capsys)
    assert not (tmp_path / "diverged-target.safetensors").exists()


def test_a_replay_buffer_has_the_steps_of_whole_updates(train, tmp_path):
    settings = [
        "estimator.name=q_learning",
        "replay.start=32",
        "replay.batch=64",
        "replay.updates=2",
    ]
    settings += ["training.epochs=none", "training.minibatch=none"]
    with pytest.raises(NonFiniteError):
        train(*settings, reward=1e25, at=75)
    stopped = load_checkpoint(tmp_path)
    assert 0 < stopped.history.steps == len(stopped.replay["observations"]) < 256
    assert run_command({}, ["training.on_divergence=skip"], resume=tmp_path) == 0
    ended = load_checkpoint(tmp_path)
    assert ended.history.steps == len(ended.replay["observations"]) == 256


@pytest.mark.parametrize("seen", ["inf", "-inf"])
@pytest.mark.parametrize("at", [11, 16])
def test_an_infinite_observation_is_told_and_no_resumed_run_has_it(train, tmp_path, seen, at):
    options = ["rollout.normalise_observations=true", "training.on_divergence=stop"]
    with pytest.raises(BatchError, match=r"observations: expected finite .*, got -?inf"):
        train(*options, seen=seen, at=at)
    assert np.isfinite(load_checkpoint(tmp_path).normalisers["observations"]["variance"]).all()


def test_steps_left_out_are_counted_over_resumed_runs(train, tmp_path, capsys):
    before = sum(line["skipped"] for line in train("training.on_divergence=skip", reward=1e25))
    capsys.readouterr()
    # Another environment, whose eleventh step is odd again.
    assert run_command({}, ["run.steps=512"], resume=tmp_path) == 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    skipped = sum(json.loads(line)["skipped"] for line in lines)
    assert skipped == load_checkpoint(tmp_path).history.skipped > before > 0
    assert f"{skipped} optimizer steps left out" in capsys.readouterr().out


def test_another_estimator_goes_on_with_the_optimizer_and_says_so(train, tmp_path, capsys):
    train()
    again = ["estimator.name=trpo", "training.epochs=none", "training.minibatch=none"]
    assert run_command({}, [*again, "run.steps=384"], resume=tmp_path) == 0
    line = "optimizer: stays adam, with its state; the usual one of trpo is trpo"
    assert line in capsys.readouterr().err.splitlines()


def test_signals_that_cannot_be_computed_are_seen_again_with_the_target(train, tmp_path, capsys):
    settings = ["estimator.name=q_learning", "replay.start=32", "replay.batch=64"]
    with pytest.raises(NonFiniteError, match=r"^q_learning\.signals\['target'\]: .* at ") as stop:
        train(*settings, "training.epochs=none", "training.minibatch=none", reward=1e200)
    assert command_in(str(stop.value))["target"] == str(tmp_path / "diverged-target.safetensors")
    assert_seen_again(str(stop.value), capsys)


def test_a_trust_region_that_overflows_is_seen_again(train, capsys):
    options = ["estimator.name=trpo", "optimizer.critic_learning_rate=1e38"]
    with pytest.raises(NonFiniteError) as stop:
        train(*options, "training.epochs=none", "training.minibatch=none")
    assert_seen_again(str(stop.value), capsys)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_left_out(train, tmp_path, capsys, backend):
    pytest.importorskip(backend)
    metrics = train("training.on_divergence=skip", backend=backend, reward=1e25)
    # The odd reward is in the returns of three steps, which are in one or both of two minibatches.
    skipped = metrics[0]["skipped"]
    assert 2 <= skipped <= 4
    assert [line["skipped"] for line in metrics] == [skipped, 0, 0, 0]
    assert load_checkpoint(tmp_path).optimizer_steps == 4 * 4 - skipped
    said = capsys.readouterr()
    assert f"{skipped} optimizer steps left out, 0 made smaller" in said.out
    # The first is told, with the command.
    (line,) = said.err.splitlines()
    assert line.startswith("left out 1 of the update's steps: loss of ppo: ")
    assert_seen_again(line.removeprefix("left out 1 of the update's steps: "), capsys)


def test_whole_rollouts_are_left_out(train, tmp_path):
    options = ["training.on_divergence=skip", "rollout.normalise_rewards=true"]
    metrics = train(*options, reward="nan")
    assert [line["skipped"] for line in metrics] == [4, 0, 0, 0]
    assert "loss" not in metrics[0]
    assert "learning_rate" not in metrics[0]
    assert [line["steps"] for line in metrics] == [64, 128, 192, 256]
    # The mean return of the episodes with it is undefined, and everything else goes on.
    assert [line["mean_return"] for line in metrics] == [None, None, 8.0, 8.0]
    assert np.isfinite(load_checkpoint(tmp_path).normalisers["rewards"]["mean"]).all()
    assert (tmp_path / "learning_curve.png").stat().st_size > 0


def test_a_mean_of_nan_is_none_in_the_summary(train, tmp_path):
    train("training.on_divergence=skip", "run.steps=64", reward="nan")
    assert json.loads((tmp_path / "summary.json").read_text())["mean_return"] is None


def test_a_rollout_is_left_out_of_a_buffer(train):
    options = ["estimator.name=q_learning", "replay.start=32", "training.on_divergence=skip"]
    metrics = train(*options, "training.epochs=none", "training.minibatch=none", reward="inf")
    assert [line["skipped"] for line in metrics] == [1, 0, 0, 0]


def make_learner(rate=1e38, name="adam", dtype="float32"):
    """Return a policy, an estimator and an optimizer whose rate is too large, and a batch."""
    spec = pg.PolicySpec(pg.Linear(2), pg.Categorical(3), "separate")
    rng = np.random.default_rng(0)
    batch = pg.Batch(
        observations=rng.normal(size=(12, 2)),
        actions=rng.integers(0, 3, 12),
        rewards=rng.normal(size=12),
        episode_lengths=[5, 7],
        terminated=[True, True],
    )
    policy = pg.policy(spec, backend="numpy", dtype=dtype)
    return policy, pg.estimator("reinforce"), pg.optimizer(name, learning_rate=rate), batch


def test_a_step_is_made_smaller_by_halves_until_it_is_finite(capsys):
    # Adam's first step is its rate, but for the factor of bias correction, 1 / 0.1.
    policy, estimator, optimizer, batch = make_learner()
    guard = Guard("shrink", 10)
    update(policy, estimator, optimizer, batch, Plan(1, None), pg.generator(0), guard=guard)
    assert guard.metrics == {"skipped": 0, "shrunk": 1}
    assert "took a step at 1/4 of its rate: Optimizer.step: " in capsys.readouterr().err
    reference, _, _, _ = make_learner()
    pg.optimizer("adam", learning_rate=1e38 / 4).step(
        reference, pg.gradient(reference, estimator, batch)
    )
    for parameter, value in policy.parameters().items():
        np.testing.assert_array_equal(value, reference.parameters()[parameter])
    # The rate of the next step is the configured one.
    assert (optimizer.spec.learning_rate, optimizer.steps_taken) == (1e38, 1)


def test_a_step_that_no_smaller_rate_helps_is_left_out():
    for attempts, rate in ((1, 1e38), (10, 1e300)):
        policy, estimator, optimizer, batch = make_learner(rate)
        before, guard = policy.parameters(), Guard("shrink", attempts)
        metrics = update(
            policy, estimator, optimizer, batch, Plan(1, None), pg.generator(0), guard=guard
        )
        assert metrics == {}
        assert guard.metrics == {"skipped": 1, "shrunk": 0}
        assert (optimizer.spec.learning_rate, optimizer.steps_taken) == (rate, 0)
        for parameter, value in policy.parameters().items():
            np.testing.assert_array_equal(value, before[parameter])


def test_a_gradient_cannot_be_made_smaller(train):
    metrics = train("training.on_divergence=shrink", reward=1e25)
    assert metrics[0]["skipped"] >= 2
    assert [line["shrunk"] for line in metrics] == [0, 0, 0, 0]


def test_a_target_does_not_follow_a_step_that_is_left_out():
    policy, estimator, optimizer, batch = make_learner()
    target = Target(pg.policy(policy.spec, backend="numpy", seed=1), every=1)
    before = target.state()
    guard = Guard("skip")
    update(policy, estimator, optimizer, batch, Plan(1, None), pg.generator(0), target, guard=guard)
    assert guard.skipped == 1
    for parameter, value in target.state().items():
        np.testing.assert_array_equal(value, before[parameter])


def test_without_a_choice_training_has_no_counts(train):
    assert not {"skipped", "shrunk"} & train()[0].keys()


def test_a_folder_that_takes_no_file_does_not_hide_the_reason(tmp_path):
    policy, estimator, optimizer, batch = make_learner()
    guard = Guard()
    guard.evidence = Evidence(tmp_path / "deleted", lambda _: {"name": "reinforce"})
    message = (
        r"^Optimizer\.step: .*; its batch is not written \(.*deleted.*: expected a place to write"
    )
    with pytest.raises(NonFiniteError, match=message):
        update(policy, estimator, optimizer, batch, Plan(1, None), pg.generator(0), guard=guard)


# The file and the command.


@pytest.mark.parametrize("estimator", ["ppo", "gspo", "reinforce"])
def test_an_attempt_comes_back_to_the_bit(tmp_path, estimator):
    policy, _, optimizer, batch = make_learner(1e-3)
    rule = pg.estimator(estimator)
    batch = batch.record(np.ones(12), np.ones(2)).with_extras(group=[0] * 12)
    signals = pg.signals(policy, rule, batch)
    if not rule.sees_episodes:
        batch, signals = batch.steps([3, 1, 7]), signals.steps([3, 1, 7])
    optimizer.step(policy, pg.gradient(policy, rule, batch, signals=signals))
    state = OptimizerState.of(optimizer, policy)
    path = tmp_path / "x"
    Attempt(
        batch=batch,
        estimator={"name": estimator},
        backend="numpy",
        signals=signals,
        optimizer=state,
    ).save(path)
    attempt = load_attempt(path)
    assert attempt.optimizer is not None
    assert (attempt.estimator, attempt.backend) == ({"name": estimator}, "numpy")
    first = pg.gradient(policy, rule, batch, signals=signals)
    again = pg.gradient(policy, rule, attempt.batch, signals=attempt.signals)
    assert again.loss == first.loss
    other = pg.policy(policy.spec, backend="numpy")
    other.load(policy.parameters())
    optimizer.step(policy, first)
    attempt.optimizer.restored(other).step(
        other, pg.gradient(other, rule, attempt.batch, signals=attempt.signals)
    )
    for name, value in first.numpy().items():
        assert value.tobytes() == again.numpy()[name].tobytes()
        assert policy.parameters()[name].tobytes() == other.parameters()[name].tobytes()
    # It is a batch for everyone else.
    assert pg.Batch.load(path).rewards.tobytes() == batch.rewards.tobytes()


@pytest.fixture
def saved(tmp_path):
    """Return the files of a policy and of a batch alone."""
    policy, _, _, batch = make_learner(1e-3)
    paths = tmp_path / "policy.safetensors", tmp_path / "batch.safetensors"
    policy.save(paths[0])
    batch.save(paths[1])
    return paths


def test_the_command_prints_loss_metrics_and_norms(saved, capsys):
    run_gradient(*saved, name="reinforce", assignments=["gamma=0.5"], backend="numpy")
    rows = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    policy, batch = pg.load(saved[0], backend="numpy"), pg.Batch.load(saved[1])
    expected = pg.gradient(policy, pg.estimator("reinforce", gamma=0.5), batch)
    printed = dict(rows)
    assert float(printed["loss"]) == pytest.approx(expected.loss, rel=1e-5)
    assert float(printed["gradient_norm"]) == pytest.approx(expected.norm(), rel=1e-5)
    for name, value in expected.numpy().items():
        norm, shape = printed[name].removeprefix("|g| = ").split(", shape ")
        assert float(norm) == pytest.approx(np.linalg.norm(value), rel=1e-5)
        assert json.loads(shape) == [*value.shape]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {},
            FileError,
            r"batch\.safetensors: expected an estimator beside the batch, got none; give --estimator",
        ),
        ({"name": "reinforec"}, UnknownNameError, "did you mean 'reinforce'"),
        (
            {"name": "reinforce", "assignments": ["gama=1"]},
            UnknownNameError,
            "did you mean 'gamma'",
        ),
        ({"name": "reinforce", "assignments": ["gamma=2"]}, EstimatorError, "gamma: expected"),
        ({"name": "q_learning"}, EstimatorError, "expected a policy with action_value"),
        ({"name": "reinforce", "backend": "nump"}, UnknownNameError, "did you mean 'numpy'"),
    ],
)
def test_options_that_do_not_fit_end_in_one_line(saved, options, error, message):
    with pytest.raises(error, match=message) as problem:
        run_gradient(*saved, **options)
    assert "\n" not in str(problem.value)


def test_a_policy_that_does_not_fit_ends_in_one_line(saved):
    spec = pg.PolicySpec(pg.Linear(5), pg.Categorical(3), "separate")
    pg.policy(spec, backend="numpy").save(saved[0])
    with pytest.raises(BatchError, match=r"^Batch\.observations: expected .*5") as problem:
        run_gradient(*saved, name="reinforce")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("texts", "arrays"),
    [
        ({"estimator": "{"}, {}),
        ({"estimator": "[1]"}, {}),
        ({"optimizer": '{"name": "adam"}'}, {}),
        ({"padded": "false"}, {"beside.weights": np.ones(3)}),
        ({}, {"beside.weights": np.ones(12)}),
        ({"padded": "false"}, {"beside.weights": np.ones(12), "beside.signal.x": np.ones(())}),
    ],
)
def test_parts_that_cannot_be_read_are_refused(saved, texts, arrays):
    present, _ = files.read(saved[1], "pgcore.batch")
    files.write(saved[1], "pgcore.batch", present | arrays, texts)
    with pytest.raises(
        FileError, match=r"one with a part that cannot be read \(.*; give"
    ) as problem:
        load_attempt(saved[1])
    assert "\n" not in str(problem.value)


def test_an_optimizer_of_other_than_plain_values_is_left_out():
    policy, _, optimizer, _ = make_learner(1e-3)
    object.__setattr__(optimizer.spec, "beta1", object())
    assert OptimizerState.of(optimizer, policy) is None
