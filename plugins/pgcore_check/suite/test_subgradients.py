"""Derivatives that are no number are errors on every backend; finite ones are among the cells."""

# pyright: standard
from __future__ import annotations

import math

import numpy as np
import pytest

import pgcore as pg
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.errors import NonFiniteError
from pgcore.registry.registry import registry
from pgcore_check.cases.probes import of_one, of_row
from pgcore_check.stages.probing import Probed, probed
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()

NAN, INF = math.nan, math.inf
SMALL = pg.PolicySpec(pg.Table(1), pg.Categorical(2))

# Formulas of q_0 with a derivative that is no number there, and q_0.
SINGULAR = {
    "sqrt at 0": of_one("sqrt", lambda xp, x: xp.sqrt(x), (0.0, 0.0, INF)),
    "log at 0": of_one("log", lambda xp, x: xp.log(x), (0.0, -INF, INF)),
    "exp of NaN": of_one("exp", lambda xp, x: xp.exp(x + NAN), (0.0, NAN, NAN), symbolic=False),
    "log_softmax of inf": of_row(
        "log_softmax",
        lambda xp, q: xp.log_softmax(q / (1.0 - q), 1)[:, 0],
        ((1.0, 0.0, 0.0), NAN, (NAN, NAN, NAN)),
    ),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_derivative_that_is_no_number_is_not_hidden(backend, name):
    probe = SINGULAR[name]
    if not isinstance(pg.policy(SMALL, backend=backend), AutodiffPolicy):
        if not probe.symbolic:
            pytest.skip(f"{backend}: has no derivative of a formula that holds NaN")
        if not any(entry.status == "usable" for entry in registry().providers("derivers")):
            pytest.skip("nothing derives the closed forms; pip install 'pgcore[derive]'")
    with (
        pytest.raises(NonFiniteError, match="xp: expected finite numbers, got"),
        np.errstate(all="ignore"),
    ):
        probed(Probed((probe,)), backend, "float64")
