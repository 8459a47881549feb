import importlib
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = (
    "pgcore",
    "pgcore_numpy",
    "pgcore_torch",
    "pgcore_tensorflow",
    "pgcore_jax",
    "pgcore_check",
    "pgcore_derive",
    "pgcore_estimators",
    "pgcore_exact",
    "pgcore_optimizers",
    "pgcore_train",
)
FRAMEWORKS = {
    "torch",
    "tensorflow",
    "jax",
    "keras",
    "gymnasium",
    "matplotlib",
    "sympy",
    "scipy",
    "ray",
}


REPORT = "import sys, atexit; before = set(sys.modules); atexit.register(lambda: print('\\n', *set(sys.modules) - before)); "


def modules_loaded_by(statement):
    """Return the modules that a statement loads in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT + statement], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def loaded_by(statement):
    """Return the top-level modules that a statement loads in a new process."""
    return {name.partition(".")[0] for name in modules_loaded_by(statement)}


def third_party(names):
    return names - sys.stdlib_module_names - {"pgcore"}


def modules():
    """Return the name of every module of every package of this distribution."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            yield found.name


def test_importing_pgcore_loads_numpy_and_pluggy_alone():
    loaded = loaded_by("import pgcore")
    assert "pgcore" in loaded
    assert third_party(loaded) <= {"numpy", "pluggy"}


def test_the_import_check_sees_a_package_it_should_refuse():
    assert "scipy" in third_party(loaded_by("import pgcore, scipy"))


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["doctor"], ["--help"]])
def test_listing_imports_no_framework(words):
    loaded = loaded_by(f"import pgcore.cli; sys.argv = ['pgcore', *{words}]; pgcore.cli.main()")
    assert "typer" in loaded
    assert not loaded & FRAMEWORKS


def test_reading_the_registry_loads_no_more_of_a_package_than_its_plugin_module():
    loaded = modules_loaded_by("from pgcore.registry.registry import registry; registry()")
    packages = set(PACKAGES) - {"pgcore"}
    assert {name for name in loaded if name.partition(".")[0] in packages} == {
        *packages,
        *(f"{package}.plugin" for package in packages),
        # A metric is one function, whose module is the plugin's list; it imports NumPy alone.
        "pgcore_estimators.metrics",
        # The table of presets holds strings alone.
        "pgcore_estimators.presets",
    }


@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_the_core_and_the_numpy_backend_import_no_framework(backend):
    loaded = loaded_by("import pgcore; pgcore.backend('numpy')")
    assert "pgcore_numpy" in loaded
    assert backend not in loaded


@pytest.mark.parametrize("name", list(modules()))
def test_every_module_lists_what_it_offers(name):
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    assert len(module.__all__) == len(set(module.__all__))
    for exported in module.__all__:
        assert hasattr(module, exported), f"{name}.__all__ names {exported!r}, which does not exist"


CORE = [
    found.name
    for package in ("interfaces", "autodiff")
    for found in pkgutil.iter_modules(
        importlib.import_module(f"pgcore.{package}").__path__, f"pgcore.{package}."
    )
]


def test_every_module_of_the_interfaces_imports_first():
    # Each in a fresh table of modules: a circle shows only where its modules are imported first.
    forget = "[sys.modules.pop(n) for n in [*sys.modules] if n.partition('.')[0] == 'pgcore']"
    lines = ["import importlib, sys"]
    for name in CORE:
        lines += [forget, f"importlib.import_module({name!r})"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
