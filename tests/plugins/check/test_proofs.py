"""A stranger's estimator and head, with proofs, are tried like the built-in ones; what is broken is one row."""

from __future__ import annotations

import itertools

import pytest

import pgcore as pg
from pgcore.errors import PluginError
from pgcore.registry.registry import forget_registry, load_class, registry
from pgcore_check.conformance import plan, run, selected_variants, with_settings
from pgcore_check.outcomes import reason
from pgcore_check.planted import stage_of
from pgcore_check.proof import Bug, Proof
from pgcore_check.proofs import proofs, reference_of, untried_parts, variants
from pgcore_check.testing.selection import selected
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.preset_classes import PPO
from pgcore_exact.command import subjects, unbuilt
from pgcore_numpy.discrete_kernels import CategoricalKernel
from pgcore_numpy.heads import make_kernel

# The three files of an estimator: its module, the plugin's lines, its proof.
ESTIMATOR = """
    from dataclasses import dataclass
    import pgcore as pg

    @dataclass(frozen=True)
    class Centred(pg.Estimator):
        "Rewards less a constant."
        constant: float = 0.0
        name = "centred"

        @property
        def claims(self):
            return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

        def signals(self, batch, evaluate):
            return {"weight": batch.rewards - self.constant}

        def surrogate(self, xp, *, log_prob, weight):
            return -log_prob * weight

        def cotangents(self, *, log_prob, weight):
            return {"log_prob": -weight}
"""
ESTIMATOR_PROOF = """
    from centred import Centred
    from pgcore_check.reference.estimator_form import EstimatorForm
    from pgcore_check.proof import Proof

    class CentredForm(EstimatorForm):
        def signals(self, batch, evaluate, lift):
            return {"weight": lift(batch.rewards) - self.fields.constant}

        def policy(self, named):
            return -(named["log_prob"] * named["weight"]), -named["weight"]

    PROOF = Proof(Centred, {"centred": {}, "centred at half": {"constant": 0.5}}, CentredForm)
"""
# The four files of a head: its module, the plugin's lines, its NumPy kernel, its proof.
HEAD = """
    import math
    from dataclasses import dataclass
    import numpy as np
    from pgcore.heads import Head

    HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

    @dataclass(frozen=True)
    class Unit(Head):
        "Normals of standard deviation 1."
        n: int
        name = "unit"
        discrete = False

        @property
        def outputs(self):
            return self.n

        @property
        def width(self):
            return 2 * self.n

        @property
        def quantities(self):
            return frozenset({"log_prob"})

        def distribution(self, xp, outputs, parameters, mask):
            return xp.concatenate((outputs, xp.full_like(outputs, 0.0)), 1)

        def log_prob(self, xp, distribution, actions):
            z = actions - distribution[:, : self.n]
            return -xp.sum(0.5 * z * z, 1) - self.n * HALF_LOG_2PI

        def entropy(self, xp, distribution): ...
        def kl(self, xp, reference, distribution): ...
        def sample(self, distribution, rng):
            return rng.normal(distribution[:, : self.n])
        def mode(self, distribution):
            return distribution[:, : self.n]

        def check_actions(self, actions, mask): ...
"""
KERNEL = """
    import numpy as np
    from pgcore_numpy.heads import make_kernel
    from pgcore_numpy.kernel import Kernel
    from unit import HALF_LOG_2PI, Unit

    class UnitKernel(Kernel):
        def __init__(self, head):
            self.n = head.n

        def forward(self, outputs, parameters, mask):
            self.mean = outputs

        def quantities(self, names, actions, reference):
            self.z = actions.T.astype(self.mean.dtype) - self.mean
            return {"log_prob": -np.add.reduce(0.5 * self.z * self.z) - self.n * HALF_LOG_2PI}

        def backward(self, cotangents):
            return SLOPE * cotangents["log_prob"] * self.z

        def fisher(self, tangent, weights, direction):
            return weights * tangent

        def collect(self, gradient, steps): ...

    make_kernel.register(Unit, UnitKernel)
"""
HEAD_PROOF = """
    import numpy as np
    from pgcore_check.reference.head_form import HeadForm
    from pgcore_check.proof import Proof
    from unit import HALF_LOG_2PI, Unit

    class UnitForm(HeadForm):
        def __init__(self, head, outputs, parameters, actions):
            self.own, self.n, self.z = {}, head.n, actions - outputs

        def log_prob(self):
            return -(self.z * self.z / 2).sum(axis=1) - self.n * HALF_LOG_2PI

        def backward(self, cotangents):
            return self.z * cotangents["log_prob"].reshape(-1, 1)

        def fisher(self, tangent, direction, weights):
            return tangent * weights.reshape(-1, 1)

        def entropy(self): ...
        def kl(self, reference): ...
        def reverse_kl(self, reference): ...

    PROOF = Proof(Unit, {"two units": {"n": 2}}, UnitForm)
"""
# An objective, an advantage and a penalty, each in one file with its proof or without.
PARTS = """
    from dataclasses import dataclass
    import numpy as np
    from pgcore.parts import Advantage, Objective, Penalty
    from pgcore.validation.fields import NonNegative, Positive
    from pgcore_check.proof import Proof

    @dataclass(frozen=True)
    class Power(Objective):
        "A power of the ratio, times A."
        power: Positive = 0.5
        name = "power"

        def gain(self, xp, log_ratio, log_prob, advantage):
            return advantage * xp.exp(self.power * log_ratio)

        def slope(self, log_ratio, log_prob, advantage):
            return SLOPE * self.power * advantage * np.exp(self.power * log_ratio), None

    @dataclass(frozen=True)
    class Raw(Advantage):
        "The rewards, without a target for a critic."
        name = "raw"

        def estimate(self, batch, rewards, evaluate):
            return {"advantage": rewards}

    @dataclass(frozen=True)
    class Square(Penalty):
        "The squared log-probability."
        coefficient: NonNegative = COEFFICIENT
        name = "square"
        reads = ("log_prob",)

        def term(self, xp, **inputs):
            return self.coefficient * inputs["log_prob"] ** 2

    PROOF = Proof(Power, {"half power": {}, "double power": {"power": 2.0}})
    SILENCE = Proof(Power)
"""


