"""What is derived from a surrogate: its values, its writing, and the errors that say why there is none."""

import copy
import math
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import DependencyError, EstimatorError, NonFiniteError
from pgcore.interfaces.estimator import Estimator
from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import host
from pgcore_check.bounds.running_error import Bounded, bounded
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.results import gradient_row
from pgcore_derive.derivation import derive
from pgcore_derive.differences import points
from pgcore_derive.functions import ELEMENTWISE
from pgcore_derive.program import compile_expressions
from pgcore_derive.xp import SymbolicNamespace
from pgcore_estimators.preset_classes import PPO

HEADS = variants("heads")


@dataclass(frozen=True)
class Base(Estimator):
    """Everything but a surrogate."""

    name: ClassVar[str] = "tiny"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False, off_policy="limited", needs_critic=True, discrete_only=True
        )

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}


class Naive(Base):
    """PPO as it is usually written."""

    def surrogate(self, xp, *, log_prob, old_log_prob, advantage):
        ratio = xp.exp(log_prob - old_log_prob)
        return -xp.minimum(ratio * advantage, xp.clip(ratio, 0.8, 1.2) * advantage)


class Expected(Base):
    """All actions, each weighed by a signal that is [B, A]."""

    def surrogate(self, xp, *, log_probs, gain):
        return -xp.sum(xp.exp(log_probs) * gain, axis=1)


class Soft(Base):
    """The entropy-regularised actor, masked actions left out of the logarithm."""

    def surrogate(self, xp, *, log_probs, action_values):
        safe = xp.where(log_probs > -math.inf, log_probs, 0.0)
        return xp.sum(xp.exp(log_probs) * (0.25 * safe - action_values), axis=1)


class Target(Base):
    """Squared error of one action's value."""

    def surrogate(self, xp, *, action_values, action, target):
        error = xp.take_last(action_values, action) - target
        return 0.5 * error * error


class Cross(Base):
    """Cross-entropy to targets, of values as logits."""

    def surrogate(self, xp, *, action_values, target):
        return -xp.sum(xp.log_softmax(action_values / 0.5, axis=1) * target, axis=1)


class Nested(Base):
    """Sums inside of sums, a value beside each action, one action by its number."""

    def surrogate(self, xp, *, log_probs, action_values, value):
        mean = xp.sum(xp.exp(log_probs) * action_values, axis=1)
        spread = xp.sum(xp.exp(log_probs) * xp.abs(action_values - mean[:, None]), axis=-1)
        return (
            xp.sqrt(1.0 + spread) * value
            - xp.exp(mean) / (2.0 + value**2)
            + action_values[:, 1] * value**3
        )


class Flagged(Base):
    """A signal that says which steps count, and actions that are counted."""

    def surrogate(self, xp, *, log_probs, counts, value):
        mean = xp.sum(xp.broadcast_to(value[:, None], log_probs) * 0.5, axis=1)
        return xp.where(counts, xp.log(1.0 + xp.exp(value)) + mean, xp.exp(-value)) * xp.sum(
            log_probs, axis=1
        )


class Taken(Base):
    """Entries of products, and of signals that only these uses show to be [B, A]."""

    def surrogate(self, xp, *, log_probs, value, action, weight, bonus):
        chosen = xp.take_last(log_probs * value[:, None] + xp.exp(value[:, None]), action)
        return chosen * xp.sum(weight, axis=1) + value * bonus[:, 2]


ALL_FORMS = [Naive, Expected, Soft, Target, Cross, Nested, Flagged, Taken]


def given_to(estimator, count=7):
    """Return random points without masks."""
    found = points(derive(estimator), np.random.default_rng(3), count)
    rng = np.random.default_rng(4)
    return {
        name: rng.uniform(-1, 1, value.shape).astype(np.longdouble)
        if value.dtype.kind == "f"
        else value
        for name, value in found.items()
    }


