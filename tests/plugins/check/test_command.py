"""`pgcore check`: what it prints, writes and returns."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import sys
from functools import partial
from typing import Any

import pytest

from pgcore import api
from pgcore.cli.progress import progress
from pgcore.data.spec import Table
from pgcore.errors import PgcoreError
from pgcore_check import conformance
from pgcore_check.conformance import plan, run
from pgcore_check.proofs import kinks, variants
from pgcore_check.text import json_of, text_of
from pgcore_numpy.policy import NumpyPolicy

KINKS = kinks()
HEADS = variants("heads")

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


def test_one_case_is_run_by_its_label(pgcore, one_reinforce):
    words = ("check", "--backends", "numpy", "--estimators", "reinforce", "--quick", *ALONE)
    every = json.loads(pgcore(*words, "--json")[1])["outcomes"]
    label = every[0]["label"]
    status, out, _ = pgcore(*words, "--json", "--case", label)
    assert status == 0
    outcomes = json.loads(out)["outcomes"]
    assert {outcome["label"] for outcome in outcomes} == {label}
    assert len(outcomes) == sum(outcome["label"] == label for outcome in every) < len(every)
    status, _, err = pgcore(*words, "--case", label[:-1])
    assert status == 2
    assert f"check --case: expected a known name, got {label[:-1]!r}" in err
    assert label in err


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
    names = ("--estimators", "reinforce", "--heads", "categorical")
    status, out, _ = pgcore("check", "--backends", "numpy", *names, "--quick", "--json", *ALONE)
    report = json.loads(out)
    assert status == 0
    assert report["agrees"] is True
    assert report["backends"] == ["numpy"]
    expected = plan(
        backends=["numpy"], estimators=["reinforce"], heads=["categorical"], extent="quick"
    )
    kinks = [kink for kink in KINKS if (kink.estimator, kink.head) == ("", "categorical")]
    heads = [head for head in HEADS.values() if head.name == "categorical"]
    cases = [part for part in expected.parts if part.choice]
    # Two draws of each case, of some by the function too; the kinks of a quick run have one dtype.
    count = sum(4 if part.function else 2 for part in cases)
    assert len(report["outcomes"]) == count + len(kinks) + len(heads)
    assert kinks
    fields = {field.name for field in dataclasses.fields(conformance.Outcome)} | {"agrees", "blind"}
    assert all(row.keys() == fields for row in report["outcomes"])


def test_a_disagreement_is_exit_status_1_and_is_told(pgcore, one_reinforce, monkeypatch, tmp_path):
    def spoilt(plan, processes):
        (random, of_function, extreme, _), *others = run(plan, processes)
        yield [
            dataclasses.replace(random, stage="gradient", ratio=float("inf")),
            dataclasses.replace(
                extreme, error="gradient: expected numbers, got NaN; scale", ratio=float("inf")
            ),
            of_function,
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


@pytest.fixture
def without_ppo(site, monkeypatch):
    """Disable an estimator, one of its optimizers' names and a backend."""
    monkeypatch.setenv("PGCORE_DISABLE", "ppo,optimizers:adam,torch")


def test_nothing_disabled_is_checked(without_ppo):
    some = plan(backends=None, estimators=None, heads=None, extent="standard")
    names = {part.choice.case.estimator.name for part in some.parts if part.choice}
    assert "ppo" not in names
    assert "reinforce" in names
    assert {part.choice.optimizer for part in some.parts if part.choice}.isdisjoint({"adam"})
    assert "PGCORE_DISABLE" in some.absent["torch"]
    assert not [name for name in some.unchecked if "ppo" in name]


@pytest.mark.parametrize("words", [("--estimators", "ppo"), ("--backends", "torch")])
def test_a_disabled_name_that_is_requested_names_the_variable(pgcore, without_ppo, words):
    status, _, err = pgcore("check", "--quick", *words, *ALONE)
    assert status == 2
    assert "PGCORE_DISABLE='ppo,optimizers:adam,torch'" in err


def choices_of(**options):
    """Return the cases of a plan."""
    some: dict[str, Any] = {"backends": ["numpy"], "estimators": ["ppo"], "heads": ["categorical"]}
    return [part.choice for part in plan(**some | options).parts if part.choice]


