"""`pgcore doctor`: versions, plugins and their imports, problems, and the missing packages."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires
from typing import Annotated, Any

import typer

from pgcore.cli.imports import Imported, import_plugins
from pgcore.errors import PgcoreError
from pgcore.registry.entry_points import KINDS, Plugin
from pgcore.registry.registry import (
    Registration,
    default_backend_name,
    install_hint,
    installed_version,
    registry,
    version_found,
)

__all__ = ["doctor_command", "examine"]

# Extras for working on pgcore itself, and the one that is all others.
NOT_FOR_USERS = frozenset({"all", "fuzz", "lint", "peers", "test"})
# Seconds for a plugin's module, our choice: NumPy takes less, on a busy machine too.
SLOW = 0.5
REMEDY = "move heavy imports into the target"


def doctor_command(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Import no target of a plugin.")] = False,
) -> None:
    """Report versions, plugins, problems and what to install; exit status 1 on problems.

    Every target of a plugin is imported in a process of its own.
    """
    report = examine(quick=quick)
    sys.stdout.write((json.dumps(report, indent=2) if as_json else _text_of(report)) + "\n")
    if report["problems"]:
        raise typer.Exit(1)


def examine(*, quick: bool = False) -> dict[str, Any]:
    """Return the report, plain data that JSON can hold; `quick` leaves the imports out."""
    # The registry and the metadata are read once, so that all parts of the report agree.
    rows = [row for kind in KINDS for row in registry().providers(kind)]
    backend, by_extra, plugins = _default_backend(), _packages(rows), registry().plugins
    imported = [Imported()] * len(plugins) if quick else import_plugins(plugins)
    faults = [fault for plugin in imported for fault in plugin.faults]
    versions = {"pgcore": installed_version("pgcore")}
    for packages in by_extra.values():
        versions |= packages
    return {
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "packages": versions,
        "frameworks": _frameworks(rows),
        "plugins": list(map(_plugin_row, plugins, imported)),
        "quarantined": [plugin._asdict() for plugin in registry().quarantined],
        "default_backend": backend,
        "disabled": [row.where for row in rows if row.status == "disabled"],
        "missing": [
            {"kind": row.kind, "name": row.provider.name, "install": install_hint(row.provider)}
            for row in rows
            if row.status == "missing"
        ],
        "missing_extras": {
            extra: f"pip install 'pgcore[{extra}]'"
            for extra, packages in by_extra.items()
            if extra and None in packages.values()
        },
        "faults": [fault._asdict() for fault in faults],
        "problems": _problems(rows, backend) + list(map(str, faults)),
    }


def _plugin_row(plugin: Plugin, imported: Imported) -> dict[str, Any]:
    row = plugin._asdict()
    del row["module"]
    row["seconds"] = imported.seconds
    kinds = row.pop("providers").items()
    return row | {"provides": {kind: [p.name for p in listed] for kind, listed in kinds if listed}}


def _default_backend() -> dict[str, str | None]:
    """Return the default backend, the source of that choice and the reason if it is not usable."""
    name = default_backend_name()
    source = "PGCORE_BACKEND" if os.environ.get("PGCORE_BACKEND") else "pgcore"
    try:
        reason = registry().find("backends", name).reason
    except PgcoreError as error:
        reason = str(error)
    return {"name": name, "chosen_by": source, "reason": reason}


def _problems(rows: list[Registration], backend: dict[str, str | None]) -> list[str]:
    """Return the problems, one line each; a package that is merely not installed is none."""
    lines = [
        f"plugin {plugin.entry_point!r} of {plugin.distribution}: {plugin.reason}"
        for plugin in registry().quarantined
    ]
    # Every row of a duplicate has the same line.
    wrong = [row for row in rows if row.status in ("too old", "duplicate", "broken")]
    lines += dict.fromkeys(f"{row.where}: {row.reason}" for row in wrong)
    lines += [
        f"PGCORE_DISABLE: expected names that `pgcore list` shows, got {word!r}; correct it"
        for word in sorted(registry().disabled.difference(*(row.words for row in rows)))
    ]
    if backend["reason"] is not None:
        choice = f"default backend {backend['name']!r}, chosen by {backend['chosen_by']}"
        lines.append(f"{choice}: {backend['reason']}")
    return lines


def _frameworks(rows: list[Registration]) -> list[dict[str, str | None]]:
    """Return the packages that providers require, with the installed and the least versions."""
    frameworks: dict[str, dict[str, str | None]] = {}
    for row in rows:
        if (name := row.provider.requires) is not None:
            # A module without metadata has no version to read.
            version = None if row.status == "missing" else version_found(row.provider) or "unknown"
            needs = f">={row.provider.at_least}" if row.provider.at_least else None
            frameworks[f"{name} {needs}"] = {"name": name, "version": version, "needs": needs}
    return list(frameworks.values())


def _packages(rows: list[Registration]) -> dict[str, dict[str, str | None]]:
    """Return by extra, the base one "", the required packages and the versions installed."""
    from packaging.requirements import Requirement

    # Any build of a framework serves, such as the one for CPUs.
    builds = {name: row.provider for row in rows for name in row.provider.distributions}
    try:
        extras = set(metadata("pgcore").get_all("Provides-Extra") or [])
    except PackageNotFoundError:
        return {}
    packages: dict[str, dict[str, str | None]] = {"": {}}
    packages |= {extra: {} for extra in sorted(extras - NOT_FOR_USERS)}
    for requirement in map(Requirement, requires("pgcore") or []):
        name, marker = requirement.name, requirement.marker
        if name == "pgcore":
            continue
        # A base package's marker holds for every extra, so "" stands for them all.
        asking = [x for x in packages if marker is None or marker.evaluate({"extra": x})]
        for extra in asking if "" not in asking else [""]:
            build = builds.get(name)
            packages[extra][name] = version_found(build) if build else installed_version(name)
    return packages


def _text_of(report: dict[str, Any]) -> str:
    """Return the report as lines for a terminal."""
    python, backend, problems = report["python"], report["default_backend"], report["problems"]
    lines = [f"Python {python['version']}, {python['executable']}, {python['platform']}"]
    lines += ["", "Packages"]
    versions = report["packages"].items()
    lines += [f"  {name} {version or 'not installed'}" for name, version in versions]
    lines += ["", "Frameworks"] if report["frameworks"] else []
    for row in report["frameworks"]:
        needs = f", needs {row['needs']}" if row["needs"] else ""
        lines.append(f"  {row['name']} {row['version'] or 'not installed'}{needs}")
    lines += ["", f"Default backend: {backend['name']}, chosen by {backend['chosen_by']}"]
    lines += ["", "Plugins"]
    for plugin in report["plugins"]:
        kinds = plugin["provides"].items()
        provides = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds)
        lines.append(f"  {_name_of(plugin)}: {provides or 'nothing'}")
        if (plugin["seconds"] or 0.0) > SLOW:
            lines[-1] += f"; imported in {plugin['seconds']:.1f} s; {REMEDY}"
    if report["disabled"]:
        lines += ["", "Disabled by PGCORE_DISABLE", *(f"  {name}" for name in report["disabled"])]
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
    return "\n".join(lines + [f"  {line}" for line in problems])


def _name_of(plugin: dict[str, Any]) -> str:
    return f"{plugin['entry_point']} ({plugin['distribution']} {plugin['version']})"
