import configparser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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


def test_the_wheel_works_in_a_new_environment_away_from_the_checkout(built, tmp_path):
    (path,) = built.glob("*.whl")
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--constraint",
        ROOT / "constraints.txt",
        path,
    )
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PGCORE", "COV"))
    }
    smoke = ROOT / "tests" / "packaging" / "smoke.py"
    assert "smoke tests passed" in run(
        python, "-I", smoke, environment, cwd=tmp_path, env=variables
    )
