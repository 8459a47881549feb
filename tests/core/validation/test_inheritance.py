"""A subclass that changes a surrogate never keeps the closed form that was written for another."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Claims, Estimator
from pgcore.validation.inheritance import overrides
from pgcore_estimators.preset_classes import GRPO, PPO
from pgcore_estimators.reinforce import Reinforce


class Score:
    """A mixin without cotangents."""

    def surrogate(self, xp, *, log_prob, advantage, old_log_prob):
        return -log_prob * advantage


@dataclass(frozen=True)
class PlainPPO(PPO):
    def surrogate(
        self,
        xp,
        *,
        log_prob,
        value,
        old_log_prob,
        advantage,
        return_,
        entropy=None,
        kl=None,
        old_value=None,
    ):
        return -log_prob * advantage + 0.25 * (value - return_) * (value - return_)


@dataclass(frozen=True)
class DualClip(PPO):
    def surrogate(
        self,
        xp,
        *,
        log_prob,
        value,
        old_log_prob,
        advantage,
        return_,
        entropy=None,
        kl=None,
        old_value=None,
    ):
        ratio = xp.exp(log_prob - old_log_prob)
        clipped = xp.minimum(ratio * advantage, xp.clip(ratio, 0.8, 1.2) * advantage)
        gain = xp.where(advantage < 0, xp.maximum(clipped, 1.5 * advantage), clipped)
        return 0.5 * (value - return_) * (value - return_) - gain


@dataclass(frozen=True)
class TwoSided(GRPO):
    def surrogate(self, xp, *, log_prob, old_log_prob, advantage, reference_log_prob=None):
        return -xp.clip(xp.exp(log_prob - old_log_prob), 0.9, 1.1) * advantage


@dataclass(frozen=True)
class PlainGRPO(Score, GRPO):
    """A mixin before the parent is a newer surrogate too."""


@dataclass(frozen=True)
class Grandchild(DualClip):
    clip: float = 0.3


@dataclass(frozen=True)
class Weighed(Estimator):
    """A surrogate that calls a method, and its closed form."""

    name = "weighed"

    @property
    def claims(self):
        return Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}

    def surrogate(self, xp, *, log_prob, advantage):
        return -self.weight(advantage) * log_prob

    def weight(self, advantage):
        return advantage

    def cotangents(self, *, log_prob, advantage):
        return {"log_prob": -advantage}


@dataclass(frozen=True)
class Doubled(Weighed):
    """Its surrogate is the parent's, and calls a method that is not."""

    def weight(self, advantage):
        return 2.0 * advantage


@dataclass(frozen=True)
class Written(PPO):
    """A closed form of its parent's surrogate."""

    def cotangents(self, **named):
        return PPO.cotangents(self, **named)


@dataclass(frozen=True)
class Diamond(Written, PlainPPO):
    """The closed form comes before a surrogate that it was not written for."""


NEWER = [PlainPPO, DualClip, TwoSided, PlainGRPO, Grandchild, Doubled, Diamond]


def points(estimator, count=60):
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.0, 0.4, count) for name in estimator.keywords}


@pytest.mark.parametrize("cls", NEWER)
def test_cotangents_are_those_of_the_newest_surrogate(cls):
    estimator, step = cls(), 1e-6
    assert cls.cotangents is Estimator.cotangents
    named = points(estimator)
    slopes = estimator.cotangents(**named)
    assert slopes.keys() == set(estimator.quantities)
    for name, slope in slopes.items():
        ends = [
            estimator.surrogate(np, **named | {name: named[name] + side * step}) for side in (1, -1)
        ]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), atol=1e-7, err_msg=name)


def test_a_class_may_ask_for_the_derivation_and_for_its_parents_form():
    class Asking(PPO):
        cotangents = Estimator.cotangents

    class Keeping(Doubled):
        cotangents = Weighed.cotangents

    assert Asking.cotangents is Estimator.cotangents
    assert Keeping.cotangents is Weighed.cotangents
    named = points(Asking())
    for name, slope in PPO().cotangents(**named).items():
        np.testing.assert_allclose(
            Asking().cotangents(**named)[name], slope, rtol=1e-12, atol=1e-15, err_msg=name
        )


