"""Every registered backend takes every test here: one that is absent is skipped visibly, or fails where CI requires it."""

import os

import pytest

from pgcore.registry import registry

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()


def pytest_generate_tests(metafunc):
    """Give a test's `backend` every registered name."""
    if "backend" not in metafunc.fixturenames:
        return
    entries = {entry.provider.name: entry for entry in registry().providers("backends")}
    # A required backend that is absent gets no mark, so that its tests fail where they ask for it.
    parameters = [
        pytest.param(
            name, marks=[] if usable(entries, name) or name in REQUIRED else pytest.mark.skip(reason(entries, name))
        )
        for name in dict.fromkeys([*entries, *REQUIRED])
    ]
    metafunc.parametrize("backend", parameters, scope="session")


def usable(entries, name):
    return name in entries and entries[name].status == "usable"


def reason(entries, name):
    return f"{name}: {entries[name].reason}"
