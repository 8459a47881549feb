"""Minibatches of laid-out signals in every framework: any index, and traced ones."""

from __future__ import annotations

import numpy as np
import pytest
from framework_arrays import ARRAYS, jax_array, numpy_array, tensorflow_array

import pgcore as pg
from pgcore.data.native import arrays_of
from pgcore.errors import EstimatorError

T, N = 5, 3
MASK = np.arange(15) % 4 == 1


def rollout_of(array):
    """Return the signals of a [T, N] rollout without ends."""
    rng = np.random.default_rng(0)
    never = np.zeros((T, N), bool)
    columns = {name: rng.standard_normal((T, N)) for name in ("rewards", "values", "log_probs")}
    columns = {name: array(value.astype("float32")) for name, value in columns.items()}
    episodes = pg.Episodes.from_rollout(
        **columns, terminated=never, truncated=never, last_values=np.zeros(N)
    )
    return pg.signals(pg.estimator("ppo"), episodes)


def answers_of(array, name="grpo"):
    """Return the signals of [E, T] answers."""
    mask = np.arange(T) < np.array([[3], [5], [1], [4]])
    rewards = array(np.array([1.0, 0.0, 2.0, 3.0], "float32"))
    log_probs = np.full((4, T), -1.0)
    episodes = pg.Episodes.from_padded(
        rewards=rewards, mask=mask, group=[0, 0, 1, 1], log_probs=log_probs
    )
    return pg.signals(pg.estimator(name), episodes)


def host(x):
    arrays = arrays_of(x)
    assert arrays is not None
    return arrays.host(x)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("index", [MASK, MASK.tolist(), slice(1, None, 4), [1, 5, 9, -2]])
def test_steps_by_any_index(array, index):
    signals = rollout_of(array)
    part = signals.part(index)
    np.testing.assert_array_equal(
        host(part["advantage"]), host(signals["advantage"]).reshape(-1)[[1, 5, 9, 13]]
    )


@pytest.mark.parametrize("array", ARRAYS)
def test_steps_by_a_mask_of_the_framework(array):
    signals = rollout_of(array)
    expected = host(signals["advantage"]).reshape(-1)[MASK]
    np.testing.assert_array_equal(host(signals.part(array(MASK))["advantage"]), expected)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("name", ["grpo", "gspo"])
@pytest.mark.parametrize("index", [[3, 0], slice(3, None, -3), [False, True, False, True]])
def test_rows_by_any_index(array, name, index):
    signals = answers_of(array, name)
    part = signals.episode_part(index)
    numbers = np.arange(4)[index]
    np.testing.assert_array_equal(host(part["advantage"]), host(signals["advantage"])[numbers])
    np.testing.assert_array_equal(host(part.real), host(signals.real)[numbers])
    if name == "gspo":
        np.testing.assert_array_equal(
            host(part["episode"]), np.where(host(part.real), [[0], [1]], 2)
        )


@pytest.mark.parametrize(
    ("index", "words"),
    [([15], "out of bounds"), ([[1, 2]], r"shape \[1, 2\]"), (np.zeros(15, bool), r"shape \[0\]")],
)
def test_a_wrong_index_is_refused(index, words):
    with pytest.raises(EstimatorError, match=words):
        rollout_of(numpy_array).steps(index)


def test_rows_in_jitted_code():
    jax = pytest.importorskip("jax")
    signals = answers_of(jax_array)
    index = jax.numpy.array([3, 1])
    traced = jax.jit(lambda signals, index: signals.episodes(index))(signals, index)
    expected = signals.episodes(index)
    np.testing.assert_array_equal(traced["advantage"], expected["advantage"])
    np.testing.assert_allclose(traced.weights, expected.weights, rtol=2**-22)


@pytest.mark.parametrize("autograph", [False, True])
def test_a_graph_of_any_number_of_steps(autograph):
    tf = pytest.importorskip("tensorflow")
    estimator, signals = pg.estimator("ppo"), rollout_of(tensorflow_array)

    def loss(signals, index, log_prob, value):
        part = signals.steps(index)
        return pg.loss(estimator, part, log_prob=log_prob, value=value).loss

    shape = {"shape": [None], "dtype": tf.float32}
    traced = tf.function(loss, autograph=autograph)
    floats = tf.TensorSpec(**shape)
    graph = traced.get_concrete_function(signals, tf.TensorSpec([None], tf.int32), floats, floats)
    tensors = tf.nest.flatten(signals, expand_composites=True)
    for count in (4, 7):
        index, column = tf.range(count), tf.linspace(-1.0, 0.0, count)
        expected = loss(signals, index, column, column)
        given = [x for x in tensors if x is not None]
        (value,) = tf.nest.flatten(graph(*given, index, column, column))
        np.testing.assert_allclose(value, expected, rtol=16 * 2.0**-24)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("index", [[100], [-16], [], [[1, 2], [3, 4]]])
def test_an_index_of_the_framework_that_does_not_fit_is_refused(array, index):
    numbers = array(np.array(index, "int32"))
    signals = rollout_of(array)
    for method in (signals.steps, signals.part):
        with pytest.raises(EstimatorError, match=r"expected (positions|one axis)"):
            method(numbers)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_integers_of_any_width_are_positions(array, dtype):
    signals, places = rollout_of(array), [3, 1, 0, 2]
    found = host(signals.part(array(np.array(places, dtype)))["advantage"])
    np.testing.assert_array_equal(found, host(signals["advantage"]).reshape(-1)[places])


@pytest.mark.parametrize("compiled", [False, True])
def test_an_index_in_a_tensorflow_graph_counts_from_the_end(compiled):
    """Compiled code would take row 0 for -1, and the last row for any beyond it."""
    tf = pytest.importorskip("tensorflow")
    signals = rollout_of(tensorflow_array)

    @tf.function(jit_compile=compiled)
    def advantage(signals, index):
        return signals.part(index)["advantage"]

    whole = host(signals["advantage"]).reshape(-1)
    found = advantage(signals, tf.constant([0, -1, -15, 14])).numpy()
    np.testing.assert_array_equal(found, whole[[0, 14, 0, 14]])
    beyond = advantage(signals, tf.constant([15, -16, 3, 100])).numpy()
    assert np.isnan(beyond).tolist() == [True, True, False, True]


def test_a_mask_in_traced_code_is_refused():
    jax = pytest.importorskip("jax")
    signals = rollout_of(jax_array)

    def part(mask):
        return signals.part(mask)["advantage"]

    with pytest.raises(EstimatorError, match="expected integers in traced code"):
        jax.jit(part)(jax_array(MASK))
