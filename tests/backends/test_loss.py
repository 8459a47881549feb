"""`pgcore.loss` on the arrays of each framework: layouts, transformations, dtypes, parts and bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import textwrap
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import pgcore as pg
from pgcore.data.native import arrays_of, host
from pgcore.errors import BatchError, EstimatorError, NonFiniteError, PgcoreError, ShapeError

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")
LENGTHS, T = (3, 5, 1, 4), 6
MASK = np.array([[0 <= t < n for t in range(-1, T - 1)] for n in LENGTHS])
ESTIMATORS = {
    "ppo": pg.estimator("ppo", clip=0.1, entropy_coefficient=0.01),
    "grpo": pg.estimator("grpo", group="all"),
    "gspo": pg.estimator("gspo", group="all"),
    "dapo": pg.estimator("dapo", group="all"),
    "a2c": pg.estimator("a2c"),
    "reinforce": pg.estimator("reinforce", gamma=0.9),
}


def maker(framework):
    """Return a function from NumPy arrays to a framework's, float32 where they are floats."""
    if framework == "numpy":
        return lambda x: np.asarray(x, np.float32 if np.asarray(x).dtype.kind == "f" else None)
    module = pytest.importorskip("jax.numpy" if framework == "jax" else framework)
    convert = {"torch": "as_tensor", "jax": "asarray", "tensorflow": "convert_to_tensor"}[framework]
    numpy = maker("numpy")
    return lambda x: getattr(module, convert)(numpy(x).copy())


@pytest.fixture(params=FRAMEWORKS)
def make(request):
    """`maker` of each framework."""
    return maker(request.param)


def rows(make, fill=np.nan, dtype=np.float64):
    """Return padded episodes with `fill` at holes and padding, and their quantities."""
    rng = np.random.default_rng(0)

    def column(scale, shift=0.0):
        numbers = (scale * rng.standard_normal(MASK.shape) + shift).astype(dtype)
        return make(np.where(MASK, numbers, fill))

    episodes = pg.Episodes.from_padded(
        rewards=column(1.0),
        mask=make(MASK),
        log_probs=column(0.2, -1.0),
        values=column(1.0),
        truncated=make(np.zeros(len(LENGTHS), bool)),
    )
    quantities = {
        "log_prob": column(0.2, -1.0),
        "value": column(1.0),
        "entropy": column(0.1, 0.7),
    }
    return episodes, quantities


def used(estimator, quantities):
    """Return those of the quantities that an estimator reads."""
    return {name: quantities[name] for name in estimator.quantities}


def derivatives(estimator, signals, quantities, *, compiled=False):
    """Return the loss as a number and its derivatives, NumPy arrays by quantity."""
    arrays = signals.arrays
    result, slopes = arrays.differentiated(
        Function(estimator), signals, used(estimator, quantities), compiled=compiled
    )
    found = {name: arrays.host(slope) for name, slope in slopes.items()}
    return float(arrays.host(result.loss)), found


@dataclasses.dataclass(frozen=True)
class Function:
    """`pgcore.loss` of an estimator."""

    estimator: pg.Estimator

    def __call__(self, signals, **quantities):
        """Return the loss."""
        return pg.loss(self.estimator, signals, **quantities)


def test_the_loss_of_ppo_by_hand():
    """Two steps of one episode: the first ratio is clipped, the second is not."""
    episodes = pg.Episodes(
        rewards=[1.0, -2.0],
        episode_lengths=[2],
        terminated=[True],
        log_probs=np.log([0.5, 0.5]),
        values=[0.0, 0.0],
    )
    estimator = pg.estimator("ppo", gae_lambda=0.0, gamma=1.0, normalise="none")
    signals = pg.signals(estimator, episodes)
    assert signals["advantage"].tolist() == [1.0, -2.0]
    out = pg.loss(estimator, signals, log_prob=np.log([0.75, 0.45]), value=np.array([3.0, 1.0]))
    # -1.2, and 0.9 times 2; the value's errors are 2 and 3, with c_v / 2 = 1/4.
    np.testing.assert_allclose(out.terms, [-1.2 + 1.0, 1.8 + 2.25], rtol=1e-15)
    np.testing.assert_allclose(out.loss, (-0.2 + 4.05) / 2, rtol=1e-15)
    np.testing.assert_allclose(out.derivatives["log_prob"], [0.0, 0.9], rtol=1e-15)
    np.testing.assert_allclose(out.derivatives["value"], [0.5, 0.75], rtol=1e-15)
    assert out.metrics["clip_fraction"] == 0.5


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_framework_and_layout_has_the_loss_of_flat_steps(make, name):
    """Holes and padding hold NaN, and get a derivative of exactly 0."""
    estimator = ESTIMATORS[name]
    exact_rows, exact = rows(np.asarray)
    flat = pg.Episodes(
        rewards=exact_rows.rewards,
        episode_lengths=exact_rows.episode_lengths,
        terminated=exact_rows.terminated,
        log_probs=exact_rows.log_probs,
        values=exact_rows.values,
    )
    flat_quantities = {key: value[MASK] for key, value in exact.items()}
    expected, slopes = derivatives(estimator, pg.signals(estimator, flat), flat_quantities)
    episodes, quantities = rows(make)
    loss, found = derivatives(estimator, pg.signals(estimator, episodes), quantities)
    np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=2e-6)
    for key, slope in slopes.items():
        assert (found[key][~MASK] == 0).all()
        np.testing.assert_allclose(found[key][MASK], slope, rtol=5e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["ppo", "gspo"])
