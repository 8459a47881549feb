"""`pg.register`: what a notebook defines is used like what a distribution provides."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.activations import Activation
from pgcore.data.networks import Linear
from pgcore.errors import PluginError, UnknownNameError
from pgcore.parts import Objective
from pgcore.registry.registry import Registry, forget_registry, registry
from pgcore_check.proof import Proof
from pgcore_check.proofs import variants
from pgcore_numpy.backend import NumpyBackend
from pgcore_optimizers.first_order import SGD

pytestmark = pytest.mark.usefixtures("registrations")
SPEC = pg.PolicySpec(pg.Linear(2), pg.Categorical(2))


def make_estimator(scale=1.0, name: Any = "mine", qualname=None):
    """Return an estimator's class, as a notebook's cell defines it."""

    @dataclass(frozen=True)
    class Mine(pg.Estimator):
        """Weigh scores by rewards.

        Scaled.
        """

        gamma: float = 1.0

        @property
        def claims(self):
            return pg.Claims(
                unbiased=True, off_policy="none", needs_critic=False, discrete_only=False
            )

        def signals(self, batch, evaluate):
            return {"advantage": scale * batch.rewards}

        def surrogate(self, xp, *, log_prob, advantage):
            return -log_prob * advantage

    Mine.name = name
    Mine.__qualname__ = qualname or Mine.__qualname__
    return Mine


def make_batch():
    return pg.Batch(
        observations=np.eye(2),
        actions=[0, 1],
        rewards=[1.0, 2.0],
        episode_lengths=[2],
        terminated=[True],
    )


def row_of(kind, name):
    (row,) = [row for row in registry().providers(kind) if row.provider.name == name]
    return row


def test_a_registered_estimator_is_used_by_its_name_and_checked():
    cls = make_estimator()
    assert pg.register(cls) is cls
    estimator = pg.estimator("mine", gamma=0.5)
    assert type(estimator) is cls
    policy, batch = pg.policy(SPEC, dtype="float64"), make_batch()
    assert pg.gradient(policy, estimator, batch).loss != 0
    assert pg.check(policy, estimator, batch).agrees
    row = row_of("estimators", "mine")
    assert (row.distribution, row.version, row.status) == ("pg.register", "unpackaged", "usable")
    assert row.provider.summary == "Weigh scores by rewards."
    assert type(variants("estimators")["mine"]) is cls
    assert "mine" not in Registry([]).names("estimators"), "a registry of its own entry points"


def test_a_cell_that_runs_again_replaces_its_class():
    pg.register(make_estimator())
    first = pg.signals(pg.policy(SPEC), pg.estimator("mine"), make_batch())["advantage"]
    assert type(variants("estimators")["mine"]) is type(pg.estimator("mine"))
    pg.register(make_estimator(scale=3.0))
    second = pg.signals(pg.policy(SPEC), pg.estimator("mine"), make_batch())["advantage"]
    assert second.tolist() == (3.0 * first).tolist()
    assert type(variants("estimators")["mine"]) is type(pg.estimator("mine"))


@pytest.mark.parametrize("name", ["ppo", "mine"])
def test_a_name_that_something_else_has_is_refused(name):
    pg.register(make_estimator())
    with pytest.raises(
        PluginError, match=rf"estimator {name!r}: expected a name that nothing has, got that of .*:"
    ):
        pg.register(make_estimator(name=name, qualname="Other"))
    assert pg.estimator("ppo").name == "ppo"
    assert type(pg.estimator("mine")).__qualname__ != "Other"


def test_every_kind_is_taken_by_its_interface():
    @pg.register(summary="half of x")
    class Half(Activation):
        name = "half"

        def value(self, xp, x):
            return 0.5 * x

        def slope(self, xp, x, y):
            return xp.full_like(x, 0.5)

    @pg.register
    @dataclass(frozen=True)
    class Network(Linear):
        name = "mine"

    @pg.register
    @dataclass(frozen=True)
    class Head(pg.Categorical):
        name = "mine"

    @pg.register
    @dataclass(frozen=True)
    class Optimizer(SGD):
        name = "mine"

    @pg.register
    @dataclass(frozen=True)
    class Schedule(pg.ConstantSchedule):
        name = "mine"

    @pg.register(kind="metrics", name="weight", summary="sum of the weights")
    def summed(*, weights):
        return weights.sum()

    proof = pg.register(
        Proof(of=Optimizer, variants={"mine, fast": {"learning_rate": 2.0}}), name="it"
    )
    assert row_of("activations", "half").provider.summary == "half of x"
    assert row_of("metrics", "weight").provider.summary == "sum of the weights"
    assert registry().load("networks", "mine") is Network
    assert registry().load("schedules", "mine") is Schedule
    assert registry().load("proofs", "it") is proof
    assert variants("optimizers")["mine, fast"].learning_rate == 2.0
    spec = pg.PolicySpec(pg.MLP(2, (3,), "half"), Head(2))
    policy = pg.policy(spec)
    assert pg.PolicySpec.from_json(spec.to_json()) == spec
    gradient = pg.gradient(policy, pg.estimator("reinforce"), make_batch())
    pg.optimizer("mine", learning_rate=1.0).step(policy, gradient)
    assert gradient.metrics["weight"] == 2.0


def test_a_backend_that_is_registered_again_is_made_again():
    def backend():
        @pg.register
        class Mine(NumpyBackend):
            name = "mine"

        return Mine

    first = backend()
    assert type(pg.backend("mine")) is first
    assert pg.backend("mine") is pg.backend("mine")
    second = backend()
    assert type(pg.backend("mine")) is second
    assert pg.policy(SPEC, backend="mine").backend


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (3, {}, "int: expected a subclass of an interface such as pgcore.Estimator, or a function"),
        (dict, {}, "dict: expected a subclass of an interface such as"),
        (len, {}, "len: expected a subclass of an interface such as"),
        (pg, {}, "expected a subclass of an interface such as"),
        (SGD(learning_rate=1.0), {}, "SGD: expected a subclass of an interface such as"),
        (SGD, {"kind": "heads"}, "SGD: expected a subclass of an interface"),
        (3, {"kind": "metrics"}, "or a function and its kind, got an object and kind='metrics'"),
        (Proof, {}, "Proof: expected a subclass of an interface such as"),
        (
            pg.Head,
            {},
            "head Head: expected a whole class, got none of check_actions, distribution, ",
        ),
        (Proof(of=SGD), {}, "proof Proof: expected a name, got None"),
        (lambda *, weights: 0, {"kind": "metrics", "name": ""}, "expected a name, got ''"),
        (make_estimator(name=None), {}, "expected a name, got None; write name = 'mine'"),
        (make_estimator(), {"name": "yours"}, "expected the name of the class, got 'yours'"),
    ],
)
def test_an_object_that_cannot_be_registered_is_refused(target, options, message, registrations):
    with pytest.raises(PluginError, match=re.escape(message)):
        pg.register(target, **options)
    assert not registrations


def test_a_class_that_is_no_frozen_dataclass_is_refused(registrations):
    class Bare(pg.Estimator):
        name = "bare"
        claims: Any = None
        signals: Any = None

        def surrogate(self, xp, *, log_prob):
            return -log_prob

    @pg.register
    @dataclass(frozen=True)
    class Frozen(Bare):
        name = "frozen"

    class Wider(Frozen):
        name = "wider"
        # Without the decorator no option, but ignored.
        clip: float = 0.2

    with pytest.raises(PluginError, match=r"Wider: expected a frozen dataclass, .* directly above"):
        pg.register(Wider)
    with pytest.raises(PluginError, match=r"Bare: expected a frozen dataclass, .* directly above"):
        pg.register(Bare)
    assert [*registrations] == [("estimators", "frozen")]


def test_an_unknown_kind_is_refused():
    with pytest.raises(UnknownNameError, match=r"kind: .*did you mean 'metrics'"):
        pg.register(len, kind="metric")


def test_a_registered_object_can_be_disabled(monkeypatch):
    pg.register(make_estimator())
    monkeypatch.setenv("PGCORE_DISABLE", "pg.register:mine")
    forget_registry()
    with pytest.raises(PluginError, match="PGCORE_DISABLE"):
        pg.estimator("mine")


def test_a_name_that_only_a_disabled_provider_has_is_free(site, monkeypatch):
    site.plugin(
        "mine_plugin",
        """
        @hookimpl
        def pgcore_estimators():
            return [Provider("mine", "pgcore_estimators.preset_classes:PPO", "a stranger")]
        """,
    )
    site.distribution("mine-dist", {"mine": "mine_plugin"})
    forget_registry()
    with pytest.raises(PluginError, match="expected a name that nothing has"):
        pg.register(make_estimator())
    monkeypatch.setenv("PGCORE_DISABLE", "mine-dist:mine ppo")
    forget_registry()
    cls = pg.register(make_estimator())
    assert type(pg.estimator("mine")) is cls
    # A built-in's name stays its own: others have their distribution's in front.
    second = pg.register(make_estimator(name="ppo", qualname="Second"))
    assert type(pg.estimator("pg.register:ppo")) is second
    assert type(variants("estimators")["pg.register:ppo"]) is second


def test_parts_and_reductions_are_registered_too(registrations):
    @pg.register
    @dataclass(frozen=True)
    class Doubled(Objective):
        """Twice the score."""

        name: ClassVar[str] = "doubled"

        def gain(self, xp, log_ratio, log_prob, advantage, **further):
            return 2.0 * log_prob * advantage

    @pg.register
    @dataclass(frozen=True)
    class Halves(pg.Reduction):
        """Half of each term."""

        name: ClassVar[str] = "halves"

        def weights(self, batch, totals=None):
            return np.full(batch.num_steps, 0.5)

    made: Any = pg.estimator("policy_gradient", objective="doubled", reduction="halves")
    assert (made.objective, made.reduction) == (Doubled(), Halves())
