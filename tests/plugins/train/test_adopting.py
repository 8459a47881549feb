"""Networks of the user's own, which a function makes for `pgcore train`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from guessing import Guessing
from gymnasium.spaces import Box, Dict, Discrete, Tuple

import pgcore as pg
from pgcore.errors import SpecError, UnknownNameError
from pgcore_train.config.config import RunConfig, merge, read_network
from pgcore_train.run.checkpoint import load_checkpoint
from pgcore_train.training import Ending, Training

# Keras copies a model by way of NumPy, in a manner that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Seeking(Guessing):
    """Pays for the door whose number is the goal's; camera, place and, in bytes, the picture show it."""

    action_space = Discrete(3)
    observation_space = Dict(
        {
            "camera": Box(0, 255, (3,), np.uint8),
            "place": Tuple((Discrete(3, start=1), Box(-1.0, 1.0, (2,)))),
        }
    )

    def _observe(self):
        self.goal = int(self.np_random.integers(3))
        drift = self.np_random.random(2).astype(np.float32)
        return {"camera": self.picture(np.uint8), "place": (self.goal + 1, drift)}

    def picture(self, dtype):
        return (255 * (np.arange(3) == self.goal)).astype(dtype)


class Plain(Seeking):
    """Shows the picture alone, as real numbers."""

    observation_space = Box(0.0, 1.0, (3,))

    def _observe(self):
        super()._observe()
        return self.picture(np.float32) / 255


TORCH = """
import torch
from torch import nn


class Seeker(nn.Module):
    def __init__(self, outputs, parts):
        super().__init__()
        self.parts = parts
        self.layer = nn.Linear(8 if parts else 3, 32)
        self.top = nn.Linear(32, outputs)

    def forward(self, x):
        if self.parts:
            goal = nn.functional.one_hot(x["place.0"].long(), 3).to(x["place.1"].dtype)
            camera = x["camera"].to(x["place.1"].dtype) / 255
            x = torch.cat((camera, goal, x["place.1"]), 1)
        return self.top(torch.tanh(self.layer(x)))


def pair(observations, actions, seed):
    torch.manual_seed(seed)
    parts = hasattr(observations, "spaces")
    return {"network": Seeker(actions.n, parts), "critic": Seeker(1, parts)}


def network(observations, actions, seed):
    return pair(observations, actions, seed)["network"]


def wide(observations, actions, seed):
    return {name: module.double() for name, module in pair(observations, actions, seed).items()}


def broken(observations, actions, seed):
    raise RuntimeError("no weights here")


def misnamed(observations, actions, seed):
    return {"netwrok": network(observations, actions, seed)}


nothing = 3
"""

JAX = """
import jax
import jax.numpy as jnp
import numpy as np


def apply(parameters, x):
    goal = jax.nn.one_hot(x["place.0"], 3)
    features = jnp.concatenate((x["camera"] / 255.0, goal, x["place.1"]), 1)
    return jnp.tanh(features @ parameters["w"]) @ parameters["v"]


def made(outputs, seed):
    rng = np.random.default_rng(seed)
    shapes = {"w": (8, 32), "v": (32, outputs)}
    return {name: jnp.array(rng.normal(0, 0.2, shape), jnp.float32) for name, shape in shapes.items()}


def pair(observations, actions, seed):
    return {"network": (apply, made(actions.n, seed)), "critic": (apply, made(1, seed + 1))}


def network(observations, actions, seed):
    return apply, made(actions.n, seed)
"""

KERAS = """
import keras


def made(outputs, name):
    parts = {
        "camera": keras.Input((3,), name="camera"),
        "place.0": keras.Input((), name="place.0", dtype="int64"),
        "place.1": keras.Input((2,), name="place.1"),
    }
    camera = keras.layers.Rescaling(1 / 255)(parts["camera"])
    goal = keras.layers.CategoryEncoding(3, output_mode="one_hot")(
        keras.layers.Reshape((1,))(parts["place.0"])
    )
    features = keras.layers.Concatenate()([camera, goal, parts["place.1"]])
    hidden = keras.layers.Dense(32, "tanh", name=f"{name}_hidden")(features)
    return keras.Model(parts, keras.layers.Dense(outputs, name=f"{name}_top")(hidden))


def pair(observations, actions, seed):
    keras.utils.set_random_seed(seed)
    return {"network": made(int(actions.n), "actor"), "critic": made(1, "values")}


def network(observations, actions, seed):
    return pair(observations, actions, seed)["network"]
"""

NETWORKS = {"torch": TORCH, "jax": JAX, "tensorflow": KERAS}


