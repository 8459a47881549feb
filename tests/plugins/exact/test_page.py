"""docs/oracle.md: its links lead to tests that exist, and its code runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "oracle.md").read_text()


def test_every_linked_test_exists():
    links = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))
    assert len(links) >= 6
    assert [
        f"{path}::{name}" for path, name in links if f"def {name}(" not in (ROOT / path).read_text()
    ] == []


def test_its_code_runs_and_finds_no_bias():
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert float(printed.getvalue().split()[0]) < 1e-13
