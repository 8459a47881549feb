"""Estimators as strangers write them: every command takes them, and finds what is planted in them."""

from __future__ import annotations

import inspect
import json

import pytest
import strangers

from pgcore.registry.registry import forget_registry

NAMES = [cls.name for cls in strangers.ESTIMATORS]
ALONE = ("--processes", "1")


# What every stranger's module begins with.
IMPORTS = """
import dataclasses
from typing import ClassVar
import numpy as np
import pgcore as pg
from pgcore.returns import by_group, episode_rewards, normalise
from pgcore.xp.numpy import host
from strangers import near_the_policy, prompts
"""

# Closed forms that the authors could write, right but for SIGN.
COTANGENTS = {
    "s_dapo": """
    def cotangents(self, *, log_prob, old_log_prob, advantage):
        ratio = np.exp(log_prob - old_log_prob)
        limited = np.clip(ratio, 1 - self.low, 1 + self.high)
        active = ratio * advantage <= limited * advantage
        return {"log_prob": SIGN np.where(active, ratio * advantage, 0.0)}
""",
    "s_gspo": """
    def cotangents(self, *, log_prob, old_log_prob, advantage, episode):
        ratio = np.exp(host.episode_mean(log_prob - old_log_prob, episode))
        limited = np.clip(ratio, 1 - self.clip, 1 + self.clip)
        active = ratio * advantage <= limited * advantage
        whole = host.episode_mean(np.where(active, ratio * advantage, 0.0), episode)
        return {"log_prob": SIGN whole}
""",
    "s_all_actions": """
    def cotangents(self, *, log_probs, action_values, action_value, advantage, target):
        actor = SIGN np.exp(log_probs) * advantage
        error = action_value - target
        return {"log_probs": actor, "action_values": 0.02 * action_values, "action_value": error}
""",
    "s_distilled": """
    def cotangents(self, *, log_prob, reward, teacher_log_prob):
        return {"log_prob": SIGN (reward - 2 * self.weight * (log_prob - teacher_log_prob))}
""",
    "s_squares": """
    def cotangents(self, *, log_prob, value, advantage, target):
        error = 2 * self.coefficient * (value - target)
        return {"log_prob": SIGN advantage, "value": error}
""",
}

# By bug: what stands in the source, by estimator, and what the author wrote in its place.
CHANGES = {
    "reduction": {
        "s_dapo": ("return -xp.minimum(", "return -1.0 / len(advantage) * xp.minimum("),
        "s_gspo": ("return -xp.minimum(", "return -1.0 / len(advantage) * xp.minimum("),
        "s_all_actions": ("actor = -xp.sum(", "actor = -1.0 / len(target) * xp.sum("),
        "s_distilled": ("** 2 - log_prob * reward", "** 2 - log_prob * reward / len(reward)"),
        "s_squares": ("return -log_prob * advantage", "return -log_prob * advantage / len(value)"),
    },
    "surrogate": {
        "s_dapo": ("1.0 - self.low", "np.float32(0.8)"),
        "s_gspo": ("1.0 + self.clip", "np.float32(1.2)"),
        "s_all_actions": ("0.01 * spread", "np.float32(0.01) * spread"),
        "s_distilled": ("return self.weight * (", "return np.float32(0.5) * ("),
        "s_squares": ("self.coefficient * (", "np.float32(0.3) * ("),
    },
    "signals": {
        "s_dapo": (
            "episode_rewards(batch), batch)",
            "episode_rewards(batch), batch) * np.float32(0.9)",
        ),
        "s_gspo": ("+ 1e-6)", "+ np.float32(1e-6))"),
        "s_all_actions": ("+ self.gamma * following", "+ np.float32(0.9) * following"),
        "s_distilled": ("2.0 * reward,", "np.float32(2.0) * reward,"),
        "s_squares": ("+ self.gamma * following", "+ np.float32(0.95) * following"),
    },
    "claim": dict.fromkeys(NAMES, ("unbiased=False", "unbiased=True")),
}


def install(site, *classes):
    """Install a distribution with estimators of `strangers`."""
    provide(site, [(cls.name, f"strangers:{cls.__qualname__}") for cls in classes])


def plant(site, cls, bug):
    """Install a stranger's distribution with a bug in its source."""
    source = inspect.getsource(cls)
    if bug in CHANGES:
        right, wrong = CHANGES[bug][cls.name]
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    else:
        source += COTANGENTS[cls.name].replace("SIGN", {"sign": "+", "cotangents": "-"}[bug])
    site.module("planted", IMPORTS + source)
    provide(site, [(cls.name, f"planted:{cls.__qualname__}")])


def provide(site, rows):
    """Install a distribution with a provider for each name and target."""
    site.plugin(
        "strange_plugin",
        "@hookimpl\ndef pgcore_estimators():\n"
        f"    return [Provider(name, target, '') for name, target in {rows!r}]",
    )
    site.distribution("strange-dist", {"strange": "strange_plugin"})
    forget_registry()


