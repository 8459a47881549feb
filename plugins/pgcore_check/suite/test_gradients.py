"""Every usable backend against the reference: gradients and optimizer steps; parametrised by the registry."""

# pyright: standard
from __future__ import annotations

import dataclasses
import math
import threading

import numpy as np
import pytest

import pgcore as pg
from pgcore.interfaces.optimizer import Optimizer
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import NETWORKS, make_case, suited, twinned
from pgcore_check.results import gradient_row, loss_row
from pgcore_check.suite.material import ESTIMATORS, FIRST_ORDER, HEADS, flat
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()


def close(left, right, rtol=1e-12):
    assert left.keys() == right.keys()
    scale = max(np.abs(value).max() for value in right.values())
    for name, value in right.items():
        np.testing.assert_allclose(left[name], value, rtol=0, atol=rtol * scale, err_msg=name)


def test_an_unbounded_ratio_is_an_error_that_names_the_step(backend):
    policy = pg.policy(
        pg.PolicySpec(pg.Table(1), pg.Categorical(2), "separate"), backend=backend, dtype="float64"
    )
    batch = pg.Batch(
        observations=[0, 0],
        actions=[0, 1],
        rewards=[-1.0, -5.0],
        episode_lengths=[2],
        terminated=[True],
        log_probs=[-math.log(2), -1000.0],
    )
    before = policy.parameters()
    with pytest.raises(
        pg.PgcoreError, match=r"log_prob = -?inf at step 1; the parameters are unchanged"
    ):
        pg.gradient(policy, pg.estimator("ppo", normalise="none"), batch)
    close(policy.parameters(), before, rtol=1e-300)


@dataclasses.dataclass(frozen=True)
class Leaving(pg.Estimator):
    """A penalty for leaving a reference, of another size at each step."""

    name = "leaving"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False, off_policy="limited", needs_critic=False, discrete_only=False
        )

    def signals(self, batch, evaluate):
        return {"size": batch.rewards, "reference": batch.extras["reference"]}

    def surrogate(self, xp, *, reverse_kl, size):
        return reverse_kl * size

    def cotangents(self, *, reverse_kl, size):
        return {"reverse_kl": size}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("head", [name for name, head in HEADS.items() if not head.action_values])
def test_the_divergence_from_a_reference_has_its_closed_form(backend, head, dtype):
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS[head])
    policy, batch = make_case(spec, backend, dtype, seed=5, padding=1)
    signals = pg.signals(policy, Leaving(), batch)
    actual = pg.gradient(policy, Leaving(), batch, signals=signals).numpy()
    row = gradient_row(policy, Leaving(), batch, signals, actual)
    assert row.agrees, row
    forward = gradient_row(
        policy, Leaving(), batch, signals, {name: 1.01 * value for name, value in actual.items()}
    )
    assert not forward.agrees


@pytest.mark.parametrize(
    ("head", "dtype"),
    [*((head, "float64") for head in HEADS), ("categorical", "float32"), ("per-state", "float32")],
)
def test_many_steps_give_what_their_parts_add_up_to(backend, head, dtype):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "separate")
    policy, batch = make_case(spec, backend, dtype, seed=3, steps=1500)
    estimator = suited(
        ESTIMATORS["q-learning" if HEADS[head].action_values else "ppo kl"], HEADS[head]
    )
    signals = pg.signals(policy, estimator, batch)
    whole = pg.gradient(policy, estimator, batch, signals=signals)
    assert gradient_row(policy, estimator, batch, signals, whole.numpy()).agrees
    assert loss_row(policy, estimator, batch, signals, whole.loss).agrees
    parts = [
        pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))
        for index in batch.minibatches(300, pg.generator(0))
    ]
    names = whole.numpy()
    rtol = 1e-12 if dtype == "float64" else 1e-4
    means = {name: np.mean([part.numpy()[name] for part in parts], axis=0) for name in names}
    close(means, names, rtol)
    assert math.isclose(np.mean([part.loss for part in parts]), whole.loss, rel_tol=rtol)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_padding_changes_nothing(backend, name):
    values = "action" if "action_value" in ESTIMATORS[name].quantities else "state"
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"], "separate", values)
    spec = twinned(spec, ESTIMATORS[name])
    # Backends that compile pad 40 steps to 48 themselves, and so compile once for both batches.
    extras = ESTIMATORS[name].used_extras
    policy, batch = make_case(spec, backend, "float64", seed=5, steps=40, extras=extras)
    padded = batch.pad(48)
    plain, with_padding = (
        pg.gradient(policy, ESTIMATORS[name], steps) for steps in (batch, padded)
    )
    close(with_padding.numpy(), plain.numpy(), rtol=1e-14)
    assert math.isclose(with_padding.loss, plain.loss, rel_tol=1e-13)
    for metric, value in plain.metrics.items():
        assert math.isclose(with_padding.metrics[metric], value, rel_tol=1e-12), metric


