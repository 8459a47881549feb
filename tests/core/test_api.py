# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import pickle

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError, OptimizerError, SpecError, UnknownNameError
from pgcore.returns import optimal_baseline, returns

SPEC = pg.PolicySpec(
    network=pg.MLP(4, (64, 64), "tanh"), head=pg.Categorical(2, temperature=1.0), critic="separate"
)


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return pg.Batch(
        observations=rng.standard_normal((40, 4)),
        actions=rng.integers(0, 2, 40),
        rewards=rng.standard_normal(40),
        episode_lengths=[15, 25],
        terminated=[True, False],
        final_observations=rng.standard_normal((2, 4)),
        log_probs=np.full(40, np.log(0.5)),
        action_mask=np.ones((40, 2)),
        extras={"note": np.arange(40)},
    )


def test_the_script_of_the_design(batch, tmp_path):
    policy = pg.policy(SPEC, backend="numpy", seed=0, dtype="float64")
    est = pg.estimator("ppo", clip=0.2, entropy_coefficient=0.01)
    grad = pg.gradient(policy, est, batch)
    assert np.isfinite(grad.loss)
    assert grad.metrics["loss"] == grad.loss
    assert {name: value.shape for name, value in grad.numpy().items()} == SPEC.parameter_shapes
    before = policy.parameters()
    opt = pg.optimizer("adam", learning_rate=3e-4)
    opt.step(policy, grad)
    assert all((value != before[name]).any() for name, value in policy.parameters().items())
    assert pg.gradient(policy, est, batch).loss < grad.loss
    path = tmp_path / "p.safetensors"
    policy.save(path)
    loaded = pg.load(path, backend="numpy")
    np.testing.assert_array_equal(loaded.mode(batch.observations), policy.mode(batch.observations))
    for name, value in pg.gradient(loaded, est, batch).numpy().items():
        np.testing.assert_array_equal(value, pg.gradient(policy, est, batch).numpy()[name])


@pytest.mark.parametrize("normalise", ["none", "batch", "minibatch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_signals_and_batch_are_sliced_alike(batch, normalise, dtype):
    """PPO's inner loop: with every step chosen it is the whole gradient, and without minibatch statistics the mean over parts."""
    policy, est = pg.policy(SPEC, seed=1, dtype=dtype), pg.estimator("ppo", normalise=normalise)
    whole = pg.gradient(policy, est, batch)
    signals = pg.signals(policy, est, batch)
    every = pg.gradient(policy, est, batch.steps(range(40)), signals=signals.steps(range(40)))
    assert every.loss == pytest.approx(whole.loss, rel=1e-6)
    parts = [[*range(first, 40, 4)] for first in range(4)]
    gradients = [
        pg.gradient(policy, est, batch.steps(part), signals=signals.steps(part)).numpy()
        for part in parts
    ]
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for name, value in whole.numpy().items():
        np.testing.assert_allclose(every.numpy()[name], value, rtol=tolerance, atol=tolerance / 10)
        if normalise != "minibatch":
            mean = np.mean([part[name] for part in gradients], axis=0)
            np.testing.assert_allclose(mean, value, rtol=tolerance, atol=tolerance / 10)


def test_padding_does_not_change_a_gradient(batch):
    policy = pg.policy(SPEC, seed=1, dtype="float64")
    for est in (
        pg.estimator("ppo"),
        pg.estimator("reinforce", baseline="leave_one_out"),
        pg.estimator("actor_critic"),
    ):
        plain, padded = (pg.gradient(policy, est, each) for each in (batch, batch.pad(64)))
        assert padded.loss == pytest.approx(plain.loss, rel=1e-12)
        for name, value in plain.numpy().items():
            np.testing.assert_allclose(padded.numpy()[name], value, rtol=1e-10, atol=1e-13)


def test_signals_for_another_number_of_steps_are_refused(batch):
    policy, est = pg.policy(SPEC), pg.estimator("ppo")
    signals = pg.signals(policy, est, batch)
    with pytest.raises(
        EstimatorError,
        match="gradient: expected signals for 3 steps, got them for 40; slice batch and signals alike",
    ):
        pg.gradient(policy, est, batch.steps([0, 1, 2]), signals=signals)


def test_a_gradient_does_not_change_the_policy_and_owns_its_memory(batch):
    policy, est = pg.policy(SPEC, seed=1), pg.estimator("ppo")
    before = policy.parameters()
    first = pg.gradient(policy, est, batch)
    kept = first.numpy()
    pg.gradient(policy, pg.estimator("actor_critic"), batch)
    for name, value in policy.parameters().items():
        np.testing.assert_array_equal(value, before[name])
        np.testing.assert_array_equal(first.numpy()[name], kept[name])
    kept["network.0.bias"][...] = 9.0
    assert (first.numpy()["network.0.bias"] != 9.0).all()


def test_a_score_estimator_weighs_the_scores_of_episodes(batch):
    policy = pg.policy(SPEC, seed=1, dtype="float64")
    three = pg.Batch.concatenate([batch, batch.episodes([1])])
    est = pg.estimator("reinforce", baseline="optimal_per_component", gamma=0.9)
    gradient = pg.gradient(policy, est, three)
    g, u = (
        policy.episode_scores(three, weights)
        for weights in (None, returns(three.rewards, three.episode_lengths, 0.9))
    )
    direct = -np.mean(u - optimal_baseline(g, u, per_component=True) * g, axis=0)
    flat = np.concatenate([value.ravel() for value in gradient.numpy().values()])
    np.testing.assert_allclose(flat, direct, rtol=1e-12, atol=1e-15)


# Choosing by name


def test_the_backend_is_the_one_named_else_the_environments_else_numpy(monkeypatch):
    monkeypatch.delenv("PGCORE_BACKEND", raising=False)
    assert pg.backend().name == "numpy"
    assert pg.backend() is pg.backend("numpy"), "one instance a process"
    monkeypatch.setenv("PGCORE_BACKEND", "nunpy")
    assert pg.backend("numpy").name == "numpy"
    for use in (pg.backend, lambda: pg.policy(SPEC)):
        with pytest.raises(
            UnknownNameError,
            match="expected a known name, got 'nunpy'; did you mean 'numpy'\\? known: ",
        ):
            use()
    monkeypatch.setenv("PGCORE_BACKEND", "numpy")
    assert pg.policy(SPEC).backend == "numpy"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: pg.estimator("pppo"),
            "estimator: expected a known name, got 'pppo'; did you mean 'ppo' or .*known: a2c, actor_critic, ",
        ),
        (
            lambda: pg.optimizer("adm"),
            "optimizer: expected a known name, got 'adm'; did you mean 'adam",
        ),
        (
            lambda: pg.estimator("ppo", clipp=0.1),
            "ppo hyper-parameter: expected a known name, got 'clipp'; did you mean 'clip'",
        ),
        (
            lambda: pg.optimizer("adam", learning_rat=1),
            "adam hyper-parameter: .*; did you mean 'learning_rate'\\? known: beta1, ",
        ),
        (
            lambda: pg.policy(SPEC, backend="numpi"),
            "backend: expected a known name, got 'numpi'; did you mean 'numpy'",
        ),
    ],
)
def test_unknown_names_are_answered_with_near_and_known_ones(make, words):
    with pytest.raises(UnknownNameError, match=words):
        make()


