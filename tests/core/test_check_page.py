"""The page of `pgcore check --html`."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from pgcore.cli.check_page import check_page, colour
from pgcore.testing.conformance import Outcome

VOID = {"meta", "br", "line", "rect"}


class Page(HTMLParser):
    """Reads a page and fails where a tag is closed that was not opened last."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.text = ""
        self.outside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]
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
    assert page.count["td"] == 3 * (3 + 1) + 3 * 2
    assert page.count["svg"] == 3
    assert "All 18 cases agree" in page.text
    assert "absent: jax (pip install it)" in page.text
    assert "Disagreements" not in page.text


def test_a_disagreement_is_shown_with_its_stage():
    bad = outcome(backend="torch", ratio=1e6, stage="gradient")
    broken = outcome(backend="torch", ratio=float("inf"), error="gradient: expected numbers, got NaN; scale")
    page = Page(check_page([outcome(), bad, broken], {}, 1.0))
    assert "2 of 3 cases disagree" in page.text
    assert "gradient: network.0.weight[0, 1]: 1e+06 times what rounding allows" in page.text
    assert "expected numbers, got NaN" in page.text


def test_labels_are_escaped():
    hostile = outcome(
        label="<script>alert(1)</script>", variant="a&b", where='"><img src=x>', stage="gradient", ratio=9.0
    )
    text = check_page([hostile], {"<b>": "<i>"}, 1.0)
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert "a&amp;b" in text


def test_a_page_of_nothing_says_so():
    assert "0 of 0 cases disagree" in Page(check_page([], {"torch": "missing"}, 0.0)).text


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), 4.1])
def test_above_the_limit_is_red(ratio):
    assert colour(ratio, 4.0).startswith("hsl(6 ")


def test_colours_change_towards_the_limit():
    hues = [float(colour(ratio, 4.0)[4:].split()[0]) for ratio in (0.0, 0.01, 0.4, 1.0, 4.0)]
    assert hues == sorted(hues, reverse=True)
    assert hues[0] > hues[-1] + 60
