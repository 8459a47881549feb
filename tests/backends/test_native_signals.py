"""Signals of arrays on an accelerator: computed there, and those of the host's arrays."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.native import arrays_of
from pgcore.errors import BatchError, ShapeError
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore_check.cases.cases import cases
from pgcore_check.proofs import variants
from pgcore_check.stages.function import PolicyNeededError, evaluations_of, rows_of

FRAMEWORKS = ("torch", "jax", "tensorflow")
ESTIMATORS = {
    label: estimator
    for label, estimator in variants("estimators").items()
    if not isinstance(estimator, ScoreEstimator)
}
# The steps that count in the gain's own denominator decide shapes, so [B] booleans are read.
OWN_DENOMINATOR = {label for label, e in ESTIMATORS.items() if e.own_denominator}
# NumPy's generator chooses among the steps that a condition holds for: the same.
AT_RANDOM = {
    label
    for label, e in ESTIMATORS.items()
    if any(getattr(part, "seed", None) is not None for part in getattr(e, "composition", ()))
}
FIELDS = ("rewards", "log_probs", "values", "discount")


@pytest.fixture(scope="module")
def examples():
    """A case of each variant in float64, with a batch and the evaluations that signals need."""
    result = {}
    labels = {id(estimator): label for label, estimator in variants("estimators").items()}
    for case in cases(("float64",)):
        label = labels[id(case.estimator)]
        if label in result:
            continue
        policy, batch = case.make("numpy")
        rng = np.random.default_rng(3)
        fields = {**batch.__dict__, "discount": rng.uniform(0.5, 1.0, batch.num_steps)}
        batch = pg.Batch.trusted(fields)
        with contextlib.suppress(PolicyNeededError):
            given = evaluations_of(case.estimator, batch, Evaluation(policy, batch))
            quantities = policy.evaluate(batch, case.estimator.quantities)
            result[label] = case.estimator, batch, given, quantities
    return result


@dataclasses.dataclass(frozen=True)
class Function:
    """`pgcore.loss` of an estimator."""

    estimator: pg.Estimator

    def __call__(self, signals, **quantities):
        """Return the loss."""
        return pg.loss(self.estimator, signals, **quantities)


class Forced:
    """A framework whose arrays count as an accelerator's, and the arrays that it copies to the host."""

    def __init__(self, framework, dtype, monkeypatch):
        """Replace both methods."""
        module = pytest.importorskip("jax.numpy" if framework == "jax" else framework)
        convert = {"torch": "as_tensor", "jax": "asarray", "tensorflow": "convert_to_tensor"}
        self.convert, self.dtype = getattr(module, convert[framework]), dtype
        self.arrays: Any = arrays_of(self.convert(np.zeros(1, np.float32)))
        self.copies = []
        self.host = type(self.arrays).host

        def counted(arrays, x):
            self.copies.append((tuple(x.shape), arrays.dtype(x)))
            # A device's memory is not the host's.
            return self.host(arrays, x).copy()

        monkeypatch.setattr(type(self.arrays), "host", counted)
        monkeypatch.setattr(type(self.arrays), "resident", lambda *_: True)

    def native(self, x):
        """Return an array of the framework."""
        x = np.asarray(x)
        return self.convert((x.astype(self.dtype) if x.dtype.kind == "f" else x).copy())

    def steps_copied(self, *shapes):
        """Return the copies of arrays with one of these axes of steps."""
        return [
            done for done in self.copies if any(done[0][: len(shape)] == shape for shape in shapes)
        ]


@pytest.fixture(params=FRAMEWORKS)
def forced(request, monkeypatch):
    """Return `Forced` of a dtype."""
    return lambda dtype: Forced(request.param, dtype, monkeypatch)


def flat_episodes(batch, make) -> Any:
    """Return [B] episodes of a batch, by a function of its arrays."""
    fields = {name: getattr(batch, name) for name in FIELDS}
    extras = {name: make(value) for name, value in batch.extras.items()}
    return pg.Episodes(
        **{name: make(x) for name, x in fields.items() if x is not None},
        step_weights=batch.step_weights,
        episode_lengths=make(batch.episode_lengths),
        terminated=make(batch.terminated),
        extras=extras,
    )


