"""Examples of declared extras: check and audit take a stranger's estimator with an extra of its own, without a line of kit code."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, ShapeError
from pgcore.interfaces.extras import Extra
from pgcore.registry.registry import forget_registry
from pgcore_check.cases.cases import make_case
from pgcore_check.extras import example_extras
from pgcore_check.proofs import variants


def draws(batch, shape, rng):
    return rng.standard_normal(shape)


def test_examples_have_their_forms(make_batch):
    extras = {
        "teacher": Extra("[B] float", "anything", draws),
        "hint": Extra("[B] float", "anything", optional=True),
        "rank": Extra("[B, A] integer", "ranks", lambda b, shape, r: r.integers(0, 9, shape)),
    }
    arrays = example_extras(extras, make_batch(), 3, np.random.default_rng(3))
    assert arrays.keys() == {"teacher", "rank"}, "an optional extra without an example is left out"
    again = np.random.default_rng(3)
    np.testing.assert_array_equal(arrays["teacher"], again.standard_normal(6))
    np.testing.assert_array_equal(arrays["rank"], again.integers(0, 9, (6, 3)))


@pytest.mark.parametrize(
    ("example", "error", "words"),
    [
        (lambda batch: 0, EstimatorError, r"expected \[B\] float, got TypeError .*correct the fun"),
        (lambda b, s, r: b.values + 1, EstimatorError, r"expected \[B\] float, got TypeError"),
        (
            lambda b, s, r: np.zeros(5),
            ShapeError,
            r"expected \[B\] floats, anything, got \[5\] flo",
        ),
        (lambda b, s, r: np.zeros(6, bool), BatchError, r"got \[6\] bool; convert it first"),
        (lambda b, s, r: np.full(6, np.inf), BatchError, "expected finite numbers, got infinity"),
    ],
)
def test_a_broken_example_is_named(make_batch, example, error, words):
    extras = {"odd": Extra("[B] float", "anything", example)}
    with pytest.raises(error, match=rf"^example of extras\['odd'\]: .*{words}"):
        example_extras(extras, make_batch(), 3, np.random.default_rng(0))


# A distribution of two estimators: its module, and the plugin's lines.
TAUGHT = """
    from dataclasses import dataclass
    import pgcore as pg

    def near(batch, shape, rng):
        return EXAMPLE

    @dataclass(frozen=True)
    class Taught(pg.Estimator):
        "Pulls the policy towards a teacher."
        name = "taught"
        extras = EXTRAS

        @property
        def claims(self):
            return pg.Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=False)

        def signals(self, batch, evaluate):
            return {"teacher": batch.extras["teacher"], "weight": batch.rewards}

        def surrogate(self, xp, *, log_prob, teacher, weight):
            gap = log_prob - teacher
            return 0.5 * gap * gap - log_prob * weight

        def cotangents(self, *, log_prob, teacher, weight):
            return {"log_prob": SIGN (log_prob - teacher) - weight}

    @dataclass(frozen=True)
    class Plain(Taught):
        "Reads no extra."
        name = "plain"
        extras = {"teacher": pg.Extra("[B] float", "unread", optional=True)}

        def signals(self, batch, evaluate):
            return {"teacher": batch.rewards, "weight": batch.rewards}
"""
DECLARED = '{"teacher": pg.Extra("[B] float", "the teacher\'s log-probabilities, nats", near)}'
NEAR = "batch.log_probs + 0.5 * rng.standard_normal(shape)"


def install(site, example=NEAR, extras=DECLARED, sign=""):
    """Install the distribution."""
    source = TAUGHT.replace("EXAMPLE", example).replace("EXTRAS", extras).replace("SIGN", sign)
    site.module("taught", source)
    providers = "Provider('taught', 'taught:Taught', ''), Provider('plain', 'taught:Plain', '')"
    site.plugin("taught_plugin", f"@hookimpl\ndef pgcore_estimators():\n    return [{providers}]\n")
    site.distribution("taught-dist", {"taught": "taught_plugin"})
    forget_registry()


def check(pgcore, *options, estimators="taught,plain"):
    """Return the exit status and the outcomes of a quick check."""
    selected = ("--estimators", estimators, "--backends", "numpy,torch", "--heads", "categorical")
    status, out, err = pgcore("check", "--quick", "--json", *selected, *options)
    assert "Traceback" not in err
    return status, json.loads(out)["outcomes"]


def test_check_uses_the_example(site, pgcore):
    pytest.importorskip("torch")
    install(site)
    status, outcomes = check(pgcore)
    assert status == 0
    for estimator in ("taught", "plain"):
        rows = [row for row in outcomes if row["estimator"] == estimator]
        assert {row["backend"] for row in rows} == {"numpy", "torch"}
        assert all(row["agrees"] for row in rows)


def test_a_planted_sign_is_found_at_its_stage(site, pgcore):
    install(site, sign="-")
    status, outcomes = check(pgcore, "--backends", "numpy", estimators="taught")
    assert status == 1
    assert {row["stage"] for row in outcomes if not row["agrees"]} == {"cotangents"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"example": "batch.log_probs[:, None]"},
            "example of extras['teacher']: expected [B] floats, the teacher's log-probabilities, nats",
        ),
        ({"example": "missing"}, "example of extras['teacher']: expected [B] float, got NameError"),
        ({"extras": "{}"}, "taught.signals: expected extras that it declares, got 'teacher'"),
    ],
    ids=["shape", "error", "undeclared"],
)
def test_a_broken_declaration_is_one_estimators_row(site, pgcore, options, words):
    install(site, **options)
    status, outcomes = check(pgcore, "--backends", "numpy")
    assert status == 1
    rows = {
        name: [row for row in outcomes if row["estimator"] == name] for name in ("taught", "plain")
    }
    assert all(words in row["error"] for row in rows["taught"])
    assert all(row["agrees"] for row in rows["plain"])
    assert all(rows.values())
    status, _, err = pgcore("audit", "taught")
    assert status != 0
    assert words in err
    assert "Traceback" not in err


def test_audit_uses_the_example(site, pgcore):
    install(site)
    status, out, err = pgcore("audit", "taught", "--json")
    assert (status, err) == (0, "")
    (audit,) = json.loads(out)["audits"]
    assert audit["error"] is None


def test_the_extras_of_the_built_ins_are_the_examples_of_their_declarations():
    spec = pg.PolicySpec(pg.Linear(4), pg.Categorical(3), "separate")
    batches = {}
    for label in ("grpo", "gspo", "reinforce"):
        used = variants("estimators")[label].used_extras
        batches[label] = make_case(spec, "numpy", "float64", 4, extras=used)[1]
    assert batches["grpo"].extras.keys() == {"reference", "group", "reference_log_probs"}
    assert batches["gspo"].extras.keys() == {"reference", "group"}
    assert batches["reinforce"].extras.keys() == {"reference"}
    # No extra moves a number of another field or extra.
    every = make_case(spec, "numpy", "float64", 4)[1]
    for batch in batches.values():
        np.testing.assert_array_equal(batch.values, every.values)
        for name, value in batch.extras.items():
            np.testing.assert_array_equal(value, every.extras[name])
