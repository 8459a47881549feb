"""A third party's network, activation and schedule: registered, saved, differentiated everywhere."""

import json
import sys
from typing import Any, cast

import numpy as np
import pytest

import pgcore as pg
from pgcore.api import optimizer
from pgcore.data.activations import activation
from pgcore.data.networks import MLP, Linear, Parameter, Table
from pgcore.data.spec import PolicySpec
from pgcore.errors import PluginError, SpecError, UnknownNameError
from pgcore.registry.registry import forget_registry
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.compare import RATE, row_of, stages
from pgcore_check.proofs import variants
from pgcore_check.reference import reference
from pgcore_check.stages.truth import Truth

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

PLUGIN = """
@hookimpl
def pgcore_networks():
    return [
        Provider("residual", "residual_impl:Residual", "two layers and a skip"),
        Provider("factored", "residual_impl:Factored", "a table of low rank"),
        Provider("no network", "residual_impl:Softsign", "a target of another kind"),
    ]

@hookimpl
def pgcore_activations():
    return [
        Provider("softsign", "residual_impl:Softsign", "x / (1 + |x|)"),
        Provider("swish", "residual_impl:Swish", "x sigmoid(x), whose slope its value does not tell"),
    ]

@hookimpl
def pgcore_schedules():
    return [Provider("warm-up", "residual_impl:WarmUp", "up to a rate, then constant")]
"""

IMPLEMENTATION = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pgcore.data.activations import Activation, activation, registered_activation
from pgcore.validation.fields import Count, NonNegative
from pgcore.data.networks import Network, Parameter, TorsoNetwork, affine, affine_parameters
from pgcore.interfaces.schedules import Schedule


@dataclass(frozen=True)
class Softsign(Activation):
    name: ClassVar[str] = "softsign"
    gain: ClassVar[float] = 1.0

    def value(self, xp, x):
        return x / (1.0 + xp.abs(x))

    def slope(self, xp, x, y):
        return (1.0 - xp.abs(y)) ** 2


@dataclass(frozen=True)
class Swish(Activation):
    name: ClassVar[str] = "swish"

    def value(self, xp, x):
        return x * xp.sigmoid(x)

    def slope(self, xp, x, y):
        share = xp.sigmoid(x)
        return share + y * (1.0 - share)


@dataclass(frozen=True)
class Residual(TorsoNetwork):
    """h = f(x W + b), then h + scale * f(h V + c)."""

    inputs: Count
    width: Count = 5
    activation: Annotated[str, registered_activation] = "softsign"
    shape: tuple[int, ...] = (1, 2)
    name: ClassVar[str] = "residual"

    @property
    def observation_shape(self):
        return (self.inputs,)

    def torso_parameters(self):
        return {
            **affine_parameters("first", self.inputs, self.width, 1.0),
            **affine_parameters("second", self.width, self.width, 1.0),
            "scale": Parameter((self.width,), value=0.5),
        }

    def torso(self, xp, parameters, observations):
        function = activation(self.activation)
        h = function.value(xp, affine(xp, parameters, "first", observations))
        return h + parameters["scale"] * function.value(xp, affine(xp, parameters, "second", h))


@dataclass(frozen=True)
class Factored(Network):
    """A row of a table, times a matrix."""

    states: Count
    rank: Count = 2
    name: ClassVar[str] = "factored"

    @property
    def observation_shape(self):
        return ()

    @property
    def num_states(self):
        return self.states

    def parameters(self, outputs, gain):
        return {"table": Parameter((self.states, self.rank), 1.0), "weight": Parameter((self.rank, outputs), gain)}

    def forward(self, xp, parameters, observations):
        return xp.matmul(xp.take_rows(parameters["table"], observations), parameters["weight"])


@dataclass(frozen=True)
class WarmUp(Schedule):
    initial: NonNegative
    steps: Count
    name: ClassVar[str] = "warm-up"

    def __call__(self, step):
        return self.initial * min((step + 1) / self.steps, 1.0)
