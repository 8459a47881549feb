"""`pgcore doctor`: versions, plugins, what is wrong with them, and what to install."""

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
from pgcore.registry.entry_points import KINDS
from pgcore.registry.registry import Registration, default_backend_name, install_hint, registry

__all__ = ["doctor_command", "examine"]

# Extras for working on pgcore itself, and the one that is all others.
NOT_FOR_USERS = frozenset({"all", "lint", "test"})


def doctor_command(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False
) -> None:
    """Report versions, plugins, what is wrong and what to install; exit status 1 when something is wrong."""
    report = examine()
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write(text_of(report))
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Return the report: plain data that JSON can hold."""
    everything = [registration for kind in KINDS for registration in registry().providers(kind)]
    backend = default_backend()
    return {
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "packages": packages(),
        "plugins": [
            {
                "entry_point": plugin.entry_point,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "provides": {
                    kind: [provider.name for provider in found]
                    for kind, found in plugin.providers.items()
                    if found
                },
            }
            for plugin in registry().plugins
        ],
        "quarantined": [asdict(plugin) for plugin in registry().quarantined],
        "default_backend": backend,
        "missing": [
            {
                "kind": registration.kind,
                "name": registration.provider.name,
                "install": install_hint(registration.provider),
            }
            for registration in everything
            if registration.status == "missing"
        ],
        "missing_extras": missing_extras(),
        "problems": problems(everything, backend),
    }


def default_backend() -> dict[str, str | None]:
    """Return the default backend, who chose it, and why it cannot be used (None when it can)."""
    name = default_backend_name()
    chosen_by = "PGCORE_BACKEND" if os.environ.get("PGCORE_BACKEND") else "pgcore"
    try:
        reason = registry().find("backends", name).reason
    except PgcoreError as error:
        reason = str(error)
    return {"name": name, "chosen_by": chosen_by, "reason": reason}


def problems(everything: list[Registration], backend: dict[str, str | None]) -> list[str]:
    """Return what is wrong, one line each; a package that is merely not installed is not."""
    lines = [
        f"plugin {plugin.entry_point!r} of {plugin.distribution}: {plugin.reason}"
        for plugin in registry().quarantined
    ]
    lines += dict.fromkeys(
        f"{found.where}: {found.reason}"
        for found in everything
        if found.status in ("too old", "duplicate", "broken")
    )
    if backend["reason"] is not None:
        lines.append(
            f"default backend {backend['name']!r}, chosen by {backend['chosen_by']}: {backend['reason']}"
        )
    return lines


def packages() -> dict[str, str | None]:
    """Return the version of pgcore and of each package it can use, None where it is not installed."""
    found: dict[str, str | None] = {"pgcore": version_of("pgcore")}
    for extra, names in sorted(requirements().items()):
        if extra not in NOT_FOR_USERS:
            found |= {name: version_of(name) for name in names}
    return found


def missing_extras() -> dict[str, str]:
    """Return the command that installs each extra of which a package is missing."""
    return {
        extra: f"pip install 'pgcore[{extra}]'"
        for extra, names in sorted(requirements().items())
        if extra and extra not in NOT_FOR_USERS and None in map(version_of, names)
    }


def requirements() -> dict[str, list[str]]:
    """Return the names of the packages that pgcore's metadata asks for, by extra; the base ones under the empty name."""
    from packaging.requirements import Requirement

    try:
        declared = {
            extra: list[str]()
            for extra in ["", *(metadata("pgcore").get_all("Provides-Extra") or [])]
        }
    except PackageNotFoundError:
        return {}
    for line in requires("pgcore") or []:
        requirement = Requirement(line)
        if requirement.name == "pgcore":
            continue
        # The extras that ask for it; none where the base installation does.
        extras = [
            extra
            for extra in declared
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        ]
        for extra in extras if "" not in extras else [""]:
            declared[extra].append(requirement.name)
    return declared


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def text_of(report: dict[str, Any]) -> str:
    """Return the report as lines for a terminal."""
    python, backend = report["python"], report["default_backend"]
    lines = [
        f"Python {python['version']}, {python['executable']}, {python['platform']}",
        "",
        "Packages",
    ]
    lines += [f"  {name} {found or 'not installed'}" for name, found in report["packages"].items()]
    lines += [
        "",
        f"Default backend: {backend['name']}, chosen by {backend['chosen_by']}",
        "",
        "Plugins",
    ]
    for plugin in report["plugins"]:
        provides = "; ".join(
            f"{kind} {', '.join(names)}" for kind, names in plugin["provides"].items()
        )
        lines.append(
            f"  {plugin['entry_point']} ({plugin['distribution']} {plugin['version']}): {provides or 'nothing'}"
        )
    for plugin in report["quarantined"]:
        lines += [
            "",
            f"Quarantined: {plugin['entry_point']} ({plugin['distribution']} {plugin['version']})",
        ]
        lines += [f"  {line}" for line in plugin["traceback"].rstrip().splitlines()]
    hints = [
        f"  {missing['install']} for {missing['kind'].removesuffix('s')} {missing['name']}"
        for missing in report["missing"]
    ]
    hints += [f"  {command}" for command in report["missing_extras"].values()]
    lines += ["", "To install, if you want it", *hints] if hints else []
    lines += [
        "",
        "Problems" if report["problems"] else "No problems found.",
        *(f"  {line}" for line in report["problems"]),
    ]
    return "\n".join(lines) + "\n"
