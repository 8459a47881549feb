"""Probes of every function of `xp`: values and derivatives worked out by hand, ties included.

A probe is a formula of rows q = (q_0, q_1, q_2). Its numbers are constants here, so that neither a
backend nor the kit's own number systems can make them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.xp.namespace import Native

__all__ = ["PROBES", "Probe", "rows_of"]

NAN, INF = math.nan, math.inf

# q, the term, and the sum of its episode's terms differentiated in q.
Row = tuple[tuple[float, float, float], float, tuple[float, float, float]]
Formula = Callable[[Any, Native, Native, Native], Native]


@dataclass(frozen=True)
class Probe:
    """One formula with its values and derivatives.

    Attributes:
        function: The function of `xp` that it is about.
        formula: From xp, [B, 3] q, [B] index and [B] episode to [B] terms.
        cases: Rows; an episode has two, of one case each.
        symbolic: Whether the formula can be differentiated symbolically, which backends of closed
            forms need.
    """

    function: str
    formula: Formula
    cases: tuple[Row, ...]
    symbolic: bool = True


def of_one(
    function: str,
    formula: Callable[[Any, Native], Native],
    *cases: tuple[float, float, float],
    symbolic: bool = True,
) -> Probe:
    """Return the probe of a formula of q_0, from (q_0, term, derivative)."""
    rows = tuple(((x, 0.0, 0.0), value, (slope, 0.0, 0.0)) for x, value, slope in cases)
    return Probe(function, lambda xp, q, _index, _episode: formula(xp, q[:, 0]), rows, symbolic)


def of_row(
    function: str,
    formula: Callable[[Any, Native], Native],
    *cases: Row,
    symbolic: bool = True,
) -> Probe:
    """Return the probe of a formula of all of q."""
    return Probe(function, lambda xp, q, _index, _episode: formula(xp, q), cases, symbolic)


def rows_of(probe: Probe) -> tuple[Row, ...]:
    """Return a probe's cases, the last one again where their number is odd."""
    return probe.cases if len(probe.cases) % 2 == 0 else (*probe.cases, probe.cases[-1])


def masked(xp: Any, q: Native) -> Native:
    """Return q with -inf for entries above 50."""
    return xp.where(q < 50.0, q, -INF)


def products(xp: Any, q: Native, stride: int) -> Native:
    """Return [B, 1, W', 1], the products of rows of pixels with a kernel of 1 and 3."""
    one = xp.full_like(q, 1.0)[:1, :1]
    kernel = xp.concatenate((one, 3.0 * one), 1)
    return xp.convolve(q[:, None, :, None], kernel[:, :, None, None], stride)


CLIPPED = ((-2.0, -1.0, 0.0), (-1.0, -1.0, 1.0), (0.0, 0.0, 1.0), (2.0, 2.0, 1.0), (3.0, 2.0, 0.0))