def add_parts(site, *, slope="1.0", coefficient="0.1", proof=None):
    """Install a distribution with the parts, and with a proof of the objective."""
    source = PARTS.replace("SLOPE", slope).replace("COEFFICIENT", coefficient)
    site.module("some_parts", source)
    rows = {"objectives": "power:Power", "advantages": "raw:Raw", "penalties": "square:Square"}
    rows |= {} if proof is None else {"proofs": f"power:{proof}"}
    hooks = []
    for kind, row in rows.items():
        name, _, attribute = row.partition(":")
        provider = f"Provider({name!r}, 'some_parts:{attribute}', 'a stranger')"
        hooks.append(f"@hookimpl\ndef pgcore_{kind}():\n    return [{provider}]\n")
    site.plugin("parts_plugin", "\n".join(hooks))
    site.distribution("parts-dist", {"parts": "parts_plugin"})
    forget_registry()


def add_estimator(site, proof="centred_proof:PROOF", kinds=("estimators", "proofs")):
    """Install a distribution with the estimator."""
    site.module("centred", ESTIMATOR)
    site.module("centred_proof", ESTIMATOR_PROOF)
    targets = {"estimators": "centred:Centred", "proofs": proof}
    hooks = [
        f"@hookimpl\ndef pgcore_{kind}():\n    return [Provider('centred', '{targets[kind]}', 'a stranger')]\n"
        for kind in kinds
    ]
    site.plugin("centred_plugin", "\n".join(hooks))
    site.distribution("centred-dist", {"centred": "centred_plugin"})
    forget_registry()