def padded_episodes(batch, make) -> Any:
    """Return [E, T] episodes with holes that hold NaN."""
    layout = rows_of(batch)

    def row(x):
        return make(layout.spread(x, np.nan if x.dtype.kind == "f" else 0))

    fields = {name: getattr(batch, name) for name in FIELDS}
    return pg.Episodes.from_padded(
        **{name: row(x) for name, x in fields.items() if x is not None},
        mask=make(layout.steps),
        truncated=make(~batch.terminated),
        extras={name: row(value) for name, value in batch.extras.items()},
    )


def laid_out(episodes, given, make) -> Any:
    """Return evaluations as the episodes are laid out."""
    layout = episodes.layout
    return {
        name: make(x if layout is None or "final_" in name else layout.spread(x, np.nan))
        for name, x in given.items()
    }


def example_of(examples, label):
    """Return an example, or skip."""
    if label not in examples:
        pytest.skip("its signals need a policy's scores")
    return examples[label]


@pytest.mark.parametrize("label", ESTIMATORS)
def test_signals_and_loss_are_the_hosts_and_no_step_is_copied(forced, examples, label):
    """In float64, to rounding; [B], and [E, T] with NaN under the mask."""
    estimator, batch, given, quantities = example_of(examples, label)
    framework = forced("float64")
    arrays = framework.arrays
    with arrays.computing("float64"):
        for episodes_of in (flat_episodes, padded_episodes):
            host = episodes_of(batch, np.asarray)
            expected = pg.signals(estimator, host, **laid_out(host, given, np.asarray))
            episodes = episodes_of(batch, framework.native)
            evaluations = laid_out(host, given, framework.native)
            framework.copies.clear()
            signals = pg.signals(estimator, episodes, **evaluations)
            assert arrays.dtype(signals.weights) == "float64"
            copies = framework.steps_copied((batch.num_steps,), expected.shape)
            marks = [("bool",)] if label in OWN_DENOMINATOR | AT_RANDOM else []
            assert [done[1:] for done in copies] == marks, copies
            assert signals.values.keys() == expected.values.keys()
            for name, value in expected.values.items():
                found = framework.host(arrays, signals[name])
                np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-11, err_msg=name)
            found = framework.host(arrays, signals.weights)
            np.testing.assert_allclose(found, expected.weights, rtol=1e-12)
            assert (signals.real is None) == (expected.real is None)
        loss = pg.loss(estimator, expected, **laid_out(host, quantities, np.asarray))
        given = laid_out(host, quantities, framework.native)
        function = Function(estimator)
        result, slopes = arrays.differentiated(function, signals, given, compiled=False)
        found = framework.host(arrays, result.loss)
        np.testing.assert_allclose(found, loss.loss, rtol=1e-8, atol=1e-10)
        for name, slope in loss.derivatives.items():
            found = framework.host(arrays, slopes[name])
            np.testing.assert_allclose(found, slope, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("label", ESTIMATORS)
def test_arrays_without_numbers_suffice(monkeypatch, examples, label):
    """On torch's device "meta", where nothing can be read and no array of another device is taken.

    Arrays without a step axis, such as the rewards of episodes that groups compare, are made up.
    """
    torch = pytest.importorskip("torch")
    estimator, batch, given, quantities = example_of(examples, label)
    arrays: Any = arrays_of(torch.zeros(1))
    read: Any = type(arrays).host

    def host(self, x):
        if x.shape[:1] == (batch.num_steps,):
            return read(self, x)
        return np.ones(x.shape, self.dtype(x))

    def native(x):
        x = np.asarray(x)
        return torch.as_tensor(x.astype(np.float32)).to("meta") if x.dtype.kind == "f" else x

    monkeypatch.setattr(type(arrays), "host", host)
    for episodes_of in (flat_episodes, padded_episodes):
        plain = episodes_of(batch, np.asarray)
        episodes, evaluations = episodes_of(batch, native), laid_out(plain, given, native)
        if label in OWN_DENOMINATOR | AT_RANDOM:
            with pytest.raises(BatchError, match="meta"):
                pg.signals(estimator, episodes, **evaluations)
            continue
        signals = pg.signals(estimator, episodes, **evaluations)
        assert {value.device.type for value in (*signals.values.values(), signals.weights)} == {
            "meta"
        }
        out = pg.loss(estimator, signals, **laid_out(plain, quantities, native))
        assert out.loss.is_meta
        assert out.terms.shape == signals.shape


@pytest.mark.parametrize("label", ESTIMATORS)
def test_signals_in_float32_are_near(monkeypatch, examples, label):
    """As the episodes' rewards are, whatever the dtype of evaluations."""
    estimator, batch, given, _ = example_of(examples, label)
    framework = Forced("torch", "float32", monkeypatch)
    host = padded_episodes(batch, np.asarray)
    expected = pg.signals(estimator, host, **laid_out(host, given, np.asarray))
    episodes = padded_episodes(batch, framework.native)
    framework.dtype = "float64"
    signals = pg.signals(estimator, episodes, **laid_out(host, given, framework.native))
    for name, value in expected.values.items():
        found = framework.host(framework.arrays, signals[name])
        assert found.dtype in (np.float32, np.int64)
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "label",
    [
        "ppo",
        "mean baseline",
        "leave one out",
        "grpo",
        "several rewards",
        "truncated by token, loss mask, sequence level",
    ],
)
def test_padding_weighs_nothing(forced, examples, label):
    estimator, batch, given, _ = examples[label]
    framework = forced("float64")

    padded = batch.pad(batch.num_steps + 2)
    with framework.arrays.computing("float64"):
        whole = {name: np.append(x, x[-1:].repeat(2, axis=0), axis=0) for name, x in given.items()}
        expected = pg.signals(estimator, flat_episodes(padded, np.asarray), **whole)
        episodes = flat_episodes(padded, framework.native)
        evaluations = {name: framework.native(x) for name, x in whole.items()}
        framework.copies.clear()
        signals = pg.signals(estimator, episodes, **evaluations)
        assert framework.steps_copied(expected.shape) == []
        for name, value in {**expected.values, "weights": expected.weights}.items():
            found = {**signals.values, "weights": signals.weights}[name]
            found = framework.host(framework.arrays, found)
            np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-11, err_msg=name)


