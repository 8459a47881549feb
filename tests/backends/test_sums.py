"""Gradients of parts add up to the whole's on every backend, whatever the split."""

import copy
import gc
import itertools
import os
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.parameters import flat
from pgcore.registry.registry import registry

SPEC = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.Categorical(2), "separate")
LENGTHS = [3, 1, 4, 2, 5, 1]
ESTIMATORS = {
    "ppo": pg.estimator("ppo", clip=0.1, entropy_coefficient=0.01, normalise="batch"),
    "grpo": pg.estimator("grpo", clip_high=0.3),
    # Its terms depend on whole episodes.
    "gspo": pg.estimator("gspo", clip_high=0.3),
}


REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
BACKENDS = [
    pytest.param(
        entry.provider.name,
        marks=[]
        if entry.status == "usable" or entry.provider.name in REQUIRED
        else pytest.mark.skip(f"{entry.provider.name}: {entry.reason}"),
    )
    for entry in registry().providers("backends")
]


@pytest.fixture(scope="module", params=BACKENDS)
def policy(request):
    return pg.policy(SPEC, backend=request.param, dtype="float64", seed=3)


def episodes(policy, *, padding=0):
    """Return episodes of different lengths in two groups, with an older policy's log-probabilities."""
    rng, steps = np.random.default_rng(5), sum(LENGTHS)
    observations = rng.standard_normal((steps, 3))
    actions, log_probs = policy.act(observations, pg.generator(1))
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(steps),
        episode_lengths=LENGTHS,
        terminated=[True] * len(LENGTHS),
        log_probs=log_probs + 0.1 * rng.standard_normal(steps),
        extras={"group": np.repeat([4, 4, 4, 9, 9, 9], LENGTHS)},
    )
    return batch.pad(steps + padding)


def gradient(policy, estimator, batch, signals):
    return pg.gradient(policy, estimator, batch, signals=signals)


def total(gradients):
    first, *others = gradients
    for other in others:
        first = first.plus(other)
    return first


def assert_equal(found, expected):
    scale = np.abs(flat(expected.numpy())).max()
    np.testing.assert_allclose(
        flat(found.numpy()), flat(expected.numpy()), rtol=0, atol=1e-14 * scale
    )
    assert found.loss == pytest.approx(expected.loss, abs=1e-14)


def split(count, cuts):
    """Return the numbers below `count` in parts that end at the cuts."""
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < count}), count]
    return [np.arange(low, high) for low, high in itertools.pairwise(bounds)]


