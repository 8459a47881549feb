"""The registry: what plugins provide, by kind and name, and whether it can be used here."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from operator import attrgetter
from typing import Literal, NoReturn, TypeVar

import pluggy

from pgcore.errors import DependencyError, PluginError, UnknownNameError
from pgcore.hooks import Provider
from pgcore.registry.entry_points import (
    GROUP,
    KINDS,
    Plugin,
    Quarantine,
    hook_manager,
    read_entry_point,
)

__all__ = [
    "OWN_COMMANDS",
    "Registration",
    "Registry",
    "default_backend_name",
    "install_hint",
    "load_class",
    "registry",
    "version_found",
]

# The distribution whose names no other can take.
DISTRIBUTION = "pgcore"

# Commands of the core itself, which answer however broken the plugins are.
OWN_COMMANDS = ("doctor", "list")

Registered = TypeVar("Registered")

Status = Literal["usable", "missing", "too old", "duplicate", "broken"]


@dataclass(frozen=True, slots=True)
class Registration:
    """One thing that a plugin provides.

    Attributes:
        kind: One of `KINDS`.
        provider: What the plugin says about it.
        distribution: The distribution that provides it.
        version: That distribution's version.
        status: `usable`; `missing`, when the package it requires is not installed; `too old`, when that is;
            `duplicate`, when another one has the same kind and name; `broken`, when its target cannot be a target.
        reason: Why it is not usable and what to do, or None.
    """

    kind: str
    provider: Provider
    distribution: str
    version: str
    status: Status
    reason: str | None

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"{self.kind.removesuffix('s')} {self.provider.name!r}"


class Registry:
    """Everything that the entry points of group `pgcore` provide.

    Attributes:
        plugins: The plugins whose hooks passed.
        quarantined: The plugins that were refused.
    """

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        """Read the entry points one by one; by default those of every installed distribution.

        Args:
            found: The entry points to read in place of the installed ones, for tests.
        """
        read = [
            read_entry_point(entry_point)
            for entry_point in (entry_points(group=GROUP) if found is None else found)
        ]
        self.plugins = tuple(plugin for plugin in read if isinstance(plugin, Plugin))
        self.quarantined = tuple(plugin for plugin in read if isinstance(plugin, Quarantine))
        self._manager = hook_manager()
        for index, plugin in enumerate(self.plugins):
            # Entry points of two distributions may have one name, or name one module.
            if not self._manager.is_registered(plugin.module):
                self._manager.register(plugin.module, f"{index} {plugin.entry_point}")
        self._loaded: dict[tuple[str, str], object] = {}

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks of all plugins, for `registry().hook.pgcore_after_update(metrics=...)`."""
        return self._manager.hook

    def providers(self, kind: str) -> list[Registration]:
        """Return everything of one kind, by name; duplicates have a row each. Imports none of it.

        Raises:
            UnknownNameError: no such kind.
        """
        pairs = sorted(self._pairs(kind), key=lambda pair: (pair[0].name, pair[1].distribution))
        return [self._registration(kind, provider, plugin) for provider, plugin in pairs]

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind, sorted, each once.

        Raises:
            UnknownNameError: no such kind.
        """
        return sorted({provider.name for provider, _ in self._pairs(kind)})

    def load(self, kind: str, name: str) -> object:
        """Import and return what goes by a name.

        Raises:
            UnknownNameError: nothing goes by it.
            PluginError: two plugins provide it, its plugin is quarantined, or its target does not exist.
            DependencyError: the package it requires is not installed or too old. Any other error of the import is shown unchanged.
        """
        if (kind, name) not in self._loaded:
            self._loaded[kind, name] = import_target(self.find(kind, name))
        return self._loaded[kind, name]

    def find(self, kind: str, name: str) -> Registration:
        """Return the one registration of a name, without importing it.

        Raises:
            UnknownNameError: nothing goes by it.
            PluginError: two plugins provide it, or its plugin is quarantined.
        """
        found = [
            (provider, plugin) for provider, plugin in self._pairs(kind) if provider.name == name
        ]
        if not found:
            self._refuse_unknown(kind, name)
        registration = self._registration(kind, *found[0])
        if registration.status in ("duplicate", "broken"):
            raise PluginError(f"{registration.where}: {registration.reason}")
        return registration

    def _pairs(self, kind: str) -> list[tuple[Provider, Plugin]]:
        if kind not in KINDS:
            raise UnknownNameError("registry", kind, KINDS)
        pairs = [
            (provider, plugin) for plugin in self.plugins for provider in plugin.providers[kind]
        ]
        reserved = {
            provider.name for provider, plugin in pairs if plugin.distribution == DISTRIBUTION
        }
        reserved |= set(OWN_COMMANDS) if kind == "commands" else set()
        return [(unreserved(provider, plugin, reserved), plugin) for provider, plugin in pairs]

    def _refuse_unknown(self, kind: str, name: str) -> NoReturn:
        where = kind.removesuffix("s")
        for plugin in self.quarantined:
            if plugin.entry_point == name:
                raise plugin.error(f"{where} {name!r}")
        refused = ", ".join(
            f"{plugin.entry_point} ({plugin.distribution})" for plugin in self.quarantined
        )
        note = (
            refused
            and f"names of quarantined plugins are not known: {refused}, see `pgcore doctor`"
        )
        raise UnknownNameError(where, name, self.names(kind), note)

    def _registration(self, kind: str, provider: Provider, plugin: Plugin) -> Registration:
        owners = [
            f"{owner.distribution} {owner.version}"
            for other, owner in self._pairs(kind)
            if other.name == provider.name
        ]
        status, reason = availability(provider)
        if len(owners) > 1:
            status, reason = (
                "duplicate",
                f"expected one provider, got {' and '.join(owners)}; uninstall one of them",
            )
        return Registration(kind, provider, plugin.distribution, plugin.version, status, reason)


def unreserved(provider: Provider, plugin: Plugin, reserved: set[str]) -> Provider:
    """Return a provider under its own name, or as `distribution:name` where that is a built-in's."""
    if plugin.distribution == DISTRIBUTION or provider.name not in reserved:
        return provider
    return dataclasses.replace(provider, name=f"{plugin.distribution}:{provider.name}")


