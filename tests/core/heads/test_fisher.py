"""Fisher information of the heads: closed forms beside E[score score^T], the sum or quadrature that stands in, and its errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import pgcore as pg
from pgcore.autodiff import fisher
from pgcore.errors import ShapeError, SpecError
from pgcore.xp.numpy import host
from pgcore_check.proofs import variants

HEADS = variants("heads")

RNG = np.random.default_rng(41)
STEPS = 4
# Of the central differences, in extended precision: what they leave out is about its square.
STEP = np.longdouble(1e-6)
DISCRETE = [name for name, head in HEADS.items() if head.discrete]


def case(head, mask=None):
    """Return a point, [B, outputs + extra], and the function from it to distribution parameters, in extended precision."""
    extra = head.initial_parameters()
    point = np.asarray(
        RNG.standard_normal((STEPS, head.outputs + sum(map(len, extra.values())))), np.longdouble
    )

    def described(at):
        parameters = dict.fromkeys(extra, at[:, head.outputs :])
        return head.distribution(host, at[:, : head.outputs], parameters, mask)

    return point, described


def jacobian(function, at):
    """Return [B, ..., P] central differences of a function of [B, P], 0 where it is infinite."""
    columns = []
    for direction in np.eye(at.shape[1], dtype=np.longdouble) * STEP:
        above, below = function(at + direction), function(at - direction)
        finite = np.isfinite(above) & np.isfinite(below)
        columns.append(
            np.where(finite, np.where(finite, above, 0) - np.where(finite, below, 0), 0)
            / (2 * STEP)
        )
    return np.stack(columns, -1)


def outcomes(head, distribution):
    """Yield [B, ...] actions and [B] weights: all there are, or Gauss-Hermite nodes, exact for these scores' products."""
    if head.discrete:
        columns = np.arange(head.width)
        for index in itertools.product(*(range(len(columns[choice])) for choice in head.choices)):
            weight = np.exp(
                sum(
                    distribution[:, choice][:, k]
                    for choice, k in zip(head.choices, index, strict=True)
                )
            )
            action = np.tile(np.array(index), (STEPS, 1))
            yield (action[:, 0] if head.enumerable else action), weight
        return
    nodes, weights = (
        np.asarray(part, np.longdouble) for part in np.polynomial.hermite_e.hermegauss(4)
    )
    weights = weights / weights.sum()
    mean, std = distribution[:, : head.n], np.exp(distribution[:, head.n :])
    for index in itertools.product(range(4), repeat=head.n):
        yield mean + std * nodes[list(index)], np.full(STEPS, weights[list(index)].prod())


def mask_of(head):
    """Return a [B, width] mask that leaves one alternative or more of each choice."""
    mask = RNG.random((STEPS, head.width)) < 0.6
    for choice in head.choices:
        mask[np.arange(STEPS), np.arange(head.width)[choice][0]] = True
    return mask


@pytest.mark.parametrize(
    ("name", "masked"), [*((name, False) for name in HEADS), *((name, True) for name in DISCRETE)]
)
def test_fisher_information_is_the_mean_product_of_scores(name, masked):
    head = HEADS[name]
    point, described = case(head, mask_of(head) if masked else None)
    distribution, j = described(point), jacobian(described, point)
    direction = np.asarray(RNG.standard_normal(point.shape), np.longdouble)
    information = head.fisher(host, distribution, np.einsum("bwp,bp->bw", j, direction))
    product = np.einsum("bwp,bw->bp", j, information)
    expected = np.zeros_like(product)
    for action, weight in outcomes(head, distribution):
        score = jacobian(
            lambda at, action=action: head.log_prob(host, described(at), action), point
        )
        expected += weight[:, None] * score * (score * direction).sum(axis=1, keepdims=True)
    assert information.dtype == np.longdouble
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-10)
    assert head.action_values or np.abs(expected).max() > 1e-2


@pytest.mark.parametrize("name", DISCRETE)
def test_a_masked_alternative_takes_no_part(name):
    head = HEADS[name]
    mask = mask_of(head)
    distribution = head.distribution(host, RNG.standard_normal((STEPS, head.outputs)), {}, mask)
    tangent = np.where(mask, RNG.standard_normal(mask.shape), np.inf)
    information = head.fisher(host, distribution, tangent)
    assert not mask.all()
    np.testing.assert_array_equal(information[~mask], 0.0)
    np.testing.assert_allclose(information[mask], np.exp(distribution[mask]) * tangent[mask])