def rollout(make, order="time", **options) -> Any:
    """Return a rollout with resets, two terminated episodes and one that was truncated inside."""
    rng, shape = np.random.default_rng(5), (9, 2)
    terminated, truncated = np.zeros((2, *shape), bool)
    terminated[2, 0] = terminated[6, 1] = truncated[5, 0] = True
    reset = np.roll(terminated | truncated, 1, axis=0) & (options == {})
    rewards = np.where(reset, 0.0, rng.standard_normal(shape))

    def column(x):
        return make(x if order == "time" else np.ascontiguousarray(x.T))

    final: Any = {name: column(rng.standard_normal(shape)) for name in options.get("finals", ())}
    mode: Any = {"autoreset": "same_step"} if options else {}
    return pg.Episodes.from_rollout(
        rewards=column(rewards),
        terminated=column(terminated),
        truncated=column(truncated),
        values=column(rng.standard_normal(shape)),
        log_probs=column(rng.standard_normal(shape)),
        last_values=make(rng.standard_normal(2)),
        order=order,
        **final,
        **mode,
    )


def by_number(make) -> Any:
    """Return episodes whose rows alternate."""
    rng = np.random.default_rng(6)
    return pg.Episodes.from_steps(
        rewards=make(rng.standard_normal(6)),
        terminated=make(np.array([0, 0, 0, 0, 1, 1])),
        episode=make(np.array([3, 1, 3, 1, 3, 1])),
        values=make(rng.standard_normal(6)),
        log_probs=make(rng.standard_normal(6)),
        extras={"teacher's": make(rng.standard_normal(6)), "count": make(np.arange(6))},
    )


def replay(make) -> Any:
    """Return transitions of which one does not end."""
    rng = np.random.default_rng(7)
    return pg.Episodes.from_replay(
        rewards=make(rng.standard_normal(4)),
        terminated=make(np.array([True, False, True, True])),
        values=make(rng.standard_normal(4)),
        next_values=make(rng.standard_normal(4)),
        log_probs=make(rng.standard_normal(4)),
        weights=make(rng.uniform(0.5, 1.0, 4)),
    )


