# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import math

import mpmath
import numpy as np
import pytest
from scipy import integrate, special, stats

from pgcore.errors import BatchError, ShapeError, SpecError
from pgcore.heads import Categorical, DiagonalGaussian
from pgcore.xp.numpy import host

RNG = np.random.default_rng(3)
LOGITS = 2.0 * RNG.standard_normal((5, 4))
ACTIONS = np.array([0, 3, 1, 2, 2])
MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1]], bool)


@pytest.fixture
def rng():
    """Random numbers of the test's own."""
    return np.random.default_rng(9)


def categorical(logits, temperature=1.0, mask=None):
    head = Categorical(logits.shape[1], temperature)
    return head, head.distribution(host, logits, {}, mask)


def gaussian(mean, std):
    head = DiagonalGaussian(mean.shape[1])
    return head, np.concatenate([mean, np.log(std)], axis=1)


MEAN, STD = RNG.standard_normal((5, 3)), np.exp(RNG.standard_normal((5, 3)))
MEAN0, STD0 = RNG.standard_normal((5, 3)), np.exp(RNG.standard_normal((5, 3)))


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 7.0])
def test_categorical_is_a_softmax_of_logits_over_temperature(temperature):
    head, distribution = categorical(LOGITS, temperature)
    np.testing.assert_allclose(
        distribution, special.log_softmax(LOGITS / temperature, axis=1), rtol=1e-13, atol=1e-15
    )
    np.testing.assert_array_equal(
        head.log_prob(host, distribution, ACTIONS), distribution[range(5), ACTIONS]
    )
    assert (head.outputs, head.width, head.discrete, head.initial_parameters()) == (4, 4, True, {})


def test_categorical_agrees_with_mpmath_where_it_saturates():
    w, temperature = [3.0, 2.0, -1.0], 0.01
    _, distribution = categorical(np.array([w]), temperature)
    with mpmath.workdps(260):  # 60 + (max - min logit) / 2.3 digits
        z = [mpmath.mpf(x) / mpmath.mpf(temperature) for x in w]
        expected = [x - mpmath.log(mpmath.fsum(map(mpmath.exp, z))) for x in z]
    assert distribution[0, 1:].tolist() == pytest.approx(
        [float(x) for x in expected[1:]], rel=1e-14
    )
    assert distribution[0, 0] == pytest.approx(float(expected[0]), abs=1e-16)


def test_categorical_entropy_and_kl_are_those_of_scipy():
    head, new = categorical(LOGITS, 0.5)
    _, old = categorical(LOGITS[::-1].copy())
    np.testing.assert_allclose(
        head.entropy(host, new), stats.entropy(np.exp(new), axis=1), rtol=1e-13, atol=1e-15
    )
    np.testing.assert_allclose(
        head.kl(host, old, new),
        stats.entropy(np.exp(old), np.exp(new), axis=1),
        rtol=1e-12,
        atol=1e-15,
    )
    assert not np.allclose(head.kl(host, old, new), head.kl(host, new, old)), (
        "the direction matters"
    )


def test_a_masked_softmax_is_the_softmax_of_the_possible_actions():
    head, distribution = categorical(LOGITS, 0.5, MASK)
    for step, possible in enumerate(MASK):
        own = special.log_softmax(LOGITS[step, possible] / 0.5)
        np.testing.assert_allclose(distribution[step, possible], own, rtol=1e-13, atol=1e-15)
        assert (distribution[step, ~possible] == -math.inf).all()
        assert head.entropy(host, distribution)[step] == pytest.approx(
            stats.entropy(np.exp(own)), abs=1e-15
        )
    assert head.entropy(host, distribution)[3] == 0.0, (
        "one possible action leaves no choice, and 0 log 0 is 0"
    )


def test_masked_kl_counts_possible_actions_only():
    head, new = categorical(LOGITS, 1.0, MASK)
    _, old = categorical(LOGITS[::-1].copy(), 1.0, MASK)
    expected = [stats.entropy(np.exp(old[t, m]), np.exp(new[t, m])) for t, m in enumerate(MASK)]
    np.testing.assert_allclose(head.kl(host, old, new), expected, rtol=1e-12, atol=1e-15)


