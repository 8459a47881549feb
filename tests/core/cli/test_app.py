import json
import os
import subprocess
import sys

import pytest

from pgcore.registry.entry_points import KINDS
from pgcore.registry.registry import registry

GREET = """
@hookimpl
def pgcore_commands():
    return [Provider("greet", "greet_command:greet", "greet pgcore[somebody]")]
"""


@pytest.fixture
def greet(site):
    """A plugin that provides a command."""
    site.plugin("greet_plugin", GREET)
    site.module(
        "greet_command",
        'def greet(name: str, loud: bool = False) -> None:\n    """Greet warmly."""\n    print("hello", name)\n',
    )
    site.distribution("greet-dist", {"greet": "greet_plugin"})
    return site


def test_list_as_json_shows_every_kind(pgcore):
    status, out, _ = pgcore("list", "--json")
    listing = json.loads(out)
    assert status == 0
    assert tuple(listing) == KINDS
    assert {row["name"]: row["status"] for row in listing["backends"]}["numpy"] == "usable"
    assert {row["distribution"] for row in listing["heads"]} == {"pgcore"}


def test_list_shows_the_kinds_asked_for(pgcore, greet):
    status, out, _ = pgcore("list", "commands", "heads", "--json")
    listing = json.loads(out)
    assert status == 0
    assert list(listing) == ["commands", "heads"]
    row = next(row for row in listing["commands"] if row["name"] == "greet")
    assert row == {
        "name": "greet",
        "target": "greet_command:greet",
        "summary": "greet pgcore[somebody]",
        "requires": None,
        "extra": None,
        "at_least": None,
        "distribution": "greet-dist",
        "version": "1.0",
        "status": "usable",
        "reason": None,
    }


@pytest.mark.parametrize(
    "words", [(), ("--json",), ("heads", "commands"), ("commands", "--json", "heads", "heads")]
)
def test_a_listing_is_the_same_without_typer(pgcore, greet, words):
    direct = pgcore("list", *words)
    # Two hyphens end the options, which typer alone knows.
    assert pgcore("list", *words, "--") == direct
    assert direct[0] == 0
    assert "greet" in direct[1]


def test_list_prints_tables_with_the_reason_word_for_word(pgcore, site):
    source = "@hookimpl\ndef pgcore_schedules():\n    return [Provider('far', 'json:loads', 'far away', 'absent_far', 'far')]"
    site.plugin("far_plugin", source)
    site.distribution("far-dist", {"far": "far_plugin"})
    status, out, _ = pgcore("list")
    assert status == 0
    assert (
        "missing: expected the package 'absent_far', got none installed; pip install 'pgcore[far]'"
        in out
    )
    assert "far-dist 1.0" in out
    assert "numpy" in out


def test_list_says_when_nothing_is_registered(pgcore, monkeypatch):
    monkeypatch.setattr(registry(), "plugins", ())
    status, out, _ = pgcore("list", "schedules")
    assert (status, out.strip()) == (0, "schedules: none are registered")


def test_list_refuses_an_unknown_kind_on_one_line(pgcore):
    status, out, err = pgcore("list", "backend")
    assert (status, out) == (2, "")
    assert err.startswith(
        "error: registry: expected a known name, got 'backend'; did you mean 'backends'?"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [("list",), ("list", "--json")])
def test_list_works_beside_broken_plugins_and_mentions_them(pgcore, greet, words):
    greet.plugin("bad_plugin", "raise RuntimeError('planted failure')")
    greet.distribution("bad-dist", {"bad": "bad_plugin"})
    greet.module("greet_command", "raise RuntimeError('a command that cannot be imported')")
    status, out, err = pgcore(*words)
    assert status == 0
    assert "greet" in out
    assert err == "note: bad (bad-dist 1.0) is quarantined; see `pgcore doctor`\n"


def test_a_plugins_command_runs_with_its_arguments(pgcore, greet):
    assert pgcore("greet", "world")[:2] == (0, "hello world\n")
    status, out, _ = pgcore("greet", "--help")
    assert status == 0
    assert "Greet warmly." in out
    assert "--loud" in out


def test_help_shows_a_plugins_command_without_importing_it(pgcore, greet):
    for words in (["--help"], []):
        _, out, err = pgcore(*words)
        assert "greet pgcore[somebody]" in out + err
    assert "greet_command" not in sys.modules


def test_a_command_that_needs_a_missing_package_says_what_to_install(pgcore, site):
    source = "@hookimpl\ndef pgcore_commands():\n    return [Provider('far', 'far_command:run', '', 'absent_far', 'far')]"
    site.plugin("far_plugin", source)
    site.module("far_command", "import absent_far")
    site.distribution("far-dist", {"far": "far_plugin"})
    status, _, err = pgcore("far")
    assert status == 2
    assert err.startswith("error: command 'far': expected the package 'absent_far'")
    assert err.endswith("pip install 'pgcore[far]'\n")


