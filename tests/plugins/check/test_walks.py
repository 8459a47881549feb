"""Walks of an optimizer: the bound holds where errors begin to grow late."""

from __future__ import annotations

import copy

import numpy as np

import pgcore as pg
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.stages import truth
from pgcore_check.stages.truth import Truth

STEPS = 100


def near_zero():
    """Return a case in which a derivative comes near 0 after some forty steps of RMSprop."""
    estimator = variants("estimators")["ppo"]
    spec = pg.PolicySpec(NETWORKS["linear"], variants("heads")["multi"], "separate")
    policy, batch = make_case(spec, "numpy", "float64", 1442, extras=estimator.used_extras)
    rule = variants("optimizers")["rmsprop"]
    return (
        policy,
        estimator,
        batch,
        Truth(spec, policy.parameters(), estimator, batch, rule, (STEPS,)),
    )


def test_a_move_of_one_rounding_stays_within_the_bound(monkeypatch):
    policy, estimator, batch, expected = near_zero()
    signals = pg.signals(policy, estimator, batch)
    other = copy.deepcopy(policy)
    optimizers = [pg.optimizer("rmsprop", learning_rate=1e-3, decay=0.99) for _ in range(2)]
    for step in range(1, STEPS + 1):
        for each, optimizer in zip((policy, other), optimizers, strict=True):
            gradient = pg.gradient(each, estimator, batch, signals=signals)
            optimizer.step(each, gradient.scaled(min(1.0, expected.max_norm / gradient.norm())))
        if step == 40:
            values = other.parameters()
            nudged = {name: np.nextafter(value, np.inf) for name, value in values.items()}
            other.load(nudged)
    apart = {
        name: np.abs(value - other.parameters()[name]).max()
        for name, value in policy.parameters().items()
    }
    name = max(apart, key=lambda name: apart[name])
    assert apart[name] > 1e-13, "the case has errors that grow"
    assert apart[name] < expected.after(STEPS)[name].allowed.max()
    # With signs that are kept throughout, the bound says nothing of that growth.
    monkeypatch.setattr(truth, "REDRAWN", 0)
    assert apart[name] > 10 * near_zero()[-1].after(STEPS)[name].allowed.max()
