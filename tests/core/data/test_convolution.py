"""The network of images."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import ShapeError, SpecError
from pgcore.xp.numpy import host


@pytest.mark.parametrize(
    ("image", "kernels", "last", "hidden"),
    [
        ((84, 84, 4), (8, 4, 3), (7, 7, 64), (512,)),
        ((36, 40, 3), (8, 4, 3), (1, 1, 64), (512,)),
        ((35, 35, 1), (4, 3), (7, 7, 32), (128,)),
        ((10, 10, 6), (3, 3), (6, 6, 32), (128,)),
        ((5, 5, 2), (3, 3), (1, 1, 32), (128,)),
        ((4, 4, 2), (2,), (3, 3, 16), (128,)),
        ((1, 9, 2), (1,), (1, 9, 16), (128,)),
    ],
)
def test_usual_layers_fit_every_size(image, kernels, last, hidden):
    network = pg.Conv(image)
    assert (network.kernels, network.sizes[-1], network.hidden) == (kernels, last, hidden)
    assert network.width == hidden[-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": (4, 4)}, "Conv.image: expected the height, width and channels of an image"),
        ({"image": (4, 0, 1)}, "Conv.image: expected an integer of at least 1"),
        ({"channels": (4,)}, "expected as many channels as kernels and strides"),
        ({"channels": (), "kernels": (), "strides": ()}, "at least 1 of each"),
        ({"channels": 4}, "Conv.channels: expected a tuple of numbers"),
        ({"channels": (4,), "kernels": (7,), "strides": (1,)}, "6 x 6 in layer 0, got 7"),
        ({"channels": (4, 4), "kernels": (3, 3), "strides": (2, 1)}, "2 x 2 in layer 1, got 3"),
        ({"hidden": (0,)}, "Conv.hidden: expected an integer of at least 1"),
        ({"scale": 0.0}, "Conv.scale: expected a positive number"),
        ({"activation": "none"}, "Conv.activation: expected one of"),
    ],
)
def test_layers_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        pg.Conv(**{"image": (6, 6, 1), **fields})


def test_the_spec_goes_to_json_and_back():
    network = pg.Conv((9, 8, 3), (4, 5), (3, 2), (2, 1), (), "tanh", scale=255)
    spec = pg.PolicySpec(network, pg.Categorical(3), "shared")
    assert pg.PolicySpec.from_json(spec.to_json()) == spec
    assert spec.parameter_shapes == {
        "network.conv.0.weight": (3, 3, 3, 4),
        "network.conv.0.bias": (4,),
        "network.conv.1.weight": (2, 2, 4, 5),
        "network.conv.1.bias": (5,),
        "network.output.weight": (3 * 2 * 5, 3),
        "network.output.bias": (3,),
        "critic.0.weight": (3 * 2 * 5, 1),
        "critic.0.bias": (1,),
    }


def test_kernels_start_orthogonal():
    spec = pg.PolicySpec(pg.Conv((6, 6, 2), (3, 30), (3, 2), (1, 1), ()), pg.Categorical(2))
    parameters = spec.initial_parameters(0)
    tall = parameters["network.conv.0.weight"].reshape(18, 3)
    wide = parameters["network.conv.1.weight"].reshape(12, 30)
    # The gain before a relu is sqrt(2).
    np.testing.assert_allclose(tall.T @ tall, 2 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(wide @ wide.T, 2 * np.eye(12), atol=1e-12)


def test_a_convolution_is_the_sum_over_windows():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 7, 6, 3)), rng.standard_normal((3, 2, 3, 4))
    result = host.convolve(x, kernel, 2)
    assert result.shape == (2, 3, 3, 4)
    for b, i, j, k in np.ndindex(2, 3, 3, 4):
        window = x[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(result[b, i, j, k], (window * kernel[..., k]).sum(), rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "tensorflow"])
@pytest.mark.parametrize(("critic", "dtype"), [("separate", "float32"), ("shared", "float64")])
def test_a_policy_with_hidden_layers_is_right(backend, critic, dtype):
    pytest.importorskip(f"pgcore_{backend}.backend")
    network = pg.Conv((6, 5, 2), (2, 3), (3, 2), (2, 1), (4, 3), "sigmoid", 3.0)
    policy = pg.policy(
        pg.PolicySpec(network, pg.DiagonalGaussian(2), critic), backend=backend, dtype=dtype
    )
    rng = np.random.default_rng(1)
    # Parameters that are not near their initial values, some of which are 0.
    policy.load(
        {name: v + 0.5 * rng.standard_normal(v.shape) for name, v in policy.parameters().items()}
    )
    batch = pg.Batch(
        observations=rng.standard_normal((9, 6, 5, 2)),
        actions=rng.standard_normal((9, 2)),
        rewards=rng.standard_normal(9),
        episode_lengths=[4, 5],
        terminated=[True, False],
        final_observations=rng.standard_normal((2, 6, 5, 2)),
        log_probs=rng.standard_normal(9) - 2,
    )
    result = pg.check(policy, pg.estimator("ppo"), batch)
    assert result.agrees, str(result)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "tensorflow"])
def test_bytes_are_divided_by_the_scale(backend):
    pytest.importorskip(f"pgcore_{backend}.backend")
    images = np.random.default_rng(2).integers(0, 256, (4, 5, 5, 3), np.uint8)
    results = []
    for scale, observations in ((255.0, images), (1.0, images / 255)):
        spec = pg.PolicySpec(pg.Conv((5, 5, 3), scale=scale), pg.Categorical(3), "separate")
        policy = pg.policy(spec, backend=backend, dtype="float64", seed=3)
        results.append(policy.distribution(observations))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)
    with pytest.raises(ShapeError, match=r"expected shape \[B, 5, 5, 3\] for Conv"):
        policy.act(images[0], pg.generator(0))
