"""Signals as arguments and results of `tf.function`: how often it traces, and equal results."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pgcore as pg
from pgcore.function.laid_out import LaidOutSignals

REQUIRED = "tensorflow" in os.environ.get("PGCORE_REQUIRE_BACKENDS", "")
tf = importlib.import_module("tensorflow") if REQUIRED else pytest.importorskip("tensorflow")

PPO = pg.estimator("ppo")
ULP = 2.0**-24


def signals_of(steps, *, seed=0, dtype="float32", estimator=PPO, arrays=tf.constant):
    """Return an estimator's signals of one episode."""
    rng = np.random.default_rng(seed)
    columns = {
        name: arrays(rng.standard_normal(steps).astype(dtype))
        for name in ("rewards", "values", "log_probs")
    }
    return pg.signals(estimator, pg.Episodes(**columns, episode_lengths=[steps], terminated=[True]))


def padded(lengths):
    """Return PPO's signals of padded episodes."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    column = tf.constant(np.random.default_rng(1).standard_normal(mask.shape).astype(np.float32))
    return pg.signals(
        PPO, pg.Episodes.from_padded(rewards=column, values=column, log_probs=column, mask=mask)
    )


class Counted:
    """PPO's loss in `tf.function`, and the number of its traces."""

    def __init__(self, **options):
        """Make a function that has not been called."""
        self.traces = 0
        self.run = tf.function(self.loss, **options)

    def loss(self, signals):
        """Return the loss of quantities that are signals."""
        self.traces += 1
        return pg.loss(
            PPO, signals, log_prob=signals["old_log_prob"], value=signals["return_"] + 1.0
        ).loss

    def check(self, signals):
        """Compare the loss in the graph with that outside of it."""
        before = self.traces
        expected = self.loss(signals)
        self.traces = before
        np.testing.assert_allclose(self.run(signals), expected, rtol=64 * ULP, atol=64 * ULP)


@pytest.fixture(params=[False, True], ids=["graph", "xla"])
def counted(request):
    """Return a function that counts."""
    return Counted(jit_compile=request.param)


def test_other_numbers_are_no_new_trace(counted):
    for seed in range(3):
        counted.check(signals_of(5, seed=seed))
    assert counted.traces == 1


def test_each_layout_is_traced_once(counted):
    variants = [
        signals_of(5),
        signals_of(6),
        signals_of(5, dtype="float64"),
        padded((3, 3)),
        padded((3, 2)),
        dataclasses.replace(padded((3, 3)), rows=False),
    ]
    for _ in range(2):
        for signals in variants:
            counted.check(signals)
    assert counted.traces == len(variants)


def test_other_names_are_another_trace(counted):
    signals = signals_of(5)
    more = dataclasses.replace(signals, values=signals.values | {"another": signals.weights})
    for given in (signals, more, signals, more):
        counted.check(given)
    assert counted.traces == 2


def test_signals_of_another_estimator_are_refused_in_the_graph(counted):
    counted.check(signals_of(5))
    others = signals_of(5, estimator=pg.estimator("reinforce"))
    with pytest.raises(KeyError, match="old_log_prob"):
        counted.run(others)
    counted.check(signals_of(5, seed=1))


def test_the_order_of_names_does_not_matter(counted):
    signals = signals_of(5)
    for names in ([*signals.values], [*signals.values][::-1]):
        counted.check(dataclasses.replace(signals, values={n: signals[n] for n in names}))
    assert counted.traces == 1


def test_fewer_traces_are_asked_for_by_an_unknown_length():
    counted = Counted(reduce_retracing=True)
    for steps in (4, 5, 6, 7):
        counted.check(signals_of(steps))
    assert counted.traces == 2
    # Types without a type that both are: a mask, other names.
    counted.check(padded((3, 2)))
    signals = signals_of(4)
    counted.check(
        dataclasses.replace(signals, values=signals.values | {"another": signals.weights})
    )
    assert counted.traces == 4


@pytest.mark.parametrize("name", ["grpo", "gspo"])
@pytest.mark.parametrize("method", ["episodes", "episode_part"])
@pytest.mark.parametrize("lengths", [(3, 3), (3, 2)], ids=["whole", "padded"])
def test_rows_of_any_number_of_answers(name, method, lengths):
    """Both are unknown to the graph: the number of answers, and that of those taken."""
    estimator = pg.estimator(name, group="all")

    def loss(signals, index):
        part = getattr(signals, method)(index)
        return pg.loss(estimator, part, log_prob=part["old_log_prob"] + 0.1 * part["advantage"])

    graph = tf.function(loss, reduce_retracing=True)
    for count in (2, 3, 4):
        mask = np.arange(3) < np.array(lengths * count)[:, None]
        rng = np.random.default_rng(count)
        rewards, log_probs = (
            tf.constant(rng.standard_normal(shape).astype(np.float32))
            for shape in (len(mask), mask.shape)
        )
        episodes = pg.Episodes.from_padded(rewards=rewards, log_probs=log_probs, mask=mask)
        signals, index = pg.signals(estimator, episodes), tf.range(1, 2 * count, 2)
        found, expected = (run(signals, index).loss for run in (graph, loss))
        np.testing.assert_allclose(found, expected, rtol=64 * ULP, atol=64 * ULP)
        rows = np.arange(1, 2 * count, 2)
        outside = loss(signals, rows).loss
        np.testing.assert_allclose(found, outside, rtol=64 * ULP, atol=64 * ULP)
    assert graph.experimental_get_tracing_count() == 2


