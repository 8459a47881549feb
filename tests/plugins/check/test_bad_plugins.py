"""One distribution in which everything is broken: each thing is a row or a line with its reason, and the others work on."""

from __future__ import annotations

import json

import pytest

from pgcore.registry.registry import forget_registry, registry

PLUGIN = """
    @hookimpl
    def pgcore_estimators():
        names = {
            "b_required": "bad:Required", "b_gone": "bad_gone:X", "b_exit": "bad_exit:X",
            "b_signals": "bad:Signals", "b_shape": "bad:Shape", "b_claims": "bad:NoClaims",
            "b_number": "bad:NUMBER",
        }
        return [Provider(name, target, "") for name, target in names.items()]

    @hookimpl
    def pgcore_heads():
        return [Provider("b_head", "bad:Unfinished", ""), Provider("b_head_gone", "bad_gone:X", "")]

    @hookimpl
    def pgcore_optimizers():
        return [Provider("b_optimizer_gone", "bad_gone:X", "")]

    @hookimpl
    def pgcore_metrics():
        return [Provider("b_metric", "bad:metric", ""), Provider("b_metric_gone", "bad_gone:X", "")]

    @hookimpl
    def pgcore_schedules():
        return [Provider("b_schedule", "bad_gone:X", "")]

    @hookimpl
    def pgcore_proofs():
        return [Provider("b_proof", "bad_gone:X", "")]

    @hookimpl
    def pgcore_after_update(metrics):
        raise RuntimeError("the disk is full")
"""
THINGS = """
    from dataclasses import dataclass
    import pgcore as pg

    NUMBER = 3

    def metric(*, log_prob):
        raise ValueError("no figure")

    class Base(pg.Estimator):
        @property
        def claims(self):
            return pg.Claims(
                unbiased=False, off_policy="none", needs_critic=False, discrete_only=False
            )

        def signals(self, batch, evaluate):
            return {"advantage": batch.rewards}

        def surrogate(self, xp, *, log_prob, advantage):
            return -log_prob * advantage

    @dataclass(frozen=True)
    class Required(Base):
        clip: float
        name = "b_required"

    @dataclass(frozen=True)
    class Signals(Base):
        name = "b_signals"

        def signals(self, batch, evaluate):
            raise ZeroDivisionError("no signals")

    @dataclass(frozen=True)
    class Shape(Base):
        name = "b_shape"

        def surrogate(self, xp, *, log_prob, advantage):
            return xp.sum(-log_prob * advantage, 0)

    @dataclass(frozen=True)
    class NoClaims(Base):
        name = "b_claims"

        @property
        def claims(self):
            raise KeyError("no claims")

    @dataclass(frozen=True)
    class Unfinished(pg.Head):
        n: int = 2
        name = "b_head"
"""
REASONS = {
    "estimator 'b_required'": "missing 1 required positional argument: 'clip'",
    "estimator 'b_gone'": "RuntimeError: cannot be imported",
    "estimator 'b_exit'": "expected a module, got SystemExit(4)",
    "estimator 'b_claims'": "KeyError: 'no claims'",
    "estimator 'b_number'": "TypeError",
    "head 'b_head'": "abstract",
    "head 'b_head_gone'": "RuntimeError: cannot be imported",
    "optimizer 'b_optimizer_gone'": "RuntimeError: cannot be imported",
    "proof 'b_proof'": "RuntimeError: cannot be imported",
}


@pytest.fixture(autouse=True)
def installed(site):
    """Install the distribution."""
    site.module("bad", THINGS)
    site.module("bad_gone", "raise RuntimeError('cannot be imported')")
    site.module("bad_exit", "import sys\nsys.exit(4)")
    site.plugin("bad_plugin", PLUGIN)
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    forget_registry()


def test_check_has_a_row_or_a_line_for_each(pgcore):
    status, out, err = pgcore(
        *("check", "--quick", "--backends", "numpy", "--json", "--processes", "1"),
    )
    assert status == 1, err
    report = json.loads(out)
    wrong = {cell["estimator"]: cell["error"] for cell in report["outcomes"] if not cell["agrees"]}
    assert wrong.keys() == {"b_signals", "b_shape"}
    assert wrong["b_signals"] == "ZeroDivisionError: no signals"
    assert "b_shape.surrogate: expected one term for each step" in wrong["b_shape"]
    assert len({cell["estimator"] for cell in report["outcomes"]}) > 20
    assert report["unchecked"].keys() >= REASONS.keys()
    for name, words in REASONS.items():
        assert words in report["unchecked"][name], name


def test_check_of_another_estimator_says_nothing_of_it(pgcore):
    status, out, _ = pgcore(
        *("check", "--quick", "--backends", "numpy", "--heads", "categorical"),
        *("--estimators", "ppo", "--processes", "1"),
    )
    assert status == 0
    assert "estimator 'b_" not in out


@pytest.mark.parametrize("name", ["b_signals", "b_claims"])
def test_check_of_it_by_name_ends_with_1(pgcore, name):
    status, out, _ = pgcore(
        *("check", "--quick", "--backends", "numpy", "--heads", "categorical"),
        *("--estimators", name, "--processes", "1"),
    )
    assert status == 1
    assert name in out


def test_an_audit_of_all_has_a_row_for_each(pgcore, monkeypatch):
    # One of those built in is enough.
    names = registry().names

    def few(kind):
        found = names(kind)
        if kind != "estimators":
            return found
        return [name for name in found if name.startswith("b_") or name == "pdis"]

    monkeypatch.setattr(registry(), "names", few)
    status, out, err = pgcore("audit", "--all", "--json")
    assert status == 1, err
    rows = {row["label"]: row for row in json.loads(out)["audits"]}
    assert rows["pdis"]["error"] is None
    assert rows["b_signals"]["error"] == "ZeroDivisionError: no signals"
    assert "b_shape" in rows["b_shape"]["error"]
    assert "no claims" in rows["b_claims"]["error"]
    for name in ("b_gone", "b_exit", "b_required", "b_number"):
        assert rows[f"estimator {name!r}"]["error"]


def test_a_default_training_run_warns_and_goes_on(pgcore, tmp_path):
    out = tmp_path / "run"
    with pytest.warns(UserWarning, match="is set aside|is left out") as warned:
        status, _, err = pgcore(
            *("train", "CartPole-v1", "--steps", "3000", "--out", str(out)),
            *("--set", "run.evaluation_episodes=0"),
        )
    assert status == 0, err
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert len(lines) > 1
    assert "approx_kl" in lines[-1]
    texts = [str(warning.message) for warning in warned]
    # Set aside once, however many updates there are.
    advice = "correct or uninstall its plugin"
    text = f"logger bad_plugin is set aside: RuntimeError: the disk is full; {advice}"
    assert texts.count(text) == 1
    assert any("metric 'b_metric' is left out: ValueError: no figure" in text for text in texts)
    assert any("metric 'b_metric_gone' is left out" in text for text in texts)


def test_check_of_one_that_cannot_be_built_beside_another_ends_with_1(pgcore):
    status, out, _ = pgcore(
        *("check", "--quick", "--backends", "numpy", "--heads", "categorical"),
        *("--estimators", "ppo,b_claims", "--processes", "1"),
    )
    assert status == 1
    assert "estimator 'b_claims'" in out
