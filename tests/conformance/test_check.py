"""What `pgcore check` runs, cell by cell, on every backend: random, extreme and kink cases, all stages, all modes."""

from __future__ import annotations

from functools import lru_cache

import pgcore as pg
from pgcore.testing.agreement import FACTOR
from pgcore.testing.cases import HEADS
from pgcore.testing.conformance import VARIANTS, plan, run


@lru_cache
def outcomes(backend):
    return list(run(plan(backends=[backend], estimators=None, heads=None, extent="standard")))


def test_every_cell_agrees_with_the_reference(backend):
    found = outcomes(backend)
    assert [outcome for outcome in found if not outcome.agrees] == []
    assert max(outcome.ratio for outcome in found) <= FACTOR


def test_every_mode_fixture_estimator_and_head_is_run(backend):
    found = outcomes(backend)
    modes = pg.backend(backend).modes
    assert {outcome.mode for outcome in found} == set(modes)
    assert {outcome.fixture for outcome in found} == {"random", "extreme", "kink"}
    assert {outcome.variant for outcome in found} == {*VARIANTS, "kinks"}
    for variant in VARIANTS:
        for head in HEADS:
            assert any(outcome.label.startswith(f"{variant}-{head}-") for outcome in found), (variant, head)
