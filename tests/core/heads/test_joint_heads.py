"""Heads of several choices at once: what they are as products of one-choice heads, masks, drawing, errors."""

# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, ShapeError, SpecError
from pgcore.xp.numpy import host

RNG = np.random.default_rng(12)
MULTI = pg.MultiCategorical((3, 2), temperature=0.5)
SWITCHES = pg.Bernoulli(2, temperature=0.5)
LOGITS = {MULTI: RNG.standard_normal((4, 5)), SWITCHES: RNG.standard_normal((4, 2))}
MASKS = {
    MULTI: np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 1], [1, 0, 1, 1, 1]], bool),
    SWITCHES: np.array([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0]], bool),
}
both = pytest.mark.parametrize("head", [MULTI, SWITCHES], ids=["multi", "switches"])
masked = pytest.mark.parametrize("with_mask", [False, True], ids=["all", "masked"])


def described(head, mask=None):
    return head.distribution(host, LOGITS[head], {}, mask)


def joint(head, distribution):
    """Return all actions [K, choices] and their probabilities [B, K], multiplied out."""
    columns = np.arange(head.width)
    own = [columns[choice] for choice in head.choices]
    actions = np.array(list(itertools.product(*(range(len(each)) for each in own))))
    chosen = np.stack([np.exp(distribution[:, each[actions[:, k]]]) for k, each in enumerate(own)])
    return actions, chosen.prod(axis=0)


def test_a_multi_categorical_is_a_softmax_a_choice():
    found = described(MULTI)
    for own in (slice(0, 3), slice(3, 5)):
        np.testing.assert_allclose(
            found[:, own], special.log_softmax(LOGITS[MULTI][:, own] / 0.5, axis=1), rtol=1e-13
        )


def test_a_switch_is_on_with_the_logistic_probability():
    found = described(SWITCHES)
    np.testing.assert_allclose(
        np.exp(found[:, 2:]), special.expit(LOGITS[SWITCHES] / 0.5), rtol=1e-13
    )
    np.testing.assert_allclose(
        np.exp(found[:, :2]), special.expit(-LOGITS[SWITCHES] / 0.5), rtol=1e-13
    )


def test_one_choice_is_a_categorical():
    logits, other = RNG.standard_normal((2, 6, 3))
    one, plain = pg.MultiCategorical((3,), 0.7), pg.Categorical(3, 0.7)
    first, second = (one.distribution(host, each, {}, None) for each in (logits, other))
    actions = np.array([0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(first, plain.distribution(host, logits, {}, None))
    np.testing.assert_array_equal(
        one.log_prob(host, first, actions[:, None]), plain.log_prob(host, first, actions)
    )
    np.testing.assert_array_equal(one.entropy(host, first), plain.entropy(host, first))
    np.testing.assert_array_equal(one.kl(host, first, second), plain.kl(host, first, second))


def test_a_switch_is_a_categorical_of_two():
    w = RNG.standard_normal((6, 1))
    one, plain = pg.Bernoulli(1, 0.7), pg.Categorical(2, 0.7)
    both_logits = np.concatenate((np.zeros_like(w), w), axis=1)
    np.testing.assert_array_equal(
        one.distribution(host, w, {}, None), plain.distribution(host, both_logits, {}, None)
    )


@both
@masked
def test_quantities_are_those_of_all_joint_actions(head, with_mask):
    mask = MASKS[head] if with_mask else None
    new = described(head, mask)
    old = head.distribution(host, LOGITS[head][::-1].copy(), {}, mask)
    actions, pi = joint(head, new)
    _, reference = joint(head, old)
    np.testing.assert_allclose(pi.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(
        head.entropy(host, new), stats.entropy(pi, axis=1), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        head.kl(host, old, new), stats.entropy(reference, pi, axis=1), rtol=1e-11, atol=1e-15
    )
    for k, action in enumerate(actions):
        found = head.log_prob(host, new, np.tile(action, (4, 1)))
        np.testing.assert_allclose(np.exp(found), pi[:, k], rtol=1e-13)


@both
@masked
def test_actions_are_drawn_as_often_as_they_are_likely(head, with_mask):
    mask = MASKS[head] if with_mask else None
    distribution = described(head, mask)
    count = 4000
    drawn = head.sample(np.repeat(distribution, count, axis=0), np.random.default_rng(0)).reshape(
        4, count, -1
    )
    actions, pi = joint(head, distribution)
    for step in range(4):
        seen = np.array([(drawn[step] == action).all(axis=1).sum() for action in actions])
        assert seen.sum() == count
        assert (seen[pi[step] == 0] == 0).all()
        possible = pi[step] > 0
        if possible.sum() > 1:
            assert stats.chisquare(seen[possible], count * pi[step][possible]).pvalue > 1e-4


@both
def test_the_mode_is_the_likeliest_joint_action(head):
    actions, pi = joint(head, described(head))
    np.testing.assert_array_equal(head.mode(described(head)), actions[pi.argmax(axis=1)])


def test_an_even_chance_takes_the_first():
    assert pg.Bernoulli(2).mode(np.log(np.full((1, 4), 0.5))).tolist() == [[0, 0]]


@both
def test_masks_come_choice_by_choice(head):
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), head))
    observations = np.ones((4, 3))
    actions, log_probs = policy.act(observations, pg.generator(0), MASKS[head])
    assert actions.shape == (4, 2)
    assert np.isfinite(log_probs).all()
    forbidden = MASKS[head].copy()
    forbidden[2, head.choices[1]] = False
    with pytest.raises(
        BatchError, match="expected a possible action at every step, got none at step 2"
    ):
        policy.act(observations, pg.generator(0), forbidden)
    with pytest.raises(ShapeError, match=rf"action_mask: expected shape \[4, {head.width}\]"):
        policy.act(observations, pg.generator(0), MASKS[head][:, 1:])