@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_a_compiled_loss_is_the_eager_one(framework, name):
    """`torch.compile` without a graph break, `jax.jit` and `tf.function`."""
    episodes, quantities = rows(maker(framework))
    estimator = ESTIMATORS[name]
    signals = pg.signals(estimator, episodes)
    eager, slopes = derivatives(estimator, signals, quantities)
    compiled, found = derivatives(estimator, signals, quantities, compiled=True)
    np.testing.assert_allclose(compiled, eager, rtol=1e-5)
    for key, slope in slopes.items():
        np.testing.assert_allclose(found[key], slope, rtol=1e-4, atol=1e-7)


def test_torch_compiles_anew_for_another_estimator_and_not_for_an_equal_one():
    torch = pytest.importorskip("torch")
    episodes, quantities = rows(maker("torch"))
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=keep, fullgraph=True)
    def compiled(estimator, signals, given):
        return pg.loss(estimator, signals, **given).loss

    variants = [
        ({"clip": 0.1}, 1),
        ({"clip": 0.1}, 1),
        ({"clip": 0.3}, 2),
        ({"clip": 0.1, "entropy_coefficient": 0.5}, 3),
        ({"clip": 0.1, "dual": 3.0}, 4),
        ({"clip": 0.1, "normalise": "none"}, 5),
        ({"clip": 0.1}, 5),
    ]
    for fields, count in variants:
        estimator = pg.estimator("ppo", **fields)
        signals, given = pg.signals(estimator, episodes), used(estimator, quantities)
        expected = pg.loss(estimator, signals, **given).loss
        torch.testing.assert_close(compiled(estimator, signals, given), expected)
        assert len(graphs) == count


def test_functions_of_torch_transform_it():
    torch = pytest.importorskip("torch")
    episodes, quantities = rows(maker("torch"))
    estimator = ESTIMATORS["ppo"]
    signals, given = pg.signals(estimator, episodes), used(estimator, quantities)
    _, expected = derivatives(estimator, signals, given)

    def loss(arguments):
        return pg.loss(estimator, signals, **arguments).loss

    slopes = torch.func.grad(loss)(given)
    for name, slope in expected.items():
        np.testing.assert_allclose(slopes[name].numpy(), slope, rtol=1e-5, atol=1e-8)
    pairs = {name: torch.stack([value, value]) for name, value in given.items()}
    batched = torch.func.vmap(torch.func.grad(loss))(pairs)
    np.testing.assert_allclose(batched["value"][1].numpy(), expected["value"], rtol=1e-5, atol=1e-8)


def test_functions_of_jax_transform_it_and_take_signals_as_arguments():
    jax = pytest.importorskip("jax")
    episodes, quantities = rows(maker("jax"))
    estimator = ESTIMATORS["ppo"]
    signals, given = pg.signals(estimator, episodes), used(estimator, quantities)
    _, expected = derivatives(estimator, signals, given)
    calls = []

    @jax.jit
    def step(signals, given):
        calls.append(1)
        return jax.grad(lambda q: pg.loss(estimator, signals, **q).loss)(given)

    step(signals, given)
    slopes = step(signals, given)
    assert len(calls) == 1
    np.testing.assert_allclose(slopes["value"], expected["value"], rtol=1e-5, atol=1e-8)
    out = jax.jit(lambda s, q: pg.loss(estimator, s, **q))(signals, given)
    eager = pg.loss(estimator, signals, **given)
    assert out.metrics.keys() == eager.metrics.keys()
    np.testing.assert_allclose(out.metrics["approx_kl"], eager.metrics["approx_kl"], rtol=1e-4)
    pairs = jax.tree.map(lambda x: jax.numpy.stack([x, x]), given)
    losses = jax.vmap(lambda q: pg.loss(estimator, signals, **q).loss)(pairs)
    np.testing.assert_allclose(losses, [float(eager.loss)] * 2, rtol=1e-6)


