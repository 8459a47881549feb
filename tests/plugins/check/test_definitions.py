"""Estimators, heads and optimizers as their authors write them, with nothing for the kit: held to their own formulas."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import numpy as np
import pytest
from strangers import Laplace

import pgcore as pg
from pgcore.errors import OptimizerError
from pgcore.interfaces.optimizer import Optimizer
from pgcore.registry.registry import forget_registry, registry
from pgcore.returns import by_group, episode_rewards, normalise
from pgcore_check.bounds.running_error import bounded_in
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.cases.design import optimizers, product
from pgcore_check.conformance import plan, run
from pgcore_check.proofs import reference_of, variants
from pgcore_check.reference import reference
from pgcore_check.reference.definition import HeadDefinition, head_definition

HEADS = variants("heads")
USABLE = [e.provider.name for e in registry().providers("backends") if e.status == "usable"]


class Own(pg.Estimator):
    """The claims of an author who promises little."""

    needs_critic: ClassVar[bool] = False

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False,
            off_policy="limited",
            needs_critic=self.needs_critic,
            discrete_only="log_probs" in self.quantities,
        )


@dataclasses.dataclass(frozen=True)
class Dapo(Own):
    """Decoupled clips, with the minimum written out."""

    low: float = 0.2
    high: float = 0.28
    name: ClassVar[str] = "h1_dapo"

    def signals(self, batch, evaluate):
        advantage = by_group(normalise, episode_rewards(batch), batch)
        return {"advantage": advantage[batch.episode_of_step], "old_log_prob": batch.log_probs}

    def surrogate(self, xp, *, log_prob, old_log_prob, advantage):
        ratio = xp.exp(log_prob - old_log_prob)
        limited = xp.clip(ratio, 1.0 - self.low, 1.0 + self.high)
        return -xp.minimum(ratio * advantage, limited * advantage)


@dataclasses.dataclass(frozen=True)
class Sequences(Own):
    """The clip of an episode's mean ratio."""

    low: float = 0.2
    high: float = 0.28
    name: ClassVar[str] = "h1_sequences"

    def signals(self, batch, evaluate):
        return Dapo().signals(batch, evaluate)

    def surrogate(self, xp, *, log_prob, old_log_prob, advantage, episode):
        ratio = xp.exp(xp.episode_mean(log_prob - old_log_prob, episode))
        limited = xp.clip(ratio, 1.0 - self.low, 1.0 + self.high)
        return -xp.minimum(ratio * advantage, limited * advantage)


@dataclasses.dataclass(frozen=True)
class AllActions(Own):
    """The expected action value, with its critic."""

    name: ClassVar[str] = "h1_all_actions"
    needs_critic: ClassVar[bool] = True

    def signals(self, batch, evaluate):
        return {"target": batch.rewards}

    def surrogate(self, xp, *, log_probs, action_values, action_value, target):
        return -xp.sum(xp.exp(log_probs) * action_values, 1) + abs(action_value - target) ** 1.5


@dataclasses.dataclass(frozen=True)
class Squared(Own):
    """A power in Python's own notation."""

    name: ClassVar[str] = "h1_squared"
    needs_critic: ClassVar[bool] = True

    def signals(self, batch, evaluate):
        return {"reward": batch.rewards}

    def surrogate(self, xp, *, log_prob, value, reward):
        return -log_prob * reward + (value - reward) ** 2


@dataclasses.dataclass(frozen=True)
class Weight(Own):
    """A weight of each step, whose cotangents are written by hand, and right."""

    name: ClassVar[str] = "h1_weight"

    def signals(self, batch, evaluate):
        return {"weight": batch.rewards}

    def surrogate(self, xp, *, log_prob, weight):
        return -log_prob * weight

    def cotangents(self, *, log_prob, weight):
        return {"log_prob": -weight}


@dataclasses.dataclass(frozen=True)
class Sign(Weight):
    """The same with a wrong sign."""

    name: ClassVar[str] = "h1_sign"

    def cotangents(self, *, log_prob, weight):
        return {"log_prob": weight}


@dataclasses.dataclass(frozen=True)
class Single(Weight):
    """The same with a constant in single precision."""

    name: ClassVar[str] = "h1_single"

    def cotangents(self, *, log_prob, weight):
        return {"log_prob": -weight * np.float32(1.0000001)}


STRANGERS = (Dapo(), Sequences(), AllActions(), Squared(), Weight())


