"""Training on images."""

from __future__ import annotations

import numpy as np
import pytest
from guessing import Guessing
from gymnasium.spaces import Box, Discrete

import pgcore as pg
from pgcore.errors import SpecError


class Spot(Guessing):
    """Pays for the number of the quarter in which a bright spot is; its place in the quarter is drawn."""

    action_space, length = Discrete(4), 4

    def __init__(self, shape=(6, 6, 2), dtype=np.uint8) -> None:
        self.shape, self.dtype = shape, dtype
        self.high = 255 if dtype == np.uint8 else 1.0
        self.observation_space = Box(0, self.high, shape, dtype)

    def _observe(self):
        image = np.zeros(self.shape, self.dtype)
        first, second = self.np_random.integers(3, size=2)
        self.goal = int(self.np_random.integers(4))
        place = first + 3 * (self.goal // 2), second + 3 * (self.goal % 2)
        if image.ndim == 2:
            image[place] = self.high
        elif image.shape[0] == 6:
            image[place][1] = self.high
        else:
            image[1][place] = self.high
        return image


@pytest.mark.parametrize(
    ("backend", "estimator", "shape", "dtype"),
    [
        ("numpy", "ppo", (6, 6, 2), np.uint8),
        ("numpy", "q_learning", (6, 6, 2), np.uint8),
        ("numpy", "trpo", (2, 6, 6), np.float32),
        ("torch", "ppo", (2, 6, 6), np.uint8),
        ("jax", "ppo", (6, 6, 2), np.uint8),
        ("tensorflow", "ppo", (6, 6, 2), np.uint8),
    ],
)
def test_a_network_of_images_learns(new_training, register, backend, estimator, shape, dtype):
    pytest.importorskip(f"pgcore_{backend}.backend")
    training = new_training(
        register(Spot, kwargs={"shape": shape, "dtype": dtype}),
        estimator={"name": estimator},
        run={"backend": backend, "steps": 4_096},
        network={"channels": [8], "kernels": [3], "strides": [1], "hidden": [16]},
        rollout={"envs": 4},
        **({"replay": {"batch": 64}} if estimator == "q_learning" else {}),
    )
    training.run(lambda metrics: None)
    network = training.policy.spec.network
    assert isinstance(network, pg.Conv)
    assert network.image == (6, 6, 2)
    assert network.scale == (255.0 if dtype == np.uint8 else 1.0)
    # By chance it is 1.
    assert training.evaluate().mean() > 2.5


def test_images_have_the_usual_layers_and_stay_bytes(new_training, register):
    training = new_training(register(Spot), rollout={"envs": 2})
    network = training.policy.spec.network
    assert (network.channels, network.hidden, network.activation) == ((16, 32), (128,), "relu")
    batch = training.start().steps(3).batch
    assert batch.observations.dtype == np.uint8
    assert batch.observations.shape == (6, 6, 6, 2)


def test_a_network_is_chosen_by_name_too(new_training, register):
    gray = new_training(register(Spot, kwargs={"shape": (6, 6)}), network={"type": "conv"})
    assert gray.policy.spec.network.image == (6, 6, 1)
    # Without a name, two axes are numbers side by side; three are an image.
    assert new_training(register(Spot, kwargs={"shape": (6, 6)})).policy.spec.network.inputs == 36
    flat = new_training(register(Spot), network={"type": "mlp"})
    assert flat.policy.spec.network == pg.MLP(72, (64, 64))


@pytest.mark.parametrize(
    ("name", "network", "message"),
    [
        ("CartPole-v1", {"type": "conv"}, r"expected a Box of \[H, W, C\]"),
        ("FrozenLake-v1", {"type": "conv"}, "network.type: expected table for observations"),
        ("CartPole-v1", {"kernels": [3]}, "network.kernels: expected none for the network 'mlp'"),
        (Spot, {"kernels": [9, 9]}, "within their input, 6 x 6 in layer 0, got 9"),
        (Spot, {"kernels": [3]}, "expected as many channels as kernels"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(new_training, register, name, network, message):
    with pytest.raises((SpecError, pg.PgcoreError), match=message):
        new_training(name if isinstance(name, str) else register(name), network=network)


def test_normalised_images_are_refused(new_training, register):
    with pytest.raises(SpecError, match="expected vectors of numbers to normalise"):
        new_training(register(Spot), rollout={"normalise_observations": True})