PROBES: dict[str, Probe] = {
    "exp": of_one(
        "exp", lambda xp, x: xp.exp(x), (0.0, 1.0, 1.0), (1.0, math.e, math.e), (-1000.0, 0.0, 0.0)
    ),
    "exp of -inf": of_one("exp", lambda xp, x: xp.exp(x - INF), (1.0, 0.0, 0.0), symbolic=False),
    "log": of_one("log", lambda xp, x: xp.log(x), (1.0, 0.0, 1.0), (2.0, 0.6931471805599453, 0.5)),
    "sqrt": of_one("sqrt", lambda xp, x: xp.sqrt(x), (1.0, 1.0, 0.5), (4.0, 2.0, 0.25)),
    "tanh": of_one(
        "tanh",
        lambda xp, x: xp.tanh(x),
        (0.0, 0.0, 1.0),
        (0.5, 0.46211715726000975, 0.7864477329659274),
        (-1000.0, -1.0, 0.0),
    ),
    "sigmoid": of_one(
        "sigmoid",
        lambda xp, x: xp.sigmoid(x),
        (0.0, 0.5, 0.25),
        (-1000.0, 0.0, 0.0),
        (1000.0, 1.0, 0.0),
    ),
    "relu": of_one(
        "relu", lambda xp, x: xp.relu(x), (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (2.0, 2.0, 1.0)
    ),
    "relu of NaN": of_one("relu", lambda xp, x: xp.relu(x + NAN), (1.0, NAN, 1.0), symbolic=False),
    "abs": of_one(
        "abs", lambda xp, x: xp.abs(x), (-2.0, 2.0, -1.0), (0.0, 0.0, 0.0), (3.0, 3.0, 1.0)
    ),
    "abs of -inf": of_one("abs", lambda xp, x: xp.abs(x - INF), (1.0, INF, -1.0), symbolic=False),
    "abs of NaN": of_one("abs", lambda xp, x: xp.abs(x + NAN), (1.0, NAN, 1.0), symbolic=False),
    "stop_gradient": of_one(
        "stop_gradient",
        lambda xp, x: x * xp.stop_gradient(xp.exp(x)),
        (0.0, 0.0, 1.0),
        (1.0, math.e, math.e),
    ),
    "stop_gradient alone": of_one(
        "stop_gradient", lambda xp, x: x - xp.stop_gradient(x), (3.0, 0.0, 1.0)
    ),
    "maximum": of_row(
        "maximum",
        lambda xp, q: xp.maximum(q[:, 0], q[:, 1]),
        ((1.0, 2.0, 0.0), 2.0, (0.0, 1.0, 0.0)),
        ((2.0, 1.0, 0.0), 2.0, (1.0, 0.0, 0.0)),
        ((2.0, 2.0, 0.0), 2.0, (1.0, 0.0, 0.0)),
    ),
    "maximum, number second": of_one(
        "maximum",
        lambda xp, x: xp.maximum(x, 0.5),
        (0.0, 0.5, 0.0),
        (0.5, 0.5, 1.0),
        (1.0, 1.0, 1.0),
    ),
    "maximum, number first": of_one(
        "maximum",
        lambda xp, x: xp.maximum(0.5, x),
        (0.0, 0.5, 0.0),
        (0.5, 0.5, 0.0),
        (1.0, 1.0, 1.0),
    ),
    "maximum of -inf": of_one(
        "maximum", lambda xp, x: xp.maximum(x, -INF), (1.0, 1.0, 1.0), symbolic=False
    ),
    "maximum, NaN first": of_one(
        "maximum", lambda xp, x: xp.maximum(x + NAN, x), (1.0, NAN, 1.0), symbolic=False
    ),
    "maximum, NaN second": of_one(
        "maximum", lambda xp, x: xp.maximum(x, 2.0 * x + NAN), (1.0, NAN, 2.0), symbolic=False
    ),
    "minimum": of_row(
        "minimum",
        lambda xp, q: xp.minimum(q[:, 0], q[:, 1]),
        ((1.0, 2.0, 0.0), 1.0, (1.0, 0.0, 0.0)),
        ((2.0, 1.0, 0.0), 1.0, (0.0, 1.0, 0.0)),
        ((2.0, 2.0, 0.0), 2.0, (1.0, 0.0, 0.0)),
    ),
    "minimum, number second": of_one(
        "minimum",
        lambda xp, x: xp.minimum(x, 0.5),
        (0.0, 0.0, 1.0),
        (0.5, 0.5, 1.0),
        (1.0, 0.5, 0.0),
    ),
    "minimum, number first": of_one(
        "minimum",
        lambda xp, x: xp.minimum(0.5, x),
        (0.0, 0.0, 1.0),
        (0.5, 0.5, 0.0),
        (1.0, 0.5, 0.0),
    ),
    "minimum of inf": of_one(
        "minimum", lambda xp, x: xp.minimum(x, INF), (1.0, 1.0, 1.0), symbolic=False
    ),
    "minimum, NaN first": of_one(
        "minimum", lambda xp, x: xp.minimum(x + NAN, x), (1.0, NAN, 1.0), symbolic=False
    ),
    "minimum, NaN second": of_one(
        "minimum", lambda xp, x: xp.minimum(x, 2.0 * x + NAN), (1.0, NAN, 2.0), symbolic=False
    ),
    "clip, numbers": of_one("clip", lambda xp, x: xp.clip(x, -1.0, 2.0), *CLIPPED),
    "clip, NumPy's numbers": of_one(
        "clip", lambda xp, x: xp.clip(x, np.float64(-1.0), np.float64(2.0)), *CLIPPED
    ),
    "clip, arrays": of_one(
        "clip", lambda xp, x: xp.clip(x, xp.full_like(x, -1.0), xp.full_like(x, 2.0)), *CLIPPED
    ),
    "clip, one of each": of_one(
        "clip", lambda xp, x: xp.clip(x, -1.0, xp.full_like(x, 2.0)), *CLIPPED
    ),
    "clip, equal bounds": of_one(
        "clip",
        lambda xp, x: xp.clip(x, 0.0, 0.0),
        (-1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0),
        (1.0, 0.0, 0.0),
    ),
    "clip, bounds with a gradient": of_row(
        "clip",
        lambda xp, q: xp.clip(q[:, 0], q[:, 1], q[:, 2]),
        ((-1.0, 0.0, 1.0), 0.0, (0.0, 1.0, 0.0)),
        ((0.0, 0.0, 1.0), 0.0, (1.0, 0.0, 0.0)),
        ((1.0, 0.0, 1.0), 1.0, (1.0, 0.0, 0.0)),
        ((2.0, 0.0, 1.0), 1.0, (0.0, 0.0, 1.0)),
    ),
    "clip, no bounds": of_one(
        "clip",
        lambda xp, x: xp.clip(x, -INF, xp.full_like(x, INF)),
        (-3.0, -3.0, 1.0),
        symbolic=False,
    ),
    "clip of inf": of_one(
        "clip", lambda xp, x: xp.clip(x + INF, 0.0, 2.0), (1.0, 2.0, 0.0), symbolic=False
    ),
    "clip of NaN": of_one(
        "clip", lambda xp, x: xp.clip(x + NAN, 0.0, 2.0), (1.0, NAN, 1.0), symbolic=False
    ),
    "where": of_row(
        "where",
        lambda xp, q: xp.where(q[:, 0] >= 0.0, q[:, 1], q[:, 2]),
        ((-1.0, 2.0, 3.0), 3.0, (0.0, 0.0, 1.0)),
        ((0.0, 2.0, 3.0), 2.0, (0.0, 1.0, 0.0)),
    ),
    "where, number first": of_one(
        "where", lambda xp, x: xp.where(x > 0.0, 0.1, x), (-1.0, -1.0, 1.0), (1.0, 0.1, 0.0)
    ),
    "where, number second": of_one(
        "where",
        lambda xp, x: xp.where(x > 0.0, x, np.float64(0.1)),
        (-1.0, 0.1, 0.0),
        (1.0, 1.0, 1.0),
    ),
    "where, NaN beside": of_one(
        "where", lambda xp, x: xp.where(x > 0.0, x, x + NAN), (1.0, 1.0, 1.0), symbolic=False
    ),
    "sum": of_row("sum", lambda xp, q: xp.sum(q * q, 1), ((1.0, 2.0, 3.0), 14.0, (2.0, 4.0, 6.0))),
    "sum, axis from the end": of_row(
        "sum", lambda xp, q: xp.sum(q, -1), ((1.0, 2.0, 3.0), 6.0, (1.0, 1.0, 1.0))
    ),
    "sum of -inf": of_row(
        "sum",
        lambda xp, q: xp.sum(masked(xp, q), 1),
        ((1.0, 2.0, 99.0), -INF, (1.0, 1.0, 0.0)),
        symbolic=False,
    ),
    "matmul": of_row(
        "matmul",
        lambda xp, q: xp.matmul(q, xp.full_like(q, 2.0)[0][:, None])[:, 0],
        ((1.0, 2.0, 3.0), 12.0, (2.0, 2.0, 2.0)),
        symbolic=False,
    ),
    # A row of three pixels, and a kernel of (1, 2) pixels that is (1, 3).
    "convolve": of_row(
        "convolve",
        lambda xp, q: products(xp, q, 1)[:, 0, 0, 0] * products(xp, q, 1)[:, 0, 1, 0],
        ((1.0, 2.0, 4.0), 98.0, (14.0, 49.0, 21.0)),
        symbolic=False,
    ),
    # One window remains, and the last pixel belongs to none.
    "convolve, stride": of_row(
        "convolve",
        lambda xp, q: xp.sum(xp.flatten(products(xp, q, 2)), 1),
        ((1.0, 2.0, 4.0), 7.0, (1.0, 3.0, 0.0)),
        symbolic=False,
    ),
    "flatten": of_row(
        "flatten",
        lambda xp, q: xp.flatten(xp.concatenate((q[:, None, :], 2.0 * q[:, None, :]), 1))[:, 4],
        ((1.0, 2.0, 4.0), 4.0, (0.0, 2.0, 0.0)),
        symbolic=False,
    ),
    # The entries of the first row, as a table of one column.
    "take_rows": Probe(
        "take_rows",
        lambda xp, q, index, _episode: xp.take_rows(q[0][:, None], index)[:, 0],
        (((4.0, 5.0, 6.0), 4.0, (1.0, 0.0, 1.0)), ((4.0, 5.0, 6.0), 6.0, (0.0, 0.0, 0.0))),
        symbolic=False,
    ),
    "concatenate": of_row(
        "concatenate",
        lambda xp, q: xp.sum(xp.concatenate((2.0 * q[:, 1:], q), 1), 1),
        ((1.0, 2.0, 3.0), 16.0, (1.0, 3.0, 3.0)),
        symbolic=False,
    ),
    "broadcast_to": of_row(
        "broadcast_to",
        lambda xp, q: xp.sum(xp.broadcast_to(q[:, 0][:, None], q) * q, 1),
        ((1.0, 2.0, 3.0), 6.0, (7.0, 1.0, 1.0)),
    ),
    "log_softmax": of_row(
        "log_softmax",
        lambda xp, q: xp.log_softmax(q, 1)[:, 0],
        ((0.0, 0.0, 0.0), -1.0986122886681098, (2 / 3, -1 / 3, -1 / 3)),
        ((1000.0, 0.0, 0.0), 0.0, (0.0, 0.0, 0.0)),
        ((0.0, 1000.0, 0.0), -1000.0, (1.0, -1.0, 0.0)),
    ),
    "log_softmax of -inf": of_row(
        "log_softmax",
        lambda xp, q: xp.log_softmax(masked(xp, q), 1)[:, 0],
        ((0.0, 0.0, 99.0), -0.6931471805599453, (0.5, -0.5, 0.0)),
        ((0.0, 99.0, 99.0), 0.0, (0.0, 0.0, 0.0)),
        ((99.0, 0.0, 0.0), -INF, (0.0, -0.5, -0.5)),
        symbolic=False,
    ),
    "take_last": Probe(
        "take_last",
        lambda xp, q, index, _episode: xp.take_last(q, index),
        (((4.0, 5.0, 6.0), 4.0, (1.0, 0.0, 0.0)), ((4.0, 5.0, 6.0), 6.0, (0.0, 0.0, 1.0))),
    ),
    "first_largest": of_row(
        "first_largest",
        lambda xp, q: xp.sum(xp.where(xp.first_largest(q), q * q, 0.0), 1),
        ((1.0, 2.0, 3.0), 9.0, (0.0, 0.0, 6.0)),
        ((1.0, 2.0, 2.0), 4.0, (0.0, 4.0, 0.0)),
        symbolic=False,
    ),
    "first_largest of -inf": of_row(
        "first_largest",
        lambda xp, q: xp.sum(xp.where(xp.first_largest(masked(xp, q)), q, 0.0), 1),
        ((99.0, 2.0, 2.0), 2.0, (0.0, 1.0, 0.0)),
        ((98.0, 99.0, 99.0), 98.0, (1.0, 0.0, 0.0)),
        symbolic=False,
    ),
    "episode_sum": Probe(
        "episode_sum",
        lambda xp, q, _index, episode: q[:, 1] * xp.episode_sum(q[:, 0], episode),
        (((1.0, 2.0, 0.0), 6.0, (7.0, 3.0, 0.0)), ((2.0, 5.0, 0.0), 15.0, (7.0, 3.0, 0.0))),
    ),
    "episode_mean": Probe(
        "episode_mean",
        lambda xp, q, _index, episode: q[:, 1] * xp.episode_mean(q[:, 0], episode),
        (((1.0, 2.0, 0.0), 3.0, (3.5, 1.5, 0.0)), ((2.0, 5.0, 0.0), 7.5, (3.5, 1.5, 0.0))),
    ),
    "full_like": of_one("full_like", lambda xp, x: xp.full_like(x, 0.1) * x, (3.0, 0.3, 0.1)),
}
