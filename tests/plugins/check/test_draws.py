"""Draws of a case that leave the dtype's range are drawn again."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strangers import Boltzmann, Correlated, Gspo, Squares

import pgcore as pg
from pgcore.errors import NonFiniteError
from pgcore_check import conformance
from pgcore_check.bounds import running_error
from pgcore_check.cases.cases import NETWORKS, Case
from pgcore_check.cases.design import Choice
from pgcore_check.conformance import Part, truth_of
from pgcore_check.outcomes import Cell, case_outcome, reason
from pgcore_check.proofs import variants

SPEC = pg.PolicySpec(NETWORKS["linear"], variants("heads")["categorical"], "separate")


def part_of(estimator, seed, dtype="float32", spec=SPEC) -> Any:
    case = Case("case", spec, estimator, dtype, seed)
    return Part(0, Choice("variant", "head", "linear", "adam", case))


@pytest.mark.parametrize("seed", range(8))
def test_an_honest_estimator_that_overflows_is_drawn_again(seed):
    part = part_of(Boltzmann(), seed)
    for fixture in ("random", "extreme"):
        truth = truth_of(part, fixture, quick=True)
        assert truth.within_range
        for backend in ("numpy", "torch"):
            outcome = case_outcome(Cell(backend, "eager", fixture), part.choice, truth)
            assert outcome.agrees, reason(outcome)
            assert not outcome.blind


@dataclasses.dataclass(frozen=True)
class Logistic(Boltzmann):
    """A logistic function as it should not be written: infinity over infinity beyond float32."""

    def signals(self, batch, evaluate):
        return {"weight": np.tanh(batch.rewards), "old": batch.log_probs}

    def surrogate(self, xp, *, log_prob, value, weight, old):
        odds = xp.exp(30.0 * value)
        return -log_prob * weight + odds / (1.0 + odds)


def outcomes_of(estimator, seeds):
    for seed in seeds:
        part = part_of(estimator, seed)
        truth = truth_of(part, "extreme", quick=True)
        yield case_outcome(Cell("torch", "eager", "extreme"), part.choice, truth)


def test_numbers_on_the_way_to_a_term_are_in_range_too(monkeypatch):
    assert [reason(o) for o in outcomes_of(Logistic(), range(6)) if not o.agrees] == []
    # Without the rule some first draw fails it.
    monkeypatch.setattr(conformance.Truth, "within_range", True)
    assert not all(outcome.agrees for outcome in outcomes_of(Logistic(), range(6)))


def test_an_exponent_whose_rounding_is_no_small_number_is_drawn_again(monkeypatch):
    # Log-densities of 1e15 nats, rounded to whole nats: the ratio is exp(-147) or exp(-0.2).
    spec = pg.PolicySpec(NETWORKS["tanh"], variants("heads")["per-state"])
    part = part_of(Gspo(), 19312, "float64", spec)
    # The bound of an exponential alone suffices; the rule is for bounds of the first order.
    monkeypatch.setattr(conformance, "MOST_DISTORTION", np.inf)
    truth = truth_of(part, "extreme", quick=True)
    assert case_outcome(Cell("numpy", "eager", "extreme"), part.choice, truth).agrees
    monkeypatch.undo()
    monkeypatch.setattr(running_error, "ROUNDOFF", {})
    for most, agrees in ((conformance.MOST_DISTORTION, True), (np.inf, False)):
        monkeypatch.setattr(conformance, "MOST_DISTORTION", most)
        truth = truth_of(part, "extreme", quick=True)
        assert (truth.distortion < 0.05) is agrees
        for backend in ("numpy", "torch"):
            outcome = case_outcome(Cell(backend, "eager", "extreme"), part.choice, truth)
            assert outcome.agrees is agrees


def test_cotangents_beyond_the_range_are_drawn_again(monkeypatch):
    spec = pg.PolicySpec(NETWORKS["tanh"], variants("heads")["bernoulli"], "separate")
    part = part_of(Boltzmann(), 49240, spec=spec)
    truth = truth_of(part, "extreme", quick=True)
    assert case_outcome(Cell("numpy", "eager", "extreme"), part.choice, truth).agrees
    monkeypatch.setattr(conformance.Truth, "within_range", True)
    truth = truth_of(part, "extreme", quick=True)
    assert not case_outcome(Cell("numpy", "eager", "extreme"), part.choice, truth).agrees


def test_derivatives_of_a_head_beyond_the_range_are_drawn_again(monkeypatch):
    spec = pg.PolicySpec(NETWORKS["relu"], Correlated(), "separate")
    part = part_of(Squares(), 33621, spec=spec)
    for rule, agrees in ((conformance.Truth.within_range, True), (True, False)):
        monkeypatch.setattr(conformance.Truth, "within_range", rule)
        truth = truth_of(part, "extreme", quick=True)
        outcome = case_outcome(Cell("torch", "eager", "extreme"), part.choice, truth)
        assert outcome.agrees is agrees


@pytest.mark.parametrize("rule", [("within_range", False), ("distortion", 0.1)])
def test_the_count_of_false_alarms_draws_by_the_same_rules(monkeypatch, rule):
    path = Path(__file__).parents[3] / "benchmarks" / "false_alarms.py"
    drawn_truth = runpy.run_path(str(path))["drawn_truth"]
    choice = part_of(variants("estimators")["reinforce"], 0).choice
    assert drawn_truth(choice, "usual", 5) is not None
    monkeypatch.setattr(conformance.Truth, *rule)
    assert drawn_truth(choice, "usual", 5) is None


@dataclasses.dataclass(frozen=True)
class Undefined(Boltzmann):
    """NaN at every batch."""

    def signals(self, batch, evaluate):
        return {"weight": np.full(batch.num_steps, np.nan), "old": batch.log_probs}


def test_an_estimator_that_never_has_numbers_fails():
    with pytest.raises(NonFiniteError, match="signals\\['weight'\\]: expected finite numbers"):
        truth_of(part_of(Undefined(), 0), "random", quick=True)
