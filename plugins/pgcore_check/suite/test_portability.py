"""Parameters, optimizer state and actions of a backend go on on NumPy, and NumPy's on it; norms and scaling of gradients."""

# pyright: standard
from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

import pgcore as pg
from pgcore.data import files
from pgcore.errors import NonFiniteError, SpecError
from pgcore.interfaces.surrogate import Surrogate
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.suite.material import ESTIMATORS, HEADS, flat
from pgcore_check.testing import parametrize_backends

__all__ = ["SAVED", "SPECS"]

pytestmark = parametrize_backends()

# Files of a backend that are NumPy's to the bit are also those of any third one.
each_way = pytest.mark.parametrize("way", ["to numpy", "from numpy"])


def pair(backend, way):
    """Return the backend that writes and the one that reads."""
    return (backend, "numpy") if way == "to numpy" else ("numpy", backend)


def vector_of(gradient):
    """Return a gradient's entries."""
    return flat(gradient.numpy())


SPECS = {
    "deep": pg.PolicySpec(NETWORKS["tanh"], HEADS["shared"], "separate"),
    "shared torso": pg.PolicySpec(NETWORKS["relu"], HEADS["shared"], "shared"),
    "wide head": pg.PolicySpec(NETWORKS["sigmoid"], HEADS["per-state"], "none"),
    "table": pg.PolicySpec(NETWORKS["table"], HEADS["categorical"], "separate"),
    "linear": pg.PolicySpec(NETWORKS["linear"], HEADS["hot"], "separate"),
    "squashed": pg.PolicySpec(NETWORKS["tanh"], HEADS["squashed"], "shared"),
    "choices": pg.PolicySpec(NETWORKS["relu"], HEADS["multi"], "separate"),
    "switches": pg.PolicySpec(NETWORKS["sigmoid"], HEADS["bernoulli"], "none"),
    "action values": pg.PolicySpec(NETWORKS["tanh"], HEADS["epsilon greedy"], "none"),
    "critic of actions": pg.PolicySpec(
        NETWORKS["tanh"], HEADS["categorical"], "separate", "action"
    ),
    "shared critic of actions": pg.PolicySpec(NETWORKS["relu"], HEADS["hot"], "shared", "action"),
    "twin critics": pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate", "twin"),
    "shared twin critics": pg.PolicySpec(NETWORKS["relu"], HEADS["hot"], "shared", "twin"),
}


OPTIMIZERS = {
    "adam": {"max_grad_norm": 0.5},
    "adamw": {"weight_decay": 0.1},
    "rmsprop": {"momentum": 0.5},
    "sgd": {"momentum": 0.9, "nesterov": True},
}


def values(spec, dtype):
    """Return parameters that no two of are alike, so that a transposed or exchanged one shows."""
    rng = np.random.default_rng(3)
    shapes = spec.parameter_shapes.items()
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes}


def read_file(folder, name):
    return files.read(folder / f"{name}.safetensors", "pgcore.policy")


def same_bits(left, right):
    assert list(left) == list(right)
    for name, value in right.items():
        assert (left[name].dtype, left[name].shape) == (value.dtype, value.shape), name
        assert left[name].tobytes() == value.tobytes(), name


@each_way
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SPECS)
def test_a_saved_policy_is_the_same_to_the_bit_on_another_backend(
    tmp_path, backend, way, name, dtype
):
    first, second = pair(backend, way)
    written = pg.policy(SPECS[name], backend=first, dtype=dtype)
    parameters = values(SPECS[name], dtype)
    written.load(parameters)
    same_bits(written.parameters(), parameters)
    written.save(tmp_path / "policy.safetensors")
    read = pg.load(tmp_path / "policy.safetensors", backend=second)
    assert (read.backend, read.spec, read.dtype) == (second, SPECS[name], np.dtype(dtype))
    same_bits(read.parameters(), parameters)
    read.save(tmp_path / "again.safetensors")
    (arrays, metadata), again = (read_file(tmp_path, name) for name in ("policy", "again"))
    same_bits(again[0], arrays)
    assert again[1] == metadata


@each_way
@pytest.mark.parametrize(("saved", "asked"), [("float64", "float32"), ("float32", "float64")])
def test_a_policy_read_in_another_dtype_is_rounded_once(tmp_path, backend, way, saved, asked):
    first, second = pair(backend, way)
    for name, spec in SPECS.items():
        written = pg.policy(spec, backend=first, dtype=saved)
        parameters = values(spec, saved)
        written.load(parameters)
        written.save(tmp_path / f"{name}.safetensors")
        read = pg.load(tmp_path / f"{name}.safetensors", backend=second, dtype=asked)
        same_bits(
            read.parameters(), {key: value.astype(asked) for key, value in parameters.items()}
        )


