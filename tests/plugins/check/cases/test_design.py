"""The covering design covers what it says, with few cases."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter

from pgcore_check.cases.design import covering, product
from pgcore_check.conformance import few_of
from pgcore_check.proofs import variants

HEADS = variants("heads")
VARIANTS = variants("estimators")


def test_every_pair_of_two_things_occurs_in_few_cases():
    everything, chosen = product(VARIANTS, HEADS), covering(VARIANTS, HEADS)
    wanted = set().union(*(choice.pairs() for choice in everything))
    assert set().union(*(choice.pairs() for choice in chosen)) == wanted
    # None can be left out: each has a pair that no other has.
    times = Counter(pair for choice in chosen for pair in choice.pairs())
    assert all(min(times[pair] for pair in choice.pairs()) == 1 for choice in chosen)
    assert {choice.variant for choice in chosen} == set(VARIANTS)
    assert {choice.head for choice in chosen} == set(HEADS)
    assert len(everything) > 20 * len(chosen)


def test_few_cases_have_every_single_thing():
    chosen = covering(VARIANTS, HEADS)
    few = few_of(chosen)
    levels = {
        level for variant in VARIANTS.values() for level in variant.differentiated_parts.items()
    }
    assert len(few) <= len(levels) + 3
    assert {level for each in few for level in each.levels} == {
        level for each in chosen for level in each.levels
    }


def test_cases_make_sense():
    for choice in product(VARIANTS, HEADS):
        assert choice.case.spec.critic != "none" or "value" not in choice.case.estimator.quantities


def test_the_design_is_the_same_in_every_run():
    first, second = covering(VARIANTS, HEADS), covering(VARIANTS, HEADS)
    assert [choice.case.label for choice in first] == [choice.case.label for choice in second]


def test_a_run_about_estimators_has_every_pair_with_their_variants():
    labels = [label for label, variant in VARIANTS.items() if variant.name == "ppo"]
    selection = {label: VARIANTS[label] for label in labels}
    everything, chosen = product(selection, HEADS), covering(selection, HEADS, "estimator")
    pairs = {(choice.variant, level) for choice in everything for level in choice.levels}
    assert {(choice.variant, level) for choice in chosen for level in choice.levels} == pairs
    assert len(chosen) < len(covering(selection, HEADS))


def test_moving_parts_and_surrogates_occur_in_few_cases():
    chosen = covering(VARIANTS, HEADS)
    compiled = few_of(chosen, attrgetter("compiled"))
    assert {type(c.case.estimator).surrogate for c in compiled} == {
        type(variant).surrogate for variant in VARIANTS.values()
    }
    moved = [*compiled, *few_of(chosen, attrgetter("moving"), beside=compiled)]
    assert {pair for c in moved for pair in c.moving} == {pair for c in chosen for pair in c.moving}
    assert len(moved) < len(chosen) / 3
