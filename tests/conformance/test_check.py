"""What `pgcore check` runs on every backend: random, extreme and kink cases, all stages, all modes; run by `pgcore_check.suite`."""

from __future__ import annotations

import itertools
from typing import Any

import pgcore as pg
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import registry
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS, Case
from pgcore_check.cases.design import DTYPES, optimizers, product
from pgcore_check.compare import STAGES, stages
from pgcore_check.conformance import plan, run, truth_of
from pgcore_check.proofs import Proofs, kinks, variants
from pgcore_check.stages.truth import Truth
from pgcore_check.testing import cells

HEADS = variants("heads")
KINKS = kinks()
VARIANTS = variants("estimators")


def test_the_cells_of_every_backend_cover_every_pair_and_every_point():
    work = plan(backends=None, estimators=None, heads=None, extent="standard")
    assert {"numpy", "loopback"} <= set(work.backends)
    every = cells()
    # The identities of heads belong to no backend.
    assert {cell.backend for cell in every} == {*work.backends, "reference"}
    for backend in work.backends:
        check_coverage(backend, [cell for cell in every if cell.backend == backend])
    choices = [part.choice for part in work.parts if part.choice]
    assert {choice.variant for choice in choices} == {*VARIANTS}
    pairs = {pair for choice in product(VARIANTS, HEADS) for pair in pairs_of(choice)}
    assert {pair for choice in choices for pair in pairs_of(choice)} == pairs


def pairs_of(choice):
    """Return the estimator, or each part of its surrogate, with the head."""
    return [
        (*factor, choice.case.spec.head.name)
        for factor in choice.case.estimator.differentiated_parts.items()
    ]


def check_coverage(backend, of_backend):
    kinks = {cell.label for cell in of_backend if cell.fixture == "kink"}
    assert kinks == {kink.name for kink in KINKS}
    assert {cell.dtype for cell in of_backend if cell.fixture == "kink"} == set(DTYPES)
    modes = pg.backend(backend).modes
    assert {cell.mode for cell in of_backend} == {*modes, "function"}
    for name in ("ppo ratio at 1 + clip, positive advantage", "value clip, tie", "relu at 0"):
        of_kink = [cell for cell in of_backend if cell.label == name]
        assert sorted(cell.mode for cell in of_kink) == sorted(modes)
        assert len({cell.dtype for cell in of_kink}) == 1
    assert {cell.fixture for cell in of_backend} == {"random", "extreme", "kink", "probe"}
    probes = {(cell.mode, cell.dtype) for cell in of_backend if cell.fixture == "probe"}
    assert probes == {(modes[0], "float64"), *((mode, "float32") for mode in modes)}
    functions = {cell.label for cell in of_backend if cell.mode == "function"}
    of_choice = {choice.case.label: choice for choice in product(VARIANTS, HEADS)}
    assert {of_choice[label].variant for label in functions} == {
        name for name, estimator in VARIANTS.items() if not isinstance(estimator, ScoreEstimator)
    }


def test_kinks_and_functions_take_dtypes_in_turns_and_one_backend_takes_both():
    every = [cell for cell in cells() if cell.fixture == "kink"]
    assert {(cell.label, cell.dtype) for cell in every} == {
        (kink.name, dtype) for kink in KINKS for dtype in DTYPES
    }
    alone = cells(backends=["numpy"], estimators=["ppo"])
    kinks = {(cell.label, cell.dtype) for cell in alone if cell.fixture == "kink"}
    assert kinks == {(kink.name, d) for kink in KINKS if kink.estimator == "ppo" for d in DTYPES}
    work = plan(backends=None, estimators=None, heads=None, extent="standard")
    choices = [(part.choice, part.function) for part in work.parts if part.choice]
    pairs = [(c.variant, c.case.dtype, name) for c, function in choices for name in function]
    assert {pair[:2] for pair in pairs} == {(c.variant, c.case.dtype) for c, _ in choices}
    assert {(variant, name) for variant, _, name in pairs} == {
        *itertools.product(VARIANTS, work.backends)
    }
    assert len(pairs) == len(VARIANTS) * len(work.backends)


