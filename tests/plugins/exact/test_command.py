"""`pgcore audit`: what it prints, draws and returns."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import numpy as np
import pytest

import pgcore as pg
import pgcore_exact as exact
from pgcore.cli.progress import progress
from pgcore.errors import MDPError
from pgcore_exact import command
from pgcore_exact import picture as audit_picture
from pgcore_exact.audits import Row
from pgcore_exact.claims import with_claims

SMALL = ("--horizon", "2", "--states", "3")


@pytest.fixture
def three(monkeypatch):
    """Let there be three estimators only, so that commands take no time."""
    chosen = {
        "reinforce": pg.estimator("reinforce", gamma=1.0),
        "reinforce, mean": pg.estimator("reinforce", gamma=1.0, baseline="mean"),
        "ppo": pg.estimator("ppo", gamma=1.0),
    }
    monkeypatch.setattr(command, "subjects", lambda: chosen)
    return chosen


@pytest.fixture
def one_wrong(monkeypatch):
    """Let one estimator claim too much, and one contradict its signature."""
    mean = pg.estimator("reinforce", gamma=1.0, baseline="mean")
    value = pg.estimator("reinforce", gamma=1.0, baseline="value")
    chosen = {
        "wrong": with_claims(mean, unbiased=True),
        "contradictory": with_claims(value, needs_critic=False),
    }
    monkeypatch.setattr(command, "subjects", lambda: chosen)


def test_one_estimator(pgcore):
    status, out, _ = pgcore("audit", "reinforce", "--set", "baseline=mean", *SMALL)
    assert status == 0
    assert (
        "random process of 3 states (1 terminal), 2 actions, horizon 2, seed 0; policy: no critic"
        in out
    )
    assert "run on all 210 batches of 2 episodes" in out
    assert "relative 0.5\n" in out
    assert "cosine 1.000000 with the exact one, 0.5 times as long" in out
    rows = [line.split()[:3] for line in out.splitlines()[-5:]]
    assert rows == [
        ["unbiased", "no", "confirmed"],
        ["off_policy", "none", "confirmed"],
        ["needs_critic", "no", "confirmed"],
        ["discrete_only", "no", "confirmed"],
        ["whole_episodes", "yes", "confirmed"],
    ]


def test_episodes_that_are_independent_are_run_once(pgcore):
    out = pgcore("audit", "reinforce", "--batch", "4", *SMALL)[1]
    assert "run on all 20 episodes, of which batches of 4 are means" in out
    out = pgcore(
        "audit",
        "reinforce",
        "--batch",
        "1",
        "--set",
        "gamma=0.9",
        "--set",
        "discount_state=true",
        *SMALL,
    )[1]
    assert "run on all 20 single episodes" in out
    assert "the state discounted" in out


def test_what_is_open_is_explained(pgcore):
    status, out, _ = pgcore(
        "audit", "reinforce", "--set", "reduction=step", "--horizon", "1", "--states", "3"
    )
    assert status == 0
    assert "unbiased        no       open" in out
    assert "open: this process does not tell; another may" in out


def test_json_has_every_figure(pgcore):
    status, out, _ = pgcore("audit", "ppo", "--json", *SMALL)
    (found,) = json.loads(out)["audits"]
    assert status == 0
    audit = exact.audit(pg.estimator("ppo", gamma=1.0), exact.audit_process(3, 2, 2, 0))
    for field in dataclasses.fields(audit):
        if field.name not in ("estimator", "verdicts", "seconds"):
            assert found[field.name] == getattr(audit, field.name)
    assert found["estimator"] == repr(audit.estimator)
    assert found["verdicts"] == [dataclasses.asdict(verdict) for verdict in audit.verdicts]


def test_the_table_has_a_line_for_each(pgcore, three):
    status, out, _ = pgcore("audit", "--all", *SMALL)
    assert status == 0
    cells = {
        label: line.split(label)[1].split()
        for label in three
        for line in out.splitlines()
        if line.startswith(f"{label}  ")
    }
    assert cells["reinforce"][:5] == ["0", "1.0000", "1", cells["reinforce"][3], "1"]
    assert cells["reinforce, mean"][:3] == ["0.5", "1.0000", "0.5"]
    assert cells["ppo"][5:] == ["no", "none", "yes", "no", "no"]
    assert "15 claims of 3 estimators: none refuted, 0 open" in out


def test_refuted_claims_and_errors_are_exit_status_1(pgcore, one_wrong):
    status, out, _ = pgcore("audit", "--all", *SMALL)
    assert status == 1
    assert "yes !" in out
    assert "wrong: unbiased=True is refuted: relative bias 0.5" in out
    assert "contradictory: reinforce.claims: expected needs_critic=True" in out
    assert "2 refuted (!) or not to be audited" in out
    status, out, _ = pgcore("audit", "--all", "--json", *SMALL)
    assert status == 1
    assert [row["refuted"] for row in json.loads(out)["audits"]] == [True, True]


def test_a_planted_estimator_is_refuted_by_name(pgcore, site):
    site.module(
        "boastful",
        """
        from dataclasses import dataclass, replace
        from pgcore_estimators.reinforce import Reinforce

        @dataclass(frozen=True)
        class Boastful(Reinforce):
            baseline: str = "mean"
            name = "boastful"

            @property
            def claims(self):
                return replace(super().claims, unbiased=True)
        """,
    )
    site.plugin(
        "boastful_plugin",
        '@hookimpl\ndef pgcore_estimators():\n    return [Provider("boastful", "boastful:Boastful", "boasts")]',
    )
    site.distribution("boastful-dist", {"boastful": "boastful_plugin"})
    status, out, _ = pgcore("audit", "boastful", *SMALL)
    assert status == 1
    assert "unbiased        yes      refuted    relative bias 0.5" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "expected an estimator's name or --all or --penalties, got none or several"),
        (
            ("ppo", "--all"),
            "expected an estimator's name or --all or --penalties, got none or several",
        ),
        (("--all", "--set", "gamma=1"), "--set: expected it with one estimator"),
        (("reinforce", "--set", "gamma"), "--set: expected field=value, got 'gamma'"),
        (("reinforce", "--set", "gama=1"), "did you mean 'gamma'"),
        (("reinforce", "--set", "gamma=2"), "expected a number in [0, 1], got 2"),
        (("reinforc",), "did you mean 'reinforce'"),
        (("reinforce", "--picture", "p.png"), "--picture: expected --all"),
        (("--all", "--picture", "p.gif"), "--picture: expected a name that ends in .png or .svg"),
        (
            ("--all", "--picture", "/nowhere/p.png"),
            "--picture: expected a file in a folder that exists",
        ),
        (("reinforce", "--horizon", "12"), "a horizon of 5 would do"),
        (
            ("reinforce", "--horizon", "100000"),
            "got more than 10^100 of up to 100000 steps; a horizon of 5 would do",
        ),
        (("reinforce", "--states", "10000000"), "random: expected a process that fits into memory"),
        (("reinforce", "--set", "baseline=mean", "--batch", "9"), "use batches of 2"),
        (("reinforce", "--set", "baseline=leave_one_out", "--batch", "1"), "at least 2 episodes"),
    ],
)
def test_bad_options_are_told(pgcore, words, told):
    status, out, err = pgcore("audit", *words)
    assert status == 2
    assert told in " ".join((out + err).replace("│", " ").split())


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_picture_is_written_and_is_the_same_again(pgcore, three, tmp_path, form):
    paths = [tmp_path / f"{name}.{form}" for name in ("one", "two")]
    for path in paths:
        assert pgcore("audit", "--all", "--picture", str(path), *SMALL)[0] == 0
    one, two = (path.read_bytes() for path in paths)
    assert one == two
    assert one.startswith(b"\x89PNG" if form == "png" else b"<?xml")
    if form == "svg":
        assert all(
            label in one.decode()
            for label in (*three, "exactly 0", "relative bias of the gradient")
        )


def test_without_matplotlib_nothing_is_run(pgcore, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, out, err = pgcore("audit", "--all", "--picture", str(tmp_path / "p.png"))
    assert status == 2
    assert "pgcore[plot]" in out + err


def test_labels_of_a_crowd_stand_apart_and_where_they_belong():
    heights = [100.0, 99.0, 98.0, 50.0, 10.0, 9.0]
    found = audit_picture.spread(heights)
    assert (-np.diff(found) >= audit_picture.LINE - 1e-9).all()
    assert found[3] == 50.0
    assert np.mean(found[:3]) == pytest.approx(99.0)
    assert np.mean(found[4:]) == pytest.approx(9.5)


def test_the_time_can_be_in_the_state(pgcore):
    plain, timed = (
        json.loads(pgcore("audit", "reinforce", "--json", *SMALL, *more)[1])
        for more in ((), ("--time-in-state",))
    )
    assert timed["process"].endswith("time in the state")
    assert timed["audits"][0]["runs"] == plain["audits"][0]["runs"]
    assert timed["audits"][0]["length"] == pytest.approx(plain["audits"][0]["length"], abs=1.0)
    assert timed["audits"][0]["relative"] < 1e-13


def test_nothing_to_draw_is_told():
    with pytest.raises(MDPError, match="expected an estimator that can be drawn, got none"):
        audit_picture.draw([Row("broken", None, "a reason")], "png")


def test_what_has_no_place_in_the_picture_is_named(three):
    small = exact.audit_process(3, 2, 2, 0)
    audits = {label: exact.audit(each, small) for label, each in three.items()}
    idle = exact.audit(pg.estimator("q_learning", gamma=1.0), small)
    rows = [Row(label, audit) for label, audit in audits.items()]
    others = [
        Row("idle", idle),
        Row("idle, variant", idle),
        Row("lost", dataclasses.replace(audits["ppo"], rescaled=np.inf)),
        Row("broken", None, "a reason"),
    ]
    told = "without a place here: idle (the policy's gradient is always 0), lost (no finite relative bias), broken (not to be audited)"
    assert audit_picture.list_absent(others) == told
    assert audit_picture.list_absent([]) is None
    drawn = audit_picture.draw([*rows, *others], "svg").decode()
    assert "without a place here: idle (" in drawn
    assert "episodes of the current policy" in drawn
    assert "without" not in audit_picture.draw(rows, "svg").decode()


def test_no_label_or_line_to_one_covers_another_dot_or_label(monkeypatch):
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    rng, kinds = np.random.default_rng(0), [*audit_picture.KINDS]
    points = {
        f"label {n}": (1 + x / 30, 1 + y / 30, kinds[n % 3])
        for n, (x, y) in enumerate(rng.random((12, 2)))
    }
    points |= {"far": (0.5, 0.5, kinds[0]), "farther": (2.0, 2.0, kinds[1])}
    figure = Figure(figsize=(8, 6), dpi=100)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    audit_picture.plot(axes, points)
    figure.draw_without_rendering()
    placed = {}
    monkeypatch.setattr(
        audit_picture, "write", lambda axes, label, point, place: placed.update({label: place})
    )
    audit_picture.place_names(axes, points)
    unit = 100 / 72
    dots = {label: axes.transData.transform(point[:2]) for label, point in points.items()}
    texts = {label: dots[label] + unit * np.array(place[:2]) for label, place in placed.items()}
    boxes = {}
    for label, (x, y) in texts.items():
        width, height = audit_picture.extent(axes, label)
        boxes[label] = Bbox.from_bounds(
            x if placed[label][2] == "left" else x - width, y - height / 2, width, height
        )
    for label, box in boxes.items():
        line = np.linspace(dots[label], texts[label], 50)[6:]
        for other in points.keys() - {label}:
            assert not box.overlaps(boxes[other])
            assert not audit_picture.contains_any(box, dots[other][None])
            assert not audit_picture.contains_any(boxes[other], line)
    assert [placed[label][:2] for label in ("far", "farther")] == [
        (audit_picture.BESIDE, 0),
        (-audit_picture.BESIDE, 0),
    ]


def test_points_that_fall_together_share_a_label():
    points = {
        "a": (0.5, 2.0, "x"),
        "b": (0.50001, 2.0, "x"),
        "c": (1e-16, 2.0, "x"),
        "d": (3e-15, 2.0, "x"),
    }
    assert list(audit_picture.merge_points(points)) == ["a = b", "c = d"]


def test_every_registered_estimator_is_in_the_table_once():
    found = list(command.subjects().values())
    assert len({repr(each) for each in found}) == len(found)
    assert {getattr(each, "gamma", 1.0) for each in found} == {1.0}


def test_a_bar_moves_on_a_terminal_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, file = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("auditing", 2, started=-1) as advance:
        advance("first")
        advance("second")
    assert "auditing" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", file)
    with progress("auditing", 2, started=-1) as advance:
        advance("first")
    assert file.getvalue() == ""