@pytest.mark.parametrize(
    ("head", "actions", "mask", "error", "words"),
    [
        (
            MULTI,
            [0, 1],
            None,
            ShapeError,
            r"expected shape \[B, 2\] for MultiCategorical.*got \[2\]; one integer a step and choice",
        ),
        (MULTI, [[0, 1, 0]], None, ShapeError, r"expected shape \[B, 2\].*got \[1, 3\]"),
        (MULTI, [[0.5, 1.0]], None, BatchError, "expected integers for MultiCategorical"),
        (
            MULTI,
            [[0, 0], [0, 2]],
            None,
            BatchError,
            r"expected integers in \[0, 2\), got 2 at step 1",
        ),
        (
            SWITCHES,
            [[0, 1], [2, 0]],
            None,
            BatchError,
            r"expected integers in \[0, 2\), got 2 at step 1",
        ),
        (
            MULTI,
            [[0, 1]],
            [[1, 1, 1, 1]],
            ShapeError,
            r"action_mask: expected \[B, 5\].*got \[1, 4\]",
        ),
        (
            MULTI,
            [[0, 1]],
            [[1, 1, 1, 1, 0]],
            BatchError,
            r"actions that the mask allows, got \[0 1\] at step 0",
        ),
        (
            SWITCHES,
            [[0, 1]],
            [[0, 1, 1, 1]],
            BatchError,
            r"actions that the mask allows, got \[0 1\] at step 0",
        ),
    ],
)
def test_actions_that_no_policy_of_the_head_takes_are_refused(head, actions, mask, error, words):
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), head))
    batch = pg.Batch(
        observations=np.ones((len(actions), 1)),
        actions=actions,
        rewards=np.zeros(len(actions)),
        episode_lengths=[len(actions)],
        terminated=[True],
        action_mask=None if mask is None else np.array(mask, bool),
    )
    with pytest.raises(error, match=words):
        policy.check(batch)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: pg.MultiCategorical(()),
            r"MultiCategorical.n: expected one count for each choice, got \(\)",
        ),
        (
            lambda: pg.MultiCategorical(3),
            "MultiCategorical.n: expected one count for each choice, got 3",
        ),
        (
            lambda: pg.MultiCategorical("32"),
            "MultiCategorical.n: expected one count for each choice, got '32'",
        ),
        (
            lambda: pg.MultiCategorical((3, 0)),
            r"MultiCategorical.n\[1\]: expected an integer of at least 1, got 0",
        ),
        (
            lambda: pg.MultiCategorical((3, 2), 0.0),
            "MultiCategorical.temperature: expected a positive number",
        ),
        (lambda: pg.Bernoulli(0), "Bernoulli.n: expected an integer of at least 1"),
        (lambda: pg.Bernoulli(2, math.nan), "Bernoulli.temperature: expected a positive number"),
    ],
)
def test_heads_that_cannot_be_are_refused(make, words):
    with pytest.raises(SpecError, match=words):
        make()


@both
def test_a_spec_goes_to_json_and_back(head):
    spec = pg.PolicySpec(pg.Linear(2), head)
    assert pg.PolicySpec.from_json(spec.to_json()) == spec


@both
def test_an_estimator_of_listed_actions_does_not_fit(head):
    policy = pg.policy(pg.PolicySpec(pg.Table(2), head, "separate"))
    with pytest.raises(EstimatorError, match="got no log_probs"):
        policy.check_fits(pg.estimator("expected"))