def add_head(site, slope):
    """Install a distribution with the head, whose kernel has some factor in its derivative."""
    site.module("unit", HEAD)
    site.module("unit_kernel", KERNEL.replace("SLOPE", slope))
    site.module("unit_proof", "    import unit_kernel" + HEAD_PROOF)
    hooks = [
        f"@hookimpl\ndef pgcore_{kind}():\n    return [Provider('unit', '{target}', 'a stranger')]\n"
        for kind, target in (("heads", "unit:Unit"), ("proofs", "unit_proof:PROOF"))
    ]
    site.plugin("unit_plugin", "\n".join(hooks))
    site.distribution("unit-dist", {"unit": "unit_plugin"})
    forget_registry()


def checked(estimators, heads):
    """Return the plan and the outcomes of a quick check on NumPy."""
    tried = plan(backends=["numpy"], estimators=estimators, heads=heads, extent="quick")
    return tried, list(itertools.chain(*run(tried)))


def test_a_strangers_estimator_with_a_proof_is_tried_at_each_of_its_variants(site):
    before = list(variants("estimators"))
    add_estimator(site)
    _, outcomes = checked(["centred"], ["categorical"])
    rows = [outcome for outcome in outcomes if outcome.estimator == "centred"]
    assert [outcome for outcome in rows if not outcome.agrees] == []
    assert {outcome.variant for outcome in rows} <= {"centred", "centred at half"}
    assert rows
    assert "centred, centred at half" in subjects() or "centred at half" in subjects()
    # Built-in variants keep their places, and so the numbers of their cases.
    assert [label for label in variants("estimators") if "centred" not in label] == before
    assert list(variants("estimators"))[: len(before) - 1] == before[:-1]


def test_a_bug_in_a_strangers_estimator_is_found_by_its_proof(site, monkeypatch):
    add_estimator(site)
    cls = type(variants("estimators")["centred"])
    monkeypatch.setattr(
        cls, "signals", lambda self, batch, evaluate: {"weight": 1.001 * batch.rewards}
    )
    _, outcomes = checked(["centred"], ["categorical"])
    assert {outcome.stage for outcome in outcomes if outcome.estimator == "centred"} == {"signals"}


@pytest.mark.parametrize(("slope", "agrees"), [("1.0", True), ("1.001", False)])
def test_a_strangers_head_with_a_proof_is_tried_with_its_kernel(site, slope, agrees):
    add_head(site, slope)
    _, outcomes = checked(["reinforce"], ["unit"])
    assert outcomes
    assert {outcome.head for outcome in outcomes} == {"unit"}
    assert all(outcome.agrees for outcome in outcomes) is agrees
    # The function takes log-probabilities, and knows no head.
    of_policies = [row for row in outcomes if row.fixture != "identity" and row.mode != "function"]
    assert {outcome.stage for outcome in of_policies} == {None if agrees else "kernel"}
    assert [row.label for row in outcomes if row.fixture == "identity"] == [
        "head two units: identities"
    ]


def test_an_estimator_without_a_proof_is_tried_as_it_is_by_default(site):
    add_estimator(site, kinds=("estimators",))
    estimator = variants("estimators")["centred"]
    assert reference_of(type(estimator)) is None
    assert "centred" in subjects()
    _, outcomes = checked(["centred"], ["categorical"])
    assert [reason(o) for o in outcomes if not o.agrees] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise RuntimeError('planted')", "RuntimeError: planted"),
        ("PROOF = 3", "broken:PROOF: expected Proof objects, got int; see pgcore_check.proof"),
        ("PROOF = [3]", "broken:PROOF: expected Proof objects, got int; see pgcore_check.proof"),
        (
            "from pgcore_check.proof import Proof\nPROOF = Proof(int)",
            "Proof.of: expected the class of an estimator, head, optimizer, reduction or part, got <class 'int'>; name a class",
        ),
        (
            "from pgcore_check.proof import Proof\nfrom centred import Centred\nPROOF = Proof(Centred, {'ppo': {}})",
            "broken:PROOF: expected a label of its own, got 'ppo' again; choose another",
        ),
        (
            "from pgcore_check.proof import Proof\nfrom centred import Centred\nPROOF = Proof(Centred, {'a': {'b': 1}})",
            "TypeError: Centred.__init__() got an unexpected keyword argument 'b'",
        ),
    ],
)
def test_a_broken_proof_is_one_row_and_stops_nothing(site, source, expected):
    site.module("broken", source)
    add_estimator(site, proof="broken:PROOF")
    tried, outcomes = checked(["centred"], ["categorical"])
    assert tried.unchecked["proof 'centred'"] == expected
    assert unbuilt() == {"proof 'centred'": expected}
    assert {outcome.variant for outcome in outcomes if outcome.estimator == "centred"} == {
        "centred"
    }


