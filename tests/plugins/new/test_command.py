"""`pgcore new`: copies of the example projects, their names, and refusals that leave nothing behind."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from pgcore.registry.registry import forget_registry
from pgcore_new.templates import TEMPLATES, class_name, template_folder

KINDS = [*TEMPLATES]


@pytest.fixture
def new(pgcore, tmp_path, monkeypatch):
    """Run `pgcore new` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: pgcore("new", *words)


def texts(project):
    """Return a project's files, path to content."""
    files = [path for path in project.rglob("*") if path.is_file()]
    return {path.relative_to(project).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_is_its_example_under_another_name(new, kind, tmp_path):
    status, printed, errors = new(kind, "my_idea")
    assert (status, errors) == (0, "")
    project, old = texts(tmp_path / "my_idea"), TEMPLATES[kind]

    declared = tomllib.loads(project["pyproject.toml"])
    assert declared["project"]["name"] == "my_idea"
    assert declared["project"]["entry-points"]["pgcore"] == {"my_idea": "my_idea.plugin"}
    assert {f"my_idea/{kind}.py", "my_idea/plugin.py", "README.md"} <= project.keys()
    assert {f"tests/test_{kind}.py", ".github/workflows/test.yml"} <= project.keys()
    for path, text in project.items():
        assert not re.search(rf"\b{old}\b|\b{class_name(old)}", f"{path} {text}"), path
        if path.endswith(".py"):
            ast.parse(text)
    # As many files as in the example, without those that tools leave behind.
    example = [path for path in texts(template_folder(kind)) if "cache" not in path]
    assert len(project) == len(example)
    assert "pip install --editable './my_idea[test]'" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["my_idea"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_copied_under_its_own_name_is_the_example(new, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("pgcore_new.command.check_name", lambda kind, name: None)
    name = TEMPLATES[kind]
    assert new(kind, name)[0] == 0
    copied = texts(tmp_path / name)
    assert {path: (template_folder(kind) / path).read_text() for path in copied} == copied


def test_the_copy_is_registered_under_its_name(new, site, tmp_path, pgcore):
    assert new("estimator", "my_idea", "--folder", str(site.folder / "my_idea_project"))[0] == 0
    project = site.folder / "my_idea_project"
    (project / "my_idea").rename(site.folder / "my_idea")
    site.distribution("my-idea", {"my_idea": "my_idea.plugin"})
    forget_registry()
    assert "my_idea" in pgcore("list", "estimators", "--json")[1]
    status, printed, _ = pgcore("audit", "my_idea")
    assert status == 0
    assert printed.startswith("MyIdea(gamma=1.0)")


def test_a_folder_is_where_it_was_asked_for(new, tmp_path):
    status, printed, _ = new("logger", "my_log", "--folder", str(tmp_path / "elsewhere"))
    assert status == 0
    assert (tmp_path / "elsewhere" / "my_log" / "logger.py").is_file()
    assert f"pytest {tmp_path / 'elsewhere'}" in printed


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("estimator", "ppo", "that of a registered estimator, 'ppo'"),
        ("part", "clip", "that of a registered objective, 'clip'"),
        ("backend", "jax", "that of a registered backend, 'jax'"),
        ("head", "json", "that of a module that can be imported, 'json'"),
        ("optimizer", "class", "in lower case, got 'class'"),
        ("optimizer", "my-idea", "in lower case, got 'my-idea'"),
        ("logger", "MyLog", "in lower case, got 'MyLog'"),
        ("estimator", "2fast", "in lower case, got '2fast'"),
        ("estimator", "a/b", "in lower case, got 'a/b'"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_one_line(new, kind, name, message, tmp_path):
    status, printed, errors = new(kind, name)
    assert (status, printed) == (2, "")
    assert errors.startswith(f"error: new {kind}: expected ")
    assert message in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_keeps_its_content(new, tmp_path):
    (tmp_path / "my_idea").mkdir()
    status, _, errors = new("estimator", "my_idea")
    assert status == 2
    assert errors == (
        "error: my_idea: expected a new folder, got one that exists; choose another\n"
    )
    assert list((tmp_path / "my_idea").iterdir()) == []


def test_a_folder_in_no_folder_is_refused(new, tmp_path):
    status, _, errors = new("estimator", "my_idea", "--folder", "none/my_idea")
    assert status == 2
    assert "got No such file or directory; choose another with --folder" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_fails_leaves_nothing(new, tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    status, _, errors = new("estimator", "my_idea")
    assert status == 2
    assert "got No space left on device" in errors
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_refused_with_the_known_ones(new, tmp_path):
    status, _, errors = new("network", "my_idea")
    assert status == 2
    assert all(kind in errors for kind in KINDS)
    assert list(tmp_path.iterdir()) == []