def test_the_cells_are_the_outcomes_of_the_command():
    names: dict[str, Any] = {
        "backends": ["numpy"],
        "estimators": ["reinforce"],
        "heads": ["categorical"],
    }
    outcomes = [*itertools.chain(*run(plan(**names, extent="standard")))]
    selection = cells(**names)
    assert [outcome for outcome in outcomes if outcome.blind or not outcome.agrees] == []
    assert {(cell.mode, cell.fixture, cell.label, cell.dtype) for cell in selection} == {
        (outcome.mode, outcome.fixture, outcome.label, outcome.dtype) for outcome in outcomes
    }
    assert len(selection) == len(outcomes)
    assert max(outcome.ratio for outcome in outcomes) <= FACTOR


def test_everything_takes_a_hundred_steps_and_has_padding_somewhere():
    parts: list[Any] = [
        part
        for part in plan(backends=["numpy"], estimators=None, heads=None, extent="standard").parts
        if part.choice
    ]
    long, padded = (
        [part.choice for part in parts if getattr(part, name)] for name in ("long", "padded")
    )
    assert {choice.optimizer for choice in long} == set(optimizers())
    assert {choice.case.dtype for choice in long} == set(DTYPES)
    for chosen in (long, padded):
        assert {choice.case.spec.head.name for choice in chosen} == {
            head.name for head in HEADS.values()
        }
        assert {choice.network for choice in chosen} == set(NETWORKS)
        assert len(chosen) < len(parts) / 4
    assert {choice.case.spec.critic for choice in padded} == {"none", "separate", "shared"}
    some = next(part for part in parts if part.long)
    rows = [*stages(*policy_and_truth(some), "numpy")]
    assert [row.stage for row in rows] == list(STAGES)


def test_fisher_products_and_steps_occur_for_all_that_they_depend_on():
    for extent in ("quick", "standard"):
        work = plan(backends=["numpy"], estimators=None, heads=None, extent=extent)
        parts: list[Any] = [part for part in work.parts if part.choice]
        moved = [part for part in parts if part.moved]
        assert all(part.moved for part in parts if part.all_modes or part.long)
        everything = {pair for part in parts for pair in part.choice.moving}
        assert {pair for part in moved for pair in part.choice.moving} == everything
    fixed = next(part for part in parts if not part.moved)
    rows = [*stages(*policy_and_truth(fixed), "numpy")]
    assert [row.stage for row in rows] == list(STAGES[: STAGES.index("Fisher product")])


def policy_and_truth(part):
    truth = truth_of(part, "random", quick=False)
    policy = pg.policy(truth.spec, backend="numpy", dtype=truth.dtype.name)
    policy.load(truth.parameters)
    return policy, truth


def test_a_case_is_drawn_again_until_it_can_tell_an_error_from_rounding(monkeypatch):
    part = plan(
        backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="quick"
    ).parts[0]
    seeds = []
    original = Case.make

    def make(case, *args, **kwargs):
        seeds.append(case.seed)
        return original(case, *args, **kwargs)

    monkeypatch.setattr(Case, "make", make)
    monkeypatch.setattr(Truth, "power", property(lambda truth: float(len(seeds) > 2)))
    truth_of(part, "random", quick=True)
    assert len(seeds) == 3
    assert len(set(seeds)) == 3


def test_what_has_no_proof_is_told(monkeypatch):
    fresh = Proofs(registry())
    fresh.variants["heads"] = dict(list(HEADS.items())[1:3])
    fresh.variants["optimizers"] = {"adam": variants("optimizers")["adam"]}
    monkeypatch.setattr("pgcore_check.proofs.proofs_of", lambda source: fresh)
    found = plan(backends=["numpy"], estimators=None, heads=None, extent="quick").unchecked
    assert "missing 1 required" in found["head 'bernoulli'"]
    assert "a Proof with variants by the hook pgcore_proofs" in found["head 'bernoulli'"]
    assert "head 'categorical'" not in found
    assert not {"optimizer 'adam'", "optimizer 'sgd'"} & found.keys()
    assert (
        "head 'bernoulli'"
        not in plan(
            backends=["numpy"], estimators=None, heads=["categorical"], extent="quick"
        ).unchecked
    )


def test_trust_regions_are_checked_by_what_they_are_made_of():
    unchecked = plan(backends=["numpy"], estimators=None, heads=None, extent="quick").unchecked
    assert unchecked.keys() == {
        f"optimizer '{name}'" for name in ("natural_gradient", "trpo", "trust_region")
    }
    assert all("Fisher products, which are checked" in why for why in unchecked.values())
