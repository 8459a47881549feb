"""`pgcore check`: what it prints, writes and returns."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import sys
from functools import partial

import pytest

from pgcore.cli.progress import progress
from pgcore.data.spec import Table
from pgcore.errors import PgcoreError
from pgcore_check import conformance
from pgcore_check.conformance import plan, run
from pgcore_check.proofs import kinks, variants
from pgcore_check.text import json_of, text_of
from pgcore_numpy.policy import NumpyPolicy

KINKS = kinks()

ALONE = ("--processes", "1")


@pytest.fixture
def one_reinforce(monkeypatch):
    """Let the kit know one case only, so that commands take no time."""
    trying_only(monkeypatch, "reinforce")


def trying_only(monkeypatch, label):
    """Let the kit know one variant of an estimator only."""

    def tried(kind):
        return {label: variants(kind)[label]} if kind == "estimators" else variants(kind)

    monkeypatch.setattr(conformance, "variants", tried)


def test_a_check_that_agrees(pgcore, one_reinforce):
    status, out, _ = pgcore(
        "check", "--backends", "numpy", "--estimators", "reinforce", "--quick", *ALONE
    )
    assert status == 0
    assert "\nreinforce" in out
    assert "\n  reinforce " in out
    assert "! where a case disagrees" in out
    assert "numpy" in out
    assert "agree; worst" in out


def test_a_planted_bug_ends_a_run_of_the_command_with_its_stage(pgcore, monkeypatch, tmp_path):
    trying_only(monkeypatch, "gae")
    original = NumpyPolicy.gradient

    def planted(policy, *arguments):
        gradient = original(policy, *arguments)
        # A table stays right, on which the head's own derivatives are compared first.
        return gradient if isinstance(policy.spec.network, Table) else gradient.scaled(1.0 + 1e-9)

    monkeypatch.setattr(NumpyPolicy, "gradient", planted)
    page = tmp_path / "page.html"
    words = (
        "check",
        "--backends",
        "numpy",
        "--estimators",
        "actor_critic",
        "--heads",
        "categorical",
        "--processes",
        "1",
    )
    status, out, _ = pgcore(*words, "--html", str(page))
    assert status == 1
    assert "departs at gradient, " in out
    assert "departs at signals" not in out
    assert "departs at surrogate" not in out
    assert "departs at gradient, " in page.read_text()


def test_a_backend_that_is_too_old_is_absent_and_an_error_where_it_is_named(
    pgcore, one_reinforce, monkeypatch
):
    # The package is there, and what its metadata says is too little.
    monkeypatch.setattr("pgcore.registry.registry.is_installed", lambda package: True)
    monkeypatch.setattr("pgcore.registry.registry.version_found", lambda provider: "0.1.2")
    status, out, _ = pgcore("check", "--estimators", "reinforce", "--quick", *ALONE)
    assert status == 0
    assert (
        "absent: jax (expected jax 0.4.30 or later, got 0.1.2; pip install --upgrade 'pgcore[jax]')"
        in out
    )
    status, _, err = pgcore("check", "--backends", "numpy,jax", "--quick", *ALONE)
    assert status == 2
    assert (
        "backend 'jax': expected jax 0.4.30 or later, got 0.1.2; pip install --upgrade 'pgcore[jax]'"
        in err
    )
    status, out, _ = pgcore("list", "backends", "--json")
    assert status == 0
    assert {row["name"]: row["status"] for row in json.loads(out)["backends"]}["jax"] == "too old"


def test_a_backend_that_cannot_be_loaded_fails_and_the_others_go_on(
    pgcore, one_reinforce, monkeypatch, tmp_path
):
    original = conformance.plan
    monkeypatch.setattr(
        conformance,
        "plan",
        lambda **given: dataclasses.replace(original(**given), backends=("broken", "numpy")),
    )
    monkeypatch.setattr(conformance.api, "backend", partial(failing, conformance.api.backend))
    conformance.loaded.cache_clear()
    words = ("check", "--estimators", "reinforce", "--heads", "categorical", "--quick", *ALONE)
    status, out, _ = pgcore(*words, "--html", str(tmp_path / "page.html"))
    conformance.loaded.cache_clear()
    assert status == 1
    lines = [line for line in out.splitlines() if "libframe.so: cannot open" in line]
    assert len(lines) == 1
    assert lines[0].startswith("broken: OSError: ")
    assert "numpy" in out
    assert "libframe.so" in (tmp_path / "page.html").read_text()


def failing(original, name=None):
    """Return a backend, unless it is the broken one."""
    if name == "broken":
        raise OSError("libframe.so: cannot open shared object file")
    return original(name)


def test_json_holds_every_outcome(pgcore, one_reinforce):
    status, out, _ = pgcore(
        "check", "--backends", "numpy", "--estimators", "reinforce", "--quick", "--json", *ALONE
    )
    report = json.loads(out)
    assert status == 0
    assert report["agrees"] is True
    assert report["backends"] == ["numpy"]
    expected = plan(backends=["numpy"], estimators=["reinforce"], heads=None, extent="quick")
    kinks = [kink for kink in KINKS if kink.estimator in ("", "reinforce")]
    assert len(report["outcomes"]) == sum(2 for part in expected.parts if part.choice) + 2 * len(
        kinks
    )
    fields = {field.name for field in dataclasses.fields(conformance.Outcome)} | {"agrees", "blind"}
    assert all(row.keys() == fields for row in report["outcomes"])


def test_a_disagreement_is_exit_status_1_and_is_told(pgcore, one_reinforce, monkeypatch, tmp_path):
    def spoilt(plan, processes):
        (random, extreme), *others = run(plan, processes)
        yield [
            dataclasses.replace(random, stage="gradient", ratio=float("inf")),
            dataclasses.replace(
                extreme, error="gradient: expected numbers, got NaN; scale", ratio=float("inf")
            ),
        ]
        yield from others

    monkeypatch.setattr(conformance, "run", spoilt)
    words = ("check", "--backends", "numpy", "--estimators", "reinforce", "--quick", *ALONE)
    status, out, _ = pgcore(*words, "--html", str(tmp_path / "page.html"))
    assert status == 1
    assert "departs at gradient" in out
    assert "expected numbers, got NaN" in out
    assert "2 of " in out
    assert "disagree" in (tmp_path / "page.html").read_text()
    status, out, _ = pgcore(*words, "--json")
    assert status == 1
    assert json.loads(out)["outcomes"][0]["ratio"] is None


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--backends", "numpi"), 2, "numpy"),
        (("--estimators", "pppo"), 2, "ppo"),
        (("--heads", "categoricall"), 2, "categorical"),
        (("--quick", "--full"), 2, "choose one"),
        (("--html", "/nowhere/page.html"), 2, "make the folder first"),
        (("--html", "."), 2, "add a file name"),
        (("--html", "p" * 400), 2, "choose another"),
    ],
)
def test_bad_options_are_refused_before_anything_is_run(pgcore, words, status, told):
    found, out, err = pgcore("check", *words)
    assert found == status
    assert told in (out + err).replace("\n", " ")


def test_a_page_that_cannot_be_written_after_all_costs_no_results(
    pgcore, one_reinforce, monkeypatch, tmp_path
):
    page = tmp_path / "page.html"

    def blocked(plan, processes):
        page.mkdir()
        yield from run(plan, processes)

    monkeypatch.setattr(conformance, "run", blocked)
    words = (
        "check",
        "--backends",
        "numpy",
        "--estimators",
        "reinforce",
        "--quick",
        "--html",
        str(page),
        *ALONE,
    )
    status, out, err = pgcore(*words)
    assert status == 2
    assert "agree; worst" in out
    assert err.startswith(f"error: {page}: expected a place to write to")
    assert list(tmp_path.iterdir()) == [page]


@pytest.fixture
def sample():
    """An outcome that agrees."""
    return conformance.Outcome(
        backend="torch",
        mode="compiled",
        estimator="ppo",
        variant="ppo value clip",
        head="categorical",
        label="ppo value clip-masked-tanh-shared-float32",
        dtype="float32",
        fixture="random",
        ratio=0.4321,
        largest=0.8,
        limit=4.0,
        stage=None,
        where="gradient: hidden.0.weight[3, 7]",
        error=None,
        seconds=0.25,
        nearest=5e3,
    )


@pytest.fixture
def nothing_planned():
    """A plan without parts."""
    small = plan(backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="quick")
    return dataclasses.replace(small, absent={"far": "expected it, got none"}, parts=())


def test_json_parses_back_to_the_outcomes(sample, nothing_planned):
    lost = dataclasses.replace(sample, ratio=float("inf"), stage="signals")
    report = json.loads(json_of([sample, lost], nothing_planned, 2.0), parse_constant=pytest.fail)
    assert report["agrees"] is False
    assert report["absent"] == {"far": "expected it, got none"}
    assert [row.pop("agrees") for row in report["outcomes"]] == [True, False]
    assert [row.pop("blind") for row in report["outcomes"]] == [False, False]
    assert conformance.Outcome(**report["outcomes"][0]) == sample
    assert conformance.Outcome(**report["outcomes"][1]) == dataclasses.replace(lost, ratio=None)


def test_a_table_in_a_file_is_not_wrapped(sample, nothing_planned, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    outcomes = [dataclasses.replace(sample, backend=f"backend{number}") for number in range(12)]
    lines = text_of(outcomes, nothing_planned, 1.0).splitlines()
    assert any(line.split() == ["ppo", "value", "clip", *["0.43"] * 12] for line in lines)


def test_a_blind_case_is_no_agreement(sample, nothing_planned):
    blind = dataclasses.replace(sample, power=0.0)
    some = dataclasses.replace(
        nothing_planned, unchecked={"head 'mine'": "no form", "head 'yours'": "no form"}
    )
    text = text_of([sample, blind], some, 1.0)
    assert "~ 1/2: 0.43" in text
    assert (
        "blind: torch (compiled), ppo value clip-masked-tanh-shared-float32, random: rounding may be"
        in text
    )
    assert "1 agree and 1 are blind; worst 0.43" in text
    assert "not checked: head 'mine', head 'yours' (no form)" in text
    assert "~ blind" in text_of([blind], some, 1.0)
    assert "a choice is 12 u from its kink" in text_of(
        [dataclasses.replace(sample, nearest=12.3)], some, 1.0
    )
    failing = dataclasses.replace(blind, stage="gradient", ratio=812.0)
    assert not failing.blind


def test_each_disagreement_is_one_line_and_only_the_first_are_shown(sample, nothing_planned):
    bad = [
        dataclasses.replace(sample, ratio=812.0, stage="gradient"),
        dataclasses.replace(
            sample, ratio=float("inf"), stage="surrogate", where="surrogate: value[]"
        ),
        dataclasses.replace(sample, ratio=float("inf"), error="planted\n failure", where=": "),
    ]
    text = text_of([sample, *bad * 10], nothing_planned, 1.0)
    place = "torch (compiled), ppo value clip-masked-tanh-shared-float32, random: "
    lines = [line.removeprefix(place) for line in text.splitlines() if line.startswith(place)]
    assert len(lines) == 20
    assert lines[:3] == [
        "departs at gradient, hidden.0.weight[3, 7]: 812 times the rounding-error bound, the limit is 4",
        "departs at surrogate, value: not finite, or of a wrong shape or dtype",
        "planted failure",
    ]
    assert "... and 10 more" in text
    assert "! 30/31: error" in text
    assert text.endswith(
        "30 of 31 disagree; worst error (torch compiled, ppo value clip-masked-tanh-shared-float32); largest at any stage 0.8; 1 s\n"
    )


def test_a_large_ratio_has_two_digits_and_a_cell_that_was_not_run_a_dash(sample, nothing_planned):
    far = dataclasses.replace(sample, variant="ppo", backend="jax", ratio=812.3, stage="gradient")
    text = text_of([sample, far], nothing_planned, 1.0)
    assert [line.split() for line in text.splitlines() if line.startswith("  ppo")] == [
        ["ppo", "value", "clip", "0.43", "-"],
        ["ppo", "-", "!", "1/1:", "810"],
    ]


def test_the_bar_moves_on_a_terminal_and_nothing_is_written_elsewhere(sample, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for stream, told in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("checking", 2) as advance:
            advance(sample.label)
            advance(sample.label)
        assert ("2/2" in stream.getvalue()) is told
        assert (sample.label in stream.getvalue()) is told
        assert bool(stream.getvalue()) is told


def test_nothing_to_check_is_no_success(pgcore):
    status, out, _ = pgcore("check", "--backends", "numpy", "--estimators", "", "--quick")
    assert status == 1
    assert "nothing to check" in out


def test_an_absent_backend_is_shown_and_is_a_failure_when_named(pgcore, site, one_reinforce):
    source = "@hookimpl\ndef pgcore_backends():\n    return [Provider('far', 'json:loads', '', 'absent_far', 'far')]"
    site.plugin("far_plugin", source)
    site.distribution("far-dist", {"far": "far_plugin"})
    status, out, _ = pgcore(
        "check", "--backends", "numpy", "--estimators", "reinforce", "--quick", *ALONE
    )
    assert status == 0
    assert "absent: far (" in out
    status, _, err = pgcore("check", "--backends", "numpy,far")
    assert status == 2
    assert "far" in err


def test_every_part_is_run_and_full_is_much_more():
    chosen = plan(backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="standard")
    found = list(run(chosen))
    assert len(found) == len(chosen.parts)
    outcomes = [*itertools.chain(*found)]
    assert {outcome.estimator for outcome in outcomes} == {
        "ppo",
        "categorical",
    }  # points of the head alone
    assert {outcome.head for outcome in outcomes} == {"categorical"}
    full = plan(backends=["numpy"], estimators=["ppo"], heads=["categorical"], extent="full")
    assert len(full.parts) > 5 * len(chosen.parts)


def test_processes_that_share_the_work_change_nothing(small):
    alone = [*itertools.chain(*run(small))]
    shared = [*itertools.chain(*run(small, processes=2))]
    assert [dataclasses.replace(outcome, seconds=0.0) for outcome in shared] == [
        dataclasses.replace(outcome, seconds=0.0) for outcome in alone
    ]


def test_a_process_that_dies_is_told_of(small, monkeypatch):
    monkeypatch.setattr(conformance, "prepare_process", die)
    with pytest.raises(PgcoreError, match=r"(?s)one of 2 processes died.*the reason"):
        list(run(small, processes=2))


def die(log):
    log.write_text("the reason")
    os._exit(1)


def test_what_processes_write_to_standard_error_stays_out_of_the_way(small, capfd, monkeypatch):
    monkeypatch.setattr(conformance, "bundle_outcomes", write)
    assert list(run(small, processes=2)) == [[]] * len(small.parts)
    assert capfd.readouterr().err == ""


def write(plan, parts):
    os.write(2, b"noise")
    return [[] for _ in parts]


@pytest.fixture
def small():
    """Enough for two processes."""
    chosen = plan(backends=["numpy"], estimators=None, heads=["categorical"], extent="standard")
    return dataclasses.replace(chosen, parts=chosen.parts[-16:])