'''

CLOSED_FORMS = """
import numpy as np

from pgcore.data.activations import activation
from pgcore_numpy.closed_form import ClosedForm
from pgcore_numpy.networks import make_network
from pgcore_numpy.xp import xp
from residual_impl import Factored, Residual


class ResidualForm(ClosedForm):
    def __init__(self, network):
        self.function = activation(network.activation)

    def forward(self, parameters, observations):
        self.x = observations.astype(parameters["scale"].dtype)
        self.a = self.x @ parameters["first.weight"] + parameters["first.bias"]
        self.h = self.function.value(xp, self.a)
        self.b = self.h @ parameters["second.weight"] + parameters["second.bias"]
        self.g = self.function.value(xp, self.b)
        return self.h + parameters["scale"] * self.g

    def backward(self, parameters, d, steps):
        h, g = self.h[steps], self.g[steps]
        d_b = d * parameters["scale"] * self.function.slope(xp, self.b[steps], g)
        d_h = d + d_b @ parameters["second.weight"].T
        d_a = d_h * self.function.slope(xp, self.a[steps], h)
        return {
            "first.weight": self.x[steps].T @ d_a,
            "first.bias": d_a.sum(axis=0),
            "second.weight": h.T @ d_b,
            "second.bias": d_b.sum(axis=0),
            "scale": (d * g).sum(axis=0),
        }

    def tangent(self, parameters, direction):
        a = self.x @ direction["first.weight"] + direction["first.bias"]
        h = a * self.function.slope(xp, self.a, self.h)
        b = self.h @ direction["second.weight"] + direction["second.bias"] + h @ parameters["second.weight"]
        g = b * self.function.slope(xp, self.b, self.g)
        return h + direction["scale"] * self.g + parameters["scale"] * g


class FactoredForm(ClosedForm):
    def forward(self, parameters, observations):
        self.states = observations.astype(np.intp)
        self.rows = parameters["table"][self.states]
        return self.rows @ parameters["weight"]

    def backward(self, parameters, d, steps):
        table = np.zeros_like(parameters["table"])
        np.add.at(table, self.states[steps], d @ parameters["weight"].T)
        return {"table": table, "weight": self.rows[steps].T @ d}

    def tangent(self, parameters, direction):
        return direction["table"][self.states] @ parameters["weight"] + self.rows @ direction["weight"]


@make_network.register
def _(network: Residual):
    return ResidualForm(network)


@make_network.register
def _(network: Factored):
    return FactoredForm()
"""

FRAMEWORKS = ["torch", "tensorflow", "jax"]


@pytest.fixture
def impl(site):
    """Install the third party's distribution and return the module of its classes."""
    site.module("residual_impl", IMPLEMENTATION)
    site.module("residual_numpy", CLOSED_FORMS)
    site.plugin("residual_plugin", PLUGIN)
    site.distribution("residual-dist", {"residual": "residual_plugin"})
    import residual_impl  # pyright: ignore[reportMissingImports]

    return residual_impl


@pytest.fixture
def forms(impl):
    """Register the closed forms as well; they are for classes of this test alone."""
    import residual_numpy  # pyright: ignore[reportMissingImports]

    assert residual_numpy
    return impl


def specs(impl):
    """Return specs with every way of a third party's network and activation through a backend."""
    residual, factored = impl.Residual(4), impl.Factored(5)
    return {
        "shared torso": PolicySpec(residual, HEADS["shared"], "shared"),
        "two networks": PolicySpec(impl.Residual(4, 3, "swish"), HEADS["categorical"], "separate"),
        "critic of actions": PolicySpec(residual, HEADS["categorical"], "shared", "action"),
        "states": PolicySpec(factored, HEADS["categorical"], "separate"),
        "twin critics": PolicySpec(residual, HEADS["categorical"], "separate", "twin"),
        "softsign": PolicySpec(MLP(4, (5, 3), "softsign"), HEADS["hot"], "separate"),
        "swish": PolicySpec(MLP(4, (5,), "swish"), HEADS["per-state"], "shared"),
    }


def test_a_spec_goes_to_json_and_back(impl):
    for spec in specs(impl).values():
        again = PolicySpec.from_json(spec.to_json())
        assert again == spec
        assert hash(again) == hash(spec)
    assert json.loads(specs(impl)["shared torso"].to_json())["network"]["name"] == "residual"


def test_parameters_are_declared_in_order_and_start_as_they_say(impl):
    spec = PolicySpec(impl.Residual(3, 2), pg.Categorical(4), "shared")
    assert list(spec.parameter_shapes.items()) == [
        ("network.first.weight", (3, 2)),
        ("network.first.bias", (2,)),
        ("network.second.weight", (2, 2)),
        ("network.second.bias", (2,)),
        ("network.scale", (2,)),
        ("network.output.weight", (2, 4)),
        ("network.output.bias", (4,)),
        ("critic.0.weight", (2, 1)),
        ("critic.0.bias", (1,)),
    ]
    initial = spec.initial_parameters(3)
    np.testing.assert_array_equal(initial["network.scale"], [0.5, 0.5])
    second = initial["network.second.weight"]
    np.testing.assert_allclose(second.T @ second, np.eye(2), atol=1e-14)
    soft = PolicySpec(MLP(4, (2,), "softsign"), pg.Categorical(2)).initial_parameters(0)[
        "network.0.weight"
    ]
    np.testing.assert_allclose(soft.T @ soft, np.eye(2), atol=1e-14)  # the gain is not sqrt(2)


def truth_of(spec, backend, number):
    """Return a policy and what it is held to."""
    labels = {"state": "gae", "action": "q-learning", "twin": "twin soft actor"}
    estimator = ESTIMATORS[labels[spec.critic_values]]
    policy, batch = make_case(spec, backend, "float64", seed=number)
    formula = optimizer("adam", learning_rate=RATE).spec
    return policy, Truth(spec, policy.parameters(), estimator, batch, formula, (1,))


def test_numpy_agrees_with_the_formula_in_every_stage(forms):
    for number, (name, spec) in enumerate(specs(forms).items()):
        policy, truth = truth_of(spec, "numpy", number)
        rows = list(stages(policy, truth, "numpy"))
        assert {"gradient", "Fisher product", "1 step"} <= {row.stage for row in rows}, name
        assert [(name, row) for row in rows if not row.agrees] == []


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_frameworks_differentiate_the_formula(forms, backend):
    pytest.importorskip(f"pgcore_{backend}")
    for number, name in enumerate(("shared torso", "states", "softsign")):
        policy, truth = truth_of(specs(forms)[name], backend, number)
        gradient = pg.gradient(policy, truth.estimator, truth.batch, signals=truth.shared_signals)
        row = row_of(backend, "gradient", gradient.numpy(), truth.gradient, truth.dtype)
        assert row.agrees, (name, row)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_scores_and_fisher_products_are_in_canonical_order(forms, backend):
    pytest.importorskip(f"pgcore_{backend}")
    policy, truth = truth_of(specs(forms)["shared torso"], backend, 3)
    expected = reference.episode_scores(truth.spec, policy.parameters(), truth.batch)
    np.testing.assert_allclose(
        policy.episode_scores(truth.batch), expected.astype(float), rtol=0, atol=1e-11
    )
    product = truth.split(policy.fisher_vector_product(truth.batch, truth.direction))
    # The entries are near 1, and rounding is far below 1e-11 on either backend.
    for name, value in truth.fisher.items():
        np.testing.assert_allclose(
            product[name], value.exact.astype(float), rtol=0, atol=1e-11, err_msg=name
        )


def test_a_saved_policy_is_read_on_another_backend(forms, tmp_path):
    pytest.importorskip("pgcore_torch")
    for name, spec in specs(forms).items():
        policy, _ = make_case(spec, "torch", "float32", seed=1)
        policy.save(tmp_path / "policy.safetensors")
        again = pg.load(tmp_path / "policy.safetensors", backend="numpy")
        assert again.spec == spec
        for key, value in policy.parameters().items():
            np.testing.assert_array_equal(again.parameters()[key], value, err_msg=f"{name} {key}")


def test_numpy_without_a_closed_form_says_what_to_register(impl):
    with pytest.raises(
        SpecError,
        match=r"numpy backend: expected a network with a closed form, got Residual.*pgcore_numpy\.networks\.make_network",
    ):
        pg.policy(specs(impl)["two networks"], backend="numpy")


def test_a_subclass_of_a_built_in_network_is_run_as_its_own_formula(site):
    """Its fields are an MLP's, its formula is not: no fast path may take it for one."""
    pytest.importorskip("pgcore_torch")

    class Doubled(MLP):
        def torso(self, xp, parameters, observations):
            return 2.0 * MLP.torso(self, xp, parameters, observations)

    spec, plain = (PolicySpec(kind(4, (3,)), pg.Categorical(2)) for kind in (Doubled, MLP))
    policy, one = (
        cast("Any", pg.policy)(each, backend="torch", dtype="float64", seed=2)
        for each in (spec, plain)
    )
    one.load(policy.parameters())
    observations = np.random.default_rng(0).standard_normal((6, 4))
    (outputs, _), (single, _) = policy.forward(observations), one.forward(observations)
    np.testing.assert_allclose(outputs, 2.0 * single, rtol=1e-12)
    with pytest.raises(SpecError, match="closed form"):
        pg.policy(spec, backend="numpy")


@pytest.mark.parametrize("wrong", ["slope", "backward"])
def test_a_wrong_closed_form_is_found(forms, monkeypatch, wrong):
    spec = specs(forms)["softsign" if wrong == "slope" else "shared torso"]
    if wrong == "slope":
        monkeypatch.setattr(forms.Softsign, "slope", lambda self, xp, x, y: 1.0 - xp.abs(y))
    else:
        form = sys.modules["residual_numpy"].ResidualForm
        right = form.backward
        monkeypatch.setattr(
            form,
            "backward",
            lambda *arguments: {k: v * 1.0000000001 for k, v in right(*arguments).items()},
        )
    policy, truth = truth_of(spec, "numpy", 3)
    truth.steps = ()
    failed = [row.stage for row in stages(policy, truth, "numpy") if not row.agrees]
    assert "gradient" in failed
    assert "quantities" not in failed


@pytest.mark.parametrize("name", NETWORKS)
def test_the_kits_formula_runs_agree_with_its_plain_forms(monkeypatch, name):
    """Two ways to one derivative: forward mode through the formula, and the written form."""
    spec = PolicySpec(
        NETWORKS[name], HEADS["categorical"], "shared" if NETWORKS[name].has_torso else "separate"
    )
    policy, batch = make_case(spec, "numpy", "float64", seed=4)
    truth = Truth(spec, policy.parameters(), ESTIMATORS["gae"], batch, optimizer("sgd").spec, ())

    def derivatives():
        parameters, vector = policy.parameters(), truth.direction
        gradient = reference.gradient(spec, parameters, truth.surrogate, batch)
        return [
            *gradient.values(),
            reference.fisher_vector_product(spec, parameters, batch, vector),
        ]

    plain = derivatives()
    monkeypatch.setattr(reference, "has_plain_form", lambda spec: False)
    for left, right in zip(derivatives(), plain, strict=True):
        np.testing.assert_allclose(
            left, right, rtol=0, atol=1e-16 * max(1.0, float(np.abs(right).max()))
        )


def test_what_is_registered_is_listed(impl, pgcore):
    _, printed, _ = pgcore("list", "networks", "activations", "schedules", "--json")
    names = {
        kind: {row["name"]: row["distribution"] for row in rows}
        for kind, rows in json.loads(printed).items()
    }
    assert names["networks"].keys() == {
        "table",
        "linear",
        "mlp",
        "conv",
        "residual",
        "factored",
        "no network",
    }
    assert names["activations"] == {
        "tanh": "pgcore",
        "relu": "pgcore",
        "sigmoid": "pgcore",
        "softsign": "residual-dist",
        "swish": "residual-dist",
    }
    assert names["schedules"].keys() == {"constant", "linear", "cosine", "warm-up"}


def test_a_target_of_another_kind_is_refused(impl):
    text = specs(impl)["states"].to_json().replace('"factored"', '"no network"')
    with pytest.raises(
        PluginError,
        match=r"network 'no network': expected a subclass of pgcore\.data\.networks\.Network",
    ):
        PolicySpec.from_json(text)


# Classes with the names of built-in ones: registered, and not.
NAMESAKES = """
from dataclasses import dataclass
import pgcore as pg

@dataclass(frozen=True)
class Network(pg.MLP):
    "Named `mlp`, as its parent."

@dataclass(frozen=True)
class Head(pg.Categorical):
    "Named `categorical`, as its parent."

@dataclass(frozen=True)
class Unregistered(pg.Categorical):
    "Named `categorical` too."
"""


def test_a_name_that_a_built_in_has_is_never_read_as_the_built_in(site):
    site.module("mine_target", NAMESAKES)
    site.plugin(
        "mine_plugin",
        "@hookimpl\ndef pgcore_networks():\n    return [Provider('mlp', 'mine_target:Network', '')]\n"
        "@hookimpl\ndef pgcore_heads():\n    return [Provider('categorical', 'mine_target:Head', '')]\n",
    )
    site.distribution("mine-dist", {"mine": "mine_plugin"})
    import mine_target  # pyright: ignore[reportMissingImports]

    spec = PolicySpec(mine_target.Network(3, (4,)), mine_target.Head(2))
    read = PolicySpec.from_json(spec.to_json())
    assert read == spec
    assert (type(read.network), type(read.head)) == (mine_target.Network, mine_target.Head)
    # A subclass that is not registered has its parent's name, and is refused.
    text = PolicySpec(pg.MLP(3, (4,)), mine_target.Unregistered(2)).to_json()
    with pytest.raises(
        UnknownNameError, match="head: expected a known name, got 'mine_target:Unreg"
    ):
        PolicySpec.from_json(text)


def test_a_name_that_is_gone_is_not_known(impl):
    text = specs(impl)["softsign"].to_json()
    forget_registry()
    for path in [path for path in sys.path if path.endswith("site")]:
        sys.path.remove(path)
    with pytest.raises(SpecError, match=r"MLP\.activation: expected one of .*got 'softsign'"):
        PolicySpec.from_json(text)
    with pytest.raises(UnknownNameError, match="activation: expected a known name, got 'softsign'"):
        activation("softsign")


def test_a_schedule_is_made_for_a_run(impl):
    opt = pg.optimizer("sgd", learning_rate=impl.WarmUp.over(initial=0.4, final=0.0, steps=4))
    assert [opt.spec.rate(step) for step in (0, 1, 3, 9)] == [0.1, 0.2, 0.4, 0.4]
    with pytest.raises(
        pg.PgcoreError, match=r"WarmUp: expected 'constant' for an estimator that collects whole"
    ):
        impl.WarmUp.over(initial=0.4, final=0.0, steps=None)
    with pytest.raises(
        pg.PgcoreError, match=r"WarmUp\.steps: expected an integer of at least 1, got 0"
    ):
        impl.WarmUp(0.1, 0)


@pytest.mark.parametrize("network", [Table(3), Linear(4), MLP(2, (5,), "relu")])
def test_networks_declare_parameters_that_their_formula_takes(network):
    declared = network.parameters(2, 0.01)
    assert all(isinstance(each, Parameter) for each in declared.values())
    from pgcore.xp.numpy import host

    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(each.shape) for name, each in declared.items()}
    shape = (6, *network.observation_shape)
    observed = (
        rng.standard_normal(shape)
        if network.num_states is None
        else rng.integers(0, network.num_states, shape)
    )
    assert network.forward(host, values, observed).shape == (6, 2)
