"""Laws that hold for every batch, spec and signal: found examples are shrunk, and the same in every run."""

# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import itertools
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pgcore as pg
from pgcore.data.batch import Batch
from pgcore.errors import PgcoreError
from pgcore.interfaces.estimator import Reduction
from pgcore.returns import (
    discounted_sum,
    discounts,
    gae,
    leave_one_out_mean,
    n_step_returns,
    next_values,
    normalise,
    returns,
    td_errors,
)

PER_STEP = ("observations", "actions", "rewards", "log_probs", "action_mask", "step_weights")
OPTIONAL = ("log_probs", "action_mask", "step_weights", "final_observations")


def only_pgcore_errors(make):
    """Return what is made, or None where a PgcoreError in the form of all messages refuses to."""
    try:
        return make()
    except PgcoreError as error:
        message = str(error)
    assert ": expected " in message
    assert ", got " in message
    assert len(message) < 700, "never a whole array"
    return None


numbers = st.floats(-1e6, 1e6, width=32)
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6).map(np.array)
unit = st.floats(0, 1)


@st.composite
def batch_fields(draw):
    """Return what a valid batch is made of, with or without each optional array."""
    episodes = draw(lengths)
    steps, count = int(episodes.sum()), len(episodes)
    dtype = draw(st.sampled_from([np.float64, np.float32, np.int64, np.uint8]))
    shape = draw(st.sampled_from([(), (2,), (0,), (2, 2)]))
    elements = numbers if dtype in (np.float64, np.float32) else st.integers(0, 100)
    actions = draw(hnp.arrays(np.int64, steps, elements=st.integers(0, 3)))
    mask = draw(hnp.arrays(np.bool_, (steps, 4)))
    mask[np.arange(steps), actions] = True
    weights = draw(
        hnp.arrays(np.float64, count, elements=st.sampled_from([0.0, 1.0])).filter(np.any)
    )
    fields = {
        "observations": draw(hnp.arrays(dtype, (steps, *shape), elements=elements)),
        "actions": actions,
        "rewards": draw(hnp.arrays(np.float64, steps, elements=numbers)),
        "episode_lengths": episodes,
        "terminated": draw(hnp.arrays(np.bool_, count)),
        "final_observations": draw(hnp.arrays(dtype, (count, *shape), elements=elements)),
        "log_probs": draw(hnp.arrays(np.float64, steps, elements=numbers)),
        "action_mask": mask,
        "step_weights": weights.repeat(episodes),
        "extras": {
            "reference": draw(
                hnp.arrays(np.float64, (steps, 2), elements=st.one_of(numbers, st.just(-math.inf)))
            )
        },
    }
    for name in OPTIONAL:
        if draw(st.booleans()):
            del fields[name]
    return fields


batches = batch_fields().map(lambda fields: Batch(**fields))


def arrays_of(batch):
    """Return the batch's arrays by name, without those that it does not have."""
    names = (*PER_STEP, "episode_lengths", "terminated", "final_observations")
    found = {name: getattr(batch, name) for name in names}
    return {
        name: value for name, value in (found | dict(batch.extras)).items() if value is not None
    }


def assert_same(left, right):
    assert_equal_arrays(arrays_of(left), arrays_of(right))


def assert_equal_arrays(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], name, strict=True)


# Only PgcoreError comes out of a batch

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(
        st.one_of(
            st.integers(-3, 3), st.floats(), st.none(), st.lists(st.integers(0, 2), max_size=3)
        ),
        max_size=6,
    ),
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), st.just(np.dtype(object)), st.just(np.dtype(np.longdouble))),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    ),
)


@settings(max_examples=150)
@given(st.data())
def test_whatever_a_batch_is_made_of_it_is_made_or_a_pgcore_error_comes_out(data):
    fields = data.draw(batch_fields())
    for name in data.draw(
        st.lists(
            st.sampled_from([*PER_STEP, "episode_lengths", "terminated", "final_observations"]),
            min_size=1,
            max_size=2,
        )
    ):
        fields[name] = data.draw(anything)
    if data.draw(st.booleans()):
        fields["extras"] = data.draw(st.dictionaries(st.text(max_size=3), anything, max_size=2))
    batch = only_pgcore_errors(lambda: Batch(**fields))
    if batch is not None:
        assert batch.num_steps == batch.episode_lengths.sum() >= 1
        for value in arrays_of(batch).values():
            assert not value.flags.writeable
        for name in ("observations", "actions", "rewards"):
            assert np.isfinite(getattr(batch, name)).all()