SHARDS = """
    import jax, numpy as np, pgcore as pg
    from functools import partial
    from jax.sharding import Mesh, PartitionSpec as P

    assert len(jax.devices()) == 2
    shard_map = getattr(jax, "shard_map", None)
    if shard_map is None:
        from jax.experimental.shard_map import shard_map
    rng = np.random.default_rng(0)
    estimator = pg.estimator("reinforce", reduction="step")
    lengths = [3, 1]

    def signals_of(rewards, mask, totals=None):
        episodes = pg.Episodes.from_padded(rewards=rewards, mask=mask)
        return pg.signals(estimator, episodes, totals=totals)

    mask = np.arange(4) < np.array(lengths * 2)[:, None]
    rewards = jax.numpy.asarray(rng.standard_normal(mask.shape), "float32")
    log_prob = jax.numpy.asarray(rng.standard_normal(mask.shape), "float32")
    whole = pg.loss(estimator, signals_of(rewards, mask), log_prob=log_prob).loss
    totals = pg.Totals(steps=int(mask.sum()))
    halves = [signals_of(rewards[i : i + 2], mask[i : i + 2], totals) for i in (0, 2)]
    both = jax.tree.map(lambda *x: jax.numpy.concatenate(x), *halves)

    @partial(shard_map, mesh=Mesh(np.array(jax.devices()), ("data",)), in_specs=P("data"), out_specs=P())
    def loss(signals, log_prob):
        return jax.lax.psum(pg.loss(estimator, signals, log_prob=log_prob).loss, "data")

    np.testing.assert_allclose(loss(both, log_prob), whole, rtol=1e-6)
    unequal = [pg.loss(estimator, s, log_prob=log_prob[i : i + 2]).loss for s, i in zip(halves, (0, 2))]
    np.testing.assert_allclose(sum(unequal), whole, rtol=1e-6)
"""


def test_shards_of_the_data_add_up():
    pytest.importorskip("jax")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDS)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_half_precision_is_computed_in_float32(framework, dtype):
    """The derivative is that of the rounded quantities, rounded once, in their own dtype."""
    episodes, quantities = rows(maker(framework))
    estimator = ESTIMATORS["ppo"]
    signals = pg.signals(estimator, episodes)
    arrays = signals.arrays
    half = {n: arrays.cast(q, dtype) for n, q in used(estimator, quantities).items()}
    wide = {n: arrays.cast(q, "float32") for n, q in half.items()}
    result, slopes = arrays.differentiated(Function(estimator), signals, half, compiled=False)
    loss, expected = derivatives(estimator, signals, wide)
    assert arrays.dtype(result.loss) == "float32"
    assert float(arrays.host(result.loss)) == loss
    for name, slope in slopes.items():
        assert arrays.dtype(slope) == dtype
        rounded = arrays.host(arrays.cast(arrays.native(expected[name], slope), dtype))
        np.testing.assert_array_equal(arrays.host(slope), rounded)


@pytest.mark.parametrize("name", ["ppo", "gspo"])
def test_unequal_parts_add_up_to_the_whole(make, name):
    """Rows of padded episodes, unscaled; each row is a part of another size."""
    estimator = pg.estimator("ppo", normalise="batch") if name == "ppo" else ESTIMATORS[name]
    episodes, quantities = rows(make)
    signals = pg.signals(estimator, episodes)
    whole, slopes = derivatives(estimator, signals, quantities)
    parts = []
    for index in ([2, 0], [3], [1]):
        some = {
            key: signals.arrays.rows(value, np.array(index)) for key, value in quantities.items()
        }
        loss, found = derivatives(estimator, signals.episode_part(np.array(index)), some)
        parts.append(loss)
        for key, slope in found.items():
            np.testing.assert_allclose(slope, slopes[key][index], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5, atol=1e-7)