SOURCES = {
    "rollout": rollout,
    "rollout by environment": lambda make: rollout(make, order="env"),
    "rollout without resets": lambda make: rollout(make, finals=("final_values",)),
    "rows of a table": by_number,
    "replay": replay,
}


@pytest.mark.parametrize("source", SOURCES)
def test_constructors_read_the_structure_alone(forced, source):
    """Rewards, values and log-probabilities stay, and come back where somebody reads them."""
    estimator = pg.estimator("ppo", reduction="weighted" if source == "replay" else "step")
    framework = forced("float64")
    with framework.arrays.computing("float64"):
        expected = SOURCES[source](np.asarray)
        episodes = SOURCES[source](framework.native)
        assert {kind for _, kind in framework.copies} <= {"bool", "int32", "int64"}
        framework.copies.clear()
        signals = pg.signals(estimator, episodes)
        assert framework.copies == []
        host = pg.signals(estimator, expected)
        for name in ("advantage", "return_", "old_log_prob"):
            found = framework.host(framework.arrays, signals[name])
            np.testing.assert_allclose(found, host[name], rtol=1e-9, atol=1e-12)
        found = framework.host(framework.arrays, signals.weights)
        np.testing.assert_allclose(found, host.weights, rtol=1e-12)
        assert repr(episodes) == repr(expected)
        for name in ("rewards", "values", "log_probs", "final_values"):
            np.testing.assert_array_equal(getattr(episodes, name), getattr(expected, name))
            assert not getattr(episodes, name).flags.writeable
        assert episodes.extras.keys() == expected.extras.keys()
        for name, extra in expected.extras.items():
            np.testing.assert_array_equal(episodes.extras[name], extra)


def small(make, **fields) -> Any:
    """Return two episodes, of two steps and of one."""
    columns = {
        "rewards": [1.0, 2.0, 3.0],
        "values": [0.5, 0.0, 1.0],
        "log_probs": [-1.0, -0.5, -2.0],
    }
    return pg.Episodes(
        **{name: make(x) for name, x in (columns | fields).items()},
        episode_lengths=[2, 1],
        terminated=[True, False],
        final_values=make([7.0, 0.25]),
    )


def test_one_field_is_copied_where_it_is_read(forced):
    framework = forced("float32")
    episodes = small(framework.native)
    assert framework.copies == []
    assert episodes.num_steps == 3
    assert framework.copies == []
    assert episodes.values.tolist() == [0.5, 0.0, 1.0]
    assert episodes.values.tolist() == [0.5, 0.0, 1.0]
    assert framework.copies == [((3,), "float32")]
    assert episodes.final_values.tolist() == [0.0, 0.25]
    assert episodes.device.dtype == "float32"


def test_shapes_are_checked_at_once_and_numbers_where_they_are_read(forced):
    framework = forced("float32")
    with pytest.raises(ShapeError, match="values: expected 3 rows"):
        small(framework.native, values=[1.0, 2.0])
    with pytest.raises(ShapeError, match="1-dimensional"):
        small(framework.native, values=[[1.0, 2.0, 3.0]])
    episodes = small(framework.native, values=[1.0, np.nan, 2.0])
    assert framework.copies == []
    with pytest.raises(BatchError, match="values: expected finite numbers, got NaN at step 1"):
        _ = episodes.values
    signals = pg.signals(pg.estimator("ppo"), episodes)
    assert np.isnan(framework.host(framework.arrays, signals["advantage"])).any()


def test_changes_keep_the_arrays_on_the_device_and_parts_are_the_hosts(forced):
    framework = forced("float32")
    episodes = small(framework.native)
    recorded = episodes.record(framework.native([4.0, 5.0, 6.0]), framework.native([1.0, 1.0]))
    named = recorded.with_extras(teacher=framework.native([0.0, 1.0, 2.0]), group=[1, 1, 2])
    assert framework.copies == []
    assert named.values.tolist() == [4.0, 5.0, 6.0]
    assert named.final_values.tolist() == [0.0, 1.0]
    assert named.extras["teacher"].tolist() == [0.0, 1.0, 2.0]
    assert named.extras["group"].tolist() == [1, 1, 2]
    assert framework.arrays.owns(named.like)
    parts: Any = (
        named.episodes([1]),
        named.steps([2]),
        pg.Episodes.concatenate([named]).steps([2]),
    )
    for part in parts:
        assert part.rewards.tolist() == [3.0]
        assert part.final_values.tolist() == [1.0]
        assert part.device is None
    assert named.pad(4).rewards.tolist() == [1.0, 2.0, 3.0, 0.0]