@settings(max_examples=4, deadline=None)
@given(st.sets(st.integers(1, 15), max_size=3), st.integers(0, 5), st.integers(0, 2))
def test_any_split_into_steps_adds_up(policy, cuts, seed, padding):
    batch, estimator = episodes(policy, padding=padding), ESTIMATORS["ppo"]
    signals = pg.signals(policy, estimator, batch)
    order = np.random.default_rng(seed).permutation(batch.num_steps)
    parts = [order[part] for part in split(batch.num_steps, cuts)]
    whole = gradient(policy, estimator, batch, signals)
    found = total(
        gradient(policy, estimator, batch.steps(part), signals.part(part)) for part in parts
    )
    assert_equal(found, whole)
    assert found.metrics == pytest.approx(whole.metrics, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", ["grpo", "gspo"])
@settings(max_examples=3, deadline=None)
@given(cuts=st.sets(st.integers(1, 5), max_size=3), padding=st.integers(0, 2))
def test_any_split_into_episodes_adds_up(policy, name, cuts, padding):
    batch, estimator = episodes(policy, padding=padding), ESTIMATORS[name]
    signals = pg.signals(policy, estimator, batch)
    whole = gradient(policy, estimator, batch, signals)
    found = total(
        gradient(policy, estimator, batch.episodes(part), signals.episode_part(batch, part))
        for part in split(batch.num_episodes, cuts)
    )
    assert_equal(found, whole)
    assert found.metrics == pytest.approx(whole.metrics, rel=1e-9, nan_ok=True)


def test_ranks_with_the_wholes_totals_add_up(policy):
    # Each rank has a group of its own, and computes its own signals.
    batch, estimator = episodes(policy), ESTIMATORS["grpo"]
    whole = gradient(policy, estimator, batch, pg.signals(policy, estimator, batch))
    totals = pg.Totals(steps=batch.num_steps, episodes=6, groups=2)
    ranks = [batch.episodes([0, 1, 2]), batch.episodes([3, 4, 5])]
    found = total(
        gradient(policy, estimator, rank, pg.signals(policy, estimator, rank, totals=totals))
        for rank in ranks
    )
    assert_equal(found, whole)


def parts_of(policy, name="ppo"):
    """Return the gradients of two unequal parts."""
    batch, estimator = episodes(policy), ESTIMATORS[name]
    signals = pg.signals(policy, estimator, batch)
    return [
        gradient(policy, estimator, batch.steps(part), signals.part(part))
        for part in (slice(0, 5), slice(5, None))
    ]


def test_a_sum_scales_clips_and_copies_like_any_gradient(policy):
    first, second = parts_of(policy)
    found = first.plus(second)
    vector = flat(first.numpy()) + flat(second.numpy())
    np.testing.assert_allclose(flat(found.scaled(2.0).numpy()), 2 * vector, rtol=1e-14)
    clipped = found.clipped(0.5 * found.norm())
    assert clipped.norm() == pytest.approx(0.5 * np.linalg.norm(vector), rel=1e-12)
    for changed in (found.scaled(2.0), clipped):
        assert changed.loss == found.loss
        np.testing.assert_array_equal(changed.terms(), found.terms())
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        np.testing.assert_array_equal(flat(copied.numpy()), flat(found.numpy()))
        assert copied.metrics == found.metrics
    found.check_finite()


def test_sums_add_in_any_order(policy):
    first, second = parts_of(policy)
    left, right = first.plus(second).plus(first), first.plus(second.plus(first))
    np.testing.assert_allclose(flat(left.numpy()), flat(right.numpy()), rtol=1e-13)
    np.testing.assert_array_equal(left.terms(), right.terms())
    assert len(left.addends) == 3


def test_an_optimizer_steps_with_a_sum(policy):
    batch, estimator = episodes(policy), ESTIMATORS["ppo"]
    whole = pg.gradient(policy, estimator, batch)
    stepped = []
    for found in (whole, total(parts_of(policy))):
        optimizer = pg.optimizer("adam", learning_rate=1e-2, max_grad_norm=0.1)
        # The gradient goes with its policy: a copy of both is a gradient of the copy.
        moved, native = copy.deepcopy((policy, found))
        optimizer.step(moved, native)
        stepped.append(flat(moved.parameters()))
    np.testing.assert_allclose(stepped[0], stepped[1], rtol=1e-12)


def test_a_trust_region_steps_with_a_sum():
    policy = pg.policy(SPEC, dtype="float64", seed=3)
    batch, estimator = episodes(policy), pg.estimator("trpo")
    signals = pg.signals(policy, estimator, batch)
    parts = [
        gradient(policy, estimator, batch.steps(part), signals.part(part))
        for part in (slice(0, 5), slice(5, None))
    ]
    reports = []
    for found in (gradient(policy, estimator, batch, signals), total(parts)):
        moved, native = copy.deepcopy((policy, found))
        reports.append(pg.optimizer("trpo").step(moved, native))
    assert reports[0].accepted
    assert reports[1].kl == pytest.approx(reports[0].kl, rel=1e-9)


def test_a_sum_keeps_no_derivatives_of_its_addends(policy):
    first, second = parts_of(policy)
    arrays = []
    addend: Any
    for addend in (first, second):
        leaves = [addend.vector] if hasattr(addend, "vector") else [*addend.leaves.values()]
        arrays += [weakref.ref(leaf) for leaf in leaves]
    found = first.plus(second)
    del addend, leaves, first, second
    gc.collect()
    assert not any(array() is not None for array in arrays)
    assert np.isfinite(found.loss)


def test_nothing_is_joined_before_it_is_read(policy):
    first, second = parts_of(policy)
    found = first.plus(second)
    assert not {"batch", "weights", "values"} & vars(found.surrogate).keys()


def test_a_sum_names_the_step_that_is_not_finite():
    policy = pg.policy(SPEC, dtype="float64", seed=3)
    first, second = parts_of(policy)
    vars(second)["vector"][0] = np.inf
    with pytest.raises(pg.PgcoreError, match=r"gradient of ppo: expected finite numbers, got"):
        first.plus(second).check_finite()


def test_gradients_of_others_are_refused(policy):
    first, second = parts_of(policy)
    with pytest.raises(EstimatorError, match=r"Gradient\.plus: expected a gradient, got int"):
        first.plus(1)  # pyright: ignore[reportArgumentType]
    other = copy.deepcopy(second)
    with pytest.raises(EstimatorError, match="expected a gradient of this policy, got one of anot"):
        first.plus(other)
    batch, estimator = episodes(policy), pg.estimator("ppo", clip=0.3)
    with pytest.raises(EstimatorError, match=r"expected a gradient of PPO\(.*clip=0\.1, "):
        first.plus(pg.gradient(policy, estimator, batch))


def test_means_of_parts_are_no_mean_of_the_whole(policy):
    # The planted mistake: every micro-batch divides by its own steps.
    batch, estimator = episodes(policy), ESTIMATORS["ppo"]
    signals = pg.signals(policy, estimator, batch)
    whole = gradient(policy, estimator, batch, signals)
    found = total(
        gradient(policy, estimator, batch.steps(part), signals.steps(part))
        for part in (slice(0, 5), slice(5, None))
    ).scaled(0.5)
    scale = np.abs(flat(whole.numpy())).max()
    assert np.abs(flat(found.numpy()) - flat(whole.numpy())).max() > 1e-3 * scale
    assert isinstance(found, Gradient)
