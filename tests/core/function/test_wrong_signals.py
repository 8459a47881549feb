"""Losses of signals that are not the estimator's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore.function.laid_out import LaidOutSignals
from pgcore.parts import Composed

ONES = np.ones(2)
PPO = pg.estimator("ppo")
Ppo: Any = type(PPO)


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


@pytest.mark.parametrize(
    ("estimator", "signals", "words"),
    [
        (PPO, LaidOutSignals, r"expected the signals of .*, got type"),
        (Ppo, None, "expected an Estimator such as"),
        ("ppo", None, "expected an Estimator such as"),
        (PPO, None, r"expected the signals of .*, got NoneType"),
    ],
)
def test_other_objects_are_refused(estimator, signals, words):
    with pytest.raises(EstimatorError, match=words):
        pg.loss(estimator, signals, log_prob=ONES, value=ONES)


def test_an_error_of_an_estimators_own_code_is_shown():
    quantities = property(lambda self: self.missing)
    broken = object.__new__(type("Broken", (Ppo,), {"name": "broken", "quantities": quantities}))
    with pytest.raises(AttributeError, match="missing"):
        pg.loss(broken, pg.signals(PPO, batch()), log_prob=ONES, value=ONES)


def test_the_surrogate_of_a_second_base_is_the_losss():
    class Doubling(Composed):
        def surrogate(self, xp: Any, *arguments: Any, **inputs: Any) -> Any:
            return 2.0 * super().surrogate(xp, *arguments, **inputs)

    both: Any = dataclass(frozen=True)(type("Both", (Ppo, Doubling), {"name": "both"}))
    losses = [
        pg.loss(estimator, pg.signals(estimator, batch()), log_prob=-ONES / 2, value=ONES).loss
        for estimator in (PPO, both())
    ]
    assert losses[0] != 0
    assert losses[1] == pytest.approx(2 * losses[0])


def test_signals_and_losses_show_their_layout():
    signals = pg.signals(PPO, batch())
    assert repr(signals) == "LaidOutSignals([2] of numpy: advantage, return_, old_log_prob)"
    assert repr(pg.loss(PPO, signals, log_prob=-ONES, value=ONES)) == "Loss(ppo, [2])"
