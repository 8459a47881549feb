"""Each registered estimator's `cotangents` against the derivatives of its own `surrogate`, for every option, beside every kink and on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Estimator
from pgcore.registry.registry import registry
from pgcore.xp.numpy import HostNamespace
from pgcore_check.proofs import variants
from pgcore_derive.choices import branches, hoist_choices, outermost_reductions, tree_or_term
from pgcore_derive.derivation import derive
from pgcore_derive.differences import differences, points, tie_points
from pgcore_derive.functions import Choose, sigmoid, sign
from pgcore_derive.tracing import UFUNCS, Node, Trace, Traced, TracedCondition
from pgcore_derive.xp import SymbolicNamespace
from pgcore_estimators.preset_classes import PPO

# Beside the kit's variants, which join by themselves: the ends of ranges, and options together.
MORE = {
    "ppo wide clip": pg.estimator("ppo", clip=1.5, value_coefficient=2.0),
    "ppo kl value clip": pg.estimator(
        "ppo", objective="kl", value_clip=0.5, entropy_coefficient=0.25
    ),
    "ppo clip as numpy's": pg.estimator(
        "ppo", clip=np.float64(0.25), value_coefficient=np.float32(0.75)
    ),
    "grpo both bounds": pg.estimator("grpo", clip_low=0.25, clip_high=0.5, kl_coefficient=0.75),
    "gspo both bounds": pg.estimator("gspo", clip_low=0.25, clip_high=0.5),
    "cispo both bounds": pg.estimator("cispo", clip_low=0.25, clip_high=0.5),
    "vtrace weighted": pg.estimator("vtrace", value_coefficient=0.75, entropy_coefficient=0.25),
    "gae weighted": pg.estimator("actor_critic", value_coefficient=0.75, entropy_coefficient=0.25),
}
ESTIMATORS = {
    label: found
    for label, found in (variants("estimators") | MORE).items()
    if type(found).cotangents is not Estimator.cotangents
}
# Ten times float64's rounding: constants such as log 1.2 are float64 in both.
CLOSE = 2e-15


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    """Each estimator that writes its cotangents; one whose surrogate cannot be derived says why."""
    found = ESTIMATORS[request.param]
    try:
        derive(found).cotangents(**points(derive(found), np.random.default_rng(0), 3))
    except EstimatorError as error:
        pytest.skip(str(error))
    return found


def test_every_registered_estimator_is_tried():
    written = {found.name for found in ESTIMATORS.values()}
    derived = {
        found.name
        for found in variants("estimators").values()
        if type(found).cotangents is Estimator.cotangents
    }
    assert written | derived == set(registry().names("estimators"))


def test_cotangents_are_the_surrogates_derivatives(estimator):
    found = differences(estimator)
    assert found.keys() == set(estimator.quantities)
    assert max(found.values()) < CLOSE, found


def test_cotangents_are_the_surrogates_derivatives_symbolically(estimator, monkeypatch):
    if {"gain_weight", "counted"} & set(estimator.keywords):
        pytest.skip(
            "SymPy does not know that weights are at least 0; the test above compares points"
        )
    if estimator.name == "dppo_kl":
        pytest.skip("its condition has choices of its own; the test above compares points")
    derivation = derive(estimator)
    for name, found in hand_written(estimator, derivation, monkeypatch).items():
        assert equal(found, derivation.expressions[name]), (
            name,
            found,
            derivation.expressions[name],
        )


def equal(found, expected):
    """Return whether two expressions are equal, branch by branch; of means over episodes, whether their arguments are."""
    symbols = {}
    expected = expected.replace(sign, lambda x: Choose(x > 0, 1, Choose(x < 0, -1, 0)))
    for reduction in (*outermost_reductions(found), *outermost_reductions(expected)):
        symbols.setdefault(reduction, symbol_of(reduction, symbols))
    found, expected = found.xreplace(symbols), expected.xreplace(symbols)
    difference = tree_or_term(hoist_choices(found) - hoist_choices(expected))
    return all(vanishes(value, path) for value, path in branches(difference))


def symbol_of(reduction, symbols):
    """Return the symbol of an equal reduction, negated where its argument is, or a new one."""
    for other, symbol in symbols.items():
        if type(other) is type(reduction):
            for factor in (1, -1):
                if equal(factor * reduction.args[0], other.args[0]):
                    return factor * symbol
    return sp.Dummy(real=True)


def vanishes(value, path):
    """Return whether a branch's value is 0; where log probabilities are -inf, with probabilities of 0."""
    if any(sp.Not(condition).has(-sp.oo) and sp.Not(condition).is_Relational for condition in path):
        value = value.replace(sp.exp, lambda _: sp.Integer(0))
    equalities = [condition for condition in path if isinstance(condition, sp.Eq)]
    value = value.subs([condition.args for condition in equalities])
    # As SymPy knows it: sigmoid(x) and 1 - sigmoid(-x) are then one.
    value = value.replace(sigmoid, lambda x: 1 / (1 + sp.exp(-x)))
    return value == 0 or sp.simplify(sp.expand(value)) == 0