@pytest.mark.parametrize("estimator", ALL_FORMS)
def test_derivatives_are_differences_of_the_surrogate(estimator):
    estimator = estimator()
    given = given_to(estimator)
    found = estimator.cotangents(**given)
    assert set(found) == set(estimator.quantities)
    size = np.longdouble(1e-6)
    for name, value in found.items():
        assert (value.shape, value.dtype) == (given[name].shape, given[name].dtype)
        for column in np.ndindex(value.shape[1:]):
            ends = []
            for sign in (1, -1):
                moved = given[name].copy()
                moved[(slice(None), *column)] += sign * size
                ends.append(estimator.surrogate(host, **(given | {name: moved})))
            np.testing.assert_allclose(
                value[(slice(None), *column)], (ends[0] - ends[1]) / (2 * size), atol=1e-10
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize(
    "estimator", [*ALL_FORMS, pg.estimator("ppo", value_clip=0.2, entropy_coefficient=0.1)]
)
def test_every_float_dtype_is_kept(estimator, dtype):
    estimator = estimator() if isinstance(estimator, type) else estimator
    given = given_to(estimator)
    exact = derive(estimator).cotangents(**given)
    cast = {
        name: value.astype(dtype) if value.dtype.kind == "f" else value
        for name, value in given.items()
    }
    for name, value in derive(estimator).cotangents(**cast).items():
        assert value.dtype == dtype
        np.testing.assert_allclose(
            value,
            exact[name].astype(dtype),
            rtol=60 * float(np.finfo(dtype).eps),
            atol=1e-6 if dtype is np.float32 else 1e-14,
        )


@pytest.mark.parametrize("estimator", [Naive, Expected, Soft, Target])
def test_the_test_kits_numbers_go_through(estimator):
    given = given_to(estimator())
    found = estimator().cotangents(
        **{
            name: bounded(value) if value.dtype.kind == "f" else value
            for name, value in given.items()
        }
    )
    for name, value in estimator().cotangents(**given).items():
        assert isinstance(found[name], Bounded)
        np.testing.assert_array_equal(found[name].value, value)


def test_the_shape_of_a_signal_is_that_of_its_use():
    assert derive(Expected()).rows == {"log_probs", "gain"}
    assert derive(Target()).rows == {"action_values"}
    assert derive(Target()).indices == {"action"}
    assert derive(Cross()).rows == {"action_values", "target"}
    assert derive(Flagged()).flags == {"counts"}
    assert derive(Taken()).rows == {"log_probs", "weight", "bonus"}
    assert derive(pg.estimator("ppo")).rows == frozenset()


def test_a_masked_action_takes_no_gradient_and_gives_no_nan():
    log_probs = np.array([[math.log(0.5), -math.inf, math.log(0.5)]])
    found = Soft().cotangents(log_probs=log_probs, action_values=np.array([[1.0, 2.0, 3.0]]))
    assert found["log_probs"][0, 1] == 0.0
    assert found["action_values"].tolist() == [[-0.5, -0.0, -0.5]]
    assert np.isfinite(found["log_probs"]).all()


class Masked(Base):
    """A signal that says which actions count."""

    def surrogate(self, xp, *, log_probs, allowed):
        return xp.sum(xp.where(allowed, log_probs, 0.0), axis=1)


def test_a_condition_beside_rows_is_one():
    assert derive(Masked()).rows == {"log_probs", "allowed"}
    allowed = np.array([[True, False, True]])
    found = Masked().cotangents(log_probs=np.array([[-1.0, -math.inf, -2.0]]), allowed=allowed)
    assert found["log_probs"].tolist() == [[1.0, 0.0, 1.0]]


def test_the_namespace_has_a_symbolic_form_of_everything_and_no_more():
    offered = {*ELEMENTWISE, *vars(SymbolicNamespace)}
    public = [
        {name for name in found if not name.startswith("_")}
        for found in (vars(ArrayNamespace), offered)
    ]
    assert public[0] == public[1]


@pytest.mark.parametrize("name", sorted(ELEMENTWISE.keys() - {"stop_gradient"}))
def test_every_function_is_compiled_and_written(name):
    class Function(Base):
        def surrogate(self, xp, *, log_prob):
            return log_prob * getattr(xp, name)(log_prob)

    plain = {"sigmoid": lambda x: 1 / (1 + np.exp(-x))}  # NumPy has none
    function = plain.get(name) or getattr(np, name)
    at, size = np.array([0.25, 0.5, 1.5], np.longdouble), np.longdouble(1e-6)
    expected = function(at) + at * (function(at + size) - function(at - size)) / (2 * size)
    np.testing.assert_allclose(Function().cotangents(log_prob=at)["log_prob"], expected, rtol=1e-10)
    assert name in derive(Function()).surrogate_text or name in ("abs", "sqrt")


class Held(Base):
    """A weight of the current policy, held constant."""

    def surrogate(self, xp, *, log_prob, old_log_prob, episode):
        ratio = xp.exp(xp.episode_sum(log_prob - old_log_prob, episode))
        return -log_prob * xp.stop_gradient(xp.where(log_prob > old_log_prob, ratio, 2.0))


def test_what_is_held_constant_is_written_in_the_term_and_plain_in_its_derivative():
    derivation = derive(Held())
    assert "stop_gradient(" in derivation.surrogate_text
    assert r"\mathrm{sg}\left(" in derivation.surrogate_latex
    log_prob, old, episode = np.log([0.5, 0.2, 0.4]), np.log([0.4, 0.4, 0.4]), np.array([0, 0, 1])
    slope = Held().cotangents(log_prob=log_prob, old_log_prob=old, episode=episode)["log_prob"]
    assert slope == pytest.approx([-0.5 * 0.2 / 0.16, -2.0, -2.0])


# Ties and limits: docs/conventions.md


def of_log_prob(function):
    """Return an estimator whose term is a function of `xp` and log_prob."""

    class Function(Base):
        def surrogate(self, xp, *, log_prob):
            return function(xp, log_prob)

    return Function()


def slope(function, *points):
    """Return the derivative of a function of `xp` and x at points."""
    return of_log_prob(function).cotangents(log_prob=np.array(points, float))["log_prob"].tolist()


@pytest.mark.parametrize(
    ("function", "at", "expected"),
    [
        (lambda xp, x: xp.clip(x, -1.0, 2.0), (-2.0, -1.0, 0.0, 2.0, 3.0), [0, 1, 1, 1, 0]),
        (lambda xp, x: xp.maximum(x, 1.0), (0.0, 1.0, 2.0), [0, 1, 1]),
        (lambda xp, x: xp.maximum(1.0, x), (0.0, 1.0, 2.0), [0, 0, 1]),
        (lambda xp, x: xp.minimum(x, 1.0), (0.0, 1.0, 2.0), [1, 1, 0]),
        (lambda xp, x: xp.minimum(1.0, x), (0.0, 1.0, 2.0), [1, 0, 0]),
        (lambda xp, x: xp.maximum(2 * x, 3 * x), (-1.0, 0.0, 1.0), [2, 2, 3]),
        (lambda xp, x: xp.minimum(2 * x, 3 * x), (-1.0, 0.0, 1.0), [3, 2, 2]),
        (lambda xp, x: xp.abs(x), (-2.0, 0.0, 3.0), [-1, 0, 1]),
        (lambda xp, x: abs(x), (-2.0, 0.0, 3.0), [-1, 0, 1]),
        (
            lambda xp, x: xp.where((x > 0) & ~(x == 2.0), x, -x),
            (-1.0, 0.0, 1.0, 2.0),
            [-1, -1, 1, -1],
        ),
        (lambda xp, x: xp.where((x < 0) | (x != 2.0), x, -x), (-1.0, 0.0, 2.0), [1, 1, -1]),
        (lambda xp, x: xp.exp(xp.clip(x, -math.inf, 0.0)), (-1000.0, 1000.0), [0, 0]),
        (lambda xp, x: xp.where(x > 700.0, 1.0, xp.exp(x)), (0.0, 1000.0), [1, 0]),
        (lambda xp, x: xp.clip(x, -1.0, 1.0) * xp.exp(x), (0.0, -1000.0), [1, 0]),
        (lambda xp, x: xp.where(x > 0, xp.log(x), 0.0), (-1.0, 0.0, 0.5), [0, 0, 2]),
        (lambda xp, x: xp.where(x >= 0, xp.sqrt(x), x), (-1.0, 0.25), [1, 1]),
        (lambda xp, x: 0.0 * x, (1.0, math.inf), [0, 0]),
        (lambda xp, x: xp.sqrt(x * x), (-2.0, 3.0), [-1, 1]),
        (lambda xp, x: xp.full_like(x, 3.0), (1.0, 2.0), [0, 0]),
        (lambda xp, x: np.float64(2.0) * x - np.float32(1.0) / (1.0 + x), (1.0,), [2.25]),
        (lambda xp, x: np.float64(2.0) - x, (1.0,), [-1]),
    ],
)
def test_ties_and_limits_follow_the_conventions(function, at, expected):
    assert slope(function, *at) == expected


def test_ppo_at_a_log_ratio_of_1000_has_gradient_0_and_no_nan():
    log_prob, old = np.array([1000.0, 1000.0, -1000.0]), np.zeros(3)
    found = Naive().cotangents(
        log_prob=log_prob, old_log_prob=old, advantage=np.array([1.0, 0.0, -1.0])
    )
    assert found["log_prob"].tolist() == [0.0, 0.0, 0.0]


def test_an_augmented_assignment_of_ones_own_array_is_differentiated():
    def function(xp, x):
        y = 2.0 * x
        y += x
        y *= 2.0
        return +y

    assert slope(function, 1.0) == [6.0]


def test_a_choice_of_too_many_branches_stays_right_and_where_it_is():
    def function(xp, x):
        product = x
        for power in range(1, 9):
            inner = xp.where((x**power > 2.0) & (x < 9.0), x, 1.0)
            product = product * xp.where((x < -9.0) | ~(x > -20.0), x, inner)
        return product

    at = np.array([0.5, 1.5, -2.5, 10.0, -10.0])
    factors = [sum((x**power > 2 and x < 9) or x < -9 for power in range(1, 9)) for x in at]
    expected = [(count + 1) * x**count for count, x in zip(factors, at, strict=True)]
    np.testing.assert_allclose(slope(function, *at), expected, rtol=1e-14)
    assert "where(" in derive(of_log_prob(function)).text["log_prob"]
    assert " and " in derive(of_log_prob(function)).text["log_prob"]
    assert r"\begin{cases}" in derive(of_log_prob(function)).latex["log_prob"]


def test_choices_inside_of_choices_with_two_values_are_one():
    def function(xp, x):
        inner = xp.where(x > -4.0, xp.where(x**3 > 1.0, x, 0.0), xp.where(x**5 < -5000.0, 0.0, x))
        return xp.where(x**2 > 4.0, inner, xp.where(xp.exp(x) > 3.0, 0.0, x))

    at = (3.0, -3.0, -4.5, -7.0, 1.5, 0.5)
    assert slope(function, *at) == [1, 0, 1, 0, 0, 1]
    assert slope(
        lambda xp, x: xp.where(x**2 > 4.0, xp.where(x**3 > 1.0, x, 0.0), x), 3.0, -3.0, 1.0
    ) == [1, 0, 1]


def test_what_a_condition_implies_is_not_asked_again():
    def told(function):
        return derive(of_log_prob(function)).text["log_prob"].splitlines()

    assert told(lambda xp, x: xp.where(x**2 > x, xp.where(x < x**2, x, 2.0), -x)) == [
        "1   if log_prob**2 > log_prob",
        "-1  otherwise",
    ]
    assert len(told(lambda xp, x: xp.where(x > x**2, xp.where(x > x**3, x, 2 * x), -x))) == 3
    assert told(lambda xp, x: xp.clip(xp.clip(x, -1.0, 1.0), -2.0, 2.0)) == [
        "1  if log_prob >= -1 and log_prob <= 1",
        "0  otherwise",
    ]


# NumPy runs what has no cotangents


class Plain(PPO):
    """PPO without its closed form."""


Plain.cotangents = Estimator.cotangents


@pytest.mark.parametrize(
    "fields", [{}, {"value_clip": 0.2, "entropy_coefficient": 0.01}, {"objective": "kl"}]
)
@pytest.mark.parametrize("steps", [23, 700])
def test_the_numpy_backend_runs_an_estimator_without_cotangents(fields, steps):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "separate")
    policy, batch = make_case(spec, "numpy", "float64", seed=5, steps=steps, padding=3)
    derived, written = (pg.gradient(policy, cls(**fields), batch) for cls in (Plain, PPO))
    assert derived.loss == written.loss
    for name, value in written.numpy().items():
        np.testing.assert_allclose(derived.numpy()[name], value, rtol=1e-14, atol=1e-17)


