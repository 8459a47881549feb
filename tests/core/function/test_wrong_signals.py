"""Losses of signals that are not the estimator's."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError

ONES = np.ones(2)
PPO = pg.estimator("ppo")


def batch():
    return pg.Batch(
        observations=np.zeros((2, 1)),
        actions=[0, 1],
        rewards=[1.0, 2.0],
        episode_lengths=[2],
        terminated=[True],
        log_probs=-ONES,
        values=ONES,
    )


def test_another_estimators_signals_are_refused():
    signals = pg.signals(pg.estimator("a2c"), batch())
    with pytest.raises(EstimatorError, match="expected signals with old_log_prob, got advantage"):
        pg.loss(PPO, signals, log_prob=ONES, value=ONES)


def test_a_policys_signals_are_refused():
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), pg.Categorical(2), "separate"))
    signals = pg.signals(policy, PPO, batch())
    with pytest.raises(EstimatorError, match=r"expected the signals of .*, got Signals"):
        pg.loss(PPO, signals, log_prob=ONES, value=ONES)  # pyright: ignore[reportArgumentType]


def test_signals_and_losses_show_their_layout():
    signals = pg.signals(PPO, batch())
    assert repr(signals) == "LaidOutSignals([2] of numpy: advantage, return_, old_log_prob)"
    assert repr(pg.loss(PPO, signals, log_prob=-ONES, value=ONES)) == "Loss(ppo, [2])"
