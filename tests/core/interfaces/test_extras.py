"""The extras that an estimator declares: checked where batch and estimator meet, and inherited."""

from __future__ import annotations

import doctest
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, ShapeError
from pgcore.interfaces.extras import Extra

POLICY = pg.policy(pg.PolicySpec(pg.Linear(3), pg.Categorical(3)), backend="numpy")


def near(batch, shape, rng):
    """Return log-probabilities near the batch's."""
    return batch.log_probs + rng.standard_normal(shape)


def anything(batch, shape, rng):
    return rng.standard_normal(shape)


TEACHER = Extra("[B] float", "the teacher's log-probabilities, nats", near)


@dataclass(frozen=True)
class Taught(pg.Estimator):
    """Reads one extra."""

    strength: float = 1.0
    name = "taught"
    extras: ClassVar = {"teacher": TEACHER}

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"weight": batch.rewards + self.strength * batch.extras["teacher"]}

    def surrogate(self, xp, *, log_prob, weight):
        return -log_prob * weight


@dataclass(frozen=True)
class TaughtMore(Taught):
    """Reads another one too, under one option."""

    ranked: bool = False
    name = "taught_more"
    extras: ClassVar = {
        "rank": Extra(
            "[B, A] integer",
            "the rank of every action",
            lambda batch, shape, rng: rng.integers(0, 3, shape),
            when=lambda estimator: estimator.ranked,
            advice="rank the actions, or set ranked=False",
        ),
        "hint": Extra("[B, 2] float", "hints", optional=True, finite=False),
    }


def batch_with(make_batch, **extras):
    return make_batch(action_mask=None, extras=extras)


@pytest.mark.parametrize("use", [pg.signals, pg.gradient])
@pytest.mark.parametrize(
    ("extras", "error", "words"),
    [
        ({}, BatchError, "got none; add it to the batch with Batch.with_extras"),
        ({"teacher": np.zeros((6, 1))}, ShapeError, r"got \[6, 1\] float64 for 6 steps; check how"),
        ({"teacher": np.zeros(6, int)}, BatchError, r"got \[6\] int64; convert it first"),
    ],
    ids=["none", "shape", "dtype"],
)
def test_a_batch_without_a_declared_extra_is_refused(make_batch, use, extras, error, words):
    start = r"^Batch\.extras\['teacher'\]: expected \[B\] floats, the teacher's log-probabilities, "
    with pytest.raises(error, match=f"{start}nats, {words}"):
        use(POLICY, Taught(), batch_with(make_batch, **extras))


def test_an_extra_that_is_infinite_is_named_with_its_step(make_batch):
    teacher = np.zeros(6)
    teacher[4] = -np.inf
    words = r"extras\['teacher'\]: expected finite numbers, got infinity at step 4"
    with pytest.raises(BatchError, match=words):
        pg.gradient(POLICY, Taught(), batch_with(make_batch, teacher=teacher))


def test_a_batch_takes_further_extras_and_checks_them(make_batch):
    teacher = np.linspace(-2.0, -1.0, 6)
    bare = batch_with(make_batch, note=np.arange(6), teacher=np.zeros(6))
    batch = bare.with_extras(teacher=teacher)
    assert batch.extras.keys() == {"note", "teacher"}
    np.testing.assert_array_equal(bare.extras["teacher"], np.zeros(6))
    weight = pg.signals(POLICY, Taught(strength=2.0), batch)["weight"]
    np.testing.assert_allclose(weight, batch.rewards + 2.0 * teacher, rtol=1e-6)
    with pytest.raises(ShapeError, match=r"Batch\.extras\['teacher'\]: expected 6 rows"):
        bare.with_extras(teacher=[1.0])
    with pytest.raises(BatchError, match=r"extras\['teacher'\]: expected numbers, got NaN at step"):
        bare.with_extras(teacher=[np.nan] * 6)


def test_a_subclass_inherits_and_extends(make_batch):
    assert TaughtMore.extras.keys() == {"teacher", "rank", "hint"}
    assert Taught.extras.keys() == {"teacher"}
    assert pg.Estimator.extras == {}
    assert TaughtMore().used_extras.keys() == {"teacher", "hint"}
    plain = batch_with(make_batch, teacher=np.zeros(6))
    pg.gradient(POLICY, TaughtMore(), plain)
    with pytest.raises(BatchError, match=r"extras\['rank'\]: expected \[B, 3\] integers, .*False"):
        pg.gradient(POLICY, TaughtMore(ranked=True), plain)
    ranked = plain.with_extras(rank=np.zeros((6, 3), int))
    pg.gradient(POLICY, TaughtMore(ranked=True), ranked)
    # An optional one may be missing or infinite, and has its form where it is there.
    pg.gradient(POLICY, TaughtMore(), plain.with_extras(hint=np.full((6, 2), -np.inf)))
    with pytest.raises(ShapeError, match=r"extras\['hint'\]: expected \[B, 2\] floats, hints, got"):
        pg.gradient(POLICY, TaughtMore(), plain.with_extras(hint=np.zeros(6)))