class Rewarded(Base):
    """All actions, each weighed by the reward, over a critic's error; what the built-ins have no form of."""

    def signals(self, batch, evaluate):
        gain = batch.rewards[:, None] + np.arange(4.0)
        return {"gain": gain, "target": batch.rewards, "action": batch.actions}

    def surrogate(self, xp, *, log_probs, value, gain, target, action):
        safe = xp.where(log_probs > -math.inf, log_probs, 0.0)
        chosen = xp.take_last(safe, action)
        return (
            (value - target) ** 2
            - xp.sum(xp.exp(log_probs) * (gain - 0.5 * safe), axis=1)
            - 0.25 * chosen
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kit_holds_a_derived_estimator_to_its_reference(dtype):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "separate")
    policy, batch = make_case(spec, "numpy", dtype, seed=6)
    signals = pg.signals(policy, Rewarded(), batch)
    gradient = pg.gradient(policy, Rewarded(), batch, signals=signals)
    told = gradient_row(policy, Rewarded(), batch, signals, gradient.numpy())
    assert told.agrees, told


@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_a_derived_gradient_is_the_frameworks(backend):
    pytest.importorskip(backend)
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "separate")
    found = {}
    for name in ("numpy", backend):
        policy, batch = make_case(spec, name, "float64", seed=6)
        found[name] = pg.gradient(policy, Rewarded(), batch).numpy()
    for name, value in found["numpy"].items():
        np.testing.assert_allclose(found[backend][name], value, rtol=1e-11, atol=1e-14)