def test_kl_to_a_policy_that_forbids_what_the_reference_does_is_infinite():
    head, narrow = categorical(LOGITS, 1.0, MASK)
    _, wide = categorical(LOGITS)
    assert np.isinf(head.kl(host, wide, narrow)).tolist() == (~MASK.all(axis=1)).tolist()
    assert np.isfinite(head.kl(host, narrow, wide)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_formulas_keep_the_dtype(dtype):
    head, discrete = categorical(LOGITS.astype(dtype), 0.5, MASK)
    assert {
        x.dtype for x in (discrete, head.entropy(host, discrete), head.kl(host, discrete, discrete))
    } == {np.dtype(dtype)}
    for log_std in ("fixed", "shared", "per-state"):
        head = DiagonalGaussian(2, log_std, 0.5)
        own = {name: value.astype(dtype) for name, value in head.initial_parameters().items()}
        normal = head.distribution(host, LOGITS[:, : head.outputs].astype(dtype), own, None)
        found = (
            normal,
            head.log_prob(host, normal, normal[:, :2]),
            head.entropy(host, normal),
            head.kl(host, normal, normal),
        )
        assert {x.dtype for x in found} == {np.dtype(dtype)}


def test_gaussian_log_prob_is_a_sum_of_normal_densities(rng):
    head, distribution = gaussian(MEAN, STD)
    actions = MEAN + 3.0 * rng.standard_normal(MEAN.shape)
    expected = np.sum(stats.norm.logpdf(actions, MEAN, STD), axis=1)
    np.testing.assert_allclose(head.log_prob(host, distribution, actions), expected, rtol=1e-13)
    assert (head.width, head.discrete) == (6, False)


def test_gaussian_entropy_is_that_of_scipy():
    head, distribution = gaussian(MEAN, STD)
    expected = [
        stats.multivariate_normal(m, np.diag(s * s)).entropy()
        for m, s in zip(MEAN, STD, strict=True)
    ]
    np.testing.assert_allclose(head.entropy(host, distribution), expected, rtol=1e-12)


def test_gaussian_kl_is_the_integral_that_defines_it():
    head, new = gaussian(MEAN[:, :1], STD[:, :1])
    _, old = gaussian(MEAN0[:, :1], STD0[:, :1])
    for step, kl in enumerate(head.kl(host, old, new)):
        p, q = stats.norm(MEAN0[step, 0], STD0[step, 0]), stats.norm(MEAN[step, 0], STD[step, 0])
        low, high = p.ppf(1e-13), p.isf(1e-13)
        integral, _ = integrate.quad(
            lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), low, high, epsabs=1e-11
        )
        assert kl == pytest.approx(integral, rel=1e-7)


def test_gaussian_kl_adds_over_dimensions_and_is_zero_at_itself():
    head, new = gaussian(MEAN, STD)
    _, old = gaussian(MEAN0, STD0)
    parts = [DiagonalGaussian(1).kl(host, old[:, [i, 3 + i]], new[:, [i, 3 + i]]) for i in range(3)]
    np.testing.assert_allclose(head.kl(host, old, new), np.sum(parts, axis=0), rtol=1e-13)
    np.testing.assert_array_equal(head.kl(host, old, old), np.zeros(5))


def test_gaussian_score_terms_survive_a_tiny_std():
    head, distribution = gaussian(np.array([[1.0]]), np.array([[1e-4]]))
    z = (1.00003 - 1.0) / 1e-4
    expected = -0.5 * z * z - math.log(1e-4) - 0.5 * math.log(2 * math.pi)
    assert head.log_prob(host, distribution, np.array([[1.00003]]))[0] == pytest.approx(
        expected, rel=1e-14
    )


def test_log_std_is_fixed_shared_or_the_networks(rng):
    outputs = rng.standard_normal((3, 4))
    means = outputs[:, :2]
    fixed, shared, own = (
        DiagonalGaussian(2, kind, 0.5) for kind in ("fixed", "shared", "per-state")
    )
    assert (fixed.outputs, shared.outputs, own.outputs) == (2, 2, 4)
    assert (fixed.initial_parameters(), own.initial_parameters()) == ({}, {})
    np.testing.assert_array_equal(shared.initial_parameters()["log_std"], np.log([0.5, 0.5]))
    expected = np.hstack([means, np.full((3, 2), math.log(0.5))])
    np.testing.assert_array_equal(fixed.distribution(host, means, {}, None), expected)
    np.testing.assert_array_equal(
        shared.distribution(host, means, shared.initial_parameters(), None), expected
    )
    learned = shared.distribution(host, means, {"log_std": np.array([0.25, -1.0])}, None)
    np.testing.assert_array_equal(learned[:, 2:], np.tile([0.25, -1.0], (3, 1)))
    np.testing.assert_array_equal(
        own.distribution(host, outputs, {}, None)[:, 2:], outputs[:, 2:] + math.log(0.5)
    )


def test_categorical_samples_come_with_their_probabilities():
    head, distribution = categorical(np.tile(LOGITS[:1], (40_000, 1)), 2.0)
    counts = np.bincount(
        head.sample(distribution, np.random.Generator(np.random.Philox(5))), minlength=4
    )
    assert stats.chisquare(counts, 40_000 * np.exp(distribution[0])).pvalue > 1e-3


def test_masked_actions_are_never_sampled():
    head, distribution = categorical(np.tile(LOGITS, (4000, 1)), 4.0, np.tile(MASK, (4000, 1)))
    actions = head.sample(distribution, np.random.Generator(np.random.Philox(6)))
    assert np.tile(MASK, (4000, 1))[np.arange(20_000), actions].all()
    for step, mask in enumerate(MASK):
        assert set(actions[step::5]) == set(np.flatnonzero(mask)), "every possible action comes up"


