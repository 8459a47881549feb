import configparser
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The tutorial's commands and its one block of code.
TUTORIAL = (ROOT / "docs" / "plugins.md").read_text()
COMMANDS = re.findall(r"^    (\S.*)$", re.sub(r"(?s)```.*?```", "", TUTORIAL), re.MULTILINE)
ESTIMATOR = re.findall(r"(?s)```python\n(.*?)```", TUTORIAL)[0]
PACKAGES = {
    "pgcore",
    "pgcore_numpy",
    "pgcore_torch",
    "pgcore_tensorflow",
    "pgcore_jax",
    "pgcore_check",
    "pgcore_derive",
    "pgcore_estimators",
    "pgcore_exact",
    "pgcore_new",
    "pgcore_optimizers",
    "pgcore_train",
}


def run(*command, **options):
    """Run a command and return its output; its whole output is the failure's message."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel built from it, as a release is."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    others = [name for name in wheel.namelist() if not name.endswith((".py", ".pyi", "py.typed"))]
    templates = "pgcore_new/templates/"
    assert [n for n in others if ".dist-info/" not in n and not n.startswith(templates)] == []


def test_the_wheel_holds_the_example_projects_as_templates(wheel):
    projects = ROOT / "examples" / "plugins"
    files = [path.relative_to(projects) for path in projects.rglob("*") if path.is_file()]
    expected = {path.as_posix() for path in files if "cache" not in str(path)}
    start = "pgcore_new/templates/"
    assert len(expected) > 30
    assert {
        name.removeprefix(start) for name in wheel.namelist() if name.startswith(start)
    } == expected


def test_the_wheel_holds_every_module_of_the_checkout(wheel):
    folders = [
        ROOT / "pgcore",
        *(ROOT / "backends").glob("pgcore_*"),
        *(ROOT / "plugins").glob("pgcore_*"),
    ]
    modules = {
        path.relative_to(folder.parent).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
    }
    assert modules <= set(wheel.namelist())


def test_every_package_is_marked_as_typed(wheel):
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel.namelist())


def test_the_wheel_declares_its_entry_points(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    declared = configparser.ConfigParser(delimiters=["="])
    declared.read_string(wheel.read(name).decode())
    assert dict(declared["console_scripts"]) == {"pgcore": "pgcore.cli:main"}
    assert dict(declared["pytest11"]) == {"pgcore": "pgcore_check.pytest_plugin"}
    assert dict(declared["pgcore"]) == {
        "core": "pgcore.plugin",
        "check": "pgcore_check.plugin",
        "derive": "pgcore_derive.plugin",
        "exact": "pgcore_exact.plugin",
        "new": "pgcore_new.plugin",
        "optimizers": "pgcore_optimizers.plugin",
        "numpy": "pgcore_numpy.plugin",
        "torch": "pgcore_torch.plugin",
        "tensorflow": "pgcore_tensorflow.plugin",
        "jax": "pgcore_jax.plugin",
        "estimators": "pgcore_estimators.plugin",
        "train": "pgcore_train.plugin",
    }


def test_the_wheel_carries_the_licence_and_asks_for_no_framework(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
    base = [
        line
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    assert any("numpy" in line for line in base)
    assert not [
        line
        for line in base
        for framework in ("torch", "tensorflow", "jax", "matplotlib", "sympy")
        if framework in line
    ]


def test_the_source_distribution_can_be_tested(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "Makefile",
        "tests/packaging/smoke.py",
    } <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", "runs/"))]


@pytest.fixture(scope="module")
def variables():
    """The environment variables of a user: none of the checkout's, and CI's versions for pip."""
    excluded = ("PYTHON", "PGCORE", "COV", "PYTEST")
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(excluded)}
    pins = str(ROOT / "constraints.txt")
    return inherited | {"PIP_CONSTRAINT": pins, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def tutorial(built, variables, tmp_path_factory):
    """A folder in which the first commands of the tutorial have run, up to the installation."""
    folder = tmp_path_factory.mktemp("tutorial")
    (wheel,) = built.glob("*.whl")
    for command in COMMANDS[:2]:
        run(
            *shlex.split(command.replace("install pgcore", f"install '{wheel}[check]'")),
            cwd=folder,
            env=variables,
        )
    return folder


def test_the_wheel_works_in_a_new_environment_away_from_the_checkout(tutorial, variables):
    environment = tutorial / ".venv"
    smoke = ROOT / "tests" / "packaging" / "smoke.py"
    python = environment / "bin" / "python"
    assert "smoke tests passed" in run(
        python, "-I", smoke, environment, cwd=tutorial, env=variables
    )
    # The suite in the wheel, as the author of a backend runs it.
    words = ("-I", "-m", "pytest", "-q", "--pyargs", "pgcore_check.suite", "--pg-backends=numpy")
    suite = run(python, *words, "--pg-quick", "-W", "error", cwd=tutorial, env=variables)
    assert int(re.findall(r"(\d+) passed", suite)[-1]) > 500


def test_the_tutorial_is_six_commands_and_thirty_lines():
    assert [command.split()[0].rpartition("/")[2] for command in COMMANDS] == [
        *("python3", "pip", "pgcore", "pip", "pgcore", "pytest")
    ]
    assert len([line for line in ESTIMATOR.splitlines() if line.strip()]) <= 30


def test_the_tutorial_leads_to_an_estimator_that_passes(tutorial, variables):
    for command in COMMANDS[2:4]:
        run(*shlex.split(command), cwd=tutorial, env=variables)
    source = tutorial / "my_idea" / "my_idea" / "estimator.py"
    assert "class MyIdea" in source.read_text()
    source.write_text(ESTIMATOR)
    check, tests = COMMANDS[4:]
    printed = run(*shlex.split(check), cwd=tutorial, env=variables)
    assert re.search(r"\nall \d+ agree", printed)
    assert " passed" in run(*shlex.split(tests), cwd=tutorial, env=variables)


def test_a_new_part_passes_untouched(tutorial, variables):
    commands = [command.replace("estimator my_idea", "part my_part") for command in COMMANDS[2:4]]
    for command in commands:
        run(*shlex.split(command.replace("my_idea", "my_part")), cwd=tutorial, env=variables)
    tests = COMMANDS[5].replace("my_idea", "my_part")
    assert " passed" in run(*shlex.split(tests), cwd=tutorial, env=variables)