def test_a_derivation_is_made_once_for_equal_estimators(monkeypatch):
    runs = []
    original = PPO.surrogate

    def counted(self, xp, **named):
        # NumPy's namespace is that of preparation, where an estimator is made.
        if xp is not host:
            runs.append(self)
        return original(self, xp, **named)

    monkeypatch.setattr(Plain, "surrogate", counted)
    given = given_to(PPO(clip=0.3125))
    for _ in range(3):
        Plain(clip=0.3125).cotangents(**given)
    # Once to be read, and once to be computed.
    assert len(runs) == 2
    Plain(clip=0.375).cotangents(**given)
    assert len(runs) == 4
    assert derive(Plain(clip=0.3125)) is derive(Plain(clip=0.3125))


def test_an_estimator_that_cannot_be_hashed_is_derived_too():
    @dataclass(frozen=True)
    class Listed(Base):
        factors: list

        def surrogate(self, xp, *, log_prob):
            return self.factors[0] * log_prob

    assert Listed([2.0]).cotangents(log_prob=np.ones(2))["log_prob"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_an_estimator_is_copied_and_pickled_after_it_was_derived(copied):
    estimator = Plain(value_clip=0.5)
    given = given_to(estimator)
    found = estimator.cotangents(**given)
    for name, value in copied(estimator).cotangents(**given).items():
        np.testing.assert_array_equal(value, found[name])


# In writing


def test_text_is_in_the_surrogates_own_names():
    derivation = derive(pg.estimator("ppo", clip=0.2, entropy_coefficient=0.01))
    assert derivation.text["log_prob"].splitlines() == [
        "0                                        if advantage >= 0 and log_prob - old_log_prob > 0.182322",
        "0                                        if advantage < 0 and log_prob - old_log_prob < -0.223144",
        "-advantage*exp(log_prob - old_log_prob)  otherwise",
    ]
    assert derivation.text["value"] == "0.5*(value - return_)"
    assert derivation.text["entropy"] == "-0.01"
    assert derivation.surrogate_text.startswith(
        "0.25*(value - return_)**2 - 0.01*entropy\nplus\n-1.2*advantage  "
    )


def test_latex_is_in_the_fields_symbols():
    derivation = derive(pg.estimator("ppo", clip=0.2, value_clip=0.5))
    assert derivation.latex["log_prob"] == (
        r"\begin{cases} 0 & \text{if } A \geq 0 \text{ and } \frac{\pi}{\pi_{\mathrm{old}}} > 1.2 \\ "
        r"0 & \text{if } A < 0 \text{ and } \frac{\pi}{\pi_{\mathrm{old}}} < 0.8 \\ "
        r"- A \frac{\pi}{\pi_{\mathrm{old}}} & \text{otherwise} \end{cases}"
    )
    assert r"0.5 \left(V - R\right) & \text{otherwise}" in derivation.latex["value"]
    assert (
        r"\left|V - V_{\mathrm{old}}\right| > 0.5 \text{ and } V - V_{\mathrm{old}} \leq 0"
        in derivation.latex["value"]
    )
    assert derivation.symbols == {"log_prob": r"\log \pi", "value": "V"}


def test_actions_have_indices():
    assert derive(Expected()).text == {"log_probs": "-gain[a]*exp(log_probs[a])"}
    assert derive(Expected()).latex == {"log_probs": r"- \mathrm{gain}_{a} \pi_{a}"}
    assert derive(of_log_prob(lambda xp, x: xp.exp(x + 1.0))).latex == {
        "log_prob": r"e^{\log \pi + 1}"
    }
    assert derive(of_log_prob(lambda xp, x: xp.exp(-x))).latex == {"log_prob": r"- \frac{1}{\pi}"}
    assert derive(Expected()).surrogate_text == "-sum_b(gain[b]*exp(log_probs[b]))"
    assert derive(Target()).text == {
        "action_values": "(action_values[action] - target)*[a = action]"
    }
    assert derive(Target()).latex == {
        "action_values": r"\left(Q_{\mathrm{action}} - y\right) \mathbf{1}[a = \mathrm{action}]"
    }
    assert "logsumexp_b(2*action_values[b])" in derive(Cross()).text["action_values"]
    assert r"\pi_{a} \log \pi_{a}" not in derive(Soft()).latex["action_values"]


@pytest.mark.parametrize(
    "estimator", [*ALL_FORMS, PPO(value_clip=0.5, entropy_coefficient=0.1), PPO(objective="kl")]
)
def test_latex_is_balanced(estimator):
    derivation = derive(estimator() if isinstance(estimator, type) else estimator)
    for text in [derivation.surrogate_latex, *derivation.latex.values()]:
        for opening, closing in [
            ("{", "}"),
            (r"\left", r"\right"),
            (r"\begin{cases}", r"\end{cases}"),
        ]:
            assert text.count(opening) == text.count(closing), text


class Sequence(Base):
    """A whole episode's ratio, and a value of each step."""

    reduction = pg.Reduction.EPISODE_STEP

    def surrogate(self, xp, *, log_prob, value, advantage, episode):
        ratio = xp.exp(
            xp.episode_mean(log_prob, episode) + 0.1 * xp.episode_sum(log_prob * log_prob, episode)
        )
        return -xp.minimum(ratio, 1.25) * advantage + ratio * value


def test_what_is_summed_over_an_episode_reaches_each_of_its_steps():
    rng, episode = np.random.default_rng(8), np.array([0, 0, 0, 1, 2, 2])
    given = {
        name: rng.uniform(-1, 1, 6).astype(np.longdouble)
        for name in ("log_prob", "value", "advantage")
    }
    found = Sequence().cotangents(**given, episode=episode)
    size = np.longdouble(1e-6)
    for name, value in found.items():
        for step in range(6):
            ends = []
            for sign in (1, -1):
                moved = given[name].copy()
                moved[step] += sign * size
                ends.append(
                    Sequence().surrogate(host, **(given | {name: moved}), episode=episode).sum()
                )
            assert value[step] == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=1e-9)


