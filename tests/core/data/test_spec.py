# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import json
import math

import numpy as np
import pytest

from pgcore.data.spec import MLP, Linear, PolicySpec, Table
from pgcore.errors import PgcoreError, SpecError, UnknownNameError
from pgcore.heads import Categorical, DiagonalGaussian

DENSE = MLP(4, (64, 32), "relu")


def spec(network=DENSE, head=None, critic="none", values="state"):
    return PolicySpec(network, head or Categorical(3), critic, values)


@pytest.mark.parametrize(
    ("built", "shapes"),
    [
        (spec(Table(5)), {"network.table": (5, 3)}),
        (spec(Table(5), critic="separate"), {"network.table": (5, 3), "critic.table": (5, 1)}),
        (spec(Linear(4)), {"network.0.weight": (4, 3), "network.0.bias": (3,)}),
        (
            spec(Linear(4), DiagonalGaussian(2), "separate"),
            {
                "network.0.weight": (4, 2),
                "network.0.bias": (2,),
                "critic.0.weight": (4, 1),
                "critic.0.bias": (1,),
                "head.log_std": (2,),
            },
        ),
        (
            spec(MLP(4, (8,)), DiagonalGaussian(2, "per-state"), "shared"),
            {
                "network.0.weight": (4, 8),
                "network.0.bias": (8,),
                "network.1.weight": (8, 4),
                "network.1.bias": (4,),
                "critic.0.weight": (8, 1),
                "critic.0.bias": (1,),
            },
        ),
        (
            spec(MLP(2, (7, 6)), critic="separate"),
            {
                "network.0.weight": (2, 7),
                "network.0.bias": (7,),
                "network.1.weight": (7, 6),
                "network.1.bias": (6,),
                "network.2.weight": (6, 3),
                "network.2.bias": (3,),
                "critic.0.weight": (2, 7),
                "critic.0.bias": (7,),
                "critic.1.weight": (7, 6),
                "critic.1.bias": (6,),
                "critic.2.weight": (6, 1),
                "critic.2.bias": (1,),
            },
        ),
        (
            spec(Linear(4), critic="separate", values="twin"),
            {
                "network.0.weight": (4, 3),
                "network.0.bias": (3,),
                "critic.first.0.weight": (4, 3),
                "critic.first.0.bias": (3,),
                "critic.second.0.weight": (4, 3),
                "critic.second.0.bias": (3,),
            },
        ),
        (
            spec(MLP(4, (8,)), critic="shared", values="twin"),
            {
                "network.0.weight": (4, 8),
                "network.0.bias": (8,),
                "network.1.weight": (8, 3),
                "network.1.bias": (3,),
                "critic.0.weight": (8, 6),
                "critic.0.bias": (6,),
            },
        ),
    ],
)
def test_parameters_have_canonical_names_shapes_and_order(built, shapes):
    assert list(built.parameter_shapes.items()) == list(shapes.items())
    initial = built.initial_parameters(0)
    assert [(name, value.shape) for name, value in initial.items()] == list(shapes.items())
    assert {value.dtype for value in initial.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    ("built", "gains"),
    [
        (spec(MLP(4, (64, 32)), critic="separate"), {"network.2": 0.01, "critic.2": 1.0}),
        (spec(MLP(40, (8, 8)), critic="shared"), {"network.2": 0.01, "critic.0": 1.0}),
        (spec(Linear(2), DiagonalGaussian(5), "separate"), {"network.0": 0.01, "critic.0": 1.0}),
        (spec(MLP(1, (1,))), {"network.1": 0.01}),
        (
            spec(Linear(5), critic="separate", values="twin"),
            {"network.0": 0.01, "critic.first.0": 1.0, "critic.second.0": 1.0},
        ),
    ],
)
def test_weights_start_orthogonal_with_their_gain_and_all_else_at_zero(built, gains):
    for name, value in built.initial_parameters(11).items():
        layer, kind = name.rsplit(".", 1)
        if kind != "weight":
            assert not value.any()
            continue
        gram = value.T @ value if value.shape[0] >= value.shape[1] else value @ value.T
        gain = gains.get(layer, math.sqrt(2.0))
        np.testing.assert_allclose(gram / gain**2, np.eye(len(gram)), atol=1e-13)
        assert value.flags.c_contiguous


def test_tables_start_at_zero_and_a_shared_log_std_at_its_std():
    initial = spec(Table(3), DiagonalGaussian(2, std=0.25), "separate").initial_parameters(0)
    np.testing.assert_array_equal(initial.pop("head.log_std"), np.log([0.25, 0.25]))
    assert not any(value.any() for value in initial.values())


def test_initial_parameters_follow_the_seed():
    first, again, other = (spec().initial_parameters(seed) for seed in (3, np.int64(3), 4))
    for name in (name for name in first if name.endswith("weight")):
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).all()


def test_every_layer_has_a_stream_of_its_own():
    initial = spec(MLP(8, (8, 8)), critic="separate").initial_parameters(0)
    squares = [
        initial[name]
        for name in ("network.0.weight", "network.1.weight", "critic.0.weight", "critic.1.weight")
    ]
    assert all((a != b).all() for i, a in enumerate(squares) for b in squares[:i])


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_adding_a_critic_leaves_the_policys_parameters_as_they_were(critic):
    with_critic = spec(critic=critic).initial_parameters(5)
    for name, value in spec().initial_parameters(5).items():
        np.testing.assert_array_equal(with_critic[name], value)