@settings(max_examples=150)
@given(st.data())
def test_one_bad_number_anywhere_is_found_and_its_step_named(data):
    fields = data.draw(batch_fields())
    candidates = [
        name
        for name in ("observations", "rewards", "log_probs")
        if name in fields and fields[name].dtype.kind == "f"
    ]
    name = data.draw(st.sampled_from(candidates))
    array = fields[name]
    assume(array.size)
    place = data.draw(st.integers(0, array.size - 1))
    array.flat[place] = bad = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    step = place // (array.size // len(array))
    with pytest.raises(
        PgcoreError,
        match=rf"Batch\.{name}: .* got {'NaN' if math.isnan(bad) else 'infinity'} at step {step};",
    ):
        Batch(**fields)


@given(batch_fields())
def test_the_arrays_are_those_given_and_writing_to_them_later_changes_nothing(fields):
    batch = Batch(**fields)
    before = {name: value.copy() for name, value in arrays_of(batch).items()}
    for name, value in (fields | fields["extras"]).items():
        if name != "extras":
            np.testing.assert_array_equal(before[name], value)
            value[...] = 0
    for name, value in arrays_of(batch).items():
        np.testing.assert_array_equal(value, before[name])


# Taking batches apart and putting them together


@given(st.data())
def test_concatenating_the_episodes_in_any_split_gives_the_batch(data):
    batch = data.draw(batches)
    cuts = sorted(data.draw(st.sets(st.integers(1, batch.num_episodes))) | {0, batch.num_episodes})
    parts = [batch.episodes(slice(a, b)) for a, b in itertools.pairwise(cuts)]
    assert_same(Batch.concatenate(parts), batch)


@given(st.data())
def test_taking_apart_what_was_put_together_gives_the_parts(data):
    batch = data.draw(batches)
    order = data.draw(st.lists(st.integers(0, batch.num_episodes - 1), min_size=1, max_size=5))
    joined = Batch.concatenate([batch.episodes([number]) for number in order])
    assert_same(joined, batch.episodes(order))
    for place, number in enumerate(order):
        assert_same(joined.episodes([place]), batch.episodes([number]))


@given(st.data())
def test_steps_of_steps_are_the_steps_of_the_chosen_index(data):
    batch = data.draw(batches)
    outer = np.array(
        data.draw(st.lists(st.integers(0, batch.num_steps - 1), min_size=1, max_size=8))
    )
    inner = np.array(data.draw(st.lists(st.integers(0, len(outer) - 1), min_size=1, max_size=8)))
    direct, nested = batch.steps(outer[inner]), batch.steps(outer).steps(inner)
    found, expected = arrays_of(nested), arrays_of(direct)
    if batch.final_observations is not None or batch.terminated.all():
        np.testing.assert_array_equal(
            nested.next_observations, batch.next_observations[outer[inner]]
        )
        np.testing.assert_array_equal(
            direct.final_observations, batch.next_observations[outer[inner]]
        )
    else:  # without what followed, steps that did not terminate cannot say what did
        assert "final_observations" not in expected
        found.pop("final_observations", None)
    assert_equal_arrays(found, expected)


@given(batches)
def test_every_step_knows_its_episode(batch):
    starts, ends = batch.episode_starts, batch.episode_ends
    assert (batch.episode_lengths == ends - starts + 1).all()
    for step in range(batch.num_steps):
        episode = batch.episode_of_step[step]
        assert starts[episode] <= step <= ends[episode]
        assert batch.step_in_episode[step] == step - starts[episode]


@given(st.data())
def test_minibatches_are_a_partition(data):
    batch, size = data.draw(batches), data.draw(st.integers(1, 12))
    parts = list(batch.minibatches(size, np.random.default_rng(0)))
    assert np.sort(np.concatenate(parts)).tolist() == list(range(batch.num_steps))
    assert {len(part) for part in parts[:-1]} <= {size}