def test_minibatches_of_steps_are_rescaled(make):
    """The mean of two minibatches of equal size is the whole's loss."""
    estimator = pg.estimator("ppo", normalise="none")
    episodes, quantities = rows(make)
    signals = pg.signals(estimator, episodes)
    whole, _ = derivatives(estimator, signals, quantities)
    places = np.flatnonzero(MASK)
    halves = []
    for index in (places[: len(places) // 2 + 1], places[len(places) // 2 + 1 :]):
        some = {
            key: signals.arrays.rows(signals.arrays.reshape(value, (-1,)), index)
            for key, value in quantities.items()
        }
        loss, _ = derivatives(estimator, signals.steps(index), some)
        halves.append(loss * len(index) / len(places))
    np.testing.assert_allclose(sum(halves), whole, rtol=1e-5)


def test_a_rollout_keeps_its_layout(make):
    rng = np.random.default_rng(1)
    shape = (4, 2)
    terminated = np.zeros(shape, bool)
    terminated[1, 0] = True
    given = {name: make(rng.standard_normal(shape)) for name in ("rewards", "log_probs", "values")}
    # Gymnasium's next_step: the row after a terminal step is a reset, without a reward.
    given["rewards"] = make(np.where(np.roll(terminated, 1, 0), 0.0, host(given["rewards"])))
    episodes = pg.Episodes.from_rollout(
        terminated=make(terminated),
        truncated=make(np.zeros(shape, bool)),
        last_values=make(rng.standard_normal(2)),
        **given,
    )
    estimator = ESTIMATORS["ppo"]
    signals = pg.signals(estimator, episodes)
    assert tuple(signals["advantage"].shape) == shape
    quantities = {name: make(rng.standard_normal(shape)) for name in estimator.quantities}
    out = pg.loss(estimator, signals, **quantities)
    assert tuple(out.terms.shape) == shape
    assert host(out.terms)[2, 0] == 0.0


def test_evaluations_may_be_given():
    """V-trace reads the current policy's log-probabilities, which episodes do not hold."""
    episodes, quantities = rows(np.asarray)
    estimator = pg.estimator("vtrace")
    at_old = pg.signals(estimator, episodes)
    moved = pg.signals(estimator, episodes, log_prob=quantities["log_prob"])
    assert not np.allclose(at_old["advantage"], moved["advantage"])


class Own(pg.Estimator):
    """An estimator with a `finalise` in NumPy."""

    name = "own"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"weight": batch.rewards}

    def surrogate(self, xp, *, log_prob, weight):
        return -log_prob * weight

    def finalise(self, signals, padding):
        # Of [B], as it is written: rows of padded episodes are not its business.
        (steps,) = signals["weight"].shape
        assert padding is None or padding.shape == (steps,)
        return signals | {"weight": signals["weight"] / np.abs(signals["weight"]).max()}


OWN = dataclasses.dataclass(frozen=True)(Own)


def test_a_strangers_finalise_takes_the_way_over_the_host(make):
    episodes, quantities = rows(make)
    signals = pg.signals(OWN(), episodes)
    _, slopes = derivatives(OWN(), signals, quantities)
    weight = host(signals["weight"])
    expected = -weight / np.abs(weight).max() / MASK.sum()
    np.testing.assert_allclose(slopes["log_prob"], expected, rtol=1e-6)


def test_a_strangers_finalise_cannot_be_traced():
    jax = pytest.importorskip("jax")
    episodes, quantities = rows(maker("jax"))
    with pytest.raises(BatchError, match="outside of traced code"):
        jax.jit(lambda s, q: pg.loss(OWN(), s, log_prob=q).loss)(
            pg.signals(OWN(), episodes), quantities["log_prob"]
        )


# What is refused.


@pytest.fixture
def ppo():
    """PPO with its signals and quantities, in NumPy's arrays."""
    episodes, quantities = rows(np.asarray, fill=0.0)
    estimator = ESTIMATORS["ppo"]
    return estimator, pg.signals(estimator, episodes), used(estimator, quantities)


def test_a_missing_and_an_unknown_quantity_are_named(ppo):
    estimator, signals, quantities = ppo
    value = quantities.pop("value")
    with pytest.raises(EstimatorError, match=r"log_prob, value, entropy.*got log_prob, entropy;"):
        pg.loss(estimator, signals, **quantities)
    with pytest.raises(EstimatorError, match=r"expected the quantities .*got .*values"):
        pg.loss(estimator, signals, **quantities, values=value)


def test_another_shape_is_refused(ppo):
    estimator, signals, quantities = ppo
    quantities["value"] = quantities["value"].reshape(-1)
    with pytest.raises(ShapeError, match=r"loss value: expected shape \[4, 6\].*got \[24\]"):
        pg.loss(estimator, signals, **quantities)


def test_arrays_of_two_frameworks_are_refused(ppo):
    torch = pytest.importorskip("torch")
    estimator, signals, quantities = ppo
    quantities["value"] = torch.as_tensor(quantities["value"])
    with pytest.raises(EstimatorError, match=r"loss value: expected an array of numpy.*got Tensor"):
        pg.loss(estimator, signals, **quantities)


def test_arrays_of_two_devices_are_refused():
    torch = pytest.importorskip("torch")
    episodes, quantities = rows(maker("torch"))
    estimator = ESTIMATORS["ppo"]
    quantities["value"] = torch.empty(MASK.shape, device="meta")
    with pytest.raises(EstimatorError, match=r"expected an array on cpu.*got one on meta"):
        pg.loss(estimator, pg.signals(estimator, episodes), **used(estimator, quantities))


@pytest.mark.parametrize("name", ["log_prob", "value", "entropy"])
def test_a_number_that_is_not_finite_is_named_with_its_step(make, name):
    episodes, quantities = rows(make)
    estimator = ESTIMATORS["ppo"]
    spoilt = host(quantities[name]).copy()
    spoilt[1, 2] = np.nan
    quantities[name] = make(spoilt)
    with pytest.raises(NonFiniteError, match=rf"got nan as {name} at step \[1, 2\]"):
        pg.loss(estimator, pg.signals(estimator, episodes), **used(estimator, quantities))


def test_a_recorded_array_that_is_needed_is_asked_for():
    episodes = pg.Episodes(rewards=[1.0], episode_lengths=[1], terminated=[True])
    with pytest.raises(BatchError, match=r"expected 'value'.*record `values`.*value=\.\.\."):
        pg.signals(pg.estimator("ppo"), episodes)


def test_scores_need_a_policy():
    episodes, _ = rows(np.asarray, fill=0.0)
    with pytest.raises(BatchError, match="pass the policy"):
        pg.signals(pg.estimator("reinforce", baseline="optimal"), episodes)


def test_an_evaluation_of_another_shape_is_refused():
    episodes, _ = rows(np.asarray, fill=0.0)
    with pytest.raises(ShapeError, match=r"signals log_prob: expected shape \[4, 6\], as"):
        pg.signals(pg.estimator("vtrace"), episodes, log_prob=np.zeros(24))


def test_steps_of_a_loss_of_episodes_are_refused():
    episodes, _ = rows(np.asarray, fill=0.0)
    signals = pg.signals(ESTIMATORS["gspo"], episodes)
    with pytest.raises(EstimatorError, match="episode_part"):
        signals.part([0, 1])


def test_rows_of_a_flat_layout_are_refused():
    episodes = pg.Episodes(rewards=[1.0, 2.0], episode_lengths=[2], terminated=[True])
    signals = pg.signals(ESTIMATORS["reinforce"], episodes)
    with pytest.raises(EstimatorError, match=r"padded episodes.*got the layout \[2\]"):
        signals.episode_part([0])


@hypothesis.given(
    st.dictionaries(
        st.sampled_from(["log_prob", "value", "entropy", "kl", "nothing"]),
        st.one_of(
            st.none(),
            st.floats(),
            st.lists(st.floats(), max_size=3),
            st.sampled_from(
                [np.zeros((4, 6)), np.full((4, 6), np.nan), np.zeros(24), np.zeros((4, 6), int)]
            ),
        ),
    )
)
def test_bad_quantities_raise_errors_of_pgcore_alone(quantities):
    episodes, _ = rows(np.asarray, fill=0.0)
    estimator = ESTIMATORS["ppo"]
    with contextlib.suppress(PgcoreError):
        pg.loss(estimator, pg.signals(estimator, episodes), **quantities)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e15, 1e25, 1e36])
def test_norms_are_right_where_squares_overflow(make, scale):
    numbers = np.array([[3.0, 0.0, -4.0], [0.0, 12.0, 84.0]]) * scale
    x = make(numbers)
    arrays: Any = arrays_of(x)
    assert float(arrays.host(arrays.norm(x))) == pytest.approx(scale * 85.0, rel=1e-6)
    assert float(arrays.host(arrays.norm(x * 0.0))) == 0.0