def test_a_hyper_parameter_that_must_be_given_is_named(monkeypatch):
    from dataclasses import dataclass

    from pgcore.registry.registry import registry

    @dataclass(frozen=True)
    class Needy:
        """Has a field without a default."""

        width: int

    monkeypatch.setattr(type(registry()), "load", lambda *_: Needy)
    with pytest.raises(
        EstimatorError,
        match=r"needy: expected values for width, got \[\] \(.*missing.*\); give the missing",
    ):
        pg.estimator("needy")
    with pytest.raises(OptimizerError, match="needy: expected values for width"):
        pg.optimizer("needy")
    assert pg.estimator("needy", width=3) == Needy(3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"dtype": "float16"},
            "numpy.policy dtype: expected one of 'float32', 'float64', got 'float16'; choose one of them",
        ),
        (
            {"device": "cuda"},
            "numpy.policy device: expected 'cpu', got 'cuda'; choose a backend that has this device",
        ),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
    ],
)
def test_a_policy_that_the_backend_cannot_build_is_refused(fields, words):
    with pytest.raises(SpecError, match=words):
        pg.policy(SPEC, **fields)


def test_a_backend_without_modules_adopts_none():
    with pytest.raises(
        SpecError,
        match=r"numpy\.adopt: expected a backend with modules of its own, got numpy; build a",
    ):
        pg.backend("numpy").adopt(object(), pg.Categorical(2))


def test_one_seed_gives_one_policy_and_one_stream():
    first, again, other = (pg.policy(SPEC, seed=seed).parameters() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["network.0.weight"], again["network.0.weight"])
    assert (first["network.0.weight"] != other["network.0.weight"]).any()
    assert pg.policy(SPEC).dtype == np.float32
    draws = [pg.generator(seed).random(4).tolist() for seed in (5, np.int64(5), 6)]
    assert draws[0] == draws[1] != draws[2]
    assert type(pg.generator(0).bit_generator) is np.random.Philox


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0", None])
def test_a_generators_seed_is_an_integer_of_at_least_zero(seed):
    with pytest.raises(SpecError, match="generator seed: expected an integer of at least 0, got "):
        pg.generator(seed)


def test_an_unknown_name_survives_the_way_back_from_another_process():
    with pytest.raises(UnknownNameError) as caught:
        pg.estimator("pppo")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (type(error), str(error), error.known) == (
        UnknownNameError,
        str(caught.value),
        caught.value.known,
    )


def test_the_package_lists_its_public_names():
    assert set(dir(pg)) == set(pg.__all__)
    assert all(getattr(pg, name) is not None for name in pg.__all__)
    with pytest.raises(AttributeError, match="module 'pgcore' has no attribute 'gradients'"):
        pg.gradients  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
