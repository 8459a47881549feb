"""What the page on loops shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "loops.md").read_text()


def test_python_of_the_page_runs(capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "loops.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "explained_variance" in printed
    # Minus the returns of the steps, over the two episodes.
    assert "[-1.355 -0.95  -0.5   -0.5  ]" in printed


def test_the_page_lists_every_loop():
    files = {path.name for path in (ROOT / "examples" / "loops").glob("*.py")}
    assert set(re.findall(r"^\| `(\w+\.py)`", PAGE, re.MULTILINE)) == files