class Stuck:
    """A generator whose uniform numbers are all the same."""

    def __init__(self, number):
        self.number = number

    def random(self, size):
        return np.full(size, self.number)


@pytest.mark.parametrize(("number", "place"), [(0.0, 0), (math.nextafter(1.0, 0.0), -1)])
def test_extreme_uniform_numbers_choose_the_first_and_last_possible_action(number, place):
    mask = np.array([[0, 1, 1, 0, 1, 0]], bool).repeat(500, axis=0)
    head, distribution = categorical(
        3.0 * np.random.default_rng(0).standard_normal((500, 6)), 1.0, mask
    )
    assert (head.sample(distribution, Stuck(number)) == np.flatnonzero(mask[0])[place]).all()


def test_gaussian_samples_have_their_distribution():
    head, distribution = gaussian(np.tile(MEAN[:1], (20_000, 1)), np.tile(STD[:1], (20_000, 1)))
    actions = head.sample(distribution, np.random.Generator(np.random.Philox(7)))
    for dimension in range(3):
        normal = stats.norm(MEAN[0, dimension], STD[0, dimension])
        assert stats.kstest(actions[:, dimension], normal.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(actions.T) - np.eye(3)).max() < 0.03, "dimensions are independent"


@pytest.mark.parametrize(
    ("head", "distribution"),
    [categorical(LOGITS), gaussian(MEAN, STD)],
    ids=["categorical", "gaussian"],
)
def test_one_seed_gives_the_same_samples_and_another_gives_others(head, distribution):
    distribution = np.tile(distribution, (20, 1))
    first, again, other = (
        head.sample(distribution, np.random.Generator(np.random.Philox(s))) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_mode_is_the_most_probable_action():
    head, distribution = categorical(
        np.array([[0.0, 2.0, 2.0], [5.0, 1.0, 1.0]]), 1.0, np.array([[1, 1, 1], [0, 1, 1]], bool)
    )
    assert head.mode(distribution).tolist() == [1, 1]
    head, distribution = gaussian(MEAN, STD)
    np.testing.assert_array_equal(head.mode(distribution), MEAN)


def test_actions_that_fit_pass():
    Categorical(4).check_actions(ACTIONS, None)
    Categorical(4).check_actions(ACTIONS, MASK)
    DiagonalGaussian(3).check_actions(MEAN, None)


@pytest.mark.parametrize(
    ("head", "actions", "mask", "error", "words"),
    [
        (
            Categorical(4),
            MEAN,
            None,
            ShapeError,
            r"expected shape \[B\] for Categorical\(n=4, .*, got \[5, 3\]; one integer",
        ),
        (
            Categorical(4),
            MEAN[:, 0],
            None,
            BatchError,
            r"expected integers for Categorical.*, got float64; use a Gaussian",
        ),
        (
            Categorical(3),
            ACTIONS,
            None,
            BatchError,
            r"expected integers in \[0, 3\), got 3 at step 1; check the head's",
        ),
        (
            Categorical(4),
            -ACTIONS,
            None,
            BatchError,
            r"expected integers in \[0, 4\), got -3 at step 1",
        ),
        (
            Categorical(5),
            ACTIONS,
            MASK,
            ShapeError,
            r"Batch\.action_mask: expected \[B, 5\] for Categorical.*, got \[5, 4\]",
        ),
        (
            DiagonalGaussian(3),
            ACTIONS,
            None,
            ShapeError,
            r"expected shape \[B, 3\] for DiagonalGaussian.*, got \[5\]; one column",
        ),
        (
            DiagonalGaussian(2),
            MEAN,
            None,
            ShapeError,
            r"expected shape \[B, 2\] for DiagonalGaussian.*, got \[5, 3\]",
        ),
        (
            DiagonalGaussian(3),
            MEAN,
            MASK,
            BatchError,
            r"Batch\.action_mask: expected none for DiagonalGaussian.*, got a mask",
        ),
    ],
)
def test_actions_that_do_not_fit_are_refused(head, actions, mask, error, words):
    with pytest.raises(error, match=words):
        head.check_actions(actions, mask)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Categorical(0), r"Categorical\.n: expected an integer of at least 1, got 0"),
        (
            lambda: Categorical(2, 0.0),
            r"Categorical\.temperature: expected a positive number, got 0\.0",
        ),
        (lambda: Categorical(2, math.inf), r"Categorical\.temperature: .*, got inf"),
        (lambda: DiagonalGaussian(1.5), r"DiagonalGaussian\.n: .*, got 1\.5"),
        (
            lambda: DiagonalGaussian(1, std=-1.0),
            r"DiagonalGaussian\.std: expected a positive number, got -1\.0",
        ),
        (
            lambda: DiagonalGaussian(1, "mine"),
            r"DiagonalGaussian\.log_std: expected one of 'fixed', 'shared', 'per-state', got 'mine'",
        ),
    ],
)
def test_fields_are_checked(make, words):
    with pytest.raises(SpecError, match=words):
        make()
