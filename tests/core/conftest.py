"""Fixtures for the core's tests."""

import importlib.metadata
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from pgcore.cli import main
from pgcore.registry import Registry, registry


class Site:
    """A folder on the path that stands for site-packages, to install made-up distributions into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, source: str) -> None:
        """Write a module."""
        (self.folder / f"{name}.py").write_text(dedent(source))

    def plugin(self, name: str, source: str) -> None:
        """Write a plugin's module, with what every plugin imports."""
        self.module(name, "from pgcore.hooks import Provider, hookimpl\n" + dedent(source))

    def distribution(
        self, name: str, entry_points: dict[str, str], version: str = "1.0", group: str = "pgcore"
    ) -> None:
        """Write the metadata of an installed distribution with entry points."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entry_points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def registry(self) -> Registry:
        """Return a registry of this folder's distributions alone."""
        found = importlib.metadata.distributions(path=[str(self.folder)])
        return Registry(
            point for distribution in found for point in distribution.entry_points if point.group == "pgcore"
        )


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder for made-up distributions; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    registry.cache_clear()
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    registry.cache_clear()


@pytest.fixture
def pgcore(monkeypatch, capsys):
    """Run the command line in this process; returns its exit status, output and errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["pgcore", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run