def test_an_episodes_sum_is_written():
    def surrogate(self, xp, *, log_prob, advantage, episode):
        return -xp.exp(xp.episode_sum(log_prob, episode)) * xp.episode_mean(advantage, episode)

    derivation = derive(type("Summed", (Base,), {"surrogate": surrogate})())
    assert (
        derivation.text["log_prob"]
        == "episode_sum(-exp(episode_sum(log_prob))*episode_mean(advantage))"
    )
    assert r"\frac{1}{T}\sum_{t' \in \tau}" in derivation.latex["log_prob"]


def slopes(surrogate, **given):
    """Return the derived cotangents, and central differences of the surrogate's sum."""
    found = derive(type("Sloped", (Base,), {"surrogate": surrogate})()).cotangents(**given)
    expected = {name: np.empty_like(given[name]) for name in found}
    for name, slope in expected.items():
        for place in np.ndindex(slope.shape):
            ends = []
            for sign in (1, -1):
                moved = given[name].copy()
                moved[place] += sign * np.longdouble(1e-6)
                ends.append(surrogate(None, host, **(given | {name: moved})).sum())
            slope[place] = (ends[0] - ends[1]) / np.longdouble(2e-6)
    return found, expected


def linear_episode_sum(self, xp, *, log_prob, advantage, episode):
    return -xp.episode_sum(log_prob, episode) * 2.0


def linear_episode_mean(self, xp, *, log_prob, advantage, episode):
    return -xp.episode_mean(log_prob, episode)


