# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import math

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import OptimizerError
from pgcore.xp.numpy import host
from pgcore_optimizers.first_order import SGD, Adam, AdamW, RMSprop
from pgcore_optimizers.schedules import LinearSchedule

# The references below are written as sums over the whole history, not as the recursions that are under test.

STEPS = 6
RATES = [0.1, 0.05, 0.2, 0.01, 0.3, 0.1]
RNG = np.random.default_rng(12)
START = RNG.standard_normal((3, 2))
GRADIENTS = RNG.standard_normal((STEPS, 3, 2)) * np.array([1e-8, 1.0, 1e3])[:, None]


def run(spec, dtype=np.float64):
    """Return the parameters after each step."""
    parameter = START.astype(dtype)
    slots = {name: np.zeros_like(parameter) for name in spec.slots}
    found = []
    for k in range(STEPS):
        parameter, slots = spec.update(
            host, parameter, GRADIENTS[k].astype(dtype), slots, *spec.scalars(k + 1, RATES[k])
        )
        assert set(slots) == set(spec.slots)
        assert {parameter.dtype, *(slot.dtype for slot in slots.values())} == {np.dtype(dtype)}
        found.append(parameter)
    return np.array(found)


def path(directions):
    """Return the parameters after each step along these directions, in extended precision."""
    moves = [
        np.longdouble(rate) * direction for rate, direction in zip(RATES, directions, strict=True)
    ]
    return START - np.cumsum(moves, axis=0)


def history(decay, values):
    """Return sum over i <= k of decay^(k - i) values_i, for each k."""
    decay = np.longdouble(decay)
    return np.array([sum(decay ** (k - i) * values[i] for i in range(k + 1)) for k in range(STEPS)])


G = GRADIENTS.astype(np.longdouble)


def assert_close(found, expected):
    """Coordinates move by about 1e-9 to 1e2, so both a relative and an absolute part."""
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=1e-13, atol=1e-15)


def test_sgd_is_minus_rate_times_gradient():
    assert_close(run(SGD()), path(G))


def test_momentum_holds_gradients_so_a_change_of_rate_acts_at_once():
    found = run(SGD(momentum=0.9))
    assert_close(found, path(history(0.9, G)))
    rate_inside = START - np.cumsum(history(0.9, np.array(RATES)[:, None, None] * G), axis=0)
    assert np.abs(found - rate_inside).max() > 1.0, (
        "Keras' form, which differs once the rate changes"
    )


def test_nesterov_looks_ahead_along_the_buffer():
    assert_close(
        run(SGD(momentum=0.9, nesterov=True)), path(G + np.longdouble(0.9) * history(0.9, G))
    )


def adam_directions(beta1, beta2, eps):
    powers = np.arange(1, STEPS + 1)[:, None, None]
    one = np.longdouble(1)
    first = (one - beta1) * history(beta1, G) / (one - np.longdouble(beta1) ** powers)
    second = (one - beta2) * history(beta2, G * G) / (one - np.longdouble(beta2) ** powers)
    return first / (np.sqrt(second) + eps)


@pytest.mark.parametrize(
    ("beta1", "beta2", "eps"),
    [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3), (0.0, 0.99, 1e-8), (0.9, 0.0, 1.0)],
)
def test_adam_is_the_ratio_of_its_corrected_moments(beta1, beta2, eps):
    # 1 - beta loses digits in float64, the same ones for every step.
    found = run(Adam(beta1=beta1, beta2=beta2, eps=eps))
    expected = path(adam_directions(beta1, beta2, eps)).astype(np.float64)
    np.testing.assert_allclose(found - START, expected - START, rtol=1e-12, atol=1e-15)


def test_adams_epsilon_is_outside_the_root_and_after_bias_correction():
    """At |g| = eps the first step is half the rate; with Keras' epsilon it would be 0.03 of it."""
    spec = Adam(eps=1e-4)
    zero = {name: np.zeros(2) for name in spec.slots}
    moved, _ = spec.update(host, np.zeros(2), np.array([1e-4, -1e-4]), zero, *spec.scalars(1, 1.0))
    assert moved.tolist() == pytest.approx([-0.5, 0.5], rel=1e-12)


def test_a_first_gradient_of_zero_moves_nothing():
    for spec in (SGD(momentum=0.5), Adam(), AdamW(), RMSprop(), RMSprop(eps_inside=True)):
        zero = {name: np.zeros(2) for name in spec.slots}
        moved, slots = spec.update(host, np.ones(2), np.zeros(2), zero, *spec.scalars(1, 0.1))
        assert moved.tolist() == [1.0, 1.0]
        assert not any(slot.any() for slot in slots.values())


