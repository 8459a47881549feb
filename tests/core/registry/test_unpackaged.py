"""PGCORE_PLUGINS: modules and files that no distribution declares."""

import os
import re
import sys
from typing import Any

import pytest

from pgcore.errors import PluginError
from pgcore.registry.registry import forget_registry, registry
from pgcore_check.proofs import proofs, variants

MINE = """
from dataclasses import dataclass
import numpy as np
import pgcore as pg
from pgcore import Estimator
from pgcore_check.proof import Proof
from pgcore_optimizers.first_order import SGD

class Unfinished(pg.Estimator):
    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}

class _Base(Unfinished):
    claims = pg.Claims(unbiased=True, off_policy="none", needs_critic=False, discrete_only=False)

@dataclass(frozen=True)
class Mine(_Base):
    name = "mine"
    gamma: float = 1.0

    def surrogate(self, xp, *, log_prob, advantage):
        return -log_prob * advantage

Alias = Mine

@dataclass(frozen=True)
class Fast(SGD):
    name = "fast"

PROOF = Proof(of=Mine, variants={"mine, 1": {}, "mine, 0.5": {"gamma": 0.5}})
DEFAULT = Mine()
"""
HOOKS = """
@hookimpl
def pgcore_estimators():
    return [Provider("hooked", "pgcore_estimators.preset_classes:PPO", ""), Provider("ppo", "json:loads", "")]
"""


@pytest.fixture
def listed(site, monkeypatch):
    """Return a function that puts texts into PGCORE_PLUGINS and returns the registry."""

    def read(*texts):
        monkeypatch.setenv("PGCORE_PLUGINS", os.pathsep.join(map(str, texts)))
        forget_registry()
        return registry()

    reader: Any = read
    reader.site, reader.folder = site, site.folder.parent / "elsewhere"
    reader.folder.mkdir()
    return reader


def rows_of(source, distribution):
    """Return the kind and name of all of a distribution."""
    return {
        (kind, provider.name, provider.target)
        for plugin in source.plugins
        if plugin.distribution == distribution
        for kind, providers in plugin.providers.items()
        for provider in providers
    }


@pytest.mark.parametrize("by_file", [True, False])
def test_the_classes_and_proofs_of_a_module_are_provided(listed, by_file):
    listed.site.module("loose", MINE)
    source = listed(listed.site.folder / "loose.py" if by_file else "loose")
    assert rows_of(source, "loose.py" if by_file else "loose") == {
        ("estimators", "mine", "loose:Alias"),
        ("optimizers", "fast", "loose:Fast"),
        ("proofs", "PROOF", "loose:PROOF"),
    }
    assert source.quarantined == ()
    assert source.load("estimators", "mine") is sys.modules["loose"].Mine
    assert {label for label in variants("estimators") if "mine" in label} == {
        "mine, 1",
        "mine, 0.5",
    }
    assert not proofs().problems


def test_a_module_with_hooks_is_a_plugin_as_if_it_were_installed(listed):
    listed.site.plugin("hooked", HOOKS)
    source = listed("hooked")
    assert source.load("estimators", "hooked").name == "ppo"
    assert "hooked:ppo" in source.names("estimators")
    assert source.load("estimators", "ppo").__name__ == "PPO"
    listed.site.distribution("hooked-dist", {"hooked": "hooked"})
    source = listed("hooked", "hooked", listed.site.folder / "hooked.py")
    row = source.find("estimators", "hooked")
    assert (row.status, row.distribution) == ("usable", "hooked-dist")


def test_a_file_imports_its_neighbours_and_hides_no_module(listed):
    (listed.folder / "neighbour.py").write_text("name = 'mine'")
    (listed.folder / "json.py").write_text("raise RuntimeError('hides a module')")
    text = MINE.replace('name = "mine"', "name = neighbour.name")
    (listed.folder / "far.py").write_text(f"import json, neighbour\n{text}")
    assert "mine" in listed(listed.folder / "far.py").names("estimators")
    assert sys.path[-1] == str(listed.folder)


def test_a_module_in_the_current_folder_is_imported(listed, monkeypatch):
    monkeypatch.chdir(listed.folder)
    (listed.folder / "here.py").write_text(MINE)
    assert "mine" in listed("here").names("estimators")


def test_a_package_provides_what_it_imports_of_its_own_modules(listed):
    package = listed.site.folder / "parcel"
    package.mkdir()
    (package / "__init__.py").write_text("from parcel.things import Mine, SGD")
    (package / "things.py").write_text(MINE)
    source = listed("parcel")
    assert rows_of(source, "parcel") == {("estimators", "mine", "parcel:Mine")}


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("gone.py", None, "PluginError: .*gone.py: expected a file, got none at"),
        ("gone", None, "ModuleNotFoundError: No module named 'gone'"),
        ("a.b.py", "", "ModuleNotFoundError: No module named 'a'"),
        ("random.py", MINE, "random.py: expected a name that no other module has, got that of"),
        ("sys.py", MINE, "sys.py: expected a name that no other module has, got that of"),
        ("bad.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("bad.py", "import sys\nsys.exit(3)", "SystemExit: 3"),
        ("bad.py", "import pgcore as pg", "bad: expected hooks, or classes such as of"),
        (
            "bad.py",
            MINE.replace("@dataclass(frozen=True)\nclass Mine", "class Mine"),
            "estimator Mine: expected a frozen dataclass",
        ),
        (
            "bad.py",
            f"{MINE}\nclass Again(Mine): pass",
            "bad.Again: expected a name of its own, got 'mine' again; rename it",
        ),
        ("bad.py", MINE.replace('name = "mine"', "pass"), "estimator Mine: expected a name"),
        ("bad.py", "def pgcore_estimators():\n    return []", "expected the decorator @hookimpl"),
    ],
)
def test_a_text_that_names_no_plugin_is_quarantined(listed, name, source, reason):
    if source is not None:
        (listed.folder / name).write_text(source)
    text = str(listed.folder / name) if name.endswith(".py") else name
    found = listed(text)
    (quarantined,) = found.quarantined
    assert (quarantined.entry_point, quarantined.version) == (text, "unpackaged")
    assert re.search(reason, quarantined.reason)
    assert "pgcore.errors" not in quarantined.reason
    assert found.load("estimators", "ppo").name == "ppo"
    with pytest.raises(PluginError, match=reason):
        found.find("estimators", text)
    sys.modules.pop("bad", None)


def test_a_file_that_registers_its_class_provides_it_once(listed):
    text = MINE.replace(
        "@dataclass(frozen=True)\nclass Mine", "@pg.register\n@dataclass(frozen=True)\nclass Mine"
    )
    (listed.folder / "twice.py").write_text(text)
    source = listed(listed.folder / "twice.py")
    row = source.find("estimators", "mine")
    assert (row.status, row.distribution) == ("usable", "pg.register")
    assert source.find("optimizers", "fast").distribution == "twice.py"
    assert source is registry()


def test_a_file_of_registered_functions_alone_is_a_plugin(listed):
    text = "import pgcore as pg\n@pg.register(kind='metrics')\ndef weight(*, weights): return 1.0"
    (listed.folder / "measure.py").write_text(text)
    source = listed(listed.folder / "measure.py")
    assert source.quarantined == ()
    assert "weight" in source.names("metrics")


def test_without_the_variable_there_is_none(listed):
    assert not [plugin for plugin in listed("").plugins if plugin.version == "unpackaged"]
