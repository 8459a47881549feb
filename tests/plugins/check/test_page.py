"""The page of `pgcore check --html`."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from pgcore_check.conformance import Outcome
from pgcore_check.page import BINS_PER_DECADE, DECADES, DECADES_BELOW, bin_of, check_page, colour

VOID = {"meta", "br", "line", "rect"}


class Page(HTMLParser):
    """Reads a page and fails where a tag is closed that was not opened last."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.text = ""
        self.classes: list[str] = []
        self.titles: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]
        self.classes += [value for name, value in attrs if name == "class" and value]
        self.titles += [value for name, value in attrs if name == "title" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outcome(**changed):
    fields = {
        "backend": "numpy",
        "mode": "eager",
        "estimator": "ppo",
        "variant": "ppo kl",
        "head": "categorical",
        "label": "ppo kl-categorical-tanh",
        "dtype": "float64",
        "fixture": "random",
        "ratio": 0.5,
        "largest": 0.9,
        "limit": 4.0,
        "stage": None,
        "where": "gradient: network.0.weight[0, 1]",
        "error": None,
        "seconds": 0.1,
    }
    return Outcome(**(fields | changed))


def test_a_page_is_well_formed_self_contained_and_has_a_cell_for_each_estimator_and_backend():
    outcomes = [
        outcome(backend=backend, mode=mode, variant=variant, head=head)
        for backend, mode in (("numpy", "eager"), ("torch", "eager"), ("torch", "compiled"))
        for variant in ("ppo", "ppo kl", "kinks")
        for head in ("categorical", "diagonal_gaussian")
    ]
    page = Page(check_page(outcomes, {"jax": "pip install it"}, 12.0))
    assert page.open == []
    assert page.outside == []
    corners = 2
    assert page.count["td"] == 3 * (3 + 1) + 3 * 2 + corners
    assert page.classes.count("absent") == 3
    assert page.titles.count("absent: pip install it") == 3
    assert page.count["svg"] == 3
    assert "All 18 cases agree" in page.text
    assert "absent: jax (pip install it)" in page.text
    assert "Disagreements" not in page.text


def test_a_disagreement_is_shown_with_its_stage():
    bad = outcome(backend="torch", ratio=1e6, stage="gradient")
    broken = outcome(
        backend="torch", ratio=float("inf"), error="gradient: expected numbers, got NaN; scale"
    )
    page = Page(check_page([outcome(), bad, broken], {}, 1.0))
    assert "2 of 3 cases disagree" in page.text
    assert (
        "departs at gradient, network.0.weight[0, 1]: 1e+06 times the rounding-error bound"
        in page.text
    )
    assert "expected numbers, got NaN" in page.text
    assert page.classes.count("bad") == 2  # A cell in either map.
    assert page.classes.count("verdict bad") == 1
    assert page.classes.count("over") == 1


def test_what_is_not_finite_is_no_error_and_what_was_raised_is_told_first():
    lost = outcome(
        variant="lost", ratio=float("inf"), stage="signals", where="signals: advantages[3]"
    )
    scalar = outcome(variant="scalar", ratio=9.0, stage="surrogate", where="surrogate: value[]")
    broken = outcome(variant="broken", ratio=float("inf"), error="planted\nfailure", where=": ")
    page = Page(check_page([lost, scalar, broken], {}, 1.0))
    assert "Worst: error (numpy eager, ppo kl-categorical-tanh). 1 seconds." in page.text
    assert (
        "departs at signals, advantages[3]: not finite, or of a wrong shape or dtype" in page.text
    )
    assert "departs at surrogate, value: 9 times" in page.text
    assert ": planted failure" in page.text
    assert any("planted failure" in title for title in page.titles)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf")])
def test_what_is_not_finite_is_drawn_above_the_limit(ratio):
    page = Page(check_page([outcome(), outcome(ratio=ratio, stage="gradient")], {}, 1.0))
    assert page.classes.count("over") == 1
    assert "Worst: not finite (" in page.text


def test_what_was_not_run_is_not_absent():
    page = Page(check_page([outcome(), outcome(variant="ppo", backend="torch")], {}, 1.0))
    assert (
        page.classes.count("none") == 2 + 2
    )  # The corners, and each variant where it was not run.
    assert "absent" not in page.classes
    assert page.titles.count("not run") == 2


def test_labels_are_escaped():
    hostile = outcome(
        label="<script>alert(1)</script>",
        variant="a&b",
        where='"><img src=x>',
        stage="gradient",
        ratio=9.0,
    )
    text = check_page([hostile], {"<b>": "<i>"}, 1.0)
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert "a&amp;b" in text


def test_a_page_of_nothing_says_so():
    page = Page(check_page([], {"torch": "missing"}, 0.0))
    assert page.open == []
    assert "Nothing was checked" in page.text
    assert "absent: torch (missing)" in page.text
    assert "table" not in page.count


@pytest.mark.parametrize("of_limit", [float("nan"), float("inf"), 1.01])
def test_above_the_limit_is_red(of_limit):
    assert hue(of_limit) == 4.0


def test_colours_change_towards_the_limit():
    hues = [hue(of_limit) for of_limit in (0.0, 0.01, 0.1, 0.4, 1.0)]
    assert hues == sorted(hues, reverse=True)
    assert hues[0] > hues[-1] + 60


def hue(of_limit):
    """Return the hue of a colour."""
    return float(colour(of_limit).removeprefix("--hue:").partition(";")[0])


def test_the_limit_is_between_two_bins():
    limit = BINS_PER_DECADE * DECADES_BELOW
    assert bin_of(1.0) == limit - 1
    assert bin_of(1.0000001) == limit
    assert bin_of(0.0) == 0
    assert bin_of(float("inf")) == bin_of(1e300) == BINS_PER_DECADE * DECADES - 1


def test_a_blind_case_is_no_agreement():
    blind = outcome(power=0.0, variant="ppo"), outcome(nearest=7.2, label="near")
    page = Page(
        check_page([*blind, outcome(nearest=1e4)], {}, 1.0, ["not checked: head 'mine' (no form)"])
    )
    assert "1 of 3 cases agree with the reference, at every stage; 2 are blind." in page.text
    assert "blind" in page.classes
    assert "near, random: a choice is 7 u from its kink" in page.text
    assert "rounding may be as large as an error in every component of its gradient" in page.text
    assert "not checked: head 'mine' (no form)" in page.text
    assert "blind" not in Page(check_page([outcome()], {}, 1.0)).classes
