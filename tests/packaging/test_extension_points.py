"""Each extension point of CONTRIBUTING, taken by a third party's plugin: listed, then used.

Estimators, heads and their proofs are in tests/plugins/check/test_proofs.py, networks, activations and
schedules in tests/core/data/test_networks.py, metrics in tests/core/interfaces/test_metrics.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import pgcore as pg
from pgcore import hooks
from pgcore.errors import BatchError
from pgcore.registry.entry_points import KINDS
from pgcore.registry.registry import forget_registry
from pgcore_check.conformance import plan, run
from pgcore_check.proofs import proofs, variants

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", GUIDE, re.MULTILINE | re.DOTALL))
SPEC = pg.PolicySpec(pg.Table(4), pg.Categorical(3))

OPTIMIZER = """
    from dataclasses import dataclass
    import pgcore as pg
    from pgcore.validation.fields import Positive

    @dataclass(frozen=True)
    class SignDescent(pg.OptimizerSpec):
        "Steps of one size along the gradient's signs, on a running mean of the gradient."
        share: Positive = 0.25
        name = "mine"
        slots = ("mean",)

        def update(self, xp, parameter, gradient, slots, *scalars):
            (learning_rate,) = scalars
            mean = slots["mean"] + self.share * (gradient - slots["mean"])
            sign = xp.where(mean > 0, xp.full_like(mean, 1.0), -1.0)
            return parameter - learning_rate * sign, {"mean": mean}
"""
OPTIMIZER_PROOF = """
    from pgcore_check.proof import Proof
    from mine_target import SignDescent

    PROOF = Proof(SignDescent, {"sign descent": {}, "sign descent at one": {"share": 1.0}})
"""
PARTS = """
    from dataclasses import dataclass
    import pgcore as pg
    from pgcore.parts import Correction, GainMask, Objective
    from pgcore.parts.presets import Preset, preset_class
    from pgcore.validation.fields import Positive

    def rollout(batch, shape, rng):
        return batch.log_probs + 0.3 * rng.standard_normal(shape)

    @dataclass(frozen=True)
    class Half(Objective):
        "A share of the ratio times A."
        share: Positive = 0.5
        name = "mine"

        def gain(self, xp, log_ratio, log_prob, advantage):
            return self.share * advantage * xp.exp(log_ratio)

    @dataclass(frozen=True)
    class Importance(Correction):
        "The ratio of the old policy to the rollout's, at most a bound."
        bound: Positive = 2.0
        name = "mine"
        extras = {"rollout": pg.Extra("[B] float", "log-probabilities, nats", rollout)}

        def weights(self, batch, evaluate, advantage):
            import numpy as np
            return np.minimum(np.exp(batch.log_probs - batch.extras["rollout"]), self.bound)

    @dataclass(frozen=True)
    class Positives(GainMask):
        "Steps of positive reward."
        name = "mine"

        def weights(self, batch, evaluate, advantage):
            return (batch.rewards > 0).astype(float)

    Mine = preset_class(
        Preset(
            "mine",
            "shares of ratios",
            {"advantage": "returns", "objective": Half(0.25), "correction": "mine", "mask": "mine"},
            {"share": "objective.share", "bound": "correction.bound", "gamma": "advantage.gamma"},
        ),
        "Mine",
        __name__,
    )
"""
TRUST_REGION = """
    from dataclasses import dataclass
    from typing import ClassVar
    from pgcore.validation.fields import Positive
    from pgcore_optimizers.trust_region import TrustRegionSpec

    @dataclass(frozen=True, kw_only=True)
    class Halving(TrustRegionSpec):
        "Halves a step along the gradient until the KL is within a bound."
        max_kl: Positive = 0.01
        name: ClassVar[str] = "mine"

        def move(self, region, steps_taken):
            for backtracks in range(20):
                size = 0.5**backtracks
                kl, fall = region.move_by(-size * region.unit)
                if kl <= self.max_kl and fall > 0.0:
                    return region.report(
                        -size * region.unit,
                        expected=size * region.norm,
                        step_size=size / region.norm,
                        backtracks=backtracks,
                    )
            return region.refused(backtracks=20)
"""
BACKEND = """
    from pgcore_numpy.backend import NumpyBackend

    class Mine(NumpyBackend):
        name = "mine"
"""
DERIVER = """
    from dataclasses import dataclass
    import pgcore as pg

    @dataclass(frozen=True)
    class Weighed(pg.Estimator):
        "Rewards times scores; no closed form of its own."
        name = "mine"

        @property
        def claims(self):
            return pg.Claims(
                unbiased=False, off_policy="none", needs_critic=False, discrete_only=False
            )

        def signals(self, batch, evaluate):
            return {"weight": batch.rewards}

        def surrogate(self, xp, *, log_prob, weight):
            return -log_prob * weight

    class Written(Weighed):
        "The same with its closed form."
        cotangents = lambda self, *, log_prob, weight: {"log_prob": -weight}

    class ByHand:
        "A deriver's result."

        def __init__(self, estimator):
            self.estimator = estimator

        def cotangents(self, **arrays):
            return {"log_prob": -arrays["weight"]}

    def derive(estimator):
        DERIVED.append(estimator.name)
        return ByHand(estimator)

    DERIVED = []
