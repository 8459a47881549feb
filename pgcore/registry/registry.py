"""The registry: everything that plugins provide, by kind and name, and whether it is usable."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from itertools import chain
from operator import attrgetter
from typing import ClassVar, Literal, NamedTuple, TypeVar

from pgcore.errors import DependencyError, PluginError, UnknownNameError
from pgcore.hooks import Provider
from pgcore.registry.entry_points import (
    KINDS,
    Plugin,
    Providers,
    Quarantine,
    hook_manager,
    noun_of,
    read_entry_point,
)
from pgcore.registry.unpackaged import REGISTER, REGISTERED, unpackaged

__all__ = [
    "OWN_COMMANDS",
    "Registration",
    "Registry",
    "default_backend_name",
    "forget_registry",
    "install_hint",
    "installed_version",
    "load_class",
    "registry",
    "version_found",
]

DISTRIBUTION = "pgcore"  # the distribution whose names no other can take
OWN_COMMANDS = ("doctor", "list")  # the core's own, which answer however broken the plugins are

Registered = TypeVar("Registered")
Status = Literal["usable", "missing", "too old", "duplicate", "broken", "disabled"]


class Registration(NamedTuple):
    """One thing that a plugin provides.

    Attributes:
        kind: One of `KINDS`.
        provider: The plugin's declaration.
        distribution: The distribution that provides it.
        version: That distribution's version.
        status: `usable`; `missing` or `too old`, of the package it requires; `duplicate`, if
            another has the same kind and name; `broken`, if its target cannot be one; `disabled`,
            if PGCORE_DISABLE has one of its `words`.
        reason: Why it is not usable and the next thing to do, or None.
    """

    kind: str
    provider: Provider
    distribution: str
    version: str
    status: Status
    reason: str | None

    @property
    def where(self) -> str:
        """Its name in errors."""
        return f"{noun_of(self.kind)} {self.provider.name!r}"

    @property
    def words(self) -> frozenset[str]:
        """The words of PGCORE_DISABLE that leave it out."""
        return _words_of(self.kind, self.provider, self.distribution)


class Registry:
    """Everything that the entry points of group `pgcore` provide.

    Attributes:
        plugins: The plugins whose hooks passed.
        quarantined: The plugins that were refused.
        hook: The hooks of all plugins, such as `registry().hook.pgcore_after_update`.
        disabled: The words of PGCORE_DISABLE: names, `kind:name` or `distribution:name`.
        shared: This process's; None until its first use.
    """

    shared: ClassVar[Registry | None] = None

    def __init__(self, declared: Iterable[EntryPoint] | None = None) -> None:
        """Read entry points one by one; None reads all installed ones, and then unpackaged ones."""
        if declared is None:
            declared = chain(entry_points(group="pgcore"), unpackaged())
        self._manager = hook_manager()
        self.hook = self._manager.hook
        read = [read_entry_point(entry_point, self._manager) for entry_point in declared]
        self.plugins = _one_a_module([plugin for plugin in read if isinstance(plugin, Plugin)])
        self.quarantined = tuple(plugin for plugin in read if isinstance(plugin, Quarantine))
        self.disabled = frozenset(os.environ.get("PGCORE_DISABLE", "").replace(",", " ").split())
        self._loaded: dict[tuple[str, str], object] = {}

    def providers(self, kind: str) -> list[Registration]:
        """Return all of one kind by name, duplicates too; imports none. See `load` for errors."""
        # By distribution too, so that duplicates come in a stable order.
        pairs = sorted(self._pairs(kind), key=lambda pair: (pair[0].name, pair[1].distribution))
        return [self._registration(kind, provider, plugin) for provider, plugin in pairs]

    def names(self, kind: str) -> list[str]:
        """Return the distinct names of one kind in order, no disabled one; see `load` for errors."""
        pairs = self._pairs(kind)
        return sorted({entry.name for entry, plugin in pairs if self._enables(kind, entry, plugin)})

    def load(self, kind: str, name: str) -> object:
        """Import and return the target of a name.

        Args:
            kind: One of `KINDS`.
            name: A registered name.

        Raises:
            UnknownNameError: there is no such kind, or nothing has the name.
            PluginError: two plugins provide it, its plugin is quarantined, it has no target, or
                PGCORE_DISABLE leaves it out.
            DependencyError: its package is missing or too old. Other errors of imports go through.
        """
        if not isinstance(name, str) or (kind, name) not in self._loaded:  # pyright: ignore[reportUnnecessaryIsInstance]
            registration = self.find(kind, name)
            registered = registration.distribution == REGISTER
            # A registered class may be local, where no import finds it. In front of a disabled
            # built-in's name it has its distribution's.
            key = kind, name.removeprefix(f"{REGISTER}:")
            self._loaded[kind, name] = (
                REGISTERED[key][1] if registered else _import_target(registration)
            )
        return self._loaded[kind, name]

    def find(self, kind: str, name: str) -> Registration:
        """Return the one registration of a name, without importing it; see `load` for errors."""
        known = isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        pairs = [pair for pair in self._pairs(kind) if known and pair[0].name == name]
        # A disabled one last: it makes way for another of its name.
        for provider, plugin in sorted(pairs, key=lambda pair: not self._enables(kind, *pair)):
            registration = self._registration(kind, provider, plugin)
            if registration.status in ("duplicate", "broken", "disabled"):
                raise PluginError(f"{registration.where}: {registration.reason}")
            return registration
        # An entry point often has the name of the thing that it provides.
        where = noun_of(kind)
        for plugin in self.quarantined:
            if known and plugin.entry_point == name:
                raise plugin.error(f"{where} {name!r}")
        raise UnknownNameError(where, name, self.names(kind), self.note_on_quarantined("names"))

    def refuse_disabled(self, kind: str, name: object) -> None:
        """Raise PluginError for a disabled name, before a rule lists those that are enabled."""
        # An array has no single truth value to compare by.
        known = isinstance(name, str)
        rows = [row for row in self.providers(kind) if known and row.provider.name == name]
        if rows and all(row.status == "disabled" for row in rows):
            self.find(kind, str(name))

    def note_on_quarantined(self, noun: str) -> str:
        """Return the sentence that some names, a `noun`, are not known; empty if all are."""
        plugins = [f"{plugin.entry_point} ({plugin.distribution})" for plugin in self.quarantined]
        note = f"{noun} of quarantined plugins are not known: {', '.join(plugins)}"
        return f"{note}; see `pgcore doctor`" if plugins else ""

    def _pairs(self, kind: str) -> list[tuple[Provider, Plugin]]:
        """Return all providers of a kind, a stranger's prefixed if its name is a built-in's."""
        if kind not in KINDS:
            raise UnknownNameError("registry", kind, KINDS)
        pairs = [(entry, plugin) for plugin in self.plugins for entry in plugin.providers[kind]]
        reserved = {entry.name for entry, plugin in pairs if plugin.distribution == DISTRIBUTION}
        if kind == "commands":
            reserved |= set(OWN_COMMANDS)
        # A stranger's provider with a reserved name gets its distribution's in front.
        for row, (entry, plugin) in enumerate(pairs):
            if entry.name in reserved and plugin.distribution != DISTRIBUTION:
                name = f"{plugin.distribution}:{entry.name}"
                pairs[row] = entry._replace(name=name), plugin
        return pairs

    def _enables(self, kind: str, provider: Provider, plugin: Plugin) -> bool:
        return self.disabled.isdisjoint(_words_of(kind, provider, plugin.distribution))

    def _registration(self, kind: str, provider: Provider, plugin: Plugin) -> Registration:
        status, reason = _availability(provider)
        rivals = [pair for pair in self._pairs(kind) if pair[0].name == provider.name]
        owners = [owner for rival, owner in rivals if self._enables(kind, rival, owner)]
        if not self._enables(kind, provider, plugin):
            value = os.environ.get("PGCORE_DISABLE")
            status = "disabled"
            reason = (
                f"expected it enabled, got PGCORE_DISABLE={value!r}; take it out of the variable"
            )
        elif len(owners) > 1:
            names = " and ".join(f"{owner.distribution} {owner.version}" for owner in owners)
            status = "duplicate"
            reason = f"expected one provider, got {names}; uninstall one of them"
        return Registration(kind, provider, plugin.distribution, plugin.version, status, reason)


def registry() -> Registry:
    """Return this process's registry, read on first use."""
    # No `functools.cache`: a framework's tracer would go through it into the reading.
    if Registry.shared is None:
        Registry.shared = Registry()
    return Registry.shared


