"""What the README shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "network.0.weight" in printed
    # One policy beside the reference, and a policy beside its copy.
    assert printed.count("agree") == 2
    assert "departs" not in printed
    assert (tmp_path / "policy.safetensors").is_file()


def test_links_and_pictures_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_make_targets_of_the_readme_exist():
    wanted = set(re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert wanted
    assert wanted <= targets


def test_the_readme_counts_the_planted_bugs_of_their_page():
    (count,) = re.findall(r"\[(\d+) planted bugs\]", (ROOT / "README.md").read_text())
    page = (ROOT / "docs/mutations.md").read_text()
    rows, heads = (len(re.findall(row, page, re.MULTILINE)) for row in (r"^\| ", r"^\|-"))
    assert int(count) == rows - heads