def compared(estimator, *, head="categorical", dtype="float64", backends=None):
    values = "action" if "action_values" in estimator.quantities else "state"
    spec = pg.PolicySpec(NETWORKS["relu"], HEADS[head], "separate", values)
    policy, batch = make_case(spec, "numpy", dtype, seed=11)
    return pg.compare(
        spec,
        estimator,
        batch,
        backends=backends or USABLE,
        parameters=policy.parameters(),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("estimator", STRANGERS, ids=lambda estimator: estimator.name)
def test_an_estimator_is_held_to_its_own_surrogate_on_every_backend(estimator, dtype):
    assert reference_of(type(estimator)) is None
    report = compared(estimator, dtype=dtype)
    assert report.agrees, str(report)
    stages = {row.stage for row in report.rows}
    assert {"cotangents", "kernel", "quantities", "surrogate", "gradient"} <= stages
    assert all(row.power > 0.5 for row in report.rows if row.stage == "gradient")


@pytest.mark.parametrize("backend", USABLE)
def test_a_wrong_sign_is_the_cotangents_and_nobody_elses(backend):
    report = compared(Sign(), backends=[backend])
    if backend != "numpy":
        assert report.agrees, str(report)
        return
    row = report.divergences["numpy"]
    assert row.stage == "cotangents"
    assert row.where.startswith("h1_sign.cotangents['log_prob'][")
    assert "each entry is -1 times the expected one" in row.values
    assert "h1_sign.cotangents['log_prob']" in str(report)


def test_a_constant_in_single_precision_is_found():
    assert compared(Single(), backends=["numpy"]).divergences["numpy"].stage == "cotangents"


@pytest.mark.parametrize("backend", [name for name in USABLE if name != "numpy"])
def test_a_term_that_depends_on_other_steps_is_found(backend):
    @dataclasses.dataclass(frozen=True)
    class Leaking(Weight):
        name = "h1_leaking"

        def surrogate(self, xp, *, log_prob, weight):
            return -log_prob * weight + 0.01 * xp.sum(log_prob, 0)

    assert compared(Leaking(), backends=[backend]).divergences[backend].stage == "surrogate"


def test_derive_names_a_wrong_cotangent(pgcore, site):
    site.module(
        "sign",
        f"""
        import sys
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        from test_definitions import Sign, Weight
        """,
    )
    site.plugin(
        "sign_plugin",
        "@hookimpl\ndef pgcore_estimators():\n"
        "    return [Provider('h1_sign', 'sign:Sign', ''), Provider('h1_weight', 'sign:Weight', '')]",
    )
    site.distribution("sign-dist", {"sign": "sign_plugin"})
    forget_registry()
    status, out, err = pgcore("derive", "h1_sign")
    assert status == 1
    assert "-weight" in out
    assert err.startswith("error: h1_sign.cotangents['log_prob']: expected the derivative of the")
    assert pgcore("derive", "h1_weight")[::2] == (0, "")


@pytest.mark.parametrize("lift", [reference.extended, bounded_in(np.dtype(np.float64))])
@pytest.mark.parametrize("label", HEADS)
def test_a_built_in_heads_definition_is_its_closed_form(label, lift):
    head = HEADS[label]
    spec = pg.PolicySpec(NETWORKS["linear"], head)
    policy, batch = make_case(spec, "numpy", "float64", seed=4)
    outputs = reference.outputs(spec, policy.parameters(), batch, lift)
    lifted = {name: lift(value) for name, value in policy.parameters().items()}
    definition = head_definition(head, outputs, lifted, batch, policy.dtype, lift)
    assert isinstance(definition, HeadDefinition)
    form = reference_of(type(head))
    assert form is not None
    closed = (
        form(head, outputs, batch.actions, batch.action_mask)
        if head.discrete
        else form(head, outputs, lifted, lift(batch.actions))
    )
    anchor = lift(batch.extras["reference"])
    cotangents = {}
    rng = np.random.default_rng(0)
    for name in sorted(head.quantities & {"log_prob", "entropy", "kl", "reverse_kl"}):
        arguments = (anchor,) if name.endswith("kl") else ()
        own, other = getattr(definition, name)(*arguments), getattr(closed, name)(*arguments)
        near(own, other)
        cotangents[name] = lift(rng.standard_normal(batch.num_steps))
    if not head.action_values:
        near(definition.backward(cotangents), closed.backward(cotangents))
    for name, value in closed.own.items():
        near(definition.own[name], value)
    tangent = lift(rng.standard_normal(outputs.shape))
    direction = {name: lift(rng.standard_normal(v.shape)) for name, v in lifted.items()}
    weights = lift(rng.random(batch.num_steps))
    near(definition.fisher(tangent, direction, weights), closed.fisher(tangent, direction, weights))


def near(left, right):
    """Check that two results are equal but for constants such as 1 / temperature, which are doubles."""
    values = [
        np.asarray(getattr(number, "value", number), np.longdouble) for number in (left, right)
    ]
    largest = float(np.abs(values[1]).max(initial=0))
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=8 * np.finfo(float).eps * largest)