def test_a_broken_plugin_and_an_estimator_that_cannot_be_built_are_rows_too(site):
    site.plugin("bad_plugin", "raise RuntimeError('planted')")
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    site.module(
        "needy",
        ESTIMATOR.replace("Centred", "Needy").replace("constant: float = 0.0", "constant: float"),
    )
    site.module("absent", "raise OSError('no such library')")
    site.plugin(
        "needy_plugin",
        """
        @hookimpl
        def pgcore_estimators():
            return [Provider(name, f"{name}:Needy", "a stranger") for name in ("needy", "absent")]
        """,
    )
    site.distribution("needy-dist", {"needy": "needy_plugin"})
    forget_registry()
    rows = unbuilt()
    assert rows.keys() == {"plugin 'bad'", "estimator 'needy'", "estimator 'absent'"}
    assert rows["plugin 'bad'"] == "RuntimeError: planted"
    assert "constant" in rows["estimator 'needy'"]
    assert rows["estimator 'absent'"] == "OSError: no such library"
    unchecked = plan(
        backends=["numpy"], estimators=None, heads=["categorical"], extent="quick"
    ).unchecked
    assert rows.keys() <= unchecked.keys()
    assert "ppo" in subjects()


@pytest.mark.parametrize("proven", [False, True])
def test_a_stranger_with_a_built_in_name_is_selected_by_its_prefixed_one(site, monkeypatch, proven):
    source = ESTIMATOR.replace('name = "centred"', 'name = "ppo"')
    site.module("centred", source)
    site.module("centred_proof", ESTIMATOR_PROOF)
    hooks = {"estimators": "'ppo', 'centred:Centred'", "proofs": "'mine', 'centred_proof:PROOF'"}
    site.plugin(
        "centred_plugin",
        "\n".join(
            f"@hookimpl\ndef pgcore_{kind}():\n    return [Provider({words}, 'a stranger')]\n"
            for kind, words in hooks.items()
            if proven or kind == "estimators"
        ),
    )
    site.distribution("centred-dist", {"centred": "centred_plugin"})
    forget_registry()
    labels = {"centred", "centred at half"} if proven else {"centred-dist:ppo"}
    assert selected_variants("estimators", ["centred-dist:ppo"]).keys() == labels
    assert selected("estimators", ["centred-dist:ppo"]).keys() == labels
    for choose in (selected_variants, selected):
        assert {type(item) for item in choose("estimators", ["ppo"]).values()} == {PPO}
    # Settings are in place of the variants of that name alone.
    tried = with_settings(variants("estimators"), {"centred-dist:ppo": {"constant": 0.5}})
    assert labels.isdisjoint(tried)
    assert PPO in map(type, tried.values())
    monkeypatch.setenv("PGCORE_DISABLE", "centred-dist:ppo")
    forget_registry()
    assert labels.isdisjoint(variants("estimators"))
    assert PPO in map(type, variants("estimators").values())
    monkeypatch.setenv("PGCORE_DISABLE", "ppo")
    forget_registry()
    assert labels <= variants("estimators").keys()
    assert PPO not in map(type, variants("estimators").values())