def test_a_second_critic_leaves_the_first_as_it_was_and_differs_from_it():
    one, two = (
        spec(critic="separate", values=values).initial_parameters(5)
        for values in ("action", "twin")
    )
    for name in (name for name in one if name.startswith("critic.")):
        first, second = (name.replace("critic", f"critic.{which}") for which in ("first", "second"))
        np.testing.assert_array_equal(two[first], one[name])
        assert name.endswith("bias") or (two[second] != one[name]).all()


def test_a_weights_columns_point_in_every_direction():
    """The signs of QR are undone, so the matrix is uniform over rotations and its mean over seeds is 0."""
    draws = [
        spec(Linear(3)).initial_parameters(seed)["network.0.weight"] / 0.01 for seed in range(400)
    ]
    assert np.abs(np.mean(draws, axis=0)).max() < 4 / math.sqrt(3 * 400)


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "0"])
def test_a_seed_is_an_integer_of_at_least_zero(seed):
    with pytest.raises(SpecError, match=r"^seed: expected an integer of at least 0, got "):
        spec().initial_parameters(seed)


@pytest.mark.parametrize(
    "built",
    [
        spec(Table(5), Categorical(2, 0.1), "separate"),
        spec(Linear(np.int64(4)), DiagonalGaussian(2, "fixed", np.float32(0.5))),
        spec(MLP(4, [np.int64(8), 9], "sigmoid"), DiagonalGaussian(2, "per-state"), "shared"),
    ],
)
def test_specs_go_to_json_and_back(built):
    text = built.to_json()
    assert PolicySpec.from_json(text) == built
    assert json.loads(text)["critic"] == built.critic
    assert "\n" not in text


def test_specs_are_frozen_values():
    assert len({spec(), spec(), spec(critic="shared")}) == 2
    with pytest.raises(AttributeError):
        spec().critic = "shared"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Table(0), r"Table\.states: expected an integer of at least 1, got 0"),
        (lambda: Linear("4"), r"Linear\.inputs: .*, got '4'"),
        (lambda: MLP(0), r"MLP\.inputs: .*, got 0"),
        (
            lambda: MLP(4, ()),
            r"MLP\.hidden: expected a tuple of layer widths, got \(\); use Linear",
        ),
        (lambda: MLP(4, 64), r"MLP\.hidden: expected a tuple of layer widths, got 64"),
        (lambda: MLP(4, (64, 0)), r"MLP\.hidden: expected an integer of at least 1, got 0"),
        (
            lambda: MLP(4, (8,), "gelu"),
            r"MLP\.activation: expected one of .*'relu', .*'tanh'.*, got 'gelu'",
        ),
        (
            lambda: spec(network=(64,)),
            r"PolicySpec\.network: expected a Network such as MLP\(4\), got \(64,\)",
        ),
        (
            lambda: PolicySpec(DENSE, 2),
            r"PolicySpec\.head: expected a Head such as Categorical\(2\), got 2",
        ),
        (
            lambda: spec(critic="twin"),
            r"PolicySpec\.critic: expected one of 'none', 'separate', 'shared', got 'twin'",
        ),
        (
            lambda: spec(Linear(4), critic="shared"),
            r"PolicySpec\.critic: .* for Linear, got 'shared'; .* use an MLP",
        ),
        (
            lambda: spec(Table(4), critic="shared"),
            r"PolicySpec\.critic: .* for Table, got 'shared'",
        ),
    ],
)
def test_fields_are_checked(make, words):
    with pytest.raises(SpecError, match=words):
        make()


def changed(**parts):
    return json.dumps(json.loads(spec().to_json()) | parts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected what to_json writes, got ''"),
        ("{", "expected what to_json writes"),
        ("[1]", "expected what to_json writes"),
        ("null", "expected what to_json writes"),
        ("[" * 100_000, "expected what to_json writes"),
        (None, "expected what to_json writes, got 'None'"),
        (changed(network={"inputs": 4}), r"expected what to_json writes, .* \('name'\)"),
        (
            changed(network={"name": "adopted"}),
            "expected a network that can be built, got an adopted one",
        ),
        (
            changed(network={"name": "mlp", "inputs": 4, "layers": 2}),
            r"expected the fields of MLP and Categorical, .*'layers'",
        ),
        (
            changed(head={"name": "categorical"}),
            "expected the fields of MLP and Categorical, .*'n'",
        ),
        (changed(head={"name": "categorical", "n": -1}), r"Categorical\.n: .* got -1"),
        (
            changed(head={"name": "categorical", "n": 2, "temperature": math.nan}),
            r"Categorical\.temperature: .* got nan",
        ),
        (changed(critic=None), r"PolicySpec\.critic: .* got 'None'"),
    ],
)
def test_json_of_another_form_is_refused(text, words):
    with pytest.raises(SpecError, match=words):
        PolicySpec.from_json(text)


@pytest.mark.parametrize("name", ["mlpp", ["mlp"]])
def test_an_unknown_network_in_json_lists_the_known_ones(name):
    with pytest.raises(UnknownNameError, match=r"network: .*mlp.*known: conv, linear, mlp, table"):
        PolicySpec.from_json(changed(network={"name": name, "inputs": 4}))


def test_an_unknown_head_in_json_lists_the_known_ones():
    with pytest.raises(
        UnknownNameError,
        match="did you mean 'categorical' or 'multi_categorical'\\? known: bernoulli, categorical, diagonal_gaussian",
    ) as caught:
        PolicySpec.from_json(changed(head={"name": "categorial", "n": 2}))
    assert isinstance(caught.value, PgcoreError)
