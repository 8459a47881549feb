"""`pgcore audit --penalties`: expected derivatives of penalties beside gradients of KL divergences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import EstimatorError
from pgcore.parts import Penalty
from pgcore_estimators.parts.kl import K1, K2
from pgcore_exact.expectation.needs import audit_policy
from pgcore_exact.penalties.audit import has_reference
from pgcore_exact.penalties.forms import penalty_forms
from pgcore_exact.process.tabulated import tabulated

FORMS = {
    label: penalty
    for label, penalty in penalty_forms()
    if isinstance(penalty, Penalty) and has_reference(penalty)
}

# Episodes of one step from one state: its derivative by hand is a sum over actions.
STEP = exact.random(2, 3, 1, seed=5, terminals=1)


@pytest.mark.parametrize("label", FORMS)
def test_every_claim_of_a_registered_penalty_is_confirmed(label):
    verdicts = exact.audit_penalty(FORMS[label]).verdicts
    assert [verdict.claim for verdict in verdicts] == ["gradient_of", "off_policy"]
    assert {verdict.verdict for verdict in verdicts} == {"confirmed"}


def test_the_forms_with_the_gradient_of_the_kl_are_these():
    claims = {label: (form.gradient_of, form.off_policy) for label, form in FORMS.items()}
    assert {label for label, claim in claims.items() if claim == ("reverse_kl", False)} == {
        "k2",
        "k3_straight",
        "k1, place=reward",
    }
    assert {label for label, claim in claims.items() if claim == ("reverse_kl", True)} == {
        "exact, direction=reverse_kl",
        "k1, ratio=differentiated",
        "k2, ratio=constant",
        "k3, ratio=differentiated",
        "k3_straight, ratio=constant",
    }
    assert {label for label, (of, _) in claims.items() if of == "kl"} == {
        "exact",
        "k3",
        "k3, ratio=constant",
    }


# dk / d log pi of l, and k.
ESTIMATES = {
    "k1": (lambda x: x, np.ones_like),
    "k2": (lambda x: x * x / 2, lambda x: x),
    "k3": (lambda x: np.exp(-x) + x - 1, lambda x: 1 - np.exp(-x)),
    "k3_straight": (lambda x: np.exp(-x) + x - 1, lambda x: x),
    "abs_k1": (np.abs, np.sign),
}


@pytest.mark.parametrize("form", ESTIMATES)
@pytest.mark.parametrize("ratio", ["none", "differentiated", "constant"])
def test_errors_are_those_of_the_sum_over_actions(form, ratio):
    audit = exact.audit_penalty(pg.KL(form, 0.3, ratio=ratio), STEP)
    specs = pg.PolicySpec(pg.Table(2), pg.Categorical(3, temperature=0.8))
    table, other, prior = (tabulated(audit_policy(specs, seed), STEP) for seed in range(3))
    # State 1 is the terminal one.
    pi, acting, reference = (one.probabilities[0] for one in (table, other, prior))
    scores, (value, slope) = table.scores[0], ESTIMATES[form]
    log_ratio = np.log(pi / reference)
    exact_gradient = (pi * log_ratio) @ scores
    for behaviour, errors in ((pi, audit.on_policy), (acting, audit.off_policy)):
        weight = np.ones(3) if ratio == "none" else pi / behaviour
        total = slope(log_ratio) + (value(log_ratio) if ratio == "differentiated" else 0.0)
        mean = (behaviour * weight * total) @ scores
        error = np.linalg.norm(mean - exact_gradient) / np.linalg.norm(exact_gradient)
        assert errors["reverse_kl"] == pytest.approx(error, rel=1e-9, abs=1e-12)


def test_the_absolute_log_ratio_has_the_gradient_of_twice_the_total_variation():
    # One state: sum_a sign(pi - ref) d pi, from differences of sum_a |pi - ref|.
    logits, reference = np.array([0.4, -1.0, 0.3]), np.array([0.2, 0.5, 0.3])

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    def distance(x):
        return np.abs(softmax(x) - reference).sum()

    pi, step = softmax(logits), 1e-6
    scores = np.eye(3) - pi
    slopes = pg.KL("abs_k1", 1.0).slope(log_prob=np.log(pi), reference_log_prob=np.log(reference))
    assert slopes is not None
    differences = [
        (distance(logits + step * e) - distance(logits - step * e)) / (2 * step) for e in np.eye(3)
    ]
    assert (pi * slopes["log_prob"]) @ scores == pytest.approx(differences, abs=1e-9)


def test_no_term_of_the_loss_has_the_gradient_of_the_episodes_sum():
    step_wise, rewarded = (
        exact.audit_penalty(FORMS[label])
        for label in ("exact, direction=reverse_kl", "k1, place=reward")
    )
    assert step_wise.on_policy["reverse_kl"] == rewarded.episode["reverse_kl"] == 0.0
    assert step_wise.episode["reverse_kl"] > 0.05
    # In episodes of one step no state depends on the policy.
    single = exact.audit_penalty(FORMS["exact, direction=reverse_kl"], STEP)
    assert single.episode["reverse_kl"] == 0.0


def test_errors_do_not_depend_on_coefficient_and_rewards():
    small, large = (exact.audit_penalty(pg.KL("k3", factor)) for factor in (0.01, 3.0))
    assert small.on_policy == pytest.approx(large.on_policy, rel=1e-9)
    process = exact.audit_process()
    doubled = exact.audit_penalty(pg.KL("k3", 3.0), process.replaced(reward=2 * process.reward))
    assert doubled.off_policy == large.off_policy


@dataclass(frozen=True)
class Boastful(K1):
    """Claims the gradient that the plain log ratio does not have."""

    gradients: ClassVar = {"none": "reverse_kl"}
    name = "boastful"


@dataclass(frozen=True)
class BoastfulElsewhere(K2):
    """Claims its gradient for another policy's actions too."""

    name = "boastful_elsewhere"

    @property
    def off_policy(self):
        return True