REDUCTIONS = (Reduction.STEP, Reduction.EPISODE_STEP, Reduction.TRAJECTORY)


@given(batches, st.integers(0, 5), st.sampled_from(REDUCTIONS))
def test_padding_keeps_what_is_real_and_weighs_nothing(batch, extra, reduction):
    padded = batch.pad(batch.num_steps + extra)
    assert padded.num_steps == batch.num_steps + extra
    real = padded.episodes(slice(0, batch.num_episodes))
    kept = arrays_of(batch)
    for name, value in arrays_of(real).items():
        np.testing.assert_array_equal(value, kept.get(name, np.ones(batch.num_steps)), name)
    weights = reduction.weights(padded)
    np.testing.assert_array_equal(weights[: batch.num_steps], reduction.weights(batch))
    assert not weights[batch.num_steps :].any()


@given(batches, st.sampled_from(REDUCTIONS))
def test_weights_of_a_loss_are_at_least_zero_and_those_of_a_mean_sum_to_one(batch, reduction):
    weights = reduction.weights(batch)
    assert (weights >= 0).all()
    if reduction != Reduction.TRAJECTORY:
        assert weights.sum() == pytest.approx(1.0, rel=1e-14)


# Batches in files


@settings(max_examples=40)
@given(batches)
def test_a_valid_batch_comes_back_from_its_file(batch):
    with tempfile.TemporaryDirectory() as folder:
        batch.save(Path(folder) / "x")
        assert_same(Batch.load(Path(folder) / "x"), batch)
        assert [path.name for path in Path(folder).iterdir()] == ["x"]


@settings(max_examples=150)
@given(st.data())
def test_mangled_bytes_load_or_raise_a_pgcore_error(data):
    fields = data.draw(st.just(None) | batch_fields())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        if fields is None:
            content = bytearray(data.draw(st.binary(max_size=200)))
        else:
            Batch(**fields).save(path)
            content = bytearray(path.read_bytes())
            for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
                content[place] = data.draw(st.integers(0, 255))
            content = content[
                : data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))
            ]
        path.write_bytes(content)
        loaded = only_pgcore_errors(lambda: Batch.load(path))
        assert loaded is None or loaded.num_steps >= 1


# Specs

json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
counts = st.integers(1, 5)
networks = st.one_of(
    counts.map(pg.Table),
    counts.map(pg.Linear),
    st.builds(
        pg.MLP,
        counts,
        st.lists(counts, min_size=1, max_size=3),
        st.sampled_from(["tanh", "relu", "sigmoid"]),
    ),
)
positives = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
heads = st.one_of(
    st.builds(pg.Categorical, counts, positives),
    st.builds(
        pg.DiagonalGaussian, counts, st.sampled_from(["fixed", "shared", "per-state"]), positives
    ),
)


@st.composite
def specs(draw):
    network = draw(networks)
    critics = ["none", "separate", *(["shared"] if isinstance(network, pg.MLP) else [])]
    return pg.PolicySpec(network, draw(heads), draw(st.sampled_from(critics)))


@given(specs())
def test_specs_round_trip_through_json(spec):
    assert pg.PolicySpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["critic"] == spec.critic


@given(specs(), st.integers(0, 2**64))
def test_initial_parameters_are_finite_and_have_the_specs_shapes(spec, seed):
    initial = spec.initial_parameters(seed)
    assert {name: value.shape for name, value in initial.items()} == spec.parameter_shapes
    assert all(np.isfinite(value).all() for value in initial.values())


@settings(max_examples=120)
@given(st.text() | json_values.map(json.dumps))
@example("[" * 100_000)
@example('{"network": ' * 10_000)
def test_any_text_is_a_spec_or_a_pgcore_error(text):
    assert only_pgcore_errors(lambda: pg.PolicySpec.from_json(text)) is None


