"""Policies that hold batches on their device: moved once, minibatches gathered there, the same numbers.

A CPU stands in for the device: `resident` is set by hand, and every conversion of a NumPy array is counted.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib
import os
import pickle
from collections import deque
from typing import Any

import numpy as np
import pytest
from masked_batches import STEPS, make_batch

import pgcore as pg
from pgcore.autodiff import copies
from pgcore.autodiff.inputs import padded_size
from pgcore.autodiff.unread import MOST
from pgcore.errors import NonFiniteError, OptimizerError
from pgcore.interfaces.surrogate import Surrogate
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_estimators.preset_classes import PPO

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ABSENT = {
    entry.provider.name: f"{entry.provider.name}: {entry.reason}"
    for entry in registry().providers("backends")
    if entry.status != "usable" and entry.provider.name not in REQUIRED
}
MODES = [("torch", "eager"), ("tensorflow", "graph"), ("jax", "compiled")]
COMPILED = [("torch", "compiled"), ("tensorflow", "compiled")]
HEADS = variants("heads")


@dataclasses.dataclass(frozen=True)
class Doubled(PPO):
    """An estimator whose `finalise` is NumPy's alone."""

    name = "doubled advantages"

    def finalise(self, signals, padding):
        """Double the normalised advantages."""
        signals = super().finalise(signals, padding)
        return signals | {"advantage": 2 * signals["advantage"]}


def maker(backend, mode):
    """Return a function that makes a policy of a head's name, resident or not."""
    if backend in ABSENT:
        pytest.skip(ABSENT[backend])
    compiled = mode == "compiled" and len(pg.backend(backend).modes) > 1

    def make(head="categorical", *, is_resident=True, dtype="float32"):
        spec = pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "separate")
        policy: Any = pg.policy(spec, backend=backend, seed=3, dtype=dtype, compiled=compiled)
        policy.resident = is_resident
        return policy

    return make


@pytest.fixture(params=MODES, ids=" ".join)
def make_policy(request):
    """See `maker`: each backend in its usual mode."""
    return maker(*request.param)


@pytest.fixture(params=[*MODES, *COMPILED], ids=" ".join)
def make_any_policy(request):
    """See `maker`: each backend in each mode."""
    return maker(*request.param)


@pytest.fixture
def conversions(monkeypatch):
    """Return a function that lists the NumPy arrays which a policy converts from now on."""

    def counting(policy):
        arrays: list[np.ndarray] = []
        convert = policy.to_native

        def counted(array):
            if isinstance(array, np.ndarray) and array.ndim:
                arrays.append(array)
            return convert(array)

        def numbers(rows):
            # Some compiled code moves the numbers of rows itself.
            moved = moved_numbers(rows)
            if moved is rows:
                arrays.append(rows)
            return moved

        moved_numbers = policy.moved_numbers
        monkeypatch.setattr(policy, "to_native", counted)
        monkeypatch.setattr(policy, "moved_numbers", numbers)
        return arrays

    return counting


def inputs_of(policy, surrogate):
    """Return the arrays that a policy differentiates with, as NumPy's by name."""
    seen: list[Any] = []
    differentiate = policy.differentiate

    def spy(surrogate, inputs):
        seen.append(inputs)
        return differentiate(surrogate, inputs)

    policy.differentiate = spy
    try:
        policy.gradient(surrogate)
    finally:
        del policy.differentiate
    arrays = seen[0]._asdict() | seen[0].signals
    del arrays["signals"]
    return {name: None if value is None else np.asarray(value) for name, value in arrays.items()}


def assert_same_inputs(policies, estimator, batch, both):
    """Raise unless a resident policy and a plain one get the same numbers, to the bit."""
    actual, expected = (
        inputs_of(policy, Surrogate(policy.spec, estimator, batch, signals))
        for policy, signals in zip(policies, both, strict=True)
    )
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
        array = actual[name]
        if value is not None and array is not None and value.dtype.kind == "f":
            assert array.dtype == value.dtype, name


def signals_of(policies, estimator, batch):
    """Return each policy's signals, which are equal: the policies have the same parameters."""
    return [pg.signals(policy, estimator, batch) for policy in policies]