def test_settings_replace_the_variants_of_one_estimator():
    settings = {"ppo": {"clip": 0.1, "gamma": 0.5}}
    choices = choices_of(estimators=["ppo", "actor_critic"], settings=settings, extent="standard")
    variants = {choice.variant: choice.case.estimator for choice in choices}
    assert {label for label, estimator in variants.items() if estimator.name == "ppo"} == {
        "ppo clip=0.1, gamma=0.5"
    }
    assert variants["ppo clip=0.1, gamma=0.5"] == api.estimator("ppo", clip=0.1, gamma=0.5)
    assert len(variants) > 2


def test_selected_optimizers_make_the_cases_that_they_make_among_all():
    some = choices_of(optimizers=["sgd", "adamw"], extent="full")
    everything = choices_of(extent="full")
    assert {choice.optimizer for choice in some} == {"sgd", "adamw"}
    assert some == [choice for choice in everything if choice.optimizer in ("sgd", "adamw")]
    standard = choices_of(optimizers=["sgd"], extent="standard")
    assert {choice.optimizer for choice in standard} == {"sgd"}
    quick = plan(
        backends=["numpy"], estimators=None, heads=None, extent="quick", optimizers=["sgd"]
    )
    assert not [name for name in quick.unchecked if name.startswith("optimizer")]


SIGNED = """
from dataclasses import dataclass
import pgcore as pg

@dataclass(frozen=True)
class Mine(pg.Estimator):
    name = "mine"
    scale: float = 1.0
    claims = pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}

    def surrogate(self, xp, *, log_prob, advantage):
        return -self.scale * log_prob * advantage

    def cotangents(self, *, log_prob, advantage):
        return {"log_prob": -advantage}
"""


@pytest.fixture
def signed(site, monkeypatch):
    """A file with an estimator whose derivative is wrong under other options than its own."""
    monkeypatch.chdir(site.folder)
    site.module("signed_file", SIGNED)
    few = ("--estimators", "mine", "--heads", "categorical", "--optimizers", "sgd")
    return "check", "--backends", "numpy", "--plugin", "signed_file.py", *few


def test_a_file_is_checked_by_several_processes(pgcore, signed):
    status, out, err = pgcore(*signed, "--processes", "2")
    assert status == 0, out + err
    assert "\nmine" in out
    cases = choices_of(estimators=["mine"], optimizers=["sgd"], extent="standard")
    assert len(cases) >= 2 * conformance.PARTS_A_PROCESS, "enough for two processes"


@pytest.mark.parametrize("setting", ["scale=2.0", "mine.scale=2.0"])
def test_a_bug_under_other_options_is_found_by_them(pgcore, signed, setting):
    assert pgcore(*signed, "--quick", *ALONE)[0] == 0
    status, out, _ = pgcore(*signed, "--set", setting, "--quick", *ALONE)
    assert status == 1
    assert "mine scale=2.0" in out
    assert "mine.cotangents" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "clip=1"), "expected a field of one of --estimators, got 'clip'"),
        (("--estimators", "ppo,a2c", "--set", "clip=1"), "got 'clip'; write ESTIMATOR.FIELD"),
        (("--estimators", "ppo", "--set", "a2c.gamma=1"), "got 'a2c.gamma'"),
        (("--set", "ppo.clop=1"), "ppo hyper-parameter: expected a known name, got 'clop'"),
        (("--set", "poo.clip=1"), "estimator: expected a known name, got 'poo'"),
        (("--set", "clip"), "--set: expected [estimator.]field=value, got 'clip'"),
        (
            ("--estimators", "ppo", "--set", "clip=-1"),
            "PPO.clip: expected a number above 0 or math.inf",
        ),
        (("--optimizers", "trpo"), "with an update formula, got 'trpo' (a rule without one)"),
        (("--optimizers", "adm"), "optimizer: expected a known name, got 'adm'"),
    ],
)
def test_a_setting_or_optimizer_that_cannot_be_tried_is_refused(pgcore, words, message):
    status, out, err = pgcore("check", "--backends", "numpy", "--quick", *words)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