def test_of_two_bases_the_nearer_declaration_counts():
    nearer = Extra("[B, 2] float", "two teachers", anything)
    plain = type("Plain", (Taught,), {})
    changed = type("Changed", (Taught,), {"extras": {"teacher": nearer}})
    mixin = type("Mixin", (), {"extras": {"hint": nearer}})
    both = type("Both", (plain, mixin, changed), {})
    assert both.extras == {"teacher": nearer, "hint": nearer}
    assert plain.extras == {"teacher": TEACHER}


def test_an_extra_that_is_not_declared_is_named_with_the_remedy(make_batch):
    @dataclass(frozen=True)
    class Undeclared(Taught):
        name = "undeclared"

        def signals(self, batch, evaluate):
            return super().signals(batch, evaluate) | {"weight": batch.extras["advice"]}

    words = (
        r"^undeclared\.signals: expected extras that it declares, got 'advice', which the batch "
        r"lacks; if it is one, declare extras = \{'advice': pgcore\.Extra\('\[B\] float', \.\.\.\)\}$"
    )
    batch = batch_with(make_batch, teacher=np.zeros(6))
    with pytest.raises(BatchError, match=words) as caught:
        pg.gradient(POLICY, Undeclared(), batch)
    assert isinstance(caught.value.__cause__, KeyError)
    pg.gradient(POLICY, Undeclared(), batch.with_extras(advice=np.zeros(6)))


def test_another_key_error_of_signals_goes_through(make_batch):
    @dataclass(frozen=True)
    class Buggy(Taught):
        name = "buggy"

        def signals(self, batch, evaluate):
            return {"weight": {}[3]}

    with pytest.raises(KeyError, match="3"):
        pg.gradient(POLICY, Buggy(), batch_with(make_batch, teacher=np.zeros(6)))


@pytest.mark.parametrize(
    ("form", "taken"),
    [("float", "f"), ("integer", "iu"), ("number", "fiu"), ("bool", "b")],
)
def test_a_form_takes_its_kinds_of_numbers(form, taken):
    extra = Extra(f"[B] {form}", "anything", optional=True)
    for dtype in ("float32", "float64", "int8", "uint16", "int64", "bool"):
        array = np.zeros(4, dtype)
        if array.dtype.kind in taken:
            extra.check("here", array, 4, 2)
            continue
        with pytest.raises(
            BatchError, match=rf"here: expected \[B\] {form}s, .* got \[4\] {dtype}"
        ):
            extra.check("here", array, 4, 2)


@pytest.mark.parametrize(
    "form", ["B float", "[B] floats", "[A] float", "[B, K] float", "[B,A] float", "[B]", ""]
)
def test_unknown_forms_are_refused(form):
    with pytest.raises(EstimatorError, match=r"Extra\.form: expected \[B\], \[B, A\], .*write it"):
        Extra(form, "anything", anything)


def test_an_extra_that_is_needed_has_an_example():
    with pytest.raises(EstimatorError, match=r"Extra\.example: expected a function of batch, sh"):
        Extra("[B] float", "anything")


def test_the_meaning_of_an_extra_may_be_left_out():
    extra = Extra("[B] float", example=anything)
    with pytest.raises(BatchError, match=r"^here: expected \[B\] floats, got none; add it to the"):
        extra.check("here", None, 4, 2)


@pytest.mark.parametrize("declared", [("teacher",), {"teacher": "[B] float"}, None])
def test_declarations_are_checked_where_the_class_is_defined(declared):
    with pytest.raises(EstimatorError, match=r"Wrong\.extras: expected pgcore\.Extra by name, got"):
        type("Wrong", (Taught,), {"extras": declared})


def test_the_docstrings_example_runs():
    (test,) = doctest.DocTestFinder(recurse=False).find(Extra, globs={"pg": pg})
    assert doctest.DocTestRunner().run(test).failed == 0
    assert test.examples