def test_a_batch_is_moved_once_for_all_epochs(make_any_policy, conversions):
    policy = make_any_policy()
    batch, estimator = make_batch(), pg.estimator("ppo", entropy_coefficient=0.01)
    signals, optimizer = pg.signals(policy, estimator, batch), pg.optimizer("adam")
    arrays, rng, size = conversions(policy), np.random.default_rng(0), STEPS // 8
    for _ in range(4):
        for index in batch.minibatches(size, rng):
            gradient = pg.gradient(
                policy, estimator, batch.steps(index), signals=signals.steps(index)
            )
            optimizer.step(policy, gradient)
    indices = [array for array in arrays if array.dtype == np.int32]
    whole = [array for array in arrays if array.dtype != np.int32 and len(array) >= size]
    length = padded_size(STEPS) if policy.pads else STEPS
    # Observations, actions and mask were moved for the signals' values, or are now.
    names = {"weights", *estimator.signal_names}
    assert len(names) <= len(whole) <= len(names) + 3
    assert {len(array) for array in whole} == {length}
    assert {array.shape for array in indices} == {(size,)}
    assert len(indices) == 4 * 8
    assert len(policy.copies) == len(names) + 3


@pytest.mark.parametrize("normalise", ["minibatch", "batch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("head", ["categorical", "per-state"])
def test_minibatches_are_the_same_to_the_bit(make_policy, head, dtype, normalise):
    policies = [make_policy(head, dtype=dtype), make_policy(head, is_resident=False, dtype=dtype)]
    source, batch = make_case(policies[0].spec, "numpy", dtype, seed=1)
    for policy in policies:
        policy.load(source.parameters())
    estimator = pg.estimator("ppo", normalise=normalise, entropy_coefficient=0.1)
    for case in (batch, batch.pad(batch.num_steps + 3)):
        both = signals_of(policies, estimator, case)
        assert_same_inputs(policies, estimator, case, both)
        order = np.random.default_rng(0).permutation(case.num_steps)
        # A part of a part, a repeated step, a slice, a list, a mask, and one step.
        for index in (order[:5], np.array([2, 2, -1]), slice(1, 7), [3, 0, 1], order < 6, [4]):
            part, parts = case.steps(index), [signals.steps(index) for signals in both]
            assert_same_inputs(policies, estimator, part, parts)
            inner = np.array([0, -1])
            assert_same_inputs(
                policies, estimator, part.steps(inner), [signals.steps(inner) for signals in parts]
            )
            parts = [signals.part(index) for signals in both]
            assert_same_inputs(policies, estimator, part, parts)


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_minibatches_of_episodes_are_the_same_to_the_bit(make_any_policy, name):
    policies = [make_any_policy(), make_any_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator(name)
    both = signals_of(policies, estimator, batch)
    for index in (np.array([5, 1, 9]), [3, 3], slice(0, 4)):
        parts = [signals.episodes(batch, index) for signals in both]
        assert_same_inputs(policies, estimator, batch.episodes(index), parts)
        inner = [1, 0]
        of_part = [signals.episodes(batch.episodes(index), inner) for signals in parts]
        assert_same_inputs(policies, estimator, batch.episodes(index).episodes(inner), of_part)


@pytest.mark.parametrize("normalise", ["minibatch", "batch"])
def test_signals_of_some_episodes_have_other_rows_than_the_batch(make_any_policy, normalise):
    policies = [make_any_policy(), make_any_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo", normalise=normalise)
    # The whole batch is on the device before some of its episodes are kept.
    signals_of(policies, estimator, batch)
    assert_same_inputs(policies, estimator, batch, signals_of(policies, estimator, batch))
    kept = batch.episodes([7, 2, 4])
    both = signals_of(policies, estimator, kept)
    for index in (np.array([4, 0, 1]), slice(1, 3), slice(None)):
        parts = [signals.steps(index) for signals in both]
        assert_same_inputs(policies, estimator, kept.steps(index), parts)


def test_an_own_finalise_is_followed(make_any_policy):
    policies = [make_any_policy(), make_any_policy(is_resident=False)]
    batch, estimator = make_batch(), Doubled()
    both = signals_of(policies, estimator, batch)
    for index in (np.arange(7), slice(None)):
        parts = [signals.steps(index) for signals in both]
        assert_same_inputs(policies, estimator, batch.steps(index), parts)
    assert_same_inputs(policies, estimator, batch, both)


def test_gradients_metrics_and_steps_are_those_of_the_other_way(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    both = signals_of(policies, estimator, batch)
    optimizers = [pg.optimizer("adam", max_grad_norm=0.1) for _ in policies]
    for index in batch.minibatches(20, np.random.default_rng(0)):
        figures: list[dict[str, float]] = []
        for policy, signals, optimizer in zip(policies, both, optimizers, strict=True):
            part = batch.steps(index)
            gradient = pg.gradient(policy, estimator, part, signals=signals.steps(index))
            figures.append(gradient.metrics)
            optimizer.step(policy, gradient)
        assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=1e-6)
    for name, value in policies[1].parameters().items():
        np.testing.assert_allclose(policies[0].parameters()[name], value, rtol=1e-5, atol=1e-6)


def test_copies_are_freed_with_their_batch(make_policy):
    policy = make_policy()
    estimator = pg.estimator("ppo")
    for seed in range(3):
        batch = make_batch(seed)
        signals = pg.signals(policy, estimator, batch)
        part = np.arange(10)
        gradient = pg.gradient(policy, estimator, batch.steps(part), signals=signals.steps(part))
        held = len(policy.copies)
        assert held == 3 + 1 + len(estimator.signal_names)
        del batch, signals, gradient
        gc.collect()
        assert len(policy.copies) == 0


def test_memory_is_bounded_and_a_larger_batch_moved_by_minibatches(make_policy, monkeypatch):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    both = signals_of(policies, estimator, batch)
    index = np.arange(10)
    parts = [signals.steps(index) for signals in both]
    # Room for the observations alone: the arrays that come later push others out.
    monkeypatch.setattr(copies, "MOST_BYTES", batch.observations.nbytes)
    assert_same_inputs(policies, estimator, batch.steps(index), parts)
    entries = policies[0].copies.entries.values()
    assert 0 < sum(size for _, _, size in entries) <= batch.observations.nbytes
    monkeypatch.setattr(copies, "MOST_BYTES", batch.observations.nbytes - 1)
    policies[0].copies.entries.clear()
    assert_same_inputs(policies, estimator, batch.steps(index), parts)
    assert len(policies[0].copies) == 0
    # Such a batch's loss is one of numbers in host memory.
    losses = [
        pg.gradient(policy, estimator, batch.steps(index), signals=signals).loss
        for policy, signals in zip(policies, parts, strict=True)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_a_replaced_signal_counts_and_a_moved_one_cannot_be_written_to(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    both, index = signals_of(policies, estimator, batch), np.arange(9)
    parts = [signals.steps(index) for signals in both]
    assert_same_inputs(policies, estimator, batch.steps(index), parts)
    for signals in (*both, *parts):
        signals.values["return_"] = signals["return_"] + 1
        signals.weights = signals.weights * 3
    assert_same_inputs(policies, estimator, batch, both)
    assert_same_inputs(policies, estimator, batch.steps(index), parts)
    inner = [2, 1]
    of_parts = [signals.steps(inner) for signals in parts]
    assert_same_inputs(policies, estimator, batch.steps(index).steps(inner), of_parts)
    with pytest.raises(ValueError, match="read-only"):
        signals_of(policies, estimator, batch)[0]["advantage"][0] = 0
    with pytest.raises(ValueError, match="read-only"):
        both[0].steps(index)["advantage"][0] = 0


def test_weights_of_a_part_are_replaced_and_not_written_to(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    both = signals_of(policies, estimator, batch)
    for index in (np.arange(9), slice(0, 9)):
        parts = [signals.steps(index) for signals in both]
        expected = parts[1].weights * 0.5
        with pytest.raises(ValueError, match="read-only"):
            parts[0].weights *= 0.5
        for part in parts:
            part.weights = part.weights * 0.5
        assert_same_inputs(policies, estimator, batch.steps(index), parts)
        np.testing.assert_array_equal(parts[0].weights, expected)
        # A factor keeps the replacement.
        parts = [part.scaled(3) for part in parts]
        np.testing.assert_array_equal(parts[0].weights, expected * 3)
        assert_same_inputs(policies, estimator, batch.steps(index), parts)


def test_all_signals_of_a_part_are_replaced(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator, index = make_batch(), pg.estimator("ppo"), np.arange(9)
    both = signals_of(policies, estimator, batch)
    values = {name: value[index] + 1 for name, value in both[1].values.items()}
    parts = [signals.steps(index) for signals in both]
    for part in parts:
        part.values = dict(values)
        assert part.names == values.keys()
        np.testing.assert_array_equal(part.value("advantage"), values["advantage"])
    assert_same_inputs(policies, estimator, batch.steps(index), parts)
    inner = [2, 1]
    of_parts = [part.steps(inner) for part in parts]
    assert_same_inputs(policies, estimator, batch.steps(index).steps(inner), of_parts)


def test_a_part_is_replaced_as_a_dataclass(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator, index = make_batch(), pg.estimator("ppo"), np.arange(9)
    both = [signals.steps(index) for signals in signals_of(policies, estimator, batch)]
    parts = [dataclasses.replace(part, weights=part.weights * 0.5) for part in both]
    np.testing.assert_array_equal(parts[0].weights, both[1].weights * 0.5)
    assert_same_inputs(policies, estimator, batch.steps(index), parts)


def test_a_part_has_the_arrays_of_its_time(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    both, index, inner = signals_of(policies, estimator, batch), np.arange(9), [2, 1]
    parts = [signals.steps(index) for signals in both]
    of_parts = [signals.steps(inner) for signals in parts]
    # The part is replaced after a part was taken of it, and then the whole.
    for later in (parts, both):
        for signals in later:
            signals.values["return_"] = signals["return_"] + 1
            signals.weights = signals.weights * 3
        of_batch = batch.steps(index).steps(inner)
        assert_same_inputs(policies, estimator, of_batch, of_parts)
        again = [signals.steps(inner) for signals in parts]
        assert_same_inputs(policies, estimator, of_batch, again)


def test_a_view_is_moved_with_what_it_shows(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo", normalise="none")
    both, memory = signals_of(policies, estimator, batch), bytearray(4 * STEPS)
    # NumPy cannot make this memory read-only.
    shared = np.frombuffer(memory, np.float32)
    for signals in both:
        signals.values["advantage"] = shared
    for entry in (1.0, 2.0):
        shared[:] = entry
        assert_same_inputs(policies, estimator, batch, both)
    buffer = np.ones(STEPS + 1, np.float32)
    for signals in both:
        signals.values["advantage"] = buffer[1:]
    assert_same_inputs(policies, estimator, batch, both)
    with pytest.raises(ValueError, match="read-only"):
        buffer[3] = 2


def test_an_index_may_change_after_it_was_used(make_policy):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    both, index = signals_of(policies, estimator, batch), np.arange(9)
    # The first gradient marks the batch as one on the device.
    pg.gradient(policies[0], estimator, batch, signals=both[0])
    part, parts = batch.steps(index), [signals.steps(index) for signals in both]
    expected = batch.observations[index]
    index += 20
    np.testing.assert_array_equal(part.observations, expected)
    assert_same_inputs(policies, estimator, part, parts)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_of_parts_and_policies_hold_no_device(make_policy, clone):
    policy = make_policy()
    batch, estimator = make_batch(), pg.estimator("grpo")
    signals = pg.signals(policy, estimator, batch)
    pg.gradient(policy, estimator, batch, signals=signals)
    for part in (batch.steps([1, 0]), batch.episodes([2, 1])):
        again = clone(part)
        for name in ("observations", "actions", "action_mask", "rewards", "log_probs", "values"):
            np.testing.assert_array_equal(getattr(again, name), getattr(part, name), err_msg=name)
        np.testing.assert_array_equal(again.extras["group"], part.extras["group"])
        assert again.whole()[1] is None
    of_steps = signals.steps([1, 0])
    again = clone(of_steps)
    assert type(again) is pg.Signals
    np.testing.assert_array_equal(again.weights, of_steps.weights)
    np.testing.assert_array_equal(again["advantage"], of_steps["advantage"])
    # A whole batch in a pickle is no larger for the policies that hold it.
    assert len(pickle.dumps(batch.episodes([0]))) < len(pickle.dumps(batch)) / 4
    assert len(clone(policy).copies) == 0
    assert len(policy.copies) > 0


@pytest.fixture
def numbers(monkeypatch):
    """Return a function that lists the native numbers which a policy reads from now on."""

    def counting(policy):
        read: list[float] = []
        number = policy.number
        monkeypatch.setattr(
            policy, "number", lambda native: read.append(number(native)) or read[-1]
        )
        return read

    return counting


def test_no_gradient_and_no_step_waits_for_the_device(make_any_policy, numbers):
    policy, estimator = make_any_policy(), pg.estimator("ppo")
    batch = make_batch()
    signals, optimizer = (
        pg.signals(policy, estimator, batch),
        pg.optimizer("adam", max_grad_norm=0.1),
    )
    read, gradient = numbers(policy), None
    for index in batch.minibatches(STEPS // 8, np.random.default_rng(0)):
        gradient = pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))
        optimizer.step(policy, gradient)
    assert read == []
    assert gradient is not None
    norm = gradient.norm()
    # Eight gradients and eight steps that nobody had read, and the norm's own.
    assert len(read) == 8 + 8 + 1
    assert read[-1] == pytest.approx(norm**2)
    assert policy.unread.squares == policy.unread.steps == deque()
    # Without a reader the numbers are read from time to time.
    for _ in range(MOST + 1):
        pg.gradient(policy, estimator, batch, signals=signals)
    assert len(read) == 17 + MOST + 1


@pytest.mark.parametrize("weight", [np.inf, 1e30])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_gradient_that_is_not_finite_is_no_step_and_is_told_at_the_next_number(
    make_policy, max_grad_norm, weight
):
    policy, estimator = make_policy(), pg.estimator("reinforce")
    good = make_batch()
    optimizer = pg.optimizer("adam", max_grad_norm=max_grad_norm)
    optimizer.step(policy, pg.gradient(policy, estimator, good))
    policy.check_unread()
    before, state = policy.parameters(), optimizer.state(policy)
    signals = pg.signals(policy, estimator, good)
    signals.weights = signals.weights.copy()
    signals.weights[7] = weight
    bad = pg.gradient(policy, estimator, good, signals=signals)
    optimizer.step(policy, bad)
    with pytest.raises(NonFiniteError, match="gradient of reinforce: expected"):
        bad.norm()
    for name, value in (policy.parameters() | optimizer.state(policy)).items():
        np.testing.assert_array_equal(value, (before | state)[name], err_msg=name)
    # It is told once, and a good gradient is a step again.
    optimizer.step(policy, pg.gradient(policy, estimator, good))
    assert pg.gradient(policy, estimator, good).norm() > 0
    assert any((policy.parameters()[name] != before[name]).any() for name in before)


def test_a_sum_that_overflows_is_no_step_and_is_told(make_policy):
    policy, estimator, batch = make_policy(), pg.estimator("reinforce"), make_batch()
    before, optimizer = policy.parameters(), pg.optimizer("sgd")
    signals = pg.signals(policy, estimator, batch)
    norm = pg.gradient(policy, estimator, batch, signals=signals).norm()
    # The square of the norm is half of the largest number.
    signals.weights = signals.weights * np.float32(1.3e19 / norm)
    addends = [pg.gradient(policy, estimator, batch, signals=signals) for _ in range(2)]
    policy.check_unread()
    optimizer.step(policy, addends[0].plus(addends[1]))
    with pytest.raises(NonFiniteError, match="gradient of reinforce: expected a finite sum"):
        policy.check_unread()
    for name, value in policy.parameters().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize(
    "read",
    [
        *("numpy", "metrics", "loss", "evaluate", "act", "signals"),
        *("parameters", "save", "pickle", "deepcopy"),
    ],
)
def test_every_reading_tells_of_a_gradient_that_is_not_finite(make_policy, read, tmp_path):
    policy, estimator, batch = make_policy(), pg.estimator("reinforce"), make_batch()
    signals = pg.signals(policy, estimator, batch)
    signals.weights = np.where(np.arange(STEPS) == 3, np.inf, signals.weights).astype(np.float32)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    readings = {
        "numpy": gradient.numpy,
        "metrics": lambda: gradient.metrics,
        "loss": lambda: gradient.loss,
        "evaluate": lambda: policy.evaluate(batch, ("value",)),
        "act": lambda: policy.act(batch.observations, pg.generator(0)),
        "signals": lambda: pg.signals(policy, pg.estimator("ppo"), batch),
        "parameters": policy.parameters,
        "save": lambda: policy.save(tmp_path / "policy.safetensors"),
        "pickle": lambda: pickle.dumps(policy),
        "deepcopy": lambda: copy.deepcopy(policy),
    }
    with pytest.raises(NonFiniteError, match="gradient of reinforce"):
        readings[read]()
    assert not [*tmp_path.iterdir()]
    # It is told once.
    readings["parameters"]()


def test_a_step_that_cannot_be_computed_is_named(make_policy):
    policy, estimator, batch = make_policy(), pg.estimator("reinforce"), make_batch()
    signals = pg.signals(policy, estimator, batch)
    signals.values["advantage"] = np.where(np.arange(STEPS) == 5, np.nan, 1).astype(np.float32)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    with pytest.raises(NonFiniteError, match="= nan at step 5; the parameters are unchanged"):
        gradient.norm()


def test_a_step_that_overflows_is_told_later_and_changes_nothing(make_policy):
    policy, batch = make_policy(), make_batch()
    before = policy.parameters()
    optimizer = pg.optimizer("adam", learning_rate=1e38)
    optimizer.step(policy, pg.gradient(policy, pg.estimator("reinforce"), batch))
    with pytest.raises(NonFiniteError, match=r"^Optimizer\.step: .* in step 1 of the last 1; "):
        policy.check_unread()
    # It is told once.
    for name, value in policy.parameters().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert not any(value.any() for value in optimizer.state(policy).values())


def test_steps_alone_are_read_now_and_then(make_policy):
    policy, batch = make_policy(), make_batch()
    gradient = pg.gradient(policy, pg.estimator("reinforce"), batch)
    optimizer = pg.optimizer("sgd", learning_rate=1e-3)
    for _ in range(MOST + 1):
        optimizer.step(policy, gradient)
    assert not policy.unread.steps


@pytest.mark.parametrize("max_norm", [1e-3, 1e3, np.inf])
def test_a_gradient_is_clipped_as_on_the_host(make_policy, max_norm):
    policies = [make_policy(), make_policy(is_resident=False)]
    batch, estimator = make_batch(), pg.estimator("ppo")
    clipped = [pg.gradient(policy, estimator, batch).clipped(max_norm) for policy in policies]
    expected = clipped[1].numpy()
    for name, value in clipped[0].numpy().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-9, err_msg=name)
    with pytest.raises(OptimizerError, match=r"Gradient\.clipped max_norm"):
        clipped[0].clipped(0)


def test_a_module_that_writes_to_its_inputs_leaves_the_batch_as_it_is():
    if "torch" in ABSENT:
        pytest.skip(ABSENT["torch"])
    torch: Any = importlib.import_module("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(4, 3)

        def forward(self, observations):
            return self.out(observations.mul_(2))

    policy: Any = pg.backend("torch").adopt(Net(), head=HEADS["categorical"])
    batch, estimator = make_batch(), pg.estimator("reinforce")
    expected = pg.gradient(policy, estimator, batch).numpy()
    policy.resident = True
    for _ in range(2):
        for name, value in pg.gradient(policy, estimator, batch).numpy().items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
