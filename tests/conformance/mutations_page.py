"""docs/mutations.md: a section for each test module that plants bugs.

`python tests/conformance/mutations_page.py` plants them all and writes the page.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pgcore_check.bounds.agreement import FACTOR

__all__ = ["listed", "planted", "section", "times"]

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "mutations.md"

# The modules whose `section` plants their bugs, in the page's order, and where they are.
MODULES = {
    "test_mutations": "conformance",
    "test_estimator_mutations": "conformance",
    "test_part_mutations": "conformance",
    "test_definition_mutations": "conformance",
    "test_examples": "packaging",
}


def times(ratio: float) -> str:
    """Return a ratio as a multiple of the limit, with one digit."""
    return f"{ratio / FACTOR:.0e}".replace("e+", "e") if math.isfinite(ratio) else "infinitely"


def section(
    heading: str, text: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:
    """Return a heading, lines of text and a table."""
    lines = [heading, "", *text, "", row_of(columns), f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *map(row_of, rows)]) + "\n"


def row_of(cells: Sequence[str]) -> str:
    """Return the line of a table's row."""
    return f"| {' | '.join(cells)} |"


def planted(bugs: Iterable[Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of bugs, each from a run: name, what it is planted in, stage, times the limit."""
    for bug in bugs:
        with pytest.MonkeyPatch.context() as monkeypatch:
            stage, ratio = bug.run(monkeypatch)
        yield bug.name, bug.planted, str(stage), times(ratio)


def listed(heading: str, columns: int) -> list[tuple[str, ...]]:
    """Return the first cells of each row under a heading of the page."""
    _, _, rest = PAGE.read_text().partition(f"{heading}\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [tuple(line[2:-2].split(" | ")[:columns]) for line in lines[1:]]


def main() -> None:
    """Write the page."""
    sys.path += [str(TESTS / folder) for folder in ("packaging", "plugins/check")]
    sections = [import_module(name).section_of_bugs() for name in MODULES]
    PAGE.write_text("\n".join(sections))


if __name__ == "__main__":
    main()
