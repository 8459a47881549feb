"""What `pgcore check` runs, cell by cell, on every backend: random, extreme and kink cases, all stages, all modes."""

from __future__ import annotations

import itertools

import pgcore as pg
from pgcore.testing.agreement import FACTOR
from pgcore.testing.cases import HEADS
from pgcore.testing.conformance import VARIANTS, plan, run
from pgcore.testing.design import product


def test_every_cell_agrees_with_the_reference(backend):
    found = [*itertools.chain(*run(plan(backends=[backend], estimators=None, heads=None, extent="standard")))]
    assert [outcome for outcome in found if not outcome.agrees] == []
    assert max(outcome.ratio for outcome in found) <= FACTOR
    modes = pg.backend(backend).modes
    assert {outcome.mode for outcome in found} == set(modes)
    assert {outcome.fixture for outcome in found} == {"random", "extreme", "kink"}
    assert {outcome.variant for outcome in found} == {*VARIANTS, "kinks"}
    possible = {(choice.case.estimator.name, choice.case.spec.head.name) for choice in product(VARIANTS, HEADS)}
    assert {(outcome.estimator, outcome.head) for outcome in found} >= possible