def hand_written(estimator, derivation, monkeypatch):
    """Run an estimator's NumPy cotangents on symbols; return their expressions."""
    trace = Trace("cotangents", derivation.rows, frozenset())
    xp = SymbolicNamespace(trace)

    def where(condition, x, y):
        if not isinstance(x, TracedCondition):
            return xp.where(condition, x, y)
        return (condition & x) | (~condition & y)

    functions = {"where": where, "full_like": xp.full_like, "sum": xp.sum, "clip": xp.clip}
    arithmetic = Traced.__array_ufunc__

    def ufunc(self, function, method, *inputs, **named):
        if function.__name__ in UFUNCS:
            return arithmetic(self, function, method, *inputs, **named)
        name = str(function.__name__)
        if name == "expm1":
            return xp.exp(*inputs) - 1
        if name == "sign":
            (x,) = inputs
            one = xp.full_like(x, 1.0)
            return xp.where(x > 0, one, xp.where(x < 0, -one, 0 * one))
        return getattr(xp, {"absolute": "abs"}.get(name, name))(*inputs)

    def any_function(self, function, types, args, named):
        return functions[function.__name__](*args, **named)

    for name in ("episode_sum", "episode_mean", "sigmoid"):
        monkeypatch.setattr(HostNamespace, name, staticmethod(getattr(xp, name)))
    monkeypatch.setattr(Node, "__array_function__", any_function)
    monkeypatch.setattr(Traced, "__array_ufunc__", ufunc)
    with sp.core.parameters.distribute(False):
        found = estimator.cotangents(**{name: trace.input(name) for name in estimator.keywords})
    return {name: value.expression for name, value in found.items()}


# Planted bugs


def wrong_sign(found, **named):
    return found | {"log_prob": -found["log_prob"]}


def clipped_at_the_bound(found, **named):
    log_ratio, advantage = named["log_prob"] - named["old_log_prob"], named["advantage"]
    at_bound = np.where(
        advantage >= 0, log_ratio == math.log1p(0.25), log_ratio == math.log1p(-0.25)
    )
    return found | {"log_prob": np.where(at_bound, 0.0, found["log_prob"])}


def clipped_value_on_a_tie(found, **named):
    error, moved = named["value"] - named["return_"], named["value"] - named["old_value"]
    clipped = named["old_value"] + np.clip(moved, -0.5, 0.5) - named["return_"]
    tie = (np.abs(moved) > 0.5) & (np.abs(error) == np.abs(clipped))
    return found | {"value": np.where(tie, 0.0, found["value"])}


def halved_value(found, **named):
    return found | {"value": 0.5 * found["value"]}


def no_entropy(found, **named):
    return {name: value for name, value in found.items() if name != "entropy"}