"""


@pytest.fixture
def batch(make_batch):
    """Two terminated episodes in the four states of `SPEC`'s table."""
    return make_batch(
        observations=np.array([0, 1, 2, 3, 0, 2]),
        final_observations=None,
        terminated=[True, True],
        action_mask=None,
    )


@pytest.fixture
def install(site):
    """Return a function that installs a distribution of one plugin, which provides some targets."""

    def installed(kinds, **modules):
        for name, source in modules.items():
            site.module(name, source)
        lines = []
        for kind, target in kinds.items():
            provider = f"Provider('mine', {target!r}, 'a third party')"
            lines.append(f"@hookimpl\ndef pgcore_{kind}():\n    return [{provider}]\n")
        site.plugin("mine_plugin", "\n".join(lines))
        site.distribution("mine-dist", {"mine": "mine_plugin"})
        forget_registry()

    return installed


def listed(pgcore, kind):
    """Return the distribution of each name that `pgcore list` shows of a kind."""
    _, printed, _ = pgcore("list", kind, "--json")
    return {row["name"]: row["distribution"] for row in json.loads(printed)[kind]}


def gradient_on(policy, batch, estimator="reinforce"):
    return pg.gradient(policy, pg.estimator(estimator), batch)


def test_an_optimizer_steps_by_its_formula_and_its_proof_is_tried(install, batch, pgcore):
    install(
        {"optimizers": "mine_target:SignDescent", "proofs": "mine_proof:PROOF"},
        mine_target=OPTIMIZER,
        mine_proof=OPTIMIZER_PROOF,
    )
    assert listed(pgcore, "optimizers")["mine"] == "mine-dist"

    policy = pg.policy(SPEC, dtype="float64")
    optimizer = pg.optimizer("mine", learning_rate=0.5)
    before, gradient = policy.parameters()["network.table"], gradient_on(policy, batch)
    optimizer.step(policy, gradient)
    direction = gradient.numpy()["network.table"]
    expected = before - 0.5 * np.where(direction > 0, 1.0, -1.0)
    np.testing.assert_array_equal(policy.parameters()["network.table"], expected)
    assert optimizer.state(policy).keys() == {"mean/network.table"}

    assert proofs().problems == {}
    assert {"sign descent", "sign descent at one"} <= variants("optimizers").keys()
    tried = plan(
        backends=["numpy"], estimators=["reinforce"], heads=["categorical"], extent="quick"
    )
    assert "optimizer 'mine'" not in tried.unchecked
    outcomes = [outcome for part in run(tried) for outcome in part]
    assert any(outcome.label.endswith("-mine") for outcome in outcomes)
    assert all(outcome.agrees for outcome in outcomes)


def test_a_trust_region_moves_the_policy_within_its_bound(install, batch, pgcore):
    install({"optimizers": "mine_target:Halving"}, mine_target=TRUST_REGION)
    assert listed(pgcore, "optimizers")["mine"] == "mine-dist"
    policy = pg.policy(SPEC, dtype="float64")
    before = policy.parameters()["network.table"]
    report = pg.optimizer("mine").step(policy, gradient_on(policy, batch))
    assert report is not None
    assert report.accepted
    assert report.backtracks > 0
    assert 0.0 < report.kl <= 0.01
    moved = np.linalg.norm(policy.parameters()["network.table"] - before)
    assert moved == pytest.approx(report.length, rel=1e-12)


def test_parts_join_combinations_and_presets(install, batch, pgcore):
    hooks_and_targets = {
        "objectives": "mine_target:Half",
        "corrections": "mine_target:Importance",
        "masks": "mine_target:Positives",
        "estimators": "mine_target:Mine",
    }
    install(hooks_and_targets, mine_target=PARTS)
    for kind in ("objectives", "corrections", "masks"):
        assert listed(pgcore, kind)["mine"] == "mine-dist"
    options = {"advantage": "returns", "correction": "mine", "mask": "mine"}
    objective = {"name": "mine", "share": 0.25}
    parts = pg.estimator("policy_gradient", objective=objective, **options)
    preset = pg.estimator("mine", share=0.25)
    policy, old = pg.policy(SPEC, dtype="float64"), np.log(np.full(batch.num_steps, 0.4))
    batch = pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=batch.rewards,
        episode_lengths=batch.episode_lengths,
        terminated=[True] * batch.num_episodes,
        log_probs=old,
        extras={"rollout": old - 0.1},
    )
    by_class = pg.estimator("policy_gradient", objective="ratio", advantage="returns")
    signals = pg.signals(policy, by_class, batch)
    weight = 0.25 * np.exp(0.1) * (batch.rewards > 0)
    signals.values["advantage"] = signals.values["advantage"] * weight
    expected = pg.gradient(policy, by_class, batch, signals=signals).numpy()
    for estimator in (parts, preset):
        # Without a slope, the closed form is derived from the composition.
        actual = pg.gradient(policy, estimator, batch).numpy()
        np.testing.assert_allclose(actual["network.table"], expected["network.table"], rtol=1e-13)
        with pytest.raises(
            BatchError, match=r"extras\['rollout'\]: expected \[B\] floats, log-prob"
        ):
            pg.signals(policy, estimator, batch_without_extras(batch))
    work = plan(backends=["numpy"], estimators=["mine"], heads=["categorical"], extent="quick")
    assert all(outcome.agrees for part in run(work) for outcome in part)


