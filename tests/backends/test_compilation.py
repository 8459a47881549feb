"""How often backends trace and compile: bounded over all batch sizes, never again for what was compiled, and equal results."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pgcore as pg
from pgcore.autodiff import padded_size
from pgcore.errors import SpecError
from pgcore.registry import registry
from pgcore.testing.agreement import agreement
from pgcore.testing.cases import ESTIMATORS, HEADS, NETWORKS, make_case
from pgcore_estimators.ppo import PPO

USABLE = [entry.provider.name for entry in registry().providers("backends") if entry.status == "usable"]
SPEC = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate")
TRACED = [name for name in ("tensorflow", "jax") if name in USABLE]


def counting():
    """Return a new kind of PPO, whose traces nobody has kept, and the list that grows with each call of its surrogate."""
    calls: list[None] = []

    @dataclasses.dataclass(frozen=True)
    class Counting(PPO):
        def surrogate(
            self, xp, *, log_prob, value, old_log_prob, advantage, return_, entropy=None, kl=None, old_value=None
        ):
            calls.append(None)
            given = {"log_prob": log_prob, "value": value, "old_log_prob": old_log_prob, "advantage": advantage}
            return super().surrogate(xp, **given, return_=return_, entropy=entropy, kl=kl, old_value=old_value)

    return Counting(normalise="none"), calls


def sizes():
    rng = np.random.default_rng(0)
    return sorted({1, 2, 3, 1000, 3000, *(int(size) for size in np.exp(rng.uniform(0, np.log(3000), 60)))})


@pytest.mark.parametrize("backend", TRACED)
def test_batches_of_many_sizes_need_few_traces(backend):
    estimator, calls = counting()
    policy, batch = make_case(SPEC, backend, "float32", seed=41, steps=3000)
    signals = pg.signals(policy, estimator, batch)
    for size in sizes():
        index = slice(0, size)
        gradient = pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))
        assert gradient.given()["log_prob"].shape == (size,)
    # Two padded sizes a doubling up to 3072; a graph that takes any number of steps needs one.
    bound = 1 if backend == "tensorflow" else len({padded_size(size) for size in range(1, 3001)})
    assert len(calls) <= bound <= 24
    before = len(calls)
    pg.gradient(policy, estimator, batch.steps(slice(0, 77)), signals=signals.steps(slice(0, 77)))
    assert len(calls) == before


def test_a_second_policy_of_the_same_spec_is_not_traced_again():
    if "jax" not in USABLE:
        pytest.skip("jax is not installed")
    estimator, calls = counting()
    for seed in (42, 43):
        policy, batch = make_case(SPEC, "jax", "float32", seed=seed)
        pg.gradient(policy, estimator, batch, signals=pg.signals(policy, estimator, batch))
    assert len(calls) == 1


def test_padded_sizes_double_in_two_steps():
    found = [padded_size(size) for size in range(1, 5000)]
    assert all(size <= padded <= 1.5 * size + 1 for size, padded in enumerate(found, 1))
    assert sorted(set(found))[:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24]


@pytest.mark.parametrize("steps", [9, 23, 48])
@pytest.mark.parametrize("backend", [name for name in USABLE if "compiled" in pg.backend(name).modes])
def test_compiled_gradients_are_within_the_rule(backend, steps):
    estimator = ESTIMATORS["ppo value clip"]
    policy, batch = make_case(SPEC, backend, "float64", seed=44, steps=steps)
    made = pg.policy(SPEC, backend=backend, dtype="float64", compiled=True)
    assert made.compiled
    made.load(policy.parameters())
    signals = pg.signals(made, estimator, batch)
    gradient = pg.gradient(made, estimator, batch, signals=signals)
    assert agreement(made, estimator, batch, signals, gradient.numpy()).agrees
    assert gradient.terms().shape == (steps,)
    assert {name: value.shape for name, value in gradient.given().items()} == dict.fromkeys(gradient.given(), (steps,))
    plain = pg.gradient(policy, estimator, batch, signals=signals)
    assert gradient.loss == pytest.approx(plain.loss, rel=1e-12)
    assert gradient.metrics == pytest.approx(plain.metrics, rel=1e-10)


def test_nothing_is_compiled_where_there_is_nothing_to_compile():
    with pytest.raises(SpecError, match=r"numpy.policy compiled: expected False, got True; nothing is compiled here"):
        pg.policy(SPEC, backend="numpy", compiled=True)