@settings(max_examples=150)
@given(specs(), st.data())
def test_json_with_any_part_replaced_is_a_spec_or_a_pgcore_error(spec, data):
    tree = json.loads(spec.to_json())
    part = data.draw(st.sampled_from(["network", "head", "critic"]))
    if part == "critic" or data.draw(st.booleans()):
        tree[part] = data.draw(json_values)
    else:
        tree[part][data.draw(st.sampled_from([*tree[part], "more"]))] = data.draw(json_values)
    only_pgcore_errors(lambda: pg.PolicySpec.from_json(json.dumps(tree)))


odd = st.one_of(
    json_values,
    st.complex_numbers(),
    st.fractions(),
    st.decimals(),
    hnp.arrays(np.float64, 2),
    st.builds(object),
)


@settings(max_examples=120)
@given(odd, odd, odd)
@example(10**400, 10**5000, 1)
def test_fields_of_any_kind_make_a_part_or_a_pgcore_error(first, second, third):
    for make in (
        lambda: pg.Table(first),
        lambda: pg.Linear(first),
        lambda: pg.MLP(3, first),
        lambda: pg.MLP(3, [first]),
        lambda: pg.Categorical(first, second),
        lambda: pg.Categorical(2, second),
        lambda: pg.DiagonalGaussian(2, std=first),
        lambda: pg.PolicySpec(first, second),
        lambda: pg.PolicySpec(pg.Linear(2), first),
        lambda: pg.optimizer("sgd", learning_rate=first, momentum=second),
        lambda: pg.optimizer("adam", learning_rate=first, beta1=second, eps=third),
    ):
        only_pgcore_errors(make)


@given(st.one_of(st.text(), st.none(), st.integers()))
def test_choices_of_any_kind_make_a_part_or_a_pgcore_error(choice):
    for make in (
        lambda: pg.MLP(3, (2,), choice),
        lambda: pg.DiagonalGaussian(2, choice),
        lambda: pg.PolicySpec(pg.Linear(2), pg.Categorical(2), choice),
    ):
        only_pgcore_errors(make)


# Signals


@st.composite
def trajectories(draw):
    """Return rewards, values, next values and lengths of episodes, some of them cut."""
    episodes = draw(lengths)
    steps = int(episodes.sum())
    r_t, v_t = (draw(hnp.arrays(np.float64, steps, elements=numbers)) for _ in range(2))
    final = draw(hnp.arrays(np.float64, len(episodes), elements=numbers))
    final[draw(hnp.arrays(np.bool_, len(episodes)))] = 0.0  # terminated
    return r_t, v_t, final, episodes


def assert_close(left, right):
    """Values go up to 1e6, and sums over an episode cancel."""
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-7)


@given(trajectories(), unit, unit, st.integers(1, 8))
def test_an_episodes_signals_never_see_another_episode(trajectory, gamma, gae_lambda, n):
    r_t, v_t, final, episodes = trajectory
    v_tp1 = next_values(v_t, episodes, final)
    whole = (
        returns(r_t, episodes, gamma, final),
        n_step_returns(r_t, v_t, v_tp1, episodes, gamma, n),
        gae(r_t, v_t, v_tp1, episodes, gamma, gae_lambda),
    )
    ends = episodes.cumsum()
    for e, (start, end) in enumerate(zip(ends - episodes, ends, strict=True)):
        own, length = slice(start, end), episodes[e : e + 1]
        own_v_tp1 = next_values(v_t[own], length, final[e : e + 1])
        alone = (
            returns(r_t[own], length, gamma, final[e : e + 1]),
            n_step_returns(r_t[own], v_t[own], own_v_tp1, length, gamma, n),
            gae(r_t[own], v_t[own], own_v_tp1, length, gamma, gae_lambda),
        )
        for together, by_itself in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(together[own], by_itself)


@given(trajectories(), unit)
def test_n_steps_beyond_the_episode_are_the_bootstrapped_return(trajectory, gamma):
    r_t, v_t, final, episodes = trajectory
    v_tp1 = next_values(v_t, episodes, final)
    for n in (int(episodes.max()), 1000):
        found = n_step_returns(r_t, v_t, v_tp1, episodes, gamma, n)
        assert_close(found, returns(r_t, episodes, gamma, final))