def test_a_command_that_two_distributions_provide_is_refused_alone(pgcore, greet):
    greet.plugin("rival_plugin", GREET)
    greet.distribution("rival-dist", {"rival": "rival_plugin"})
    status, _, err = pgcore("greet", "world")
    assert status == 2
    assert "greet-dist 1.0" in err
    assert "rival-dist 1.0" in err
    assert pgcore("list", "commands")[0] == 0


def test_an_unknown_command_is_answered_with_the_near_one_and_the_quarantined_plugins(
    pgcore, greet
):
    status, _, err = pgcore("gret")
    assert status == 2
    assert "note:" not in err
    assert "greet" in err
    greet.plugin("bad_plugin", "raise RuntimeError('planted failure')")
    greet.distribution("bad-dist", {"bad": "bad_plugin"})
    forget_the_registry()
    status, _, err = pgcore("bad")
    assert status == 2
    assert "note: commands of quarantined plugins are not known: bad (bad-dist)" in err


def forget_the_registry():
    """Forget the process's registry, as a new process would."""
    sys.modules["pgcore.registry.registry"].forget_registry()


def test_a_command_cannot_replace_one_of_pgcores_own(pgcore, site):
    site.plugin(
        "list_plugin",
        "@hookimpl\ndef pgcore_commands():\n    return [Provider('list', 'json:loads', 'stolen')]",
    )
    site.distribution("list-dist", {"list": "list_plugin"})
    status, out, _ = pgcore("list", "commands", "--json")
    assert status == 0
    commands = {row["name"]: row["distribution"] for row in json.loads(out)["commands"]}
    assert "list" not in commands
    assert commands["list-dist:list"] == "list-dist"


def test_an_error_of_pgcore_inside_a_command_is_one_line(pgcore, greet):
    greet.module(
        "greet_command",
        "from pgcore.errors import SpecError\ndef greet():\n    raise SpecError('x: expected y, got z; do w')",
    )
    assert pgcore("greet") == (2, "", "error: x: expected y, got z; do w\n")


def test_any_other_error_inside_a_command_is_shown_as_python_shows_it(greet):
    greet.module("greet_command", "def greet():\n    raise RuntimeError('a bug')")
    script = "import sys; from pgcore.cli import main; sys.argv = ['pgcore', 'greet']; main()"
    variables = {**os.environ, "PYTHONPATH": str(greet.folder)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("RuntimeError: a bug\n")


def test_doctor_finds_nothing_wrong_here(pgcore, monkeypatch):
    monkeypatch.delenv("PGCORE_BACKEND", raising=False)
    status, out, _ = pgcore("doctor")
    assert status == 0
    assert "No problems found." in out
    assert "Default backend: numpy, chosen by pgcore" in out
    assert "  core (pgcore " in out


def test_doctor_as_json_reports_versions_and_plugins(pgcore):
    status, out, _ = pgcore("doctor", "--quick", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["python"]["executable"] == sys.executable
    assert report["packages"]["numpy"] == sys.modules["numpy"].__version__
    assert "hypothesis" not in report["packages"]
    assert {plugin["entry_point"] for plugin in report["plugins"]} == {
        "core",
        "check",
        "derive",
        "exact",
        "new",
        "optimizers",
        "numpy",
        "torch",
        "tensorflow",
        "jax",
        "estimators",
        "train",
    }
    assert (report["quarantined"], report["problems"]) == ([], [])


def test_doctor_shows_a_quarantined_plugins_traceback_and_fails(pgcore, site):
    site.plugin("bad_plugin", "raise RuntimeError('planted failure')")
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    status, out, _ = pgcore("doctor", "--quick")
    assert status == 1
    assert "Quarantined: bad (bad-dist 1.0)" in out
    assert 'bad_plugin.py", line 2' in out
    assert "RuntimeError: planted failure" in out


def test_doctor_reports_duplicates_once_and_fails(pgcore, greet):
    greet.plugin("rival_plugin", GREET)
    greet.distribution("rival-dist", {"rival": "rival_plugin"})
    status, out, _ = pgcore("doctor", "--quick", "--json")
    assert status == 1
    (problem,) = json.loads(out)["problems"]
    assert problem.startswith("command 'greet': expected one provider, got ")


def test_doctor_fails_for_a_default_backend_that_does_not_exist(pgcore, monkeypatch):
    monkeypatch.setenv("PGCORE_BACKEND", "nunpy")
    status, out, _ = pgcore("doctor", "--quick")
    assert status == 1
    assert "default backend 'nunpy', chosen by PGCORE_BACKEND" in out
    assert "did you mean 'numpy'?" in out


def test_doctor_says_what_to_install_and_does_not_fail_for_it(pgcore, site):
    source = "@hookimpl\ndef pgcore_schedules():\n    return [Provider('far', 'json:loads', '', 'absent_far', 'far')]"
    site.plugin("far_plugin", source)
    site.distribution("far-dist", {"far": "far_plugin"})
    status, out, _ = pgcore("doctor", "--quick")
    assert status == 0
    assert "  pip install 'pgcore[far]' for schedule far\n" in out


def test_doctor_reads_extras_from_the_metadata(pgcore, site):
    info = site.folder / "pgcore-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pgcore\nVersion: 9.9\nProvides-Extra: plot\nProvides-Extra: all\n"
        "Requires-Dist: absent-base>=2\nRequires-Dist: absent-plot>=1; extra == 'plot'\nRequires-Dist: pgcore[plot]; extra == 'all'\n"
    )
    _, out, _ = pgcore("doctor", "--quick", "--json")
    report = json.loads(out)
    assert report["packages"] == {"pgcore": "9.9", "absent-base": None, "absent-plot": None}
    assert report["missing_extras"] == {"plot": "pip install 'pgcore[plot]'"}


def test_doctor_works_where_pgcore_is_not_installed(pgcore, site, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(site.folder)])
    status, out, _ = pgcore("doctor", "--quick", "--json")
    assert status == 1
    assert json.loads(out)["packages"] == {"pgcore": None}


