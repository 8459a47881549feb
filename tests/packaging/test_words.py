"""Documentation and docstrings use the field's words; this file lists the words they replace."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A pattern of each home-made expression, and the field's word for it.
WORDS = {
    r"who act(s|ed)": "behaviour policy",
    r"real actions?": "continuous action",
    r"critics? of actions": "action-value critic",
    r"switch(es)?": "binary actions",
    r"kinks?": "non-differentiable point",
    r"cut": "truncated",
    r"descriptions?": "distribution parameters",
    r"(plain|reference) forms?": "reference implementation",
    r"honest(ly)?": "rounding-error bound",
    r"(is|are|be) held to|held to the": "compared with",
    r"by (itself|themselves)": "alone, or automatic differentiation",
    r"nobody": "no code, or no user",
    r"(is|are|was|were) what": "the noun",
    r"comes? to": "the noun: value, result, sum",
}
# Where a word is legitimate: the start of a path, the pattern, and the reason.
ALLOWED = {
    ("plugins/pgcore_check/", r"kinks?"): "`Kink` is the kit's class of non-differentiable points",
    ("plugins/pgcore_estimators/proofs/", r"kinks?"): "proofs make the kit's `Kink`s",
    ("docs/mutations.md", r"kinks?"): "`gradient at a kink` is the name of a stage of the kit",
    ("plugins/pgcore_exact/", r"cut"): "`cut` is a public argument of the oracle",
    ("pgcore/data/networks.py", r"descriptions?"): "`Adopted.description` stands in messages",
}

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(
    path for room in ("pgcore", "backends", "plugins") for path in (ROOT / room).rglob("*.py")
)


def prose_of(path):
    """Return a page's text without code, or a module's docstrings, as one line."""
    text = path.read_text()
    if path.suffix == ".py":
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
        text = "\n".join(ast.get_docstring(node) or "" for node in nodes)
    # Names in code are the interface's, links to tests included.
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


def home_made(text):
    """Return the pattern and the surroundings of each home-made expression in a text."""
    return [
        (pattern, text[max(0, match.start() - 30) : match.end() + 20])
        for pattern in WORDS
        for match in re.finditer(rf"(?i)\b({pattern})\b", text)
    ]


def is_allowed(name, pattern):
    return any(name.startswith(start) and pattern == word for start, word in ALLOWED)


@pytest.fixture(scope="module")
def findings():
    """Return (file, pattern, surroundings) of all that is home-made, the allowed included."""
    return [
        (path.relative_to(ROOT).as_posix(), *finding)
        for path in (*PAGES, *MODULES)
        for finding in home_made(prose_of(path))
    ]


def test_documentation_and_docstrings_use_the_fields_words(findings):
    left = [
        f"{name}: ...{around}...; write {WORDS[pattern]}"
        for name, pattern, around in findings
        if not is_allowed(name, pattern)
    ]
    assert left == [], f"{len(left)} home-made expressions:\n" + "\n".join(left)


def test_every_allowance_is_needed(findings):
    used = {(name, pattern) for name, pattern, _ in findings}
    unused = [
        (start, word)
        for start, word in ALLOWED
        if not any(name.startswith(start) and pattern == word for name, pattern in used)
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A batch is held to the rule.", 1),
        ("Honest rounding, and kinks.", 2),
        ("The switch is what the policy\ncomes to.", 3),
        ("Execute the cutoff; `nobody` is code.", 0),
    ],
)
def test_the_words_are_found_in_prose_and_not_in_code(tmp_path, text, count):
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text(f"{text}\n```python\nkink = cut\n```\n")
    module.write_text(f'def f():\n    """{text}"""\n    return "kink"  # honest\n')
    assert [len(home_made(prose_of(path))) for path in (page, module)] == [count, count]