@pytest.fixture(params=NETWORKS)
def framework(request, tmp_path, monkeypatch):
    """Return a backend whose users' networks are in the module of the name `own_BACKEND`."""
    name = request.param
    pytest.importorskip("keras" if name == "tensorflow" else name)
    (tmp_path / f"own_{name}.py").write_text(NETWORKS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def settings_of(framework: str, function: str, estimator: str, **sections) -> dict:
    return merge(
        {
            "network": {"factory": f"own_{framework}:{function}"},
            "estimator": {"name": estimator},
            "run": {"backend": framework, "steps": 5_000, "evaluation_episodes": 5},
            "rollout": {"envs": 4},
        },
        sections,
    )


@pytest.mark.parametrize(
    ("estimator", "function"), [("ppo", "pair"), ("q_learning", "network"), ("trpo", "pair")]
)
def test_an_own_network_learns_from_arrays_by_name(
    new_training, register, framework, estimator, function
):
    training = new_training(register(Seeking), **settings_of(framework, function, estimator))
    training.run(lambda metrics: None)
    assert training.policy.backend == framework
    assert training.evaluate().min() == 5.0


def test_an_own_network_takes_a_box(new_training, register, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "own_torch.py").write_text(TORCH)
    monkeypatch.chdir(tmp_path)
    training = new_training(register(Plain), **settings_of("torch", "pair", "ppo"))
    training.run(lambda metrics: None)
    assert training.evaluate().min() == 5.0


@pytest.mark.parametrize("estimator", ["ppo", "q_learning"])
def test_a_run_with_an_own_network_goes_on_and_its_policy_is_loaded(
    pgcore, register, framework, estimator, tmp_path
):
    name, function = register(Seeking), "pair" if estimator == "ppo" else "network"
    arguments = [name, "--estimator", estimator, "--network", f"own_{framework}:{function}"]
    arguments += ["--backend", framework, "--envs", "4", "--evaluation-episodes", "2"]
    arguments += ["--set", "run.schedule_steps=1024"]
    small = ["--set", "rollout.length=16", "--set", "replay.start=64", "--set", "replay.batch=32"]
    small = small if estimator == "q_learning" else small[:2]
    status, _, err = pgcore("train", *arguments, *small, "--steps", "512", "--out", "first")
    assert (status, err) == (0, "")
    status, _, err = pgcore("train", "--resume", "first", "--steps", "1024")
    assert (status, err) == (0, "")
    checkpoint = load_checkpoint("first")
    assert checkpoint.config["network"]["factory"] == f"own_{framework}:{function}"
    assert checkpoint.history.steps == 1024
    # The saved policy is that of the checkpoint, for a network of the same shape.
    settings = settings_of(framework, function, estimator, environment={"name": name})
    training = Training(RunConfig.of(settings))
    loaded = pg.load("first/policy.safetensors", into=training.policy)
    for parameter, value in loaded.parameters().items():
        np.testing.assert_array_equal(value, checkpoint.policy[parameter])
    training.close()


@pytest.fixture
def own_torch(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "own_torch.py").write_text(TORCH)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own_torch")
@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"network": {"factory": "own_torch"}}, SpecError, "write it as in --network my_module:"),
        ({"network": {"factory": "own_torch:absent"}}, SpecError, "fails with AttributeError"),
        ({"network": {"factory": "own_torch:nothing"}}, SpecError, "of type int"),
        ({"network": {"factory": "own_torch:broken"}}, SpecError, "RuntimeError .no weights here."),
        (
            {"network": {"factory": "own_torch:misnamed"}},
            UnknownNameError,
            "did you mean 'network'",
        ),
        ({"network": {"factory": "own_torch:network"}}, SpecError, "a critic, which ppo needs"),
        ({"network": {"factory": "own_torch:wide"}}, SpecError, "set --dtype float64"),
        ({"run": {"device": "cpu"}}, SpecError, "make the network on that device"),
        ({"run": {"backend": "numpy"}}, SpecError, "expected a backend with modules of its own"),
        ({"network": {"type": "mlp"}}, SpecError, "expected neither type nor critic beside it"),
        ({"network": {"critic": "shared"}}, SpecError, "expected neither type nor critic"),
        ({"rollout": {"normalise_observations": True}}, SpecError, "expected vectors of numbers"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(new_training, register, sections, error, message):
    settings = merge(settings_of("torch", "pair", "ppo"), sections)
    with pytest.raises(error, match=message):
        new_training(register(Seeking), **settings)


def test_one_option_names_a_registered_network_or_a_function():
    assert read_network("linear") == {"type": "linear"}
    assert read_network("my_module:make") == {"factory": "my_module:make"}
    assert read_network(None) == {}


@pytest.mark.usefixtures("own_torch")
def test_a_target_is_another_network_than_the_one_that_learns(new_training, register):
    training = new_training(register(Seeking), **settings_of("torch", "network", "q_learning"))
    policy, target = training.policy, training.target.policy
    before = {name: value.copy() for name, value in target.parameters().items()}
    for name, value in policy.parameters().items():
        np.testing.assert_array_equal(value, before[name])
    policy.load({name: value + 1 for name, value in before.items()})
    for name, value in target.parameters().items():
        np.testing.assert_array_equal(value, before[name])


def test_the_function_of_the_documentation_trains(new_training, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    block = next(part for part in page.split("```") if "def make_network" in part)
    (tmp_path / "documented.py").write_text(block.removeprefix("python\n"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    training = new_training(
        "CartPole-v1",
        network={"factory": "documented:make_network"},
        run={"backend": "torch", "steps": 512},
        rollout={"length": 64},
    )
    assert training.run(lambda metrics: None) is Ending.STEPS
