"""REINFORCE with a baseline for each parameter: an estimator of its own under REINFORCE's name."""

import dataclasses
import pickle

import pytest

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore_estimators.reinforce import ComponentBaseline, Reinforce


@pytest.mark.parametrize(
    "make",
    [
        lambda: pg.estimator("reinforce", baseline="optimal_per_component", gamma=0.9),
        lambda: Reinforce(0.9, True, "optimal_per_component"),
        lambda: ComponentBaseline(gamma=0.9),
    ],
)
def test_the_baseline_makes_it_a_score_estimator(make):
    found = make()
    assert type(found) is ComponentBaseline
    assert isinstance(found, ScoreEstimator)
    assert (found.name, found.gamma, found.baseline) == ("reinforce", 0.9, "optimal_per_component")
    assert dataclasses.replace(found, gamma=0.5) == ComponentBaseline(gamma=0.5)
    assert pickle.loads(pickle.dumps(found)) == found


def test_every_other_baseline_stays_a_sum_of_terms():
    for baseline in ("none", "mean", "leave_one_out", "optimal", "value"):
        found = pg.estimator("reinforce", baseline=baseline)
        assert type(found) is Reinforce
        assert not found.sees_episodes


def test_a_class_that_cannot_combine_scores_is_refused_that_baseline():
    class Mine(Reinforce):
        """A subclass of somebody's."""

    with pytest.raises(
        EstimatorError, match=r"Mine\.baseline: expected a baseline of the surrogate"
    ):
        Mine(baseline="optimal_per_component")
    with pytest.raises(
        EstimatorError,
        match=r"ComponentBaseline\.baseline: expected 'optimal_per_component', got 'mean'",
    ):
        dataclasses.replace(ComponentBaseline(), baseline="mean")