@pytest.mark.parametrize(
    "name", ["reinforce", "full return", "value baseline", "td", "n-step", "ppo kl"]
)
def test_a_batch_repeated_twice_has_the_same_gradient(backend, name):
    spec = pg.PolicySpec(NETWORKS["relu"], HEADS["shared"], "shared")
    policy, batch = make_case(spec, backend, "float64", seed=6)
    twice = pg.Batch.concatenate([batch, batch])
    close(
        pg.gradient(policy, ESTIMATORS[name], twice).numpy(),
        pg.gradient(policy, ESTIMATORS[name], batch).numpy(),
        1e-13,
    )


def test_two_batches_give_what_one_of_both_does(backend):
    spec = pg.PolicySpec(NETWORKS["sigmoid"], HEADS["per-state"], "none")
    policy, batch = make_case(spec, backend, "float64", seed=7)
    estimator = ESTIMATORS["reinforce"]
    whole = pg.gradient(policy, estimator, batch).numpy()
    alone = [
        pg.gradient(policy, estimator, batch.episodes([episode])).numpy()
        for episode in range(batch.num_episodes)
    ]
    close({name: np.mean([gradient[name] for gradient in alone], axis=0) for name in whole}, whole)


@pytest.mark.parametrize("kind", ["float16", "int8", "strided", "read-only", "bool"])
def test_observations_of_any_kind_are_what_their_values_say(backend, kind):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "none"), backend, "float64", seed=12
    )
    rng = np.random.default_rng(0)
    observations = {
        "float16": rng.standard_normal((23, 4)).astype(np.float16),
        "int8": rng.integers(-3, 4, (23, 4)).astype(np.int8),
        "strided": rng.standard_normal((46, 8))[::2, ::-2],
        "read-only": rng.standard_normal((23, 4)),
        "bool": rng.random((23, 4)) < 0.5,
    }[kind]
    if kind == "read-only":
        observations.flags.writeable = False
    fields = {
        "actions": batch.actions,
        "rewards": batch.rewards,
        "episode_lengths": [23],
        "terminated": [True],
    }
    actual = pg.gradient(
        policy, ESTIMATORS["reinforce"], pg.Batch(observations=observations, **fields)
    ).numpy()
    plain = np.array(observations, np.float64, order="C")
    close(
        actual,
        pg.gradient(
            policy, ESTIMATORS["reinforce"], pg.Batch(observations=plain, **fields)
        ).numpy(),
        1e-15,
    )


@pytest.mark.parametrize(
    "kind", ["float16", "float32", "int8", "uint8", "int64", "strided", "read-only"]
)
@pytest.mark.parametrize("head", ["categorical", "shared"])
def test_arrays_of_a_step_of_any_kind_are_what_their_values_say(backend, head, kind):
    policy, original = make_case(
        pg.PolicySpec(NETWORKS["linear"], HEADS[head], "separate"), backend, "float64", seed=17
    )

    def as_kind(array):
        if kind in ("strided", "read-only"):
            array = np.repeat(array, 2, axis=0)[::2] if kind == "strided" else array.copy()
            array.flags.writeable = kind == "strided"
            return array
        whole = array.dtype.kind in "iu"
        if np.dtype(kind).kind == "f":
            return array if whole else array.astype(kind)
        return (
            array.astype(kind) if whole else np.clip(np.round(2.0 * array), 0.0, 5.0).astype(kind)
        )

    extras = {
        "reference_log_probs": as_kind(original.extras["reference_log_probs"]),
        "group": as_kind(original.extras["group"]),
    }
    # A discrete head's reference must be a distribution, which no rounding leaves it.
    extras["reference"] = (
        original.extras["reference"]
        if HEADS[head].discrete
        else as_kind(original.extras["reference"])
    )
    fields = {
        name: as_kind(getattr(original, name)) for name in ("actions", "rewards", "log_probs")
    }

    def built(change):
        return pg.Batch(
            observations=original.observations,
            episode_lengths=original.episode_lengths,
            terminated=original.terminated,
            final_observations=original.final_observations,
            action_mask=original.action_mask,
            extras={name: change(value) for name, value in extras.items()},
            **{name: change(value) for name, value in fields.items()},
        )

    def plain(array):
        return np.array(array, np.float64 if array.dtype.kind == "f" else np.int64, order="C")

    for name in ("ppo kl", "reinforce++", "gspo"):
        estimator = suited(ESTIMATORS[name], HEADS[head])
        actual, expected = (
            pg.gradient(policy, estimator, built(change)) for change in (np.asarray, plain)
        )
        close(actual.numpy(), expected.numpy(), 1e-15)


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_states_of_any_integer_kind_are_their_numbers(backend, dtype):
    for head in ("categorical", "shared"):
        spec = pg.PolicySpec(NETWORKS["table"], HEADS[head], "separate")
        policy, batch = make_case(spec, backend, "float32", seed=18)
        assert batch.final_observations is not None
        names = (
            "actions",
            "rewards",
            "episode_lengths",
            "terminated",
            "log_probs",
            "values",
            "action_mask",
            "extras",
        )
        fields = {name: getattr(batch, name) for name in names}
        moved = pg.Batch(
            observations=batch.observations.astype(dtype),
            final_observations=batch.final_observations.astype(dtype),
            **fields,
        )
        estimator = suited(ESTIMATORS["ppo"], HEADS[head])
        close(
            pg.gradient(policy, estimator, moved).numpy(),
            pg.gradient(policy, estimator, batch).numpy(),
            1e-7,
        )
        np.testing.assert_array_equal(
            policy.distribution(moved.observations, moved.action_mask),
            policy.distribution(batch.observations, batch.action_mask),
        )
        np.testing.assert_array_equal(
            policy.act(moved.observations, pg.generator(0), moved.action_mask)[0],
            policy.act(batch.observations, pg.generator(0), batch.action_mask)[0],
        )


