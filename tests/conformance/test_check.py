"""What `pgcore check` runs, cell by cell, on every backend: random, extreme and kink cases, all stages, all modes."""

from __future__ import annotations

import itertools
from typing import Any

import pgcore as pg
from pgcore.registry.registry import registry
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS, Case
from pgcore_check.cases.design import DTYPES, optimizers, product
from pgcore_check.compare import STAGES, stages
from pgcore_check.conformance import plan, run, truth_of
from pgcore_check.proofs import Proofs, kinks, variants
from pgcore_check.stages.truth import Truth

HEADS = variants("heads")
KINKS = kinks()
VARIANTS = variants("estimators")


def test_every_cell_agrees_with_the_reference():
    # One run of all backends, since the reference takes as long as a backend does.
    work = plan(backends=None, estimators=None, heads=None, extent="standard")
    outcomes = [*itertools.chain(*run(work))]
    assert [outcome for outcome in outcomes if not outcome.agrees] == []
    assert max(outcome.ratio for outcome in outcomes) <= FACTOR
    assert [outcome for outcome in outcomes if outcome.blind] == []
    assert {"numpy", "loopback"} <= set(work.backends)
    for backend in work.backends:
        check_coverage(backend, [row for row in outcomes if row.backend == backend])


def check_coverage(backend, outcomes):
    kinks = {(outcome.label, outcome.dtype) for outcome in outcomes if outcome.fixture == "kink"}
    assert kinks == {(kink.name, dtype) for kink in KINKS for dtype in ("float64", "float32")}
    modes = pg.backend(backend).modes
    assert {outcome.mode for outcome in outcomes} == set(modes)
    for name in ("ppo ratio at 1 + clip, positive advantage", "value clip, tie", "relu at 0"):
        rows = {(row.mode, row.dtype) for row in outcomes if row.label == name}
        assert rows == {(modes[0], "float64"), *((mode, "float32") for mode in modes)}
    assert {outcome.fixture for outcome in outcomes} == {"random", "extreme", "kink", "probe"}
    assert {outcome.variant for outcome in outcomes} == {*VARIANTS, "kinks", "probes"}
    probes = {(row.mode, row.dtype) for row in outcomes if row.fixture == "probe"}
    assert probes == {(modes[0], "float64"), *((mode, "float32") for mode in modes)}
    possible = {
        (choice.case.estimator.name, choice.case.spec.head.name)
        for choice in product(VARIANTS, HEADS)
    }
    assert {(outcome.estimator, outcome.head) for outcome in outcomes} >= possible


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
        parts = [part for part in work.parts if part.choice]
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