@given(trajectories(), unit)
def test_gae_goes_from_td_errors_to_return_minus_value(trajectory, gamma):
    r_t, v_t, final, episodes = trajectory
    v_tp1 = next_values(v_t, episodes, final)
    np.testing.assert_array_equal(
        gae(r_t, v_t, v_tp1, episodes, gamma, 0.0), td_errors(r_t, v_t, v_tp1, gamma)
    )
    assert_close(
        gae(r_t, v_t, v_tp1, episodes, gamma, 1.0), returns(r_t, episodes, gamma, final) - v_t
    )
    one_step = n_step_returns(r_t, v_t, v_tp1, episodes, gamma, 1)
    assert_close(one_step - v_t, td_errors(r_t, v_t, v_tp1, gamma))


@given(trajectories(), unit)
def test_a_cut_episode_is_a_terminated_one_with_the_final_value_as_its_last_reward(
    trajectory, gamma
):
    r_t, _, final, episodes = trajectory
    ends = episodes.cumsum() - 1
    with_reward = r_t.copy()
    with_reward[ends] += gamma * final
    np.testing.assert_array_equal(
        returns(r_t, episodes, gamma, final), returns(with_reward, episodes, gamma)
    )
    np.testing.assert_array_equal(
        returns(r_t, episodes, gamma, np.zeros(len(episodes))), returns(r_t, episodes, gamma)
    )


@given(trajectories(), unit, numbers)
def test_returns_are_linear(trajectory, gamma, factor):
    r_t, v_t, _, episodes = trajectory
    left = returns(r_t + factor * v_t, episodes, gamma)
    right = returns(r_t, episodes, gamma) + factor * returns(v_t, episodes, gamma)
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-3)


@settings(max_examples=30)
@given(st.integers(400, 700), unit, st.integers(0, 2**32 - 1))
def test_a_discounted_sum_satisfies_its_recursion_in_both_sizes(steps, factor, seed):
    rng = np.random.default_rng(seed)
    episodes = np.diff(np.unique(np.append(rng.integers(1, steps, 5), [0, steps])))
    x_t, c_t = rng.standard_normal(steps), discounts(episodes, factor)
    y_t = discounted_sum(x_t, c_t)
    np.testing.assert_allclose(y_t[:-1], x_t[:-1] + c_t[:-1] * y_t[1:], rtol=1e-12, atol=1e-12)
    assert y_t[-1] == x_t[-1]


vectors = hnp.arrays(np.float64, st.integers(2, 30), elements=numbers)


@given(vectors, st.sampled_from([0, 1]))
def test_a_normalised_vector_has_mean_zero_and_std_one_or_is_constant(x, ddof):
    found = normalise(x, ddof=ddof)
    assert abs(found.mean()) < 1e-6
    if np.ptp(x) == 0:
        assert not found.any()
    elif x.std() > 1.0:
        assert found.std(ddof=ddof) == pytest.approx(1.0, rel=1e-6)


@given(vectors, st.floats(1.0, 100.0), numbers)
def test_normalising_forgets_scale_and_shift(x, scale, shift):
    assume(x.std() > 10.0)
    np.testing.assert_allclose(normalise(x * scale + shift), normalise(x), rtol=1e-6, atol=1e-6)


@given(st.data())
def test_normalising_sees_no_padding(data):
    x = data.draw(vectors)
    weights = data.draw(hnp.arrays(np.float64, len(x), elements=st.sampled_from([0.0, 0.25])))
    found, real = normalise(x, weights), weights > 0
    np.testing.assert_array_equal(found[real], normalise(x[real]))
    assert not found[~real].any()
    x[~real] = 7.0
    np.testing.assert_array_equal(normalise(x, weights), found)


@given(vectors)
def test_leaving_one_out_is_the_mean_of_the_others(x):
    expected = [np.delete(x, i).mean() for i in range(len(x))]
    np.testing.assert_allclose(leave_one_out_mean(x), expected, rtol=1e-9, atol=1e-6)
    assert leave_one_out_mean(x).mean() == pytest.approx(x.mean(), rel=1e-9, abs=1e-6)