@dataclass(frozen=True)
class Modest(K2):
    """Claims nothing, where the gradient is right."""

    gradients: ClassVar = {}
    name = "modest"


def test_wrong_claims_are_refuted_and_missing_ones_left_open():
    verdicts = {
        cls.name: [verdict.verdict for verdict in exact.audit_penalty(cls()).verdicts]
        for cls in (Boastful, BoastfulElsewhere, Modest)
    }
    assert verdicts == {
        "boastful": ["refuted", "confirmed"],
        "boastful_elsewhere": ["confirmed", "refuted"],
        "modest": ["open", "confirmed"],
    }
    figure = exact.audit_penalty(Boastful()).verdicts[0].figure
    assert figure == "relative errors 1 from KL(pi, reference), 1 from KL(reference, pi)"


@dataclass(frozen=True)
class Elsewhere(Penalty):
    """A stranger's, of the base class alone: in the reward, by the current policy."""

    coefficient: float = 2.0
    name = "elsewhere"
    extras: ClassVar = {"reference_log_probs": K1.extras["reference_log_probs"]}

    @property
    def in_reward(self):
        return True

    @property
    def gradient_of(self):
        return "reverse_kl"

    def term(self, xp, **inputs):
        return 0.0 * inputs["log_prob"]

    def reward(self, batch, evaluate):
        log_prob = evaluate("log_prob")["log_prob"]
        return self.coefficient * (log_prob - batch.extras["reference_log_probs"])


def test_a_strangers_penalty_that_asks_the_current_policy_is_right_off_policy_too():
    audit = exact.audit_penalty(Elsewhere())
    assert [verdict.verdict for verdict in audit.verdicts] == ["confirmed", "open"]
    assert audit.episode["reverse_kl"] == audit.off_policy_episode["reverse_kl"] == 0.0


@pytest.mark.parametrize(
    ("penalty", "told"),
    [
        (pg.KL("k3", 0.0), "expected a coefficient other than 0"),
        (pg.KL("kl_cov", 1.0), "expected one of the extras"),
    ],
)
def test_penalties_without_an_audit(penalty, told):
    with pytest.raises(EstimatorError, match=told):
        exact.audit_penalty(penalty)


def test_the_command_prints_every_form(pgcore):
    status, out, _ = pgcore("audit", "--penalties", "--horizon", "2")
    assert status == 0
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert set(FORMS) <= set(rows)
    assert rows["k1, ratio=differentiated"][-8:-6] == ["0", "0"]
    assert "not audited: kl_cov (no reference policy)" in out
    assert f"{2 * len(FORMS)} claims of {len(FORMS)} penalties: none refuted" in out


def test_a_plugins_penalty_takes_the_same_audit(pgcore, tmp_path, monkeypatch):
    (tmp_path / "my_penalties.py").write_text(
        "from dataclasses import dataclass\n"
        "from pgcore_estimators.parts.kl import K3\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(K3):\n"
        '    gradients = {"none": "reverse_kl"}\n'
        '    name = "mine"\n\n'
        "@dataclass(frozen=True)\n"
        "class Broken(K3):\n"
        '    name = "broken"\n\n'
        "    def term(self, xp, **inputs):\n"
        "        raise ZeroDivisionError\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("audit", "--penalties", "--json", "--horizon", "2", "--plugin", "my_penalties.py")
    status, out, _ = pgcore(*words)
    assert status == 1
    rows = {row["label"]: row for row in json.loads(out)["penalties"]}
    assert {label for label, row in rows.items() if row["refuted"] and not row["error"]} == {"mine"}
    assert rows["mine"]["verdicts"][0]["verdict"] == "refuted"
    assert rows["mine"]["on_policy"]["kl"] == 0.0
    text = pgcore(*words[:2], *words[3:])[1]
    assert "mine: gradient_of=reverse_kl is refuted: relative errors " in text