SAVED = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.Categorical(2, temperature=2.0), "separate")


OTHERS = {
    "head": dataclasses.replace(SAVED, head=pg.Categorical(2, temperature=0.1)),
    "network": dataclasses.replace(SAVED, network=pg.MLP(3, (4,), "relu")),
    "critic_values": dataclasses.replace(SAVED, critic_values="action"),
    "critic": dataclasses.replace(SAVED, critic="shared"),
}


def test_a_policy_is_loaded_into_one_of_its_own_spec_only(tmp_path, backend):
    file = tmp_path / "policy.safetensors"
    saved = pg.policy(SAVED, backend="numpy", dtype="float64", seed=5)
    saved.save(file)
    for part, spec in OTHERS.items():
        other = pg.policy(spec, backend=backend)
        before = other.parameters()
        words = rf"policy\.safetensors: expected the {part} of the policy that it is loaded into, .*; load it into a policy of its own spec"
        with pytest.raises(SpecError, match=words):
            pg.load(file, into=other)
        same_bits(other.parameters(), before)
    same = pg.policy(SAVED, backend=backend, dtype="float64")
    assert pg.load(file, into=same, backend=backend, dtype="float64") is same
    same_bits(same.parameters(), saved.parameters())


@pytest.mark.parametrize("name", SPECS)
def test_initial_parameters_are_the_same_to_the_bit(backend, name):
    for dtype in ("float64", "float32"):
        actual = pg.policy(SPECS[name], backend=backend, seed=4, dtype=dtype).parameters()
        same_bits(actual, pg.policy(SPECS[name], backend="numpy", seed=4, dtype=dtype).parameters())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_vector_may_be_read_only_and_stays_as_it_is(backend, dtype):
    policy, batch = make_case(SPECS["deep"], backend, dtype, seed=23)
    vector = np.ones(sum(value.size for value in policy.parameters().values()), dtype)
    vector.flags.writeable = False
    assert policy.fisher_vector_product(batch, vector).any()
    np.testing.assert_array_equal(vector, 1.0)


def test_scores_and_products_that_overflow_are_refused(backend):
    policy, batch = make_case(SPECS["deep"], backend, "float32", seed=23)
    weights = np.ones(batch.num_steps)
    weights[batch.episode_starts[1]] = 1e308
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            NonFiniteError, match=r"episode_scores: .* got NaN or infinity in episode 1; scale"
        ),
    ):
        policy.episode_scores(batch, weights)
    vector = np.full(sum(value.size for value in policy.parameters().values()), 1e38)
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            NonFiniteError,
            match=r"fisher_vector_product: expected finite numbers, got NaN or infinity; scale the",
        ),
    ):
        policy.fisher_vector_product(batch, vector)


@functools.cache
def case(backend):
    """Return a policy, a batch and the policy's first parameters; graphs are built once."""
    policy, batch = make_case(SPECS["deep"], backend, "float64", seed=20)
    return policy, batch, policy.parameters()


def new_optimizer(name):
    # A rate that changes shows whether the number of steps came along.
    return pg.optimizer(name, learning_rate=pg.LinearSchedule(0.05, 0.001, 8), **OPTIMIZERS[name])


def steps(backend, optimizer, count):
    """Take steps and return the parameters after each."""
    policy, batch, _ = case(backend)
    actual = []
    for _ in range(count):
        optimizer.step(policy, pg.gradient(policy, ESTIMATORS["ppo"], batch))
        actual.append(policy.parameters())
    return actual


@functools.cache
def eight_steps(backend, name):
    """Return the parameters after each of eight steps, and the optimizer's state after three."""
    policy, _, start = case(backend)
    policy.load(start)
    optimizer = new_optimizer(name)
    actual = steps(backend, optimizer, 3)
    state = optimizer.state(policy)
    return actual + steps(backend, optimizer, 5), state


@each_way
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_on_another_backend(backend, way, name):
    first, second = pair(backend, way)
    expected, state = eight_steps(first, name)
    policy, optimizer = case(second)[0], new_optimizer(name)
    policy.load(expected[2])
    optimizer.load(policy, state, 3)
    same_bits(optimizer.state(policy), state)
    assert any(np.any(value) for value in state.values())
    for number, actual in enumerate(steps(second, optimizer, 5), start=3):
        for key, value in expected[number].items():
            np.testing.assert_allclose(
                actual[key], value, rtol=1e-12, atol=1e-12, err_msg=f"{key} after {number + 1}"
            )
            assert np.abs(value - expected[number - 1][key]).max() > 1e-6, key
    assert optimizer.steps_taken == 8


