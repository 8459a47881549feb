"""A head that a backend cannot build: a note, and a failure where the backend was asked for."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import partial

import pytest
from strangers import Laplace

import pgcore as pg
from pgcore import api
from pgcore.errors import SpecError
from pgcore.registry.registry import forget_registry, registry
from pgcore_check.cases.builders import USUAL, RefusalError, builder_of
from pgcore_check.cases.cases import NETWORKS, Case
from pgcore_check.outcomes import shared_policy
from pgcore_check.testing import assert_agrees, cells
from pgcore_check.testing.cells import WALK, Work, reference_of, step_part
from pgcore_check.testing.example import make_example

WORDS = ("--estimators", "reinforce", "--heads", "laplace", "--quick", "--processes", "1")
SPEC = pg.PolicySpec(NETWORKS["linear"], Laplace())


@pytest.fixture(autouse=True)
def installed(site):
    """Install a distribution with a head that has no kernel."""
    site.plugin(
        "laplace_plugin",
        "@hookimpl\ndef pgcore_heads():\n    return [Provider('laplace', 'strangers:Laplace', '')]",
    )
    site.distribution("laplace-dist", {"laplace": "laplace_plugin"})
    forget_registry()


def only(monkeypatch, *names):
    """Leave these backends usable."""
    original = registry().providers

    def providers(kind):
        rows = original(kind)
        if kind != "backends":
            return rows
        return [
            row if row.provider.name in names else row._replace(status="absent") for row in rows
        ]

    monkeypatch.setattr(registry(), "providers", providers)


def test_another_backend_makes_the_cases(monkeypatch):
    only(monkeypatch, "numpy", "torch")
    assert builder_of(SPEC) == "torch"
    assert builder_of(dataclasses.replace(SPEC, head=pg.Categorical(2))) == USUAL


def test_a_backend_that_cannot_build_a_head_is_a_note(pgcore, monkeypatch):
    only(monkeypatch, "numpy", "torch")
    status, out, err = pgcore("check", *WORDS)
    assert status == 0, out + err
    note = "not checked: head 'laplace' on numpy (numpy backend: expected a head with a closed form"
    assert note in out
    assert "all " in out
    assert "disagree;" not in out


def test_a_backend_that_cannot_build_a_head_fails_where_it_is_named(pgcore):
    status, out, _ = pgcore("check", *WORDS, "--backends", "numpy,torch")
    assert status == 1
    assert "numpy (eager), laplace" not in out
    assert "register one for Laplace with pgcore_numpy.heads.make_kernel.register" in out
    assert "torch (eager), " not in out


def test_a_head_that_no_backend_can_build_fails_where_it_is_named(pgcore, monkeypatch):
    only(monkeypatch, "numpy")
    with pytest.raises(RefusalError, match="register one for Laplace"):
        builder_of(SPEC)
    status, out, _ = pgcore("check", *WORDS)
    assert status == 1
    assert "expected a head with a closed form" in out


def test_a_cell_of_a_backend_that_was_asked_for_fails_and_another_is_skipped(monkeypatch):
    only(monkeypatch, "numpy", "torch")
    asked = next(
        cell
        for cell in cells(
            estimators=["reinforce"], heads=["laplace"], backends=["numpy"], quick=True
        )
        if cell.fixture == "random"
    )
    with pytest.raises(AssertionError, match="expected a head with a closed form"):
        assert_agrees(asked)
    with pytest.raises(pytest.skip.Exception, match="expected a head with a closed form"):
        assert_agrees(dataclasses.replace(asked, named=False))


def test_a_refusal_of_more_than_a_head_is_an_error(monkeypatch):
    original = api.policy

    def refusing(spec, **options):
        if spec.critic == "shared":
            raise SpecError("expected no shared critic")
        return original(spec, **options)

    monkeypatch.setattr(api, "policy", refusing)
    build = partial(shared_policy.__wrapped__, "numpy", "eager", dtype="float64")
    with pytest.raises(SpecError, match="shared") as raised:
        build(pg.PolicySpec(NETWORKS["tanh"], pg.Categorical(3), "shared"))
    assert not isinstance(raised.value, RefusalError)
    with pytest.raises(RefusalError):
        build(SPEC)


def test_identities_alone_are_no_check_of_an_estimator(pgcore):
    words = ("--estimators", "expected", "--heads", "diagonal_gaussian", "--backends", "numpy")
    status, _, err = pgcore("check", *words, "--quick", "--processes", "1")
    assert status == 1
    assert err.endswith("error: check: expected an estimator that fits a head, got none\n")


def test_examples_and_walks_of_an_optimizer_are_made_by_it_too(monkeypatch):
    only(monkeypatch, "numpy", "torch")
    estimator = pg.estimator("reinforce")
    assert make_example("float64")(estimator, Laplace())[0].backend == "torch"
    part = step_part(Case("case", SPEC, estimator, "float64", 3), "sgd", all_modes=False)
    truth = reference_of(Work(part, quick=True, rule=pg.optimizer("sgd").spec), WALK)
    assert truth.parameters.keys() == SPEC.initial_parameters(0).keys()


def test_a_disabled_estimator_is_left_out_of_the_suite(monkeypatch):
    monkeypatch.setenv("PGCORE_DISABLE", "trpo")
    words = ["-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", "--pg-quick"]
    words += ["--pg-backends", "numpy", "--pyargs", "pgcore_check.suite"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "test_gradients.py::" in done.stdout
