"""docs/formulas.md links tests that exist, and every test of this folder that is named after a row is linked."""

from __future__ import annotations

import re
from pathlib import Path

from pgcore import estimator
from pgcore.registry.registry import registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "formulas.md").read_text()
LINKS = set(re.findall(r"`((?:tests|plugins)/[\w/]+\.py)::(\w+)`", PAGE))


def test_every_linked_test_exists():
    missing = [
        f"{path}::{name}" for path, name in LINKS if f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert LINKS
    assert missing == []


def test_every_test_of_a_row_is_linked():
    linked = {name for _, name in LINKS}
    named = {
        name
        for path in (ROOT / "tests" / "formulas").glob("test_*.py")
        for name in re.findall(r"def (test_[abde]\d+_\w+)\(", path.read_text())
    }
    assert named - linked - {"test_b4_the_enumeration_is_complete"} == set()


def test_every_registered_estimator_names_its_sources():
    for name in registry().names("estimators"):
        sources = estimator(name).sources
        # A paper has a year; a formula of the notes has its row on the page.
        assert any(re.search(r"\b(19|20)\d\d\b|row [A-E]\d", source) for source in sources), name


def test_every_row_has_a_line():
    rows = {
        f"{note}{n}"
        for note, count in {"A": 6, "B": 15, "D": 3, "E": 2}.items()
        for n in range(1, count + 1)
    }
    assert {row for row in rows if f"| {row} |" not in PAGE} == set()