def add_framework(site, name, *, builds=(), at_least=None, module=True):
    """Install a plugin that requires the package `fast`, and the package as a distribution of this name."""
    fields = f"requires='fast', extra='fast', at_least={at_least!r}, distributions={builds!r}"
    site.plugin(
        "fast_plugin",
        f"@hookimpl\ndef pgcore_functions():\n    return [Provider('fast', 'json:loads', '', {fields})]",
    )
    site.distribution("fast-dist", {"fast": "fast_plugin"})
    if module:
        site.module("fast", "")
    if name is not None:
        site.distribution(name, {}, version="2.7")


@pytest.mark.parametrize(
    ("name", "builds", "at_least", "module", "line"),
    [
        ("fast", (), "2.6", True, "  fast 2.7, needs >=2.6\n"),
        ("fast-cpu", ("fast", "fast-cpu"), "2.6", True, "  fast 2.7, needs >=2.6\n"),
        ("fast", (), "2.8", True, "  fast 2.7, needs >=2.8\n"),
        ("fast", (), None, True, "  fast 2.7\n"),
        (None, (), "2.6", True, "  fast unknown, needs >=2.6\n"),
        (None, (), "2.6", False, "  fast not installed, needs >=2.6\n"),
    ],
)
def test_doctor_shows_each_frameworks_version_and_need(
    pgcore, site, name, builds, at_least, module, line
):
    add_framework(site, name, builds=builds, at_least=at_least, module=module)
    status, out, _ = pgcore("doctor", "--quick")
    assert status == (at_least == "2.8")
    assert line in out.partition("Frameworks")[2].partition("Default backend")[0]


@pytest.mark.parametrize("name", ["fast", "fast-cpu"])
def test_doctor_takes_one_build_of_a_framework_for_another(pgcore, site, name):
    add_framework(site, name, builds=("fast", "fast-cpu"))
    info = site.folder / "pgcore-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pgcore\nVersion: 9.9\nProvides-Extra: fast\n"
        "Requires-Dist: fast-cpu>=2; extra == 'fast'\n"
    )
    _, out, _ = pgcore("doctor", "--quick", "--json")
    report = json.loads(out)
    assert report["packages"]["fast-cpu"] == "2.7"
    assert report["missing_extras"] == {}


def test_doctor_and_list_show_disabled_names_and_doctor_the_words_that_match_none(
    pgcore, site, monkeypatch
):
    monkeypatch.setenv("PGCORE_DISABLE", "torch,schedules:constant,tensorfow")
    status, out, _ = pgcore("doctor")
    assert status == 1
    assert "Disabled by PGCORE_DISABLE\n  backend 'torch'\n  schedule 'constant'\n" in out
    assert "PGCORE_DISABLE: expected names that `pgcore list` shows, got 'tensorfow'" in out
    assert out.count("PGCORE_DISABLE: ") == 1
    status, out, _ = pgcore("list", "backends", "--json")
    rows = {row["name"]: row["status"] for row in json.loads(out)["backends"]}
    assert rows["torch"] == "disabled"
    assert rows["numpy"] == "usable"


def test_a_disabled_command_is_not_offered_and_an_error_where_it_is_requested(
    pgcore, greet, monkeypatch
):
    monkeypatch.setenv("PGCORE_DISABLE", "greet")
    _, out, _ = pgcore("--help")
    assert "greet" not in out
    status, _, err = pgcore("greet", "world")
    assert status == 2
    assert err.startswith("error: command 'greet': expected it enabled, got PGCORE_DISABLE='greet'")