def checked(pgcore, name, *further):
    """Return the exit status and the outcomes of a quick check that do not agree."""
    words = ("--backends", "numpy,torch", "--estimators", name, "--quick", "--json", *further)
    status, out, err = pgcore("check", *words, *ALONE)
    assert out, err
    rows = json.loads(out)["outcomes"]
    assert {row["estimator"] for row in rows} >= {name}
    assert {row["backend"] for row in rows} >= {"numpy", "torch"}
    return status, [row for row in rows if not row["agrees"]]


@pytest.fixture
def installed(site):
    """Install all of them."""
    install(site, *strangers.ESTIMATORS)


@pytest.mark.parametrize("name", NAMES)
def test_check_agrees(pgcore, installed, name):
    assert checked(pgcore, name) == (0, [])


@pytest.mark.parametrize("name", NAMES)
def test_audit_confirms_the_claims(pgcore, installed, name):
    status, out, err = pgcore("audit", name, "--horizon", "2", "--states", "3", "--json")
    assert status == 0, out + err
    verdicts = json.loads(out)["audits"][0]["verdicts"]
    assert {verdict["verdict"] for verdict in verdicts} <= {"confirmed", "open", "reported"}


@pytest.mark.parametrize("name", NAMES)
def test_derive_prints_the_closed_form(pgcore, installed, name):
    status, out, err = pgcore("derive", name)
    assert (status, err) == (0, "")
    assert "d surrogate / d " in out


@pytest.mark.parametrize("name", NAMES)
def test_train_runs(pgcore, installed, name, tmp_path):
    words = ["--estimator", name, "--steps", "3000", "--out", str(tmp_path / "run")]
    # A rollout has no teacher; the numbers of prompts are those of its episodes.
    words += ["--extras", "teacher=strangers:teacher"] * (name == "s_distilled")
    status, _, err = pgcore("train", "CartPole-v1", *words, "--set", "run.evaluation_episodes=0")
    assert status == 0, err
    assert (tmp_path / "run" / "metrics.jsonl").read_text()


CLASSES = pytest.mark.parametrize("cls", strangers.ESTIMATORS, ids=NAMES)
HEAD = ("--heads", "categorical")


@CLASSES
def test_cotangents_of_the_authors_own_agree(site, pgcore, cls):
    plant(site, cls, "cotangents")
    assert checked(pgcore, cls.name, *HEAD) == (0, [])
    assert pgcore("derive", cls.name)[0] == 0


@CLASSES
def test_a_wrong_sign_is_found_at_the_cotangents(site, pgcore, cls):
    plant(site, cls, "sign")
    status, rows = checked(pgcore, cls.name, *HEAD)
    assert status == 1
    # PyTorch differentiates the surrogate, which is right.
    assert {(row["backend"], row["stage"]) for row in rows} == {("numpy", "cotangents")}
    assert all(f"{cls.name}.cotangents[" in row["where"] for row in rows)
    status, _, err = pgcore("derive", cls.name)
    assert status == 1
    assert err.startswith(f"error: {cls.name}.cotangents[")


@CLASSES
def test_a_surrogate_that_divides_by_the_batch_is_found(site, pgcore, cls):
    plant(site, cls, "reduction")
    status, rows = checked(pgcore, cls.name, *HEAD)
    assert status == 1
    # On NumPy there is no closed form of a number of steps.
    on_numpy = {row["error"] for row in rows if row["backend"] == "numpy"}
    assert all("got len(" in error for error in on_numpy)
    assert {row["stage"] for row in rows if row["backend"] == "torch"} <= {
        "surrogate",
        "gradient",
        "function",
    }
    assert any(row["backend"] == "torch" for row in rows)


@CLASSES
def test_a_constant_of_single_precision_in_the_surrogate_is_found(site, pgcore, cls):
    plant(site, cls, "surrogate")
    status, rows = checked(pgcore, cls.name, *HEAD)
    assert status == 1
    assert all("constants that are Python's numbers, got float32" in row["error"] for row in rows)


@CLASSES
def test_a_constant_of_single_precision_in_the_signals_is_found(site, pgcore, cls):
    plant(site, cls, "signals")
    status, rows = checked(pgcore, cls.name, *HEAD)
    assert status == 1
    assert {row["stage"] for row in rows} == {"signals"}
    assert all(f"{cls.name}.signals, " in row["where"] for row in rows)
    assert all("/planted.py:" in row["where"] for row in rows)
    assert all(row["values"].startswith("expected float64, got float32 in ") for row in rows)


@CLASSES
def test_a_false_claim_is_refuted(site, pgcore, cls):
    plant(site, cls, "claim")
    status, out, _ = pgcore("audit", cls.name, "--horizon", "2", "--states", "3", "--json")
    assert status == 1
    verdicts = json.loads(out)["audits"][0]["verdicts"]
    refuted = [verdict["claim"] for verdict in verdicts if verdict["verdict"] == "refuted"]
    assert refuted == ["unbiased"]
