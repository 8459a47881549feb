"""The forms in which networks get an environment's observations."""

from __future__ import annotations

import numpy as np
import pytest
from guessing import Guessing
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, flatten
from gymnasium.vector.utils import batch_space, iterate

from pgcore.errors import UnsupportedEnvironmentError
from pgcore_train.rollout.observations import Form, reader_of

SPACES = [
    Dict({"image": Box(0, 255, (2, 3, 1), np.uint8), "goal": Discrete(3, start=-1)}),
    Dict({"b": MultiBinary([2, 2]), "a": Tuple((MultiDiscrete([2, 3]), Box(-1.0, 1.0, ())))}),
    Tuple((Discrete(4), Box(-9.0, 9.0, (2,), np.float64))),
    MultiDiscrete([2, 3], start=[5, -1]),
    MultiBinary(3),
    Box(-1.0, 1.0, (2, 2)),
    Box(-1.0, 1.0, ()),
    Box(-1.0, 1.0, (2, 1, 2, 2)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_numbers_are_laid_out_as_gymnasium_flattens_them(space):
    vector = batch_space(space, 4)
    vector.seed(0)
    sample = vector.sample()
    reader = reader_of(space, Form.FLAT)
    rows = reader.read(sample)
    expected = np.array([flatten(space, each) for each in iterate(vector, sample)])
    np.testing.assert_array_equal(rows, expected)
    assert reader.space.shape == rows.shape[1:]


def test_arrays_by_name_are_those_of_the_space():
    space = Dict(
        {"b": Box(0, 255, (2, 2), np.uint8), "a": Tuple((Discrete(3, start=5), MultiBinary(2)))}
    )
    vector = batch_space(space, 3)
    vector.seed(1)
    sample = vector.sample()
    rows = reader_of(space, Form.NATIVE).read(sample)
    assert rows.dtype.names == ("a.0", "a.1", "b")
    np.testing.assert_array_equal(rows["a.0"], sample["a"][0] - 5)
    np.testing.assert_array_equal(rows["a.1"], sample["a"][1])
    np.testing.assert_array_equal(rows["b"], sample["b"])
    assert rows["b"].dtype == np.uint8


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((84, 84, 4), (84, 84, 4)),
        ((4, 84, 84), (84, 84, 4)),
        ((3, 210, 160), (210, 160, 3)),
        ((210, 160, 3), (210, 160, 3)),
        ((8, 8, 12), (8, 8, 12)),
        ((5, 5, 5), (5, 5, 5)),
        ((6, 7), (6, 7, 1)),
    ],
)
def test_images_have_their_channels_last(shape, seen):
    space = Box(0, 255, shape, np.uint8)
    reader = reader_of(space, Form.IMAGE)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    rows = reader.read(images)
    assert reader.space.shape == rows.shape[1:] == seen
    assert rows.dtype == np.uint8
    # The same numbers; the first channel of the first image is where it was.
    channel = images[0] if len(shape) == 2 else images[0][0] if seen != shape else images[0][..., 0]
    np.testing.assert_array_equal(rows[0, ..., 0], channel)


@pytest.mark.parametrize("space", [Dict({"x": Discrete(2)}), Box(0.0, 1.0, (4,))], ids=str)
def test_what_is_no_image_is_refused(space):
    with pytest.raises(UnsupportedEnvironmentError, match=r"expected a Box of \[H, W, C\]"):
        reader_of(space, Form.IMAGE)


class Seeking(Guessing):
    """Pays for the door whose number is the goal's; the camera shows the goal too, as bytes."""

    def __init__(self, space=None, doors=3) -> None:
        self.doors, self.action_space = doors, Discrete(doors)
        self.observation_space = space or Dict(
            {
                "camera": Box(0, 255, (doors,), np.uint8),
                "place": Tuple((Discrete(doors, start=1), Box(-1.0, 1.0, (2,)))),
            }
        )

    def _observe(self):
        self.goal = int(self.np_random.integers(self.doors))
        camera = np.zeros(self.doors, np.uint8)
        camera[self.goal] = 255
        if isinstance(self.observation_space, Box):
            return (camera / 255).astype(np.float32)
        drift = self.np_random.random(2).astype(np.float32)
        return {"camera": camera, "place": (self.goal + 1, drift)}


@pytest.mark.parametrize("estimator", ["ppo", "q_learning"])
def test_a_network_learns_from_flattened_observations(new_training, register, estimator):
    training = new_training(
        register(Seeking),
        estimator={"name": estimator},
        run={"steps": 4_000},
        rollout={"envs": 4, "normalise_observations": estimator == "ppo"},
    )
    training.run(lambda metrics: None)
    assert training.policy.spec.network.inputs == 8
    assert training.evaluate().min() == 5.0
