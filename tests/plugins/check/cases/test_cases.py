"""Actions of cases: normal numbers where the head takes them, else its own samples."""

from __future__ import annotations

import numpy as np
import pytest
from strangers import Correlated, Kumaraswamy, Laplace, Listed

import pgcore as pg
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import NETWORKS, make_case, random_actions
from pgcore_check.proofs import variants

LISTED = Listed(3)


@pytest.mark.parametrize("head", [Correlated(), Kumaraswamy(), Laplace()], ids=lambda h: h.name)
def test_a_strangers_head_takes_the_actions_of_its_cases(head):
    spec = pg.PolicySpec(NETWORKS["linear"], head)
    policy, batch = make_case(spec, "torch", "float64", seed=3)
    density = policy.evaluate(batch, ("log_prob",))["log_prob"]
    assert np.isfinite(density).all()
    at_anchor = head.log_prob(host, batch.extras["reference"], batch.actions)
    assert np.isfinite(at_anchor).all()
    report = pg.check(policy, pg.estimator("reinforce"), batch)
    assert report.agrees, str(report)
    # Only one of them has a Fisher information.
    assert ("Fisher product" in str(report)) is (head.name == "laplace")


def test_an_enumerable_head_need_not_declare_its_choices():
    drawn = random_actions(LISTED, 9, np.random.default_rng(1))
    usual = random_actions(pg.Categorical(3), 9, np.random.default_rng(1))
    for left, right in zip(drawn, usual, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("label", [k for k, h in variants("heads").items() if not h.discrete])
def test_built_in_heads_have_normal_actions(label):
    head = variants("heads")[label]
    _, actions, anchor = random_actions(head, 9, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(actions, rng.standard_normal((9, 2)))
    np.testing.assert_array_equal(anchor[:, :2], rng.standard_normal((9, 2)))