def batch_without_extras(batch):
    return pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=batch.rewards,
        episode_lengths=batch.episode_lengths,
        terminated=batch.terminated,
        log_probs=batch.log_probs,
    )


def test_a_backend_makes_policies_with_the_same_gradient(install, batch, pgcore):
    install({"backends": "mine_target:Mine"}, mine_target=BACKEND)
    assert listed(pgcore, "backends")["mine"] == "mine-dist"
    policies = [pg.policy(SPEC, backend=name, dtype="float64") for name in ("mine", "numpy")]
    assert policies[0].backend == "mine"
    mine, reference = (gradient_on(policy, batch).numpy() for policy in policies)
    np.testing.assert_array_equal(mine["network.table"], reference["network.table"])
    assert pg.check(policies[0], pg.estimator("reinforce"), batch).agrees


def test_the_first_usable_deriver_gives_an_estimator_its_cotangents(install, batch, pgcore):
    install(
        {"derivers": "mine_target:derive", "estimators": "mine_target:Weighed"}, mine_target=DERIVER
    )
    assert listed(pgcore, "derivers") == {"mine": "mine-dist", "sympy": "pgcore"}
    import mine_target  # pyright: ignore[reportMissingImports]

    policy = pg.policy(SPEC, dtype="float64")
    derived = gradient_on(policy, batch, "mine").numpy()
    written = pg.gradient(policy, mine_target.Written(), batch).numpy()
    assert mine_target.DERIVED == ["mine"]
    np.testing.assert_array_equal(derived["network.table"], written["network.table"])


def test_a_command_runs_with_its_options(install, pgcore):
    source = """
        def shout(word: str, *, times: int = 1) -> None:
            "Print a word in capitals."
            print(word.upper() * times)
    """
    install({"commands": "mine_target:shout"}, mine_target=source)
    assert listed(pgcore, "commands")["mine"] == "mine-dist"
    assert pgcore("mine", "ha", "--times", "3")[:2] == (0, "HAHAHA\n")


def test_a_function_is_a_name_of_the_namespace(install, pgcore, monkeypatch):
    install({"functions": "mine_target:halved"}, mine_target="def halved(x):\n    return x / 2\n")
    assert listed(pgcore, "functions")["mine"] == "mine-dist"
    monkeypatch.delitem(vars(pg), "mine", raising=False)
    assert pg.mine(3.0) == 1.5  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.delitem(vars(pg), "mine")
    with pytest.raises(AttributeError, match="has no attribute 'yours'"):
        _ = pg.yours  # pyright: ignore[reportAttributeAccessIssue]


def test_a_logger_sees_each_update(site):
    site.plugin(
        "log_plugin",
        "SEEN = []\n@hookimpl\ndef pgcore_after_update(metrics):\n    SEEN.append(metrics)",
    )
    site.distribution("log-dist", {"log": "log_plugin"})
    site.registry().hook.pgcore_after_update(folder=None, metrics={"loss": 1.0})
    import log_plugin  # pyright: ignore[reportMissingImports]

    assert log_plugin.SEEN == [{"loss": 1.0}]


# The guide


def test_every_kind_has_a_section_of_the_guide():
    hook_names = {name for name in hooks.__all__ if name.startswith("pgcore_")}
    assert {f"pgcore_{kind}" for kind in KINDS} < hook_names
    assert {name for name in hook_names if f"`{name}`" not in GUIDE} == set()


@pytest.mark.parametrize(
    ("section", "files"),
    [("An estimator", 3), ("A part of estimators", 3), ("A head", 5), ("A command", 3)],
)
def test_a_built_in_touches_few_files(section, files):
    rows = re.findall(r"^\| (\d+) \|", SECTIONS[section], re.MULTILINE)
    assert rows == [str(number) for number in range(1, len(rows) + 1)]
    assert 0 < len(rows) <= files


def test_the_guide_names_files_that_exist():
    paths = re.findall(r"`((?:pgcore|backends|plugins|tests|docs)/[\w/]+(?:\.\w+)?/?)`", GUIDE)
    assert len(paths) > 30
    # NAME, FAMILY and the like stand for any file's name.
    patterns = {re.sub(r"[A-Z]{4,}", "*", path).rstrip("/") for path in paths}
    assert sorted(pattern for pattern in patterns if not list(ROOT.glob(pattern))) == []