def test_gradients_own_their_memory_and_leave_the_policy_alone(backend):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["shared"], "shared"), backend, "float32", seed=13
    )
    before = {name: value.copy() for name, value in policy.parameters().items()}
    first = pg.gradient(policy, ESTIMATORS["ppo"], batch)
    arrays, loss = {name: value.copy() for name, value in first.numpy().items()}, first.loss
    first.numpy()["network.0.weight"][:] = 7.0
    pg.gradient(policy, ESTIMATORS["ppo"], batch.episodes([0, 1]))
    pg.gradient(policy, ESTIMATORS["reinforce"], batch)
    close(first.numpy(), arrays, rtol=1e-300)
    assert first.loss == loss
    close(policy.parameters(), before, rtol=1e-300)
    policy.parameters()["network.0.weight"][:] = 7.0
    close(policy.parameters(), before, rtol=1e-300)


def test_gradients_are_the_same_to_the_bit_in_every_run_and_thread(backend):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["per-state"], "separate"),
        backend,
        "float32",
        14,
        1500,
    )
    estimator = ESTIMATORS["ppo"]
    signals = pg.signals(policy, estimator, batch)
    expected = flat(pg.gradient(policy, estimator, batch, signals=signals).numpy())
    differing: list[int] = []

    def work(offset):
        for turn in range(10):
            index = np.arange(offset, 1500 - turn)
            pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))
            actual = flat(pg.gradient(policy, estimator, batch, signals=signals).numpy())
            if actual.tobytes() != expected.tobytes():
                differing.append(offset)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("label", FIRST_ORDER)
def test_steps_follow_the_formula_in_extended_precision(backend, label, dtype):
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"], "separate")
    policy, batch = make_case(spec, backend, dtype, seed=15)
    signals = pg.signals(policy, ESTIMATORS["ppo"], batch)
    formula, xp = dataclasses.replace(FIRST_ORDER[label], learning_rate=0.01), host
    optimizer = Optimizer(formula)
    exact = {key: value.astype(np.longdouble) for key, value in policy.parameters().items()}
    slots = {
        key: {slot: np.zeros_like(value) for slot in formula.slots} for key, value in exact.items()
    }
    roundoff = np.finfo(dtype).eps
    for step in range(1, 101):
        gradient = pg.gradient(policy, ESTIMATORS["ppo"], batch, signals=signals)
        derivatives = {key: value.astype(np.longdouble) for key, value in gradient.numpy().items()}
        norm = float(np.sqrt(sum((value**2).sum() for value in derivatives.values())))
        for key, value in exact.items():
            clipped = derivatives[key] * min(1.0, (formula.max_grad_norm or math.inf) / norm)
            exact[key], slots[key] = formula.update(
                xp, value, clipped, slots[key], *formula.scalars(step, 0.01)
            )
        optimizer.step(policy, gradient)
        if step in (1, 10, 100):
            for key, value in policy.parameters().items():
                np.testing.assert_allclose(
                    value,
                    exact[key],
                    rtol=0,
                    atol=8 * step * roundoff * max(1.0, np.abs(exact[key]).max()),
                    err_msg=key,
                )


def test_the_same_seed_gives_the_same_actions(backend):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "none")
    policy, batch = make_case(spec, backend, "float64", seed=16)
    first, second = (
        policy.act(batch.observations, pg.generator(4), batch.action_mask) for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    acted = pg.Batch(
        observations=batch.observations,
        actions=first[0],
        rewards=batch.rewards,
        episode_lengths=batch.episode_lengths,
        terminated=[True] * 5,
        action_mask=batch.action_mask,
    )
    np.testing.assert_allclose(
        policy.evaluate(acted, ("log_prob",))["log_prob"], first[1], rtol=1e-13
    )
    assert batch.action_mask is not None
    assert batch.action_mask[np.arange(23), first[0]].all()