@pytest.mark.parametrize(
    "copier", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_the_hosts(monkeypatch, copier, tmp_path):
    episodes = small(Forced("torch", "float32", monkeypatch).native)
    copied = copier(episodes.with_extras(teacher=episodes.rewards))
    assert copied.device is None
    assert copied.rewards.tolist() == [1.0, 2.0, 3.0]
    assert copied.final_values.tolist() == [0.0, 0.25]
    assert copied.extras["teacher"].tolist() == [1.0, 2.0, 3.0]
    episodes.save(tmp_path / "episodes")
    loaded: Any = pg.Episodes.load(tmp_path / "episodes")
    assert loaded.values.tolist() == [0.5, 0.0, 1.0]


def test_observations_of_a_batch_stay_until_a_policy_reads_them(forced):
    framework = forced("float32")
    native = framework.native
    fields = {"rewards": native([1.0, 2.0]), "values": native([0.5, 1.0])}
    fields |= {"log_probs": native([-1.0, -1.0]), "episode_lengths": [2], "terminated": [True]}
    batch = pg.Batch(observations=native(np.eye(2)), actions=native([1, 0]), **fields)
    signals = pg.signals(pg.estimator("ppo"), batch)
    assert framework.copies == []
    assert signals.shape == (2,)
    assert batch.observations.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert batch.actions.tolist() == [1, 0]
    policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2), critic="separate"))
    assert pg.gradient(policy, pg.estimator("ppo"), batch).norm() > 0
    # A policy elsewhere reads the actions, which are checked against their mask.
    mask = native(np.array([[True, False], [True, True]]))
    masked = pg.Batch(
        observations=native(np.eye(2)), actions=native([1, 0]), action_mask=mask, **fields
    )
    with pytest.raises(BatchError, match="actions that the mask allows"):
        pg.gradient(policy, pg.estimator("ppo"), masked)


class Stranger(pg.Estimator):
    """An estimator whose signals no device computes."""

    name = "stranger"

    @property
    def claims(self):
        """Return none."""
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def __init__(self, function):
        self.function = function

    def signals(self, batch, evaluate):
        """Return a function of the rewards."""
        return {"a": self.function(batch.rewards)}

    def surrogate(self, xp, *, log_prob, a):
        """Return the product."""
        return log_prob * a


def in_place(x):
    """Return sorted numbers, by a method of NumPy's arrays alone."""
    x = x.copy()
    x.sort()
    return x


def through_a_view(x):
    """Return numbers that are changed by way of a part of them."""
    x = x.copy()
    x[1:] *= 3.0
    rest = x[:2]
    rest[0] = 9.0
    return x


def behind_a_view(x):
    """Return numbers of which a part is changed by way of them."""
    x = x.copy()
    rest = x[1:]
    x[2] = 7.0
    x[:2] = 0.5
    return x + rest.sum()


def fewer_rows(x):
    """Return numbers of which one is written to two places."""
    result = np.zeros_like(x)
    result[1:] = x[1:2]
    return result


STRANGE = {
    "no function of a device": np.expm1,
    "a method in place": in_place,
    "a choice of some": lambda x: x[x > 1.5].sum() + 0 * x,
    "through a view": through_a_view,
    "behind a view": behind_a_view,
    "fewer rows": fewer_rows,
}


@pytest.mark.parametrize("function", STRANGE.values(), ids=STRANGE)
def test_what_no_device_computes_is_the_hosts(forced, function):
    framework = forced("float32")
    signals = pg.signals(Stranger(function), small(framework.native))
    expected = function(np.array([1.0, 2.0, 3.0]))
    assert framework.arrays.owns(signals["a"])
    found = framework.host(framework.arrays, signals["a"])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_error_is_that_of_host_arrays(forced):
    framework = forced("float32")
    masked = pg.estimator("policy_gradient", mask="entropy_quantile")
    with pytest.raises(BatchError, match="expected 'entropy'"):
        pg.signals(masked, small(framework.native))
    with pytest.raises(ZeroDivisionError):
        pg.signals(Stranger(lambda x: 1 / 0), small(framework.native))
    with pytest.raises(ShapeError, match="signals log_prob"):
        pg.signals(
            pg.estimator("vtrace"), small(framework.native), log_prob=framework.native([1.0])
        )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_arrays_in_host_memory_are_numpys(framework, monkeypatch):
    native = Forced(framework, "float32", monkeypatch).native
    monkeypatch.undo()
    episodes = small(native)
    assert episodes.device is None
    assert isinstance(vars(episodes)["rewards"], np.ndarray)


