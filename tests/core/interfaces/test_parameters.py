"""Named arrays in flat vectors."""

import math

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError
from pgcore.interfaces.parameters import Layout, flat

SHAPES = {"network.0.weight": (3, 2), "network.0.bias": (2,), "head.log_std": ()}


def test_named_arrays_and_a_flat_vector_are_each_others_inverse():
    layout, vector = Layout(SHAPES), np.arange(9.0)
    named = layout.named(vector)
    assert {name: value.shape for name, value in named.items()} == SHAPES
    assert [named["network.0.weight"][2, 1], named["network.0.bias"][0], named["head.log_std"]] == [
        5.0,
        6.0,
        8.0,
    ]
    assert all(np.shares_memory(value, vector) for value in named.values())
    np.testing.assert_array_equal(flat(named), vector)
    assert layout.size == 9
    assert [vector[place].size for place in layout.places.values()] == [6, 2, 1]


def test_a_policys_layout_is_that_of_its_spec():
    spec = pg.PolicySpec(pg.MLP(3, (4,)), pg.DiagonalGaussian(2, "shared"), "separate")
    policy = pg.policy(spec)
    assert policy.names == tuple(spec.parameter_shapes)
    assert policy.size == sum(math.prod(shape) for shape in spec.parameter_shapes.values())
    parameters = policy.parameters()
    vector = np.random.default_rng(0).standard_normal(policy.size).astype(np.float32)
    policy.load(Layout(spec.parameter_shapes).named(vector))
    np.testing.assert_array_equal(flat(policy.parameters()), vector)
    assert list(policy.parameters()) == list(parameters)


def test_parameters_that_are_not_finite_are_named():
    policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
    policy.check_finite("here")
    dict(policy.layout.named(policy.vector))["network.0.bias"][1] = np.inf  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(
        NonFiniteError, match=r"here: expected finite parameters, got .* in network\.0\.bias; load"
    ):
        policy.check_finite("here")