def test_numpy_arrays_and_variables_in_signals():
    counted, signals = Counted(), signals_of(5)
    numbers = dataclasses.replace(signals, weights=signals.weights.numpy())
    expected = counted.run(signals)
    np.testing.assert_array_equal(counted.run(numbers), expected)
    assert counted.traces == 1
    weights = tf.Variable(signals.weights)
    varying = dataclasses.replace(signals, weights=weights)
    np.testing.assert_array_equal(counted.run(varying), expected)
    weights.assign(2 * signals.weights)
    np.testing.assert_array_equal(counted.run(varying), 2 * expected)
    assert counted.traces == 2


def test_a_concrete_function_takes_signals_of_its_type_and_no_others():
    counted, signals = Counted(), padded((3, 2))
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec([None, None], x.dtype), signals)
    graph = counted.run.get_concrete_function(specs)
    for lengths in ((3, 2), (4, 1, 2)):
        signals = padded(lengths)
        expected = counted.loss(signals)
        np.testing.assert_allclose(graph(signals), expected, rtol=64 * ULP)
    others = (signals_of(5), dataclasses.replace(signals, rows=False), signals.part([0]), None)
    for other in (*others, tf.nest.map_structure(lambda x: x[0], signals)):
        with pytest.raises(TypeError, match=r"signals|TensorSpec"):
            graph(other)


def test_the_signature_of_a_graph_has_signals_of_types():
    graph = Counted().run.get_concrete_function(signals_of(5))
    (signature,), _ = graph.structured_input_signature
    assert isinstance(signature, LaidOutSignals)
    assert signature["advantage"].shape == (5,)
    assert signature.weights.dtype == tf.float32


def test_signals_and_losses_are_results():
    signals = padded((3, 2))

    @tf.function
    def halved(signals):
        part = tf.nest.map_structure(lambda x: x if x.dtype == tf.bool else x / 2, signals)
        return part, pg.loss(PPO, part, log_prob=part["old_log_prob"], value=part["return_"])

    part, loss = halved(signals)
    np.testing.assert_array_equal(part["advantage"], signals["advantage"] / 2)
    np.testing.assert_array_equal(part.real, signals.real)
    assert (part.rows, part.arrays) == (signals.rows, signals.arrays)
    assert loss.estimator == PPO
    assert loss.metrics["loss"] == pytest.approx(float(loss.loss))


def test_a_function_within_a_function():
    inner, outer = Counted(), Counted()
    whole = tf.function(lambda signals: inner.run(signals) + outer.run(signals.steps([0, 2])))
    signals = signals_of(5)
    expected = inner.loss(signals) + outer.loss(signals.steps([0, 2]))
    np.testing.assert_allclose(whole(signals), expected, rtol=64 * ULP)


REPLICAS = """
import sys, numpy, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_tensorflow_tracing import Counted, padded
strategy, counted = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), Counted()
parts = padded((3, 2)), padded((3, 1))

def shared(*tensors):
    number = lambda context: tensors[context.replica_id_in_sync_group]
    return strategy.experimental_distribute_values_from_function(number)

signals = tf.nest.map_structure(shared, *parts)
assert type(signals.weights).__name__ == "PerReplica"
run = tf.function(lambda signals: strategy.run(counted.loss, (signals,)))
losses = strategy.experimental_local_results(run(signals))
traces = counted.traces
run(signals)
assert traces == counted.traces
numpy.testing.assert_allclose(losses, [counted.loss(part) for part in parts], rtol=64 * 2**-24)
"""


def test_a_strategy_takes_signals_of_several_replicas():
    # Devices are set before TensorFlow begins.
    command = [sys.executable, "-c", REPLICAS]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_types_are_equal_where_signals_are_traced_alike():
    module = importlib.import_module("pgcore_tensorflow.tracing")
    kind = module.type_of(signals_of(5), None)
    again = copy.copy(kind)
    assert (again, hash(again)) == (kind, hash(kind))
    assert kind.is_subtype_of(again)
    for other in (signals_of(6), padded((5,)), signals_of(5, dtype="float64")):
        beyond = module.type_of(other, None)
        assert beyond != kind
        assert not kind.is_subtype_of(beyond)
    assert kind != "signals"
    assert "advantage" in repr(kind)
    masked = module.type_of(padded((3, 2)), None)
    assert len(masked.flatten()) == len(masked.to_tensors(padded((3, 2))))