def linear_inside(self, xp, *, log_prob, advantage, episode):
    return -xp.episode_sum(log_prob * advantage, episode)


def constant_inside(self, xp, *, log_prob, advantage, episode):
    return xp.episode_sum(xp.full_like(advantage, 3.0), episode) * log_prob**2


def choice_by_episode(self, xp, *, log_prob, advantage, episode):
    return xp.where(
        xp.episode_sum(log_prob, episode) > 0, log_prob * 2.0, xp.exp(log_prob) * advantage
    )


def choice_inside(self, xp, *, log_prob, advantage, episode):
    ratio = xp.exp(xp.episode_mean(xp.clip(log_prob - advantage, -0.5, 0.5), episode))
    return -xp.minimum(ratio, 1.01) * advantage


def constant_size(self, xp, *, log_prob, advantage, episode):
    size = xp.abs(xp.full_like(log_prob, -1.0)) + 1.0
    return xp.maximum(log_prob / size, 0.25 / size) * xp.where(log_prob < -0.5, advantage, 1.0)


def open_power(self, xp, *, log_prob, advantage, episode):
    return (log_prob * log_prob + 1.0) ** (2.0 * advantage) * log_prob


@pytest.mark.parametrize(
    "surrogate",
    [
        linear_episode_sum,
        linear_episode_mean,
        linear_inside,
        constant_inside,
        choice_by_episode,
        choice_inside,
        open_power,
        constant_size,
    ],
)
def test_an_episodes_sum_may_be_the_same_at_every_step_or_hold_choices(surrogate):
    rng, episode = np.random.default_rng(9), np.array([4, 4, 4, 5, 6, 6])
    given = {
        name: rng.uniform(-1, 1, 6).astype(np.longdouble) for name in ("log_prob", "advantage")
    }
    found, expected = slopes(surrogate, **given, episode=episode)
    assert found["log_prob"].dtype == np.longdouble
    np.testing.assert_allclose(found["log_prob"], expected["log_prob"], rtol=1e-9, atol=1e-9)


def taken_entry(self, xp, *, log_probs, advantage, action):
    return -xp.take_last(log_probs, action) * advantage


def last_column(self, xp, *, log_probs, advantage, action):
    return log_probs[:, -1] * advantage


def same_entries(self, xp, *, log_probs, advantage, action):
    return xp.log_softmax(log_probs * 0.0, axis=1)[:, 0] * xp.take_last(log_probs, action)


def choices_by_action(self, xp, *, log_probs, advantage, action):
    return (
        xp.clip(xp.sum(xp.maximum(log_probs, 0.0), axis=1), 0.0, 0.75) * advantage + log_probs[:, 0]
    )


@pytest.mark.parametrize("surrogate", [taken_entry, last_column, same_entries, choices_by_action])
def test_derivatives_by_action_hold_no_row_or_choices_in_sums(surrogate):
    rng = np.random.default_rng(10)
    given = {
        "log_probs": rng.uniform(-1, 1, (5, 3)).astype(np.longdouble),
        "advantage": rng.uniform(-1, 1, 5),
    }
    found, expected = slopes(surrogate, **given, action=np.array([0, 2, 1, 1, 0]))
    np.testing.assert_allclose(found["log_probs"], expected["log_probs"], rtol=1e-9, atol=1e-9)


def test_a_number_of_actions_is_counted():
    class Counting(Base):
        def surrogate(self, xp, *, value, log_probs):
            return xp.sum(xp.broadcast_to(value[:, None], log_probs), axis=1)

    assert derive(Counting()).text == {"value": "num_actions", "log_probs": "0"}
    assert derive(Counting()).latex["value"] == r"|\mathcal{A}|"
    found = Counting().cotangents(value=np.ones(2), log_probs=np.ones((2, 3)))
    np.testing.assert_array_equal(found["value"], [3.0, 3.0])
    np.testing.assert_array_equal(found["log_probs"], np.zeros((2, 3)))
    with pytest.raises(LookupError, match="a number of actions that no array tells"):
        compile_expressions(derive(Counting()).expressions)


def test_a_power_with_a_signal_as_exponent_has_a_slope_at_0():
    def surrogate(self, xp, *, value, advantage):
        return value**advantage

    derivation = derive(type("Power", (Base,), {"surrogate": surrogate})())
    found = derivation.cotangents(
        value=np.array([0.0, 0.0, -1.0]), advantage=np.array([1.0, 2.0, 2.0])
    )
    np.testing.assert_array_equal(found["value"], [1.0, 0.0, -2.0])