def forget_registry() -> None:
    """Let the registry be read anew at its next use."""
    Registry.shared = None


def default_backend_name(explicit: str | None = None) -> str:
    """Return the backend's name: the explicit one, else `PGCORE_BACKEND`, else `numpy`."""
    if explicit is None:
        return os.environ.get("PGCORE_BACKEND") or "numpy"
    # Before any name is looked up in a dictionary, since an object may have no hash.
    if not isinstance(explicit, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnknownNameError("backend", explicit, registry().names("backends"))
    return explicit


def load_class(kind: str, name: str, base: type[Registered]) -> type[Registered]:
    """Import and return the target of a name, a subclass of the kind's interface.

    Args:
        kind: One of `KINDS`.
        name: A registered name.
        base: The interface.

    Raises:
        PluginError: its target is no subclass of the interface.
        PgcoreError: see `Registry.load`.
    """
    # A class of the wrong kind would fail later, far from the plugin that named it.
    target = registry().load(kind, name)
    if isinstance(target, type) and issubclass(target, base):
        return target
    raise PluginError(
        f"{noun_of(kind)} {name!r}: expected a subclass of "
        f"{base.__module__}.{base.__name__}, got {target!r}; correct the plugin's target"
    )


def _one_a_module(plugins: list[Plugin]) -> tuple[Plugin, ...]:
    """Return the plugins; of those of one module the first provides, a built-in before others."""
    providing: dict[int, Plugin] = {}
    for plugin in sorted(plugins, key=lambda plugin: plugin.distribution != DISTRIBUTION):
        providing.setdefault(id(plugin.module), plugin)
    nothing: Providers = dict.fromkeys(KINDS, ())
    return tuple(
        plugin if providing[id(plugin.module)] is plugin else plugin._replace(providers=nothing)
        for plugin in plugins
    )


def _words_of(kind: str, provider: Provider, distribution: str) -> frozenset[str]:
    """See `Registration.words`."""
    name = provider.name
    return frozenset({name, f"{kind}:{name}", f"{distribution}:{name}"})


def _availability(provider: Provider) -> tuple[Status, str | None]:
    """Return a provider's status and the reason, without importing the package it requires."""
    target, package, least = provider.target, provider.requires, provider.at_least
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        return "broken", f"expected a target 'module:attribute', got {target!r}; correct the plugin"
    if package is not None and not is_installed(package):
        hint = install_hint(provider)
        return "missing", f"expected the package {package!r}, got none installed; {hint}"
    installed = version_found(provider) if least else None
    if least and installed and _is_older(installed, least):
        wish = f"pgcore[{provider.extra}]" if provider.extra else f"{package}>={least}"
        hint = f"pip install --upgrade '{wish}'"
        return "too old", f"expected {package} {least} or later, got {installed}; {hint}"
    # After the package, since a module of the plugin may be inside it.
    if not is_installed(module):
        hint = "reinstall its distribution"
        return "broken", f"expected an importable module {module!r}, got none; {hint}"
    return "usable", None


def is_installed(package: str) -> bool:
    """Return whether a package's top level can be found; looking further would import it."""
    top = package.partition(".")[0]
    # find_spec refuses a module that is loaded without a spec, as one made by hand is.
    return bool(top) and (sys.modules.get(top) is not None or find_spec(top) is not None)


def version_found(provider: Provider) -> str | None:
    """Return the newest version of a provider's required package, None without metadata."""
    from packaging.version import Version

    names = provider.distributions or ((provider.requires or "").partition(".")[0],)
    return max(filter(None, map(installed_version, names)), key=Version, default=None)


def _is_older(installed: str, least: str) -> bool:
    """Return whether a version's release is before another; 2.13.0rc1+cpu counts as 2.13."""
    from packaging.version import Version

    return Version(Version(installed).base_version) < Version(least)


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution; None without one, or without metadata."""
    with contextlib.suppress(PackageNotFoundError, ValueError):
        return version(name)
    return None


def install_hint(provider: Provider) -> str:
    """Return the command that installs the package that a provider requires."""
    package = f"'pgcore[{provider.extra}]'" if provider.extra else provider.requires
    return f"pip install {package}"


def _import_target(registration: Registration) -> object:
    """Import and return a registration's target; see `Registry.load` for the errors."""
    provider, where = registration.provider, registration.where
    if registration.status == "too old":
        raise DependencyError(f"{where}: {registration.reason}", name=provider.requires)
    module, _, attribute = provider.target.partition(":")
    try:
        return attrgetter(attribute)(importlib.import_module(module))
    except ModuleNotFoundError as error:
        package = provider.requires
        # A missing module that is neither the package, nor inside it or around it, is a bug.
        missing, within = f"{error.name}.", f"{package}."
        if package is None or not (missing.startswith(within) or within.startswith(missing)):
            raise
        raise DependencyError(
            f"{where}: expected the package {package!r}, got {error}; {install_hint(provider)}",
            name=error.name,
        ) from error
    except SystemExit as error:
        raise PluginError(f"{where}: expected a module, got {error!r}; correct it") from error
    except AttributeError as error:
        # The module's own code failed: that is its author's error, not a wrong target.
        if module not in sys.modules:
            raise
        raise PluginError(
            f"{where}: expected {provider.target!r} of {registration.distribution} to exist, "
            f"got {error}; correct the plugin"
        ) from error