@functools.cache
def registry() -> Registry:
    """Return this process's registry, read on first use."""
    return Registry()


def default_backend_name(explicit: str | None = None) -> str:
    """Return the backend's name: the explicit one, else `PGCORE_BACKEND`, else `numpy`."""
    return explicit if explicit is not None else os.environ.get("PGCORE_BACKEND") or "numpy"


def load_class(kind: str, name: str, base: type[Registered]) -> type[Registered]:
    """Import and return what goes by a name, a subclass of the kind's interface.

    Args:
        kind: One of `KINDS`.
        name: A registered name.
        base: The interface.

    Raises:
        UnknownNameError: nothing goes by the name.
        PluginError: its target does not exist, or is no subclass of the interface.
        DependencyError: the package it requires is not installed or too old.
    """
    target = registry().load(kind, name)
    if isinstance(target, type) and issubclass(target, base):
        return target
    raise PluginError(
        f"{kind.removesuffix('s')} {name!r}: expected a subclass of {base.__module__}.{base.__name__}, "
        f"got {target!r}; correct the plugin's target"
    )


def availability(provider: Provider) -> tuple[Status, str | None]:
    """Return a provider's status and the reason, without importing what it requires."""
    module, _, attribute = provider.target.partition(":")
    if not module or not attribute:
        return (
            "broken",
            f"expected a target 'module:attribute', got {provider.target!r}; correct the plugin",
        )
    if provider.requires is not None and not is_installed(provider.requires):
        return (
            "missing",
            f"expected the package {provider.requires!r}, got none installed; {install_hint(provider)}",
        )
    found = None if provider.at_least is None else version_found(provider)
    if found is not None and is_older(found, provider.at_least or ""):
        return (
            "too old",
            f"expected {provider.requires} {provider.at_least} or later, got {found}; {upgrade_hint(provider)}",
        )
    if not is_installed(module):
        return (
            "broken",
            f"expected an importable module {module!r}, got none; reinstall its distribution",
        )
    return "usable", None


def is_installed(package: str) -> bool:
    """Return whether a package's top level can be found; looking further would import it."""
    top = package.partition(".")[0]
    # find_spec refuses a module that is loaded without a spec, as one made by hand is.
    return bool(top) and (sys.modules.get(top) is not None or find_spec(top) is not None)


def version_found(provider: Provider) -> str | None:
    """Return the newest installed version of what a provider requires, by the metadata alone.

    None where no distribution of it has metadata.
    """
    from packaging.version import Version

    names = provider.distributions or ((provider.requires or "").partition(".")[0],)
    versions: list[str] = []
    for name in names:
        try:
            versions.append(version(name))
        except (PackageNotFoundError, ValueError):
            continue
    return max(versions, key=Version, default=None)


def is_older(installed: str, least: str) -> bool:
    """Return whether a version's release is before another; 2.13.0rc1+cpu counts as 2.13."""
    from packaging.version import Version

    return Version(Version(installed).base_version) < Version(least)


def upgrade_hint(provider: Provider) -> str:
    """Return the command that brings what a provider requires up to date."""
    wanted = (
        f"pgcore[{provider.extra}]"
        if provider.extra
        else f"{provider.requires}>={provider.at_least}"
    )
    return f"pip install --upgrade '{wanted}'"


def install_hint(provider: Provider) -> str:
    """Return the command that installs what a provider requires."""
    return (
        f"pip install 'pgcore[{provider.extra}]'"
        if provider.extra
        else f"pip install {provider.requires}"
    )


def import_target(registration: Registration) -> object:
    """Import and return a registration's target.

    Raises:
        DependencyError: the package it requires is not installed or too old. Any other error of the import is shown unchanged.
        PluginError: the module has no such attribute.
    """
    provider = registration.provider
    if registration.status == "too old":
        raise DependencyError(
            f"{registration.where}: {registration.reason}", name=provider.requires
        )
    module, _, attribute = provider.target.partition(":")
    try:
        imported = importlib.import_module(module)
        return attrgetter(attribute)(imported)
    except ModuleNotFoundError as error:
        if provider.requires is None or not is_part(error.name or "", provider.requires):
            raise
        raise DependencyError(
            f"{registration.where}: expected the package {provider.requires!r}, got {error}; {install_hint(provider)}",
            name=error.name,
        ) from error
    except AttributeError as error:
        if (
            module not in sys.modules
        ):  # The module's own code failed: that is its author's error, not a wrong target.
            raise
        raise PluginError(
            f"{registration.where}: expected {provider.target!r} of {registration.distribution} to exist, got {error}; correct the plugin"
        ) from error


def is_part(missing: str, package: str) -> bool:
    """Return whether a missing module is the package, inside it, or the one that it is inside."""
    return f"{missing}.".startswith(f"{package}.") or f"{package}.".startswith(f"{missing}.")