def test_a_flag_stands_beside_a_comparison():
    def surrogate(self, xp, *, value, flag):
        return xp.where((value > 0) & flag, value * 2.0, 0.0)

    derivation = derive(type("Flagged", (Base,), {"surrogate": surrogate})())
    assert derivation.flags == {"flag"}
    found = derivation.cotangents(
        value=np.array([1.0, 1.0, -1.0]), flag=np.array([True, False, True])
    )
    np.testing.assert_array_equal(found["value"], [2.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("factor", "named"),
    [(lambda xp, x: xp.sqrt(0.0 * x - 1.0), "I"), (lambda _xp, x: x / 0, "zoo")],
)
def test_a_number_that_is_none_is_not_compiled(factor, named):
    def surrogate(self, xp, *, value):
        return factor(xp, value) * value

    with pytest.raises(
        EstimatorError, match=f"that NumPy can run step by step, got {named}; write `cotangents`"
    ):
        derive(type("Unreal", (Base,), {"surrogate": surrogate})()).cotangents(value=np.ones(2))


# What cannot be derived


def refused_steps(xp, log_prob, log_probs, advantage):
    return log_prob * log_probs


def refused_in_place(xp, log_prob, log_probs, advantage):
    log_prob += 1.0
    return log_prob


def refused_entries(xp, log_prob, log_probs, advantage):
    log_prob[advantage < 0] = 0.0
    return log_prob


def refused_if(xp, log_prob, log_probs, advantage):
    return log_prob if advantage > 0 else -log_prob


def refused_loop(xp, log_prob, log_probs, advantage):
    return sum(log_prob)


@pytest.mark.parametrize(
    ("surrogate", "operation", "advice"),
    [
        (lambda xp, x, row, a: np.exp(x), "np.exp;", "use xp.exp if there is one"),
        (lambda xp, x, row, a: np.sum(row, axis=1), "np.sum;", "use the functions of xp"),
        (lambda xp, x, row, a: np.where(a > 0, x, -x), "np.where;", "use the functions of xp"),
        (
            lambda xp, x, row, a: np.multiply(x, a, out=x),
            "np.multiply with out=;",
            "make a new array",
        ),
        (
            lambda xp, x, row, a: np.asarray(x),
            "a conversion of log_prob to a NumPy array;",
            "use the functions of xp",
        ),
        (
            lambda xp, x, row, a: math.exp(x),
            r"float\(log_prob\) or a function of `math`;",
            "use the functions of xp",
        ),
        (lambda xp, x, row, a: int(x) * x, r"int\(log_prob\);", "use the functions of xp"),
        (lambda xp, x, row, a: len(x) * x, r"len\(log_prob\);", "use the functions of xp"),
        (lambda xp, x, row, a: x.mean() * x, r"\.mean of log_prob;", "use the functions of xp"),
        (lambda xp, x, row, a: x.shape[0] * x, r"\.shape of log_prob;", "use the functions of xp"),
        (
            lambda xp, x, row, a: max(x, a),
            "a Python `if`, `and`, `or`, `min` or `max` over",
            "choose with xp.where",
        ),
        (
            lambda xp, x, row, a: x if x == a else a,
            "a Python `if`, .* over Eq",
            "choose with xp.where",
        ),
        (refused_if, "a Python `if`, .* over advantage > 0;", "choose with xp.where"),
        (refused_loop, "a loop over log_prob;", "use the functions of xp"),
        (refused_in_place, r"log_prob \+=;", r"write log_prob = log_prob \+ \.\.\."),
        (refused_entries, "an assignment to entries of log_prob;", "choose with xp.where"),
        (
            lambda xp, x, row, a: xp.cumsum(x),
            r"xp\.cumsum;",
            "use abs, broadcast_to, clip, .*, where",
        ),
        (
            lambda xp, x, row, a: xp.concatenate((row, row), axis=1),
            r"xp\.concatenate;",
            "sum the parts",
        ),
        (lambda xp, x, row, a: x // a, "`//` of log_prob;", "use the functions of xp"),
        (lambda xp, x, row, a: x % 2.0, "`%` of log_prob;", "use the functions of xp"),
        (lambda xp, x, row, a: row @ row, r"`@` of log_probs;", "use the functions of xp"),
        (
            lambda xp, x, row, a: xp.where((a > 0) & True, x, a),
            r"`&` of advantage > 0 and bool;",
            "comparisons",
        ),
        (
            lambda xp, x, row, a: xp.where((a > 0) | 1.0, x, a),
            r"`\|` of advantage > 0 and float;",
            "comparisons",
        ),
        (lambda xp, x, row, a: round(x), "`round` of log_prob;", "use the functions of xp"),
        (
            lambda xp, x, row, a: x * (a > 0),
            "a comparison used as a number;",
            "choose with xp.where",
        ),
        (
            lambda xp, x, row, a: (a > 0) * x,
            "a comparison used as a number;",
            "choose with xp.where",
        ),
        (lambda xp, x, row, a: xp.where(True, x, a), "xp.where over bool;", "compare arrays"),
        (lambda xp, x, row, a: xp.exp(2.0), "xp.exp of float;", "pass arrays"),
        (lambda xp, x, row, a: x * math.nan, "NaN;", "use finite numbers"),
        (
            lambda xp, x, row, a: x << 2,
            r"one that raises TypeError \(unsupported operand type\(s\) for <<",
            "use the functions",
        ),
        (
            lambda xp, x, row, a: x * np.ones(3),
            "ndarray beside log_prob;",
            "pass arrays as signals",
        ),
        (lambda xp, x, row, a: x * "2", "str beside log_prob;", "pass arrays as signals"),
        (
            lambda xp, x, row, a: xp.sum(x, axis=0),
            r"xp\.sum over the batch's steps;",
            "depends on that step alone",
        ),
        (
            lambda xp, x, row, a: xp.sum(row, axis=0),
            r"xp\.sum over the batch's steps;",
            "depends on that step alone",
        ),
        (lambda xp, x, row, a: row[:, None], r"the index .* of log_probs;", r"use xp\.take_last"),
        (
            lambda xp, x, row, a: row[:, a],
            r"the index \(slice\(None, None, None\), advantage\) of log_probs;",
            r"use xp\.take_last",
        ),
        (lambda xp, x, row, a: row[a], r"the index advantage of log_probs;", r"use xp\.take_last"),
        (
            lambda xp, x, row, a: row[a > 0],
            r"the index advantage > 0 of log_probs;",
            r"use xp\.take_last",
        ),
        (lambda xp, x, row, a: x[1:], r"the index .* of log_prob;", r"use xp\.take_last"),
        (
            refused_steps,
            r"log_prob of shape \[B\] beside \[B, A\];",
            r"add an axis with x\[:, None\]",
        ),
        (
            lambda xp, x, row, a: x * a[:, None],
            r"log_prob of shape \[B\] beside \[B, 1\];",
            "add an axis",
        ),
    ],
)
def test_what_cannot_be_derived_is_named(surrogate, operation, advice):
    class Refused(Base):
        name: ClassVar[str] = "refused"

    def method(self, xp, *, log_prob, log_probs, advantage):
        return surrogate(xp, log_prob, log_probs, advantage)

    estimator: Any = type("Refused", (Refused,), {"surrogate": method})()
    with pytest.raises(EstimatorError) as caught:
        derive(estimator)
    found = str(caught.value)
    assert found.startswith(
        "refused.surrogate: expected operations that can be differentiated symbolically, got "
    )
    assert found.endswith("or write `cotangents`")
    assert re.search(operation, found), found
    assert re.search(advice, found), found


@pytest.mark.parametrize(
    ("surrogate", "got"),
    [
        (lambda xp, x, row: row, r"\[B, A\]"),
        (lambda xp, x, row: x[:, None], r"\[B, 1\]"),
        (lambda xp, x, row: 1.0, "float"),
    ],
)
def test_a_surrogate_returns_one_term_a_step(surrogate, got):
    def method(self, xp, *, log_prob, log_probs):
        return surrogate(xp, log_prob, log_probs)

    with pytest.raises(
        EstimatorError,
        match=rf"tiny\.surrogate: expected terms of shape \[B\], got {got}; sum over the",
    ):
        derive(type("Shaped", (Base,), {"surrogate": method})())


class Refusing(Base):
    """Its surrogate runs on NumPy and cannot be derived."""

    def surrogate(self, xp, *, log_prob, advantage):
        return -log_prob * np.abs(advantage)


def test_the_numpy_backend_passes_the_error_on():
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["linear"], HEADS["hot"]), "numpy", "float64", seed=5
    )
    with pytest.raises(
        EstimatorError, match=r"tiny\.surrogate: .*, got np\.absolute; .* write `cotangents`"
    ):
        pg.gradient(policy, Refusing(), batch)


