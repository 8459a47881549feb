"""`pgcore doctor`: versions, plugins, their problems, and the missing packages."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Annotated, Any

import typer

from pgcore.errors import PgcoreError
from pgcore.registry.entry_points import KINDS, Plugin
from pgcore.registry.registry import Registration, default_backend_name, install_hint, registry

__all__ = ["doctor_command", "examine"]

# Extras for working on pgcore itself, and the one that is all others.
NOT_FOR_USERS = frozenset({"all", "lint", "test"})


def doctor_command(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False
) -> None:
    """Report versions, plugins, problems and what to install; exit status 1 on problems."""
    report = examine()
    text = json.dumps(report, indent=2) + "\n" if as_json else _text_of(report)
    sys.stdout.write(text)
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Return the report: plain data that JSON can hold."""
    # The registry is asked once; every part of the report reads the same rows.
    registrations = [entry for kind in KINDS for entry in registry().providers(kind)]
    backend = _default_backend()
    missing: list[dict[str, str]] = []
    for entry in registrations:
        if entry.status == "missing":
            provider = entry.provider
            row = {"kind": entry.kind, "name": provider.name, "install": install_hint(provider)}
            missing.append(row)
    return {
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "packages": _packages(),
        "plugins": [_plugin_row(plugin) for plugin in registry().plugins],
        "quarantined": [asdict(plugin) for plugin in registry().quarantined],
        "default_backend": backend,
        "missing": missing,
        "missing_extras": _missing_extras(),
        "problems": _problems(registrations, backend),
    }


def _plugin_row(plugin: Plugin) -> dict[str, Any]:
    provides: dict[str, list[str]] = {}
    for kind, providers in plugin.providers.items():
        if providers:
            provides[kind] = [provider.name for provider in providers]
    return {
        "entry_point": plugin.entry_point,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "provides": provides,
    }


def _default_backend() -> dict[str, str | None]:
    """Return the default backend, the source of that choice and the reason if it is not usable."""
    name = default_backend_name()
    source = "PGCORE_BACKEND" if os.environ.get("PGCORE_BACKEND") else "pgcore"
    try:
        reason = registry().find("backends", name).reason
    except PgcoreError as error:
        reason = str(error)
    return {"name": name, "chosen_by": source, "reason": reason}


def _problems(registrations: list[Registration], backend: dict[str, str | None]) -> list[str]:
    """Return the problems, one line each; a package that is merely not installed is none."""
    lines = [
        f"plugin {plugin.entry_point!r} of {plugin.distribution}: {plugin.reason}"
        for plugin in registry().quarantined
    ]
    # Every row of a duplicate has the same line.
    wrong = [row for row in registrations if row.status in ("too old", "duplicate", "broken")]
    lines += dict.fromkeys(f"{row.where}: {row.reason}" for row in wrong)
    if backend["reason"] is not None:
        choice = f"default backend {backend['name']!r}, chosen by {backend['chosen_by']}"
        lines.append(f"{choice}: {backend['reason']}")
    return lines


def _packages() -> dict[str, str | None]:
    """Return the version of pgcore and of each package it can use, None if not installed."""
    versions: dict[str, str | None] = {"pgcore": _version_of("pgcore")}
    for extra, names in sorted(_requirements().items()):
        if extra not in NOT_FOR_USERS:
            versions |= {name: _version_of(name) for name in names}
    return versions


def _missing_extras() -> dict[str, str]:
    """Return the command that installs each extra of which a package is missing."""
    commands: dict[str, str] = {}
    for extra, names in sorted(_requirements().items()):
        if extra and extra not in NOT_FOR_USERS and None in map(_version_of, names):
            commands[extra] = f"pip install 'pgcore[{extra}]'"
    return commands


def _requirements() -> dict[str, list[str]]:
    """Return the packages that pgcore's metadata asks for, by extra; the base ones under ""."""
    from packaging.requirements import Requirement

    try:
        extras = ["", *(metadata("pgcore").get_all("Provides-Extra") or [])]
    except PackageNotFoundError:
        return {}
    declared: dict[str, list[str]] = {extra: [] for extra in extras}
    for line in requires("pgcore") or []:
        requirement = Requirement(line)
        if requirement.name == "pgcore":
            continue
        # A base package's marker holds for every extra, so "" stands for them all.
        marker = requirement.marker
        asking = [x for x in extras if marker is None or marker.evaluate({"extra": x})]
        for extra in asking if "" not in asking else [""]:
            declared[extra].append(requirement.name)
    return declared


def _version_of(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _text_of(report: dict[str, Any]) -> str:
    """Return the report as lines for a terminal."""
    python, backend, problems = report["python"], report["default_backend"], report["problems"]
    packages = [
        f"  {name} {number or 'not installed'}" for name, number in report["packages"].items()
    ]
    lines = [
        f"Python {python['version']}, {python['executable']}, {python['platform']}",
        *("", "Packages", *packages, ""),
        f"Default backend: {backend['name']}, chosen by {backend['chosen_by']}",
        *("", "Plugins"),
    ]
    for plugin in report["plugins"]:
        kinds = plugin["provides"].items()
        provides = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds)
        lines.append(f"  {_name_of(plugin)}: {provides or 'nothing'}")
    for plugin in report["quarantined"]:
        lines += ["", f"Quarantined: {_name_of(plugin)}"]
        lines += [f"  {line}" for line in plugin["traceback"].rstrip().splitlines()]
    # Optional packages come last but for problems, which a user looks for at the end.
    hints = [
        f"  {row['install']} for {row['kind'].removesuffix('s')} {row['name']}"
        for row in report["missing"]
    ]
    hints += [f"  {command}" for command in report["missing_extras"].values()]
    lines += ["", "To install, if you want it", *hints] if hints else []
    lines += ["", "Problems" if problems else "No problems found."]
    return "\n".join([*lines, *(f"  {line}" for line in problems)]) + "\n"


def _name_of(plugin: dict[str, Any]) -> str:
    return f"{plugin['entry_point']} ({plugin['distribution']} {plugin['version']})"