# The last two read episodes' scores.
LABELS = ["ppo", "ppo kl", "reinforce", "optimal baseline", "component baseline"]


@pytest.mark.parametrize("backend", [name for name in USABLE if name != "numpy"])
@pytest.mark.parametrize("label", LABELS)
def test_a_head_without_a_reference_implementation_is_held_to_its_own_formulas(backend, label):
    spec = pg.PolicySpec(NETWORKS["linear"], Laplace(), "separate")
    policy, batch = make_case(spec, backend, "float64", seed=5)
    report = pg.check(policy, variants("estimators")[label], batch)
    assert report.agrees, str(report)
    assert "Fisher product" in {row.stage for row in report.rows}


def test_a_constant_of_single_precision_in_a_surrogate_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Rounded(Weight):
        name = "h1_rounded"

        def surrogate(self, xp, *, log_prob, weight):
            return -log_prob * weight * np.float32(0.3)

    with pytest.raises(TypeError, match=r"constants that are Python's numbers, got float32 0\.3"):
        compared(Rounded(), backends=["numpy"])


@dataclasses.dataclass(frozen=True)
class Forgetful(pg.OptimizerSpec):
    """One of two slots is not returned."""

    name: ClassVar[str] = "h1_forgetful"
    slots: ClassVar[tuple[str, ...]] = ("mean", "square")

    def update(self, xp, parameter, gradient, slots, *scalars):
        (learning_rate,) = scalars
        mean = 0.9 * slots["mean"] + 0.1 * gradient
        return parameter - learning_rate * mean, {"mean": mean}


@pytest.mark.parametrize("backend", USABLE)
def test_an_optimizer_that_forgets_a_slot_is_refused(backend):
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS["categorical"])
    policy, batch = make_case(spec, backend, "float32", seed=6)
    before = policy.parameters()
    gradient = pg.gradient(policy, pg.estimator("reinforce"), batch)
    words = r"h1_forgetful\.update: expected the new slots \['mean', 'square'\], got \['mean'\]"
    with pytest.raises(OptimizerError, match=words):
        Optimizer(Forgetful()).step(policy, gradient)
    for name, value in policy.parameters().items():
        np.testing.assert_array_equal(value, before[name])


OPTIMIZER = """
    from dataclasses import dataclass
    import pgcore as pg

    @dataclass(frozen=True)
    class Heavy(pg.OptimizerSpec):
        "A running mean of the gradient."
        name = "h1_heavy"
        slots = ("mean",)

        def update(self, xp, parameter, gradient, slots, *scalars):
            (learning_rate,) = scalars
            mean = 0.9 * slots["mean"] + gradient
            return parameter - learning_rate * mean, {"mean": mean}
"""


def test_a_registered_optimizer_is_walked_with_no_proof(site):
    before = [choice.case.seed for choice in product(variants("estimators"), HEADS)]
    site.module("heavy", OPTIMIZER)
    site.plugin(
        "heavy_plugin",
        "@hookimpl\ndef pgcore_optimizers():\n    return [Provider('h1_heavy', 'heavy:Heavy', '')]",
    )
    site.distribution("heavy-dist", {"heavy": "heavy_plugin"})
    forget_registry()
    assert optimizers()[-1] == "h1_heavy"
    tried = plan(backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="quick")
    walked = [part for part in tried.parts if part.choice and part.choice.optimizer == "h1_heavy"]
    assert walked
    outcomes = [*itertools.chain(*run(tried))]
    assert [outcome for outcome in outcomes if not outcome.agrees] == []
    # Cases of the built-in optimizers keep their seeds.
    seeds = [
        choice.case.seed
        for choice in product(variants("estimators"), HEADS)
        if choice.optimizer != "h1_heavy"
    ]
    assert seeds == before