def without_sympy(script):
    """Run a script in a process that has no SymPy; return what it prints."""
    start = "import sys; sys.modules['sympy'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", start + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SCRIPT = """
import numpy as np, pgcore as pg
from pgcore.errors import DependencyError
from pgcore_check.results import gradient_row
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_estimators.preset_classes import PPO
from pgcore_check.proofs import variants

HEADS = variants("heads")
class Plain(PPO): pass
Plain.cotangents = pg.Estimator.cotangents
spec = pg.PolicySpec(NETWORKS['tanh'], HEADS['hot'], 'separate')
policy, batch = make_case(spec, 'numpy', 'float64', seed=5)
print(pg.gradient(policy, PPO(), batch).loss == pg.gradient(policy, PPO(), batch).loss)
try:
    pg.gradient(policy, Plain(), batch)
except DependencyError as error:
    print(error)
"""


def test_without_sympy_hand_written_cotangents_run_and_others_say_what_to_install():
    runs, error = without_sympy(SCRIPT).splitlines()
    assert runs == "True"
    assert (
        error
        == "derive: expected the package 'sympy', got none installed; pip install 'pgcore[derive]', or write `cotangents`"
    )
    assert issubclass(DependencyError, ModuleNotFoundError)


def test_the_command_says_what_to_install():
    script = "from pgcore.cli import main\nsys.argv = ['pgcore', 'derive', 'ppo']\ntry: main()\nexcept SystemExit as end: print(end.code)"
    assert without_sympy(script) == "2\n"


def test_importing_imports_no_sympy():
    script = "import sys, pgcore, pgcore_derive.command, pgcore.cli; pgcore.Derivation; pgcore.estimator('ppo'); print('sympy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


class Overflowing(Base):
    """Its term overflows where its quantities do not."""

    def surrogate(self, xp, *, log_prob, advantage):
        return xp.exp(1000.0 + log_prob) * advantage


def test_what_overflows_is_found_in_the_derived_cotangents():
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["linear"], HEADS["hot"]), "numpy", "float64", seed=5
    )
    with pytest.raises(
        NonFiniteError, match=r"gradient of tiny: .*, got d surrogate / d log_prob = -inf at step 0"
    ):
        pg.gradient(policy, Overflowing(), batch)