def test_adamw_shrinks_the_parameter_first_and_by_the_rate():
    spec = AdamW(weight_decay=0.3)
    directions = adam_directions(0.9, 0.999, 1e-8)
    expected = START.astype(np.longdouble)
    found = run(spec)
    for k, rate in enumerate(RATES):
        expected = (
            expected
            - np.longdouble(rate) * np.longdouble(0.3) * expected
            - np.longdouble(rate) * directions[k]
        )
        np.testing.assert_allclose(found[k], expected.astype(np.float64), rtol=1e-12)
    np.testing.assert_array_equal(run(AdamW()), run(Adam()))


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize(("eps_inside", "eps"), [(False, 1e-8), (True, 1e-2), (False, 1e-2)])
def test_rmsprop_divides_by_the_root_of_its_moment(momentum, eps_inside, eps):
    second = (1 - np.longdouble(0.99)) * history(0.99, G * G)
    root = np.sqrt(second + eps) if eps_inside else np.sqrt(second) + eps
    expected = path(history(momentum, G / root)).astype(np.float64)
    found = run(RMSprop(eps=eps, eps_inside=eps_inside, momentum=momentum))
    np.testing.assert_allclose(found - START, expected - START, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("spec", [SGD(momentum=0.9), Adam(), AdamW(weight_decay=0.1), RMSprop()])
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_arithmetic_stays_in_the_parameters_dtype(spec, dtype):
    np.testing.assert_allclose(
        run(spec, dtype).astype(np.float64),
        run(spec),
        rtol=2e-5 if dtype == np.float32 else 1e-12,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("norm", "factor"), [(0.0, 1.0), (1.9, 1.0), (2.0, 1.0), (4.0, 0.5), (2e8, 1e-8)]
)
def test_clipping_scales_by_c_over_the_larger_of_norm_and_c(norm, factor):
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), dtype="float64")
    batch = pg.Batch(
        observations=[0], actions=[0], rewards=[-1.0], episode_lengths=[1], terminated=[True]
    )
    plain = pg.gradient(policy, pg.estimator("reinforce"), batch)
    gradient = plain.scaled(norm / plain.norm())
    assert gradient.clipped(2.0).norm() == pytest.approx(norm * factor, rel=1e-15)
    assert gradient.clipped(2.0).loss == plain.loss
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(
            OptimizerError,
            match=r"Gradient\.clipped max_norm: expected a number above 0 or math\.inf, got",
        ):
            gradient.clipped(wrong)


def test_the_rate_is_a_number_or_a_schedule_of_steps():
    assert [SGD(learning_rate=1).rate(step) for step in (0, 9)] == [1.0, 1.0]
    assert [SGD(learning_rate=LinearSchedule(1.0, 0.0, 4)).rate(step) for step in (0, 1, 4)] == [
        1.0,
        0.75,
        0.0,
    ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: SGD(learning_rate=0.0),
            r"SGD\.learning_rate: expected a positive number, got 0\.0",
        ),
        (
            lambda: Adam(learning_rate="fast"),
            r"Adam\.learning_rate: expected a positive number, got 'fast'",
        ),
        (
            lambda: AdamW(max_grad_norm=0),
            r"AdamW\.max_grad_norm: expected a positive number, got 0",
        ),
        (
            lambda: SGD(momentum=1.0),
            r"SGD\.momentum: expected a number in \[0, 1\), got 1\.0; change this value",
        ),
        (
            lambda: SGD(momentum=-0.1),
            r"SGD\.momentum: expected a number in \[0, 1\), got -0\.1",
        ),
        (
            lambda: SGD(nesterov=True),
            r"SGD\.nesterov: expected momentum above 0 with it, got 0; set momentum",
        ),
        (lambda: Adam(beta1=1.0), r"Adam\.beta1: expected a number in \[0, 1\), got 1\.0"),
        (lambda: AdamW(beta2=2), r"AdamW\.beta2: expected a number in \[0, 1\), got 2"),
        (lambda: Adam(eps=0.0), r"Adam\.eps: expected a positive number, got 0\.0"),
        (
            lambda: AdamW(weight_decay=-1),
            r"AdamW\.weight_decay: expected a finite number of at least 0, got -1",
        ),
        (lambda: RMSprop(decay=1), r"RMSprop\.decay: .* got 1"),
        (lambda: RMSprop(eps=math.nan), r"RMSprop\.eps: expected a positive number, got nan"),
        (lambda: RMSprop(momentum=1.5), r"RMSprop\.momentum: .* got 1\.5"),
    ],
)
def test_fields_are_checked(make, words):
    with pytest.raises(OptimizerError, match=words):
        make()
