"""A subclass that changes a formula never gets NumPy's closed form of the class that it inherits from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.activations import Tanh
from pgcore.data.networks import Parameter, TorsoNetwork
from pgcore.errors import SpecError
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_numpy.activations import make_activation
from pgcore_numpy.closed_form import ClosedForm
from pgcore_numpy.discrete_kernels import CategoricalKernel
from pgcore_numpy.heads import make_kernel
from pgcore_numpy.networks import make_network

FORMULAS = ("distribution", "log_prob", "entropy", "kl", "fisher")


def changed(name):
    """Return a subclass of `Categorical` that writes one formula anew."""
    formula = getattr(pg.Categorical, name)
    newer = lambda self, *arguments: 2.0 * formula(self, *arguments)  # noqa: E731 - a method
    return type("Doubled", (pg.Categorical,), {"name": "doubled", name: newer})


@dataclass(frozen=True)
class Labelled(pg.Categorical):
    """Other data, another sampler, the same formulas."""

    temperature: float = 2.0
    label: str = "hot"

    def sample(self, distribution, rng):
        return np.zeros(len(distribution), np.intp)


def gradient_of(head):
    policy, batch = make_case(pg.PolicySpec(NETWORKS["linear"], head), "numpy", "float64", seed=0)
    return pg.gradient(policy, pg.estimator("reinforce"), batch).numpy()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_head_that_changes_a_formula_needs_a_kernel(name):
    head = changed(name)(3)
    expected = (
        rf"got Doubled.*changes Categorical\.{name}; register .*pgcore_numpy\.heads\.make_kernel"
    )
    with pytest.raises(SpecError, match=f"numpy backend: expected a head .* {expected}"):
        pg.policy(pg.PolicySpec(NETWORKS["linear"], head))
    with pytest.raises(SpecError, match=expected):
        make_kernel(head)


def test_a_head_that_changes_no_formula_keeps_the_kernel():
    expected = gradient_of(pg.Categorical(3, 2.0))
    for name, derivative in gradient_of(Labelled(3)).items():
        np.testing.assert_array_equal(derivative, expected[name])


def test_a_kernel_holds_for_its_class_and_for_subclasses_that_keep_the_formulas():
    doubled = changed("log_prob")
    near = type("Near", (doubled,), {"sample": None})
    far = type("Far", (near,), {"kl": lambda self, xp, reference, distribution: 0.0})
    kernel = type("DoubledKernel", (CategoricalKernel,), {})
    make_kernel.register(doubled, kernel)
    assert type(make_kernel(doubled(3))) is kernel
    assert type(make_kernel(near(3))) is kernel
    with pytest.raises(SpecError, match=r"got Far.*changes Doubled\.kl;"):
        make_kernel(far(3))
    make_kernel.register(far, kernel)
    assert type(make_kernel(far(3))) is kernel


@dataclass(frozen=True)
class Scaled(TorsoNetwork):
    """The observation times one number."""

    inputs: int = 4
    name: ClassVar[str] = "scaled"

    @property
    def observation_shape(self):
        return (self.inputs,)

    @property
    def width(self):
        return self.inputs

    def torso_parameters(self):
        return {"scale": Parameter((), value=1.0)}

    def torso(self, xp, parameters, observations):
        return observations * parameters["scale"]


class ScaledForm(ClosedForm):
    def __init__(self, network):
        self.network = network

    def forward(self, parameters, observations):
        self.observations = observations
        return observations * parameters["scale"]

    def backward(self, parameters, d, steps):
        return {"scale": np.sum(d * self.observations[steps])}

    def tangent(self, parameters, direction):
        return self.observations * direction["scale"]


make_network.register(Scaled, ScaledForm)


def test_a_network_that_changes_its_formula_needs_a_closed_form():
    squared = type(
        "Squared", (Scaled,), {"torso": lambda self, xp, p, x: x * p["scale"] * p["scale"]}
    )
    output = type("Output", (Scaled,), {"forward": lambda self, xp, p, x: self.torso(xp, p, x)})
    for network, name in ((squared(), "torso"), (output(), "forward")):
        expected = rf"network .* changes Scaled\.{name}; .*pgcore_numpy\.networks\.make_network"
        with pytest.raises(SpecError, match=expected):
            pg.policy(pg.PolicySpec(network, pg.Categorical(3)))
    same = type("Same", (Scaled,), {"inputs": 5})
    assert isinstance(make_network(same()), ScaledForm)


def test_a_form_of_an_abstract_class_holds_for_all_that_fill_it_in():
    class Family(TorsoNetwork):
        """Leaves its torso to subclasses."""

    member = type("Member", (Family,), {"torso": lambda self, xp, p, x: 2.0 * x})
    member.__abstractmethods__ = frozenset()  # pyright: ignore[reportAttributeAccessIssue]
    make_network.register(Family, ScaledForm)
    assert isinstance(make_network(member()), ScaledForm)


# In a process of its own, where no network has been looked for.
REPLACED = """
import sys
from pgcore.data.convolution import Conv
from pgcore_numpy.networks import make_network
assert "pgcore_numpy.convolution" not in sys.modules
make_network.register(Conv, lambda network: "mine")
assert make_network(Conv((10, 10, 6))) == "mine"
"""


def test_a_form_that_is_registered_for_a_network_of_ours_counts():
    done = subprocess.run(
        [sys.executable, "-c", REPLACED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_activation_that_changes_its_value_needs_a_slope():
    halved = type("Halved", (Tanh,), {"value": lambda self, xp, x: 0.5 * xp.tanh(x)})
    with pytest.raises(SpecError, match=r"got Halved, which changes Tanh\.value; write `slope`"):
        make_activation(halved())
    own = type("Own", (halved,), {"slope": lambda self, xp, x, y: 0.5 - 2.0 * y * y})
    make_activation(own())
    make_activation(type("Renamed", (Tanh,), {"name": "renamed"})())