@pytest.mark.parametrize("name", [*SPECS, "masked"])
def test_one_seed_draws_the_same_actions(backend, name):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"]) if name == "masked" else SPECS[name]
    policy, batch = make_case(spec, backend, "float64", seed=21, steps=400)
    expected, _ = make_case(spec, "numpy", "float64", seed=21, steps=400)
    mask = batch.action_mask if name == "masked" else None
    assert (mask is not None) == (name == "masked")
    for seed in range(5):
        actions, log_probs = policy.act(batch.observations, pg.generator(seed), mask)
        expected_actions, expected_log_probs = expected.act(
            batch.observations, pg.generator(seed), mask
        )
        if spec.head.discrete:
            np.testing.assert_array_equal(actions, expected_actions)
        np.testing.assert_allclose(actions, expected_actions, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(log_probs, expected_log_probs, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        policy.mode(batch.observations), expected.mode(batch.observations), rtol=0, atol=1e-12
    )


# Squares of the first and second over- and underflow; those of the third do both.
MAGNITUDES = {
    "float32": {
        "plain": (1.0,),
        "huge": (1e30,),
        "tiny": (1e-25,),
        "both": (1e25, 1e-25, 1.0),
        "zero": (0.0,),
    },
    "float64": {
        "plain": (1.0,),
        "huge": (1e250,),
        "tiny": (1e-200,),
        "both": (1e200, 1e-200, 1.0),
        "zero": (0.0,),
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MAGNITUDES["float32"])
def test_norm_scaling_and_clipping_are_those_of_extended_precision(backend, name, dtype):
    magnitudes = MAGNITUDES[dtype][name]
    policy, batch = make_case(SPECS["deep"], backend, dtype, seed=22)
    signals = pg.signals(policy, ESTIMATORS["ppo"], batch)
    plain = pg.gradient(policy, ESTIMATORS["ppo"], batch, signals=signals)
    count = sum(value.size for value in policy.parameters().values())
    rng = np.random.default_rng(5)
    vector = (rng.standard_normal(count) * np.resize(magnitudes, count)).astype(dtype)
    gradient = policy.gradient_from(
        vector, Surrogate(policy.spec, ESTIMATORS["ppo"], batch, signals)
    )
    np.testing.assert_array_equal(vector_of(gradient), vector)

    exact = vector.astype(np.longdouble)
    norm = float(np.sqrt((exact * exact).sum()))
    tolerance = 8 * float(np.finfo(dtype).eps)
    assert gradient.norm() == pytest.approx(norm, rel=tolerance, abs=0)
    smallest = float(np.finfo(dtype).tiny)
    for factor in (0.37, -2.0, 1e-3):
        np.testing.assert_allclose(
            vector_of(gradient.scaled(factor)), exact * factor, rtol=tolerance, atol=smallest
        )
    clipped = gradient.clipped(norm / 7 or 1.0)
    np.testing.assert_allclose(
        vector_of(clipped), exact / (7 if norm else 1), rtol=tolerance, atol=smallest
    )
    assert clipped.norm() == pytest.approx(norm / 7, rel=tolerance, abs=0)
    assert vector_of(gradient.clipped(norm * 1.01 + 1.0)).tobytes() == vector.tobytes()
    # What was made of it leaves the gradient alone, and keeps its loss, its terms and its metrics but the norm.
    assert vector_of(gradient).tobytes() == vector.tobytes()
    for changed in (gradient, clipped, gradient.scaled(0.0)):
        norm = {"gradient_norm": changed.norm()}
        assert (changed.loss, changed.metrics) == (plain.loss, plain.metrics | norm)
        assert changed.terms().tobytes() == plain.terms().tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_is_never_scaled_to_what_is_not_finite(backend, dtype):
    policy, batch = make_case(SPECS["deep"], backend, dtype, seed=22)
    gradient = pg.gradient(policy, ESTIMATORS["ppo"], batch)
    largest = float(np.finfo(dtype).max)
    for factor in (np.nan, np.inf, -np.inf):
        with pytest.raises(
            NonFiniteError, match=r"Gradient\.scaled factor: expected a finite number, got"
        ):
            gradient.scaled(factor)
    with pytest.raises(
        NonFiniteError, match=r"got an overflow in .*; the parameters are unchanged"
    ):
        gradient.scaled(largest / gradient.norm()).scaled(1e10)
    huge = gradient.scaled(largest / gradient.norm() / 2)  # its square alone is too large
    assert np.isfinite(vector_of(huge)).all()
    assert huge.norm() == pytest.approx(largest / 2, rel=1e-5)
