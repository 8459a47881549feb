"""What the reference covers beyond the cases that backends are tried on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import SpecError
from pgcore.interfaces.surrogate import Surrogate
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.reference import reference
from pgcore_check.results import gradient_row

HEADS = variants("heads")


@dataclasses.dataclass(frozen=True)
class AllActions(pg.Estimator):
    """- sum_a y_a log pi_a where the action is possible, for signals y."""

    name = "all_actions"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False, off_policy="limited", needs_critic=False, discrete_only=True
        )

    def signals(self, batch, evaluate):
        mask: Any = batch.action_mask
        return {"target": np.where(mask, np.arange(mask.shape[1]) + 0.5, 0.0)}

    def surrogate(self, xp, *, log_probs, target):
        return -xp.sum(xp.where(target > 0, log_probs, 0.0) * target, 1)

    def cotangents(self, *, log_probs, target):
        return {"log_probs": -target}


@pytest.mark.parametrize("network", NETWORKS)
def test_all_actions_log_probs_agree(network):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS[network], HEADS["hot"]), "numpy", "float64", seed=0
    )
    signals = pg.signals(policy, AllActions(), batch)
    found = pg.gradient(policy, AllActions(), batch, signals=signals)
    told = gradient_row(policy, AllActions(), batch, signals, found.numpy())
    assert told.agrees, told
    loss = reference.loss(
        policy.spec,
        policy.parameters(),
        Surrogate(policy.spec, AllActions(), batch, signals),
        batch,
    )
    assert found.loss == pytest.approx(float(loss), rel=1e-14)


def test_a_head_without_a_closed_form_is_refused_by_the_backend_that_needs_one():
    formulas = ("distribution", "log_prob", "entropy", "kl", "sample", "mode", "check_actions")
    fields = {"name": "unknown", "discrete": True, "outputs": 2, "width": 2}
    unknown: Any = type("Unknown", (pg.Head,), fields | dict.fromkeys(formulas))
    spec = pg.PolicySpec(NETWORKS["linear"], unknown())
    with pytest.raises(SpecError, match="numpy backend: expected a head with a closed form, got"):
        pg.policy(spec)