@pytest.mark.parametrize(
    ("proof", "labels"),
    [
        (None, ["objective power"]),
        ("PROOF", ["half power", "double power"]),
        # A proof without variants leaves the part to its points.
        ("SILENCE", []),
    ],
)
def test_a_strangers_parts_are_tried_in_an_estimator_that_takes_them(site, proof, labels):
    before = variants("estimators")
    add_parts(site, proof=proof)
    tried = variants("estimators")
    assert [*tried][: len(before)] == [*before]
    further = [*labels, "advantage raw", "penalty square"]
    assert {*tried} - {*before} == {f"policy_gradient, {label}" for label in further}
    work, outcomes = checked(["policy_gradient"], ["categorical"])
    assert [reason(outcome) for outcome in outcomes if not outcome.agrees] == []
    assert not [name for name in work.unchecked if "power" in name or "square" in name]
    # A quick check has each part of the surrogate at least once, in one of its variants.
    run_labels = {outcome.variant.removeprefix("policy_gradient, ") for outcome in outcomes}
    assert "penalty square" in run_labels
    assert run_labels.isdisjoint(labels) is (labels == [])


def test_a_bug_in_a_strangers_part_is_found_without_a_proof(site):
    add_parts(site, slope="1.001")
    _, outcomes = checked(["policy_gradient"], ["categorical"])
    found = {(outcome.variant, outcome.stage) for outcome in outcomes if not outcome.agrees}
    assert found == {("policy_gradient, objective power", "cotangents")}


def test_a_part_that_cannot_be_tried_is_one_row(site):
    add_parts(site, coefficient="0.0")
    rows = plan(
        backends=["numpy"], estimators=None, heads=["categorical"], extent="quick"
    ).unchecked
    assert rows["penalty 'square'"] == (
        "penalty 'square': expected a part that has an effect, got Square(coefficient=0.0); "
        "give defaults, or a Proof with variants by the hook pgcore_proofs"
    )
    # A run about estimators without parts says nothing of them.
    work, _ = checked(["expected"], ["categorical"])
    assert "penalty 'square'" not in work.unchecked


def test_references_are_of_a_class_and_not_of_a_name():
    newer = type("Newer", (PPO,), {"finalise": lambda self, signals, padding: signals})
    assert reference_of(type("Renamed", (PPO,), {"name": "other"})) is reference_of(PPO)
    assert reference_of(newer) is None
    assert reference_of(type("Newest", (newer,), {})) is None
    assert reference_of(pg.Estimator) is None
    named = type("PPO", (pg.Categorical,), {"entropy": lambda self, xp, distribution: 0.0})
    assert reference_of(named) is None
    assert reference_of(type("Sampling", (pg.Categorical,), {"sample": None})) is reference_of(
        pg.Categorical
    )


def test_every_built_in_estimator_head_and_reduction_has_a_proof_with_a_reference():
    assert proofs().problems == {}
    for kind in ("estimators", "heads", "reductions"):
        assert proofs().unproven(kind) == {}
        assert all(
            reference_of(load_class(kind, name, object)) is not None
            for name in registry().names(kind)
        )
    assert all(isinstance(proof, Proof) for proof in proofs().all)
    # Each part is in a variant, or has points of its own.
    assert proofs().parts == ({}, {})
    assert untried_parts() == {}


class DoubledKernel(CategoricalKernel):
    """A closed form of twice the derivative."""

    def backward(self, cotangents):
        return 2.0 * super().backward(cotangents)


class Doubled(pg.Categorical):
    """A head whose closed form on NumPy is wrong."""


make_kernel.register(Doubled, DoubledKernel)


class Backwards(Clip):
    """A slope of the other sign."""

    def slope(self, log_ratio, log_prob, advantage, **inputs):
        by_ratio, slope = super().slope(log_ratio, log_prob, -advantage, **inputs)
        return by_ratio, slope


@pytest.mark.parametrize(
    ("planted", "stage"),
    [
        (pg.estimator("reinforce", gamma=0.9), None),
        (Backwards(), "cotangents"),
        (Doubled(3), "kernel"),
    ],
    ids=["honest", "part", "head"],
)
def test_a_planted_bug_has_the_stage_that_finds_it(planted, stage):
    assert stage_of(Bug("planted", planted, "signals")) == stage


def test_a_planted_bug_that_nothing_fits_is_refused():
    with pytest.raises(PluginError, match=r"bug 'sum': expected an estimator, a head or a part"):
        stage_of(Bug("sum", pg.optimizer("sgd"), "1 step"))
