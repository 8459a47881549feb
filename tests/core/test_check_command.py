"""`pgcore check`: what it prints, writes and returns."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pgcore.testing import conformance
from pgcore.testing.conformance import plan, run


@pytest.fixture
def one_reinforce(monkeypatch):
    """Let the kit know one case only, so that commands take no time."""
    monkeypatch.setattr(conformance, "VARIANTS", {"reinforce": conformance.VARIANTS["reinforce"]})


def test_a_check_that_agrees(pgcore, one_reinforce):
    status, out, _ = pgcore("check", "--backends", "numpy", "--estimators", "reinforce", "--quick")
    assert status == 0
    assert "reinforce: reinforce" in out
    assert "numpy" in out
    assert "agree; worst" in out


def test_json_holds_every_outcome(pgcore, one_reinforce):
    status, out, _ = pgcore("check", "--backends", "numpy", "--estimators", "reinforce", "--quick", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["agrees"] is True
    assert report["backends"] == ["numpy"]
    expected = plan(backends=["numpy"], estimators=["reinforce"], heads=None, extent="quick")
    assert len(report["outcomes"]) == expected.cells
    fields = {field.name for field in dataclasses.fields(conformance.Outcome)} | {"agrees"}
    assert all(row.keys() == fields for row in report["outcomes"])


def test_a_disagreement_is_exit_status_1_and_is_told(pgcore, one_reinforce, monkeypatch, tmp_path):
    def spoilt(plan):
        for number, outcome in enumerate(run(plan)):
            if number == 0:
                yield dataclasses.replace(outcome, stage="gradient", ratio=float("inf"))
            elif number == 1:
                yield dataclasses.replace(
                    outcome, error="gradient: expected numbers, got NaN; scale", ratio=float("inf")
                )
            else:
                yield outcome

    monkeypatch.setattr(conformance, "run", spoilt)
    words = ("check", "--backends", "numpy", "--estimators", "reinforce", "--quick")
    status, out, _ = pgcore(*words, "--html", str(tmp_path / "page.html"))
    assert status == 1
    assert "departs at gradient" in out
    assert "expected numbers, got NaN" in out
    assert "2 of " in out
    assert "disagree" in (tmp_path / "page.html").read_text()
    status, out, _ = pgcore(*words, "--json")
    assert status == 1
    assert json.loads(out)["outcomes"][0]["ratio"] is None


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--backends", "numpi"), 2, "numpy"),
        (("--estimators", "pppo"), 2, "ppo"),
        (("--heads", "categoricall"), 2, "categorical"),
        (("--quick", "--full"), 2, "choose one"),
        (("--html", "/nowhere/page.html"), 2, "make the folder first"),
    ],
)
def test_bad_options_are_refused_before_anything_is_run(pgcore, words, status, told):
    found, out, err = pgcore("check", *words)
    assert found == status
    assert told in (out + err).replace("\n", " ")


def test_an_absent_backend_is_shown_and_is_a_failure_when_named(pgcore, site, one_reinforce):
    source = "@hookimpl\ndef pgcore_backends():\n    return [Provider('far', 'json:loads', '', 'absent_far', 'far')]"
    site.plugin("far_plugin", source)
    site.distribution("far-dist", {"far": "far_plugin"})
    status, out, _ = pgcore("check", "--backends", "numpy", "--estimators", "reinforce", "--quick")
    assert status == 0
    assert "absent: far (" in out
    status, _, err = pgcore("check", "--backends", "numpy,far")
    assert status == 2
    assert "far" in err


def test_the_plan_counts_what_is_run():
    chosen = plan(backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="standard")
    outcomes = list(run(chosen))
    assert len(outcomes) == chosen.cells
    assert {outcome.estimator for outcome in outcomes} == {"ppo"}
    assert {outcome.head for outcome in outcomes} == {"categorical"}
    full = plan(backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="full")
    assert full.cells > 5 * chosen.cells