@pytest.mark.parametrize("name", DISCRETE)
def test_actions_that_can_be_listed_are_weighed_by_their_probabilities(name):
    head = HEADS[name]
    mask = mask_of(head)
    distribution = head.distribution(host, RNG.standard_normal((STEPS, head.outputs)), {}, mask)
    actions, weights = head.quadrature(distribution)
    for k, (action, weight) in enumerate(outcomes(head, distribution)):
        np.testing.assert_array_equal(actions[:, k], action)
        np.testing.assert_allclose(weights[:, k], weight, rtol=1e-14)
    assert len(weights.T) == np.prod([len(range(head.width)[choice]) for choice in head.choices])
    # An impossible action is replaced by one whose log-probability is finite.
    listed = fisher.quadrature(head, distribution, np.dtype(np.float32))["quadrature_actions"]
    for k in range(listed.shape[1]):
        assert np.isfinite(head.log_prob(host, distribution, listed[:, k])).all()


class Other(pg.DiagonalGaussian):
    """Changes the log-density and says nothing of the Fisher information."""

    def log_prob(self, xp, distribution, actions):
        return 2.0 * super().log_prob(xp, distribution, actions)


class Same(Other):
    """Says that it is its parent's all the same."""

    fisher = pg.DiagonalGaussian.fisher


class Renamed(Same):
    """Changes something else."""

    name = "renamed"


class Mixin:
    def quadrature(self, distribution):
        return distribution[:, None, :2], np.ones((len(distribution), 1))


class Mixed(Mixin, Other):
    """Takes its quadrature from a class that is no head."""


def test_a_closed_form_belongs_to_the_log_density_it_was_written_for():
    closed = [
        head for head in (*HEADS.values(), Same(2), Renamed(2)) if fisher.has_closed_form(head)
    ]
    assert len(closed) == len(HEADS) + 2
    assert not fisher.has_closed_form(Other(2))
    assert fisher.quadrature(Mixed(2), np.zeros((3, 4)), np.dtype(np.float32))[
        "quadrature_actions"
    ].shape == (3, 1, 2)


def test_a_head_with_neither_is_an_error_that_says_what_to_write():
    with pytest.raises(
        SpecError,
        match=r"Other.*got actions that cannot be listed; write `fisher` beside `log_prob`, or",
    ):
        fisher.quadrature(Other(2), np.zeros((3, 4)), np.dtype(np.float64))
    with pytest.raises(
        SpecError,
        match=r"Other.*\.fisher: expected .* got one that has none; write `fisher` beside",
    ):
        pg.Head.fisher(Other(2), host, np.zeros((3, 4)), np.zeros((3, 4)))
    with pytest.raises(
        SpecError, match="at most 1,024 actions to sum over, got 4,096; write `fisher`"
    ):
        pg.Bernoulli(12).quadrature(np.full((3, 24), np.log(0.5)))


@pytest.mark.parametrize(
    ("actions", "weights", "words"),
    [
        (
            np.zeros((3, 2, 2)),
            np.full((3, 1), 1.0),
            r"expected actions \[B, K, \.\.\.\] and weights \[B, K\] for B = 3",
        ),
        (
            np.zeros((2, 2, 2)),
            np.full((2, 2), 0.5),
            r"got \[2, 2, 2\] and \[2, 2\]; return K actions a step",
        ),
        (np.zeros((3, 2)), np.full(3, 1.0), r"got \[3, 2\] and \[3\]"),
        (
            np.zeros((3, 2, 2)),
            np.full((3, 2), 0.4),
            "got a least one of 0.4 and sums from 0.8 to 0.8; weigh by",
        ),
        (np.zeros((3, 2, 2)), np.tile([1.5, -0.5], (3, 1)), "got a least one of -0.5"),
        (np.zeros((3, 2, 2)), np.full((3, 2), np.nan), "got a least one of nan"),
    ],
)
def test_a_quadrature_of_the_wrong_shape_or_weight_is_refused(monkeypatch, actions, weights, words):
    monkeypatch.setattr(Mixin, "quadrature", lambda *_: (actions, weights))
    with pytest.raises(ShapeError, match=words):
        fisher.quadrature(Mixed(2), np.zeros((3, 4)), np.dtype(np.float64))