def test_a_closed_form_stays_where_the_surrogate_does():
    class OtherSignals(PPO):
        clip: float = 0.5

        def signals(self, batch, evaluate):
            return {**super().signals(batch, evaluate), "advantage": batch.rewards}

    class OtherForm(PPO):
        def cotangents(self, **named):
            return {}

    assert OtherSignals.cotangents is PPO.cotangents
    assert OtherForm().cotangents(**points(PPO())) == {}
    for name in ("a2c", "dr_grpo", "wis"):
        assert type(pg.estimator(name)).cotangents is not Estimator.cotangents


def test_a_mixin_that_is_not_a_surrogates_shape_is_refused():
    class Loose:
        def surrogate(self, xp, log_prob):
            return log_prob

    with pytest.raises(
        EstimatorError, match=r"Mixed\.surrogate: expected \(self, xp, \*, names\.\.\.\)"
    ):
        type("Mixed", (Loose, PPO), {})


def test_overrides_see_what_is_called_and_not_what_is_data():
    class Base:
        size = 1

        def outer(self):
            return self.inner() + self.size  # pyright: ignore[reportOperatorIssue]

        def inner(self):
            return [self.deep for _ in range(2)]

        @property
        def deep(self):
            return 0

        def apart(self):
            return 1

    deep = type("Deep", (Base,), {"deep": property(lambda self: 1)})
    data = type("Data", (Base,), {"size": 2, "apart": lambda self: 2})
    assert overrides(type("Deeper", (deep,), {}), Base, ["outer"]) == {"deep"}
    assert overrides(data, Base, ["outer"]) == set()
    assert overrides(type("Same", (Base,), {"inner": Base.inner}), Base, ["outer"]) == set()
    assert overrides(
        type("Size", (Base,), {"size": property(lambda self: 2)}), Base, ["outer"]
    ) == {"size"}


@pytest.mark.parametrize(
    ("cls", "backend"),
    [
        (DualClip, "numpy"),
        (PlainPPO, "torch"),
        (DualClip, "torch"),
        (TwoSided, "torch"),
        (PlainGRPO, "torch"),
    ],
)
def test_check_calls_every_backend_right(cls, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    spec = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.Categorical(2), critic="separate")
    rng = np.random.default_rng(0)
    batch = pg.Batch(
        observations=rng.normal(size=(12, 3)),
        actions=rng.integers(0, 2, 12),
        rewards=rng.normal(size=12),
        episode_lengths=[4, 4, 4],
        terminated=[True] * 3,
        log_probs=np.log(rng.uniform(0.2, 0.9, 12)),
        extras={"group": np.zeros(12, int)},
    )
    policy = pg.policy(spec, backend=backend, seed=0, dtype="float64")
    report = pg.check(policy, cls(), batch)
    assert report.agrees, report
    # The right parent's gradient is far off, or agreement would mean nothing.
    parent = next(base for base in cls.__mro__ if base in (PPO, GRPO))
    usual = parent(**{field.name: getattr(cls(), field.name) for field in fields(parent)})
    ours, theirs = (pg.gradient(policy, each, batch).numpy() for each in (cls(), usual))
    scale = max(np.abs(value).max() for value in ours.values())
    assert max(np.abs(ours[name] - value).max() for name, value in theirs.items()) > 0.1 * scale


def test_a_wrong_closed_form_of_ones_own_is_found():
    class Wrong(Reinforce):
        name = "wrong"

        def surrogate(self, xp, *, log_prob, advantage, value=None, entropy=None, return_=None):
            return -log_prob * advantage

        def cotangents(self, *, log_prob, advantage, value=None, entropy=None, return_=None):
            return {"log_prob": advantage}

    policy = pg.policy(pg.PolicySpec(pg.Table(2), pg.Categorical(2)), backend="numpy", seed=1)
    batch = pg.Batch(
        observations=[0, 1, 0],
        actions=[0, 1, 1],
        rewards=[1.0, 2.0, -1.0],
        episode_lengths=[3],
        terminated=[True],
    )
    assert pg.check(policy, Wrong(), batch).divergences["numpy"].stage == "cotangents"