@dataclasses.dataclass(frozen=True)
class Written(pg.Estimator):
    """A stranger's estimator, whose advantages are a function of the rewards."""

    name = "written"
    function: Any = None

    @property
    def claims(self):
        """Nothing."""
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        """Return the function of the rewards."""
        return {"advantage": self.function(batch.rewards)}

    def surrogate(self, xp, *, log_prob, advantage):
        """Return the score's loss."""
        return -log_prob * advantage


def copied_to(r):
    a = r - r.mean()
    np.copyto(a, 0.0, where=np.arange(len(r)) < 3)
    return a


def clipped_in_place(r):
    a = r - r.mean()
    np.clip(a, -1, 1, out=a)
    return a


def largest_at(r):
    a = np.zeros_like(r)
    np.maximum.at(a, np.array([0, 0, 1, 2, 3, 4]), r)
    return a


def divided_where(r):
    return np.divide(1.0, r, out=np.full_like(r, 9.0), where=r > 3)


def divided_on_the_host(r):
    out = np.full(len(r), 9.0)
    np.divide(1.0, r, out=out, where=r > 3)
    return out


def one_entry(r):
    a = r * 1
    a.flat[0] = 100
    return a


def every_other(r):
    a = (r * 1).reshape(2, 3)
    a[:, ::2][...] = 0
    return a.ravel()


def added_to_a_view(r):
    a = r * 1
    np.add.at(a[:3], np.array([0, 1]), 5.0)
    return a


def nan_to_number(r):
    a = np.where(r > 3, r, np.nan)
    np.nan_to_num(a, copy=False)
    return a


def summed_up(r):
    return np.cumsum(r.reshape(2, 3))


def repeated(r):
    return np.repeat(r.reshape(2, 3), 2)[::2]


def turned(r):
    return np.concatenate([r, r + 1]).reshape(2, 3, 2).T.ravel()[: len(r)]


@pytest.mark.parametrize(
    "function",
    [
        *(copied_to, clipped_in_place, largest_at, divided_where, divided_on_the_host, one_entry),
        *(every_other, added_to_a_view, nan_to_number, summed_up, repeated, turned),
    ],
)
def test_what_is_written_in_place_is_not_lost(function, monkeypatch):
    rewards = [1.0, 2.0, -3.0, 4.0, 5.0, 6.0]
    fields = {"episode_lengths": [4, 2], "terminated": [True, True]}
    estimator = Written(function=function)
    expected = pg.signals(estimator, pg.Episodes(rewards=rewards, **fields))["advantage"]
    forced = Forced("torch", "float64", monkeypatch)
    episodes = pg.Episodes(rewards=forced.native(rewards), **fields)
    np.testing.assert_array_equal(pg.signals(estimator, episodes)["advantage"], expected)


def test_a_buffer_that_is_filled_anew_leaves_the_episodes_as_they_were(monkeypatch):
    forced = Forced("torch", "float32", monkeypatch)
    buffer = forced.native([1.0, 2.0])
    episodes = pg.Episodes(rewards=buffer, episode_lengths=[2], terminated=[True])
    buffer.fill_(-9.0)
    estimator = pg.estimator("reinforce", gamma=1.0)
    assert pg.signals(estimator, episodes)["advantage"].tolist() == [3.0, 2.0]
    assert episodes.rewards.tolist() == [1.0, 2.0]


def test_complex_rewards_are_refused_on_a_device_too(monkeypatch):
    forced = Forced("torch", "float32", monkeypatch)
    with pytest.raises(BatchError, match="expected real numbers"):
        pg.Episodes(
            rewards=forced.native(np.ones(2, np.complex64)),
            episode_lengths=[2],
            terminated=[True],
        )
