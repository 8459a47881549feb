"""Every registered backend takes every test here: one that is absent is skipped visibly, or fails where CI requires it.

One more is registered for these tests: NumPy once more as a stranger's, `loopback`, which the dispatcher must treat as any other.
"""

import os
import sys
from types import ModuleType

import pytest

from pgcore.hooks import Provider
from pgcore.registry.entry_points import KINDS, Plugin
from pgcore.registry.registry import registry
from pgcore_numpy.backend import NumpyBackend

LOOPBACK = "loopback"
MODULE = ModuleType("pgcore_loopback")
vars(MODULE)["Backend"] = type("Backend", (NumpyBackend,), {"name": LOOPBACK})
PROVIDER = Provider(LOOPBACK, "pgcore_loopback:Backend", "NumPy once more, as a stranger's")
PLUGIN = Plugin(
    LOOPBACK,
    LOOPBACK,
    "1.0",
    MODULE,
    {kind: (PROVIDER,) if kind == "backends" else () for kind in KINDS},
)

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()


def pytest_generate_tests(metafunc):
    """Give a test's `backend` every registered name."""
    if "backend" not in metafunc.fixturenames:
        return
    entries = {entry.provider.name: entry for entry in registry().providers("backends")}
    # A required backend that is absent gets no mark, so that its tests fail where they ask for it.
    parameters = [
        pytest.param(
            name,
            marks=[]
            if usable(entries, name) or name in REQUIRED
            else pytest.mark.skip(reason(entries, name)),
        )
        for name in dict.fromkeys([*entries, *REQUIRED])
    ]
    parameters.append(pytest.param(LOOPBACK))
    metafunc.parametrize("backend", parameters, scope="session")


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    """Register the loopback backend, for these tests alone."""
    monkeypatch.setitem(sys.modules, MODULE.__name__, MODULE)
    monkeypatch.setattr(registry(), "plugins", (*registry().plugins, PLUGIN))


def usable(entries, name):
    return name in entries and entries[name].status == "usable"


def reason(entries, name):
    return f"{name}: {entries[name].reason}"