def not_a_number_on_the_clipped_side(found, **named):
    return found | {"log_prob": np.where(found["log_prob"] == 0, np.nan, found["log_prob"])}


@pytest.mark.parametrize(
    ("bug", "quantity"),
    [
        (wrong_sign, "log_prob"),
        (clipped_at_the_bound, "log_prob"),
        (not_a_number_on_the_clipped_side, "log_prob"),
        (clipped_value_on_a_tie, "value"),
        (halved_value, "value"),
        (no_entropy, "entropy"),
    ],
)
def test_a_planted_bug_is_found(bug, quantity):
    class Wrong(PPO):
        """PPO with a mistake in its derivatives."""

    # Its keywords are those of the surrogate, which a signature here would have to repeat.
    Wrong.cotangents = lambda self, **named: bug(PPO.cotangents(self, **named), **named)
    right, wrong = (cls(clip=0.25, value_clip=0.5, entropy_coefficient=0.1) for cls in (PPO, Wrong))
    assert max(differences(right).values()) < CLOSE
    assert differences(wrong)[quantity] > 1e-3


@pytest.mark.parametrize(("bug", "quantity"), [(wrong_sign, "log_prob"), (halved_value, "value")])
def test_a_planted_bug_is_found_symbolically(bug, quantity, monkeypatch):
    class Wrong(PPO):
        """PPO with a mistake in its derivatives."""

    Wrong.cotangents = lambda self, **named: bug(PPO.cotangents(self, **named), **named)
    wrong = Wrong(clip=0.25, value_clip=0.5)
    found = hand_written(wrong, derive(wrong), monkeypatch)
    differing = {
        name for name, value in found.items() if not equal(value, derive(wrong).expressions[name])
    }
    assert differing == {quantity}


def test_ties_of_every_choice_are_among_the_points():
    derivation = derive(PPO(clip=0.25, value_clip=0.5))
    met = set()
    for given in tie_points(derivation, np.random.default_rng(0)):
        log_ratio, moved = (
            given["log_prob"] - given["old_log_prob"],
            given["value"] - given["old_value"],
        )
        error, clipped = (
            given["value"] - given["return_"],
            given["old_value"] + np.clip(moved, -0.5, 0.5) - given["return_"],
        )
        met |= {
            name
            for name, tie in {
                "above": (log_ratio == math.log1p(0.25)) & (given["advantage"] > 0),
                "below": (log_ratio == math.log1p(-0.25)) & (given["advantage"] < 0),
                "no advantage": given["advantage"] == 0,
                "value at its bound": np.abs(moved) == 0.5,
                "equal losses": (np.abs(error) == np.abs(clipped)) & (np.abs(moved) > 0.5),
            }.items()
            if tie.any()
        }
    assert met == {"above", "below", "no advantage", "value at its bound", "equal losses"}


def test_ppo_at_ratio_one_has_the_policy_gradients_cotangent():
    values = {"value": np.zeros(3), "return_": np.zeros(3), "advantage": np.array([1.0, -2.0, 0.5])}
    same = np.array([-0.3, -1.0, -2.0])
    found = pg.estimator("ppo").cotangents(log_prob=same, old_log_prob=same, **values)
    plain = pg.estimator("actor_critic").cotangents(log_prob=same, **values)
    np.testing.assert_array_equal(found["log_prob"], plain["log_prob"])


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.016, 2.0), (0.0149, 1.0), (0.0067, 1.0), (0.0066, 0.5)]
)
def test_the_penalty_coefficient_follows_the_kl(kl, factor):
    estimator = pg.estimator("ppo", objective="kl", kl_coefficient=0.5, kl_target=0.01)
    assert vars(estimator.adapted({"kl": kl}))["kl_coefficient"] == 0.5 * factor
    fixed = pg.estimator("ppo", objective="kl", kl_target=None)
    assert fixed.adapted({"kl": kl}) is fixed
    clipped = pg.estimator("ppo")
    assert clipped.adapted({}) is clipped
