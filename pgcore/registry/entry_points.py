"""Entry points of the group `pgcore`: each is read by itself into a plugin, or into a quarantine that says why not.

pluggy's bulk loader is not used: it drops a second distribution that takes a used name without a word, and one failing
import aborts the rest.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from typing import cast

import pluggy

from pgcore import hooks
from pgcore.errors import PluginError, UnknownNameError

__all__ = ["GROUP", "KINDS", "Plugin", "Quarantine", "hook_manager", "read_entry_point"]

GROUP = "pgcore"
KINDS = (
    "backends",
    "estimators",
    "heads",
    "networks",
    "activations",
    "optimizers",
    "schedules",
    "metrics",
    "proofs",
    "executors",
    "commands",
    "functions",
    "derivers",
)
HOOKS = tuple(name for name in hooks.__all__ if name.startswith("pgcore_"))


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that was imported and whose hooks passed.

    Attributes:
        entry_point: The entry point's name.
        distribution: The distribution that declares it, `unknown` if it has no metadata.
        version: That distribution's version.
        module: What the entry point names, usually a module.
        providers: Kind to what the plugin provides of it.
    """

    entry_point: str
    distribution: str
    version: str
    module: object
    providers: Mapping[str, tuple[hooks.Provider, ...]]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A plugin that was refused; the others work on.

    Attributes:
        entry_point: The entry point's name.
        distribution: The distribution that declares it, `unknown` if it has no metadata.
        version: That distribution's version.
        traceback: The full traceback of what went wrong.
    """

    entry_point: str
    distribution: str
    version: str
    traceback: str

    @property
    def reason(self) -> str:
        """The last line of the traceback."""
        return self.traceback.rstrip().rpartition("\n")[2]

    def error(self, where: str) -> PluginError:
        """Return an error for whoever asks for this plugin; the full traceback is its note."""
        error = PluginError(
            f"{where}: expected a working plugin {self.entry_point!r} of {self.distribution} {self.version}, got {self.reason}; "
            "repair or uninstall it, `pgcore doctor` shows the traceback"
        )
        error.add_note(self.traceback)
        return error


def read_entry_point(entry_point: EntryPoint) -> Plugin | Quarantine:
    """Import one entry point and check its hooks; whatever goes wrong stays with this one plugin."""
    distribution, version = "unknown", "unknown"
    try:
        if entry_point.dist is not None:
            metadata = entry_point.dist.metadata
            distribution, version = str(metadata["Name"]), str(metadata["Version"])
        module = entry_point.load()
        return Plugin(entry_point.name, distribution, version, module, providers_of(module))
    # A plugin is a stranger's code, and `sys.exit()` in one must not end everybody's session.
    except (Exception, SystemExit):  # noqa: BLE001
        return Quarantine(entry_point.name, distribution, version, traceback.format_exc())


def hook_manager() -> pluggy.PluginManager:
    """Return a pluggy manager that knows pgcore's hooks and no plugin."""
    manager = pluggy.PluginManager("pgcore")
    manager.add_hookspecs(hooks)
    return manager


def providers_of(module: object) -> dict[str, tuple[hooks.Provider, ...]]:
    """Return what a plugin provides of each kind, in a manager of its own so that a refused plugin leaves nothing behind.

    Raises:
        PluginError: a hook is misspelled, has the wrong signature, lacks `@hookimpl`, or returns something else than providers.
    """
    manager = hook_manager()
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        check_spelling(manager, module)
        raise PluginError(
            f"plugin: expected hooks as pgcore/hooks.py declares them, got {error}; use the same parameters"
        ) from error
    check_decorators(module)
    return {
        kind: checked_providers(kind, getattr(manager.hook, f"pgcore_{kind}")()) for kind in KINDS
    }


def check_spelling(manager: pluggy.PluginManager, module: object) -> None:
    """Raise PluginError for an implementation of a hook that pgcore does not have."""
    for caller in manager.get_hookcallers(module) or ():
        if not caller.has_spec():
            raise PluginError(str(UnknownNameError("hook", caller.name, HOOKS)))


def check_decorators(module: object) -> None:
    """Raise PluginError for a function that is named like a hook and would be ignored without a word."""
    for name in HOOKS:
        function = inspect.getattr_static(module, name, None)
        if (
            inspect.isfunction(function)
            and function is not getattr(hooks, name)
            and not hasattr(function, "pgcore_impl")
        ):
            raise PluginError(
                f"hook {name}: expected the decorator @hookimpl, got a plain function; put it above the function"
            )


def checked_providers(kind: str, results: Iterable[object]) -> tuple[hooks.Provider, ...]:
    """Return the providers of all implementations of one hook.

    Raises:
        PluginError: something is not a Provider, or one of its fields is not what it must be.
    """
    providers: list[hooks.Provider] = []
    for result in results:
        if not isinstance(result, Iterable):
            raise PluginError(
                f"hook pgcore_{kind}: expected a list of Provider, got {type(result).__name__}; return [Provider(...)]"
            )
        providers += [
            checked_provider(kind, provider) for provider in cast("Iterable[object]", result)
        ]
    return tuple(providers)


def checked_provider(kind: str, provider: object) -> hooks.Provider:
    """Return the provider if it is one and its fields are strings, else raise PluginError."""
    if not isinstance(provider, hooks.Provider):
        raise PluginError(
            f"hook pgcore_{kind}: expected a Provider, got {type(provider).__name__}; return [Provider(...)]"
        )
    for field in fields(provider):
        value: object = getattr(provider, field.name)
        if field.name == "distributions":
            check_distributions(kind, value)
        elif not isinstance(value, str) and (
            value is not None or field.name not in ("requires", "extra", "at_least")
        ):
            raise PluginError(
                f"hook pgcore_{kind}: expected Provider.{field.name} to be a string, got {value!r}; give its name"
            )
    if provider.at_least is not None and not re.fullmatch(r"\d+(\.\d+)*", provider.at_least):
        raise PluginError(
            f"hook pgcore_{kind}: expected Provider.at_least to be numbers and dots, got {provider.at_least!r}; write such as '2.13'"
        )
    return provider


def check_distributions(kind: str, value: object) -> None:
    """Raise PluginError unless a provider's distributions are a tuple of names."""
    names = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
    if not isinstance(value, tuple) or not all(isinstance(name, str) for name in names):
        raise PluginError(
            f"hook pgcore_{kind}: expected Provider.distributions to be a tuple of strings, got {value!r}; give their names"
        )
