"""Entry points of the group `pgcore`, each read alone into a plugin or a quarantine.

pluggy's bulk loader drops a second distribution of a used name, and stops at a failing import.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint
from typing import NamedTuple, cast

import pluggy

from pgcore import hooks
from pgcore.errors import PluginError, UnknownNameError

__all__ = ["KINDS", "Plugin", "Providers", "Quarantine", "hook_manager", "noun_of"]
__all__ += ["read_entry_point"]

HOOKS = tuple(name for name in vars(hooks) if name.startswith("pgcore_"))
# A hook without parameters, `pgcore_<kind>`, provides a kind; the others hear of training. The order
# in that module is the order of `pgcore list`.
KINDS = tuple(
    name.removeprefix("pgcore_")
    for name in HOOKS
    if not inspect.signature(getattr(hooks, name)).parameters
)

Providers = Mapping[str, tuple[hooks.Provider, ...]]


def noun_of(kind: str) -> str:
    """Return the word for one of a kind, such as `penalty` of `penalties`."""
    return f"{kind[:-3]}y" if kind.endswith("ies") else kind.removesuffix("s")


class Plugin(NamedTuple):
    """A plugin that was imported and whose hooks passed.

    Attributes:
        entry_point: The entry point's name.
        distribution: The distribution that declares it, `unknown` if it has no metadata.
        version: That distribution's version.
        module: The entry point's target, usually a module.
        providers: The plugin's providers by kind.
    """

    entry_point: str
    distribution: str
    version: str
    module: object
    providers: Providers


class Quarantine(NamedTuple):
    """A plugin that was refused; the others work on.

    Attributes:
        entry_point: See `Plugin`, as for the next two.
        traceback: The full traceback of the failure.
    """

    entry_point: str
    distribution: str
    version: str
    traceback: str

    @property
    def reason(self) -> str:
        """The last line of the traceback."""
        return self.traceback.rstrip().rpartition("\n")[2].removeprefix("pgcore.errors.")

    def error(self, where: str) -> PluginError:
        """Return the error for a use of this plugin; the full traceback is its note."""
        error = PluginError(
            f"{where}: expected a working plugin {self.entry_point!r} of {self.distribution} "
            f"{self.version}, got {self.reason}; repair or uninstall it, see `pgcore doctor`"
        )
        error.add_note(self.traceback)
        return error


def read_entry_point(entry_point: EntryPoint, manager: pluggy.PluginManager) -> Plugin | Quarantine:
    """Import an entry point and register its hooks; any failure is confined to this plugin."""
    distribution, version, module = "unknown", "unknown", None
    try:
        if entry_point.dist is not None:
            distribution, version = _identity(entry_point.dist)
        module = entry_point.load()
        providers = _providers_of(module, manager)
    # A plugin is a stranger's code, and `sys.exit()` in one must not end the user's session.
    except (Exception, SystemExit):  # noqa: BLE001
        import traceback  # here, since most plugins work

        if manager.is_registered(module):
            manager.unregister(module)
        return Quarantine(entry_point.name, distribution, version, traceback.format_exc())
    return Plugin(entry_point.name, distribution, version, module, providers)


@lru_cache
def _identity(distribution: Distribution) -> tuple[str, str]:
    """Return name and version; reading the metadata takes longer than importing a plugin."""
    metadata = distribution.metadata
    return str(metadata["Name"]), str(metadata["Version"])


def hook_manager() -> pluggy.PluginManager:
    """Return a pluggy manager that knows pgcore's hooks and no plugin."""
    manager = pluggy.PluginManager("pgcore")
    manager.add_hookspecs(hooks)
    return manager


def _providers_of(module: object, manager: pluggy.PluginManager) -> Providers:
    """Register a plugin and return its providers of each kind; a wrong hook raises PluginError."""
    try:
        # Two entry points may name one module.
        if not manager.is_registered(module):
            manager.register(module, str(id(module)))
            manager.check_pending()
    except pluggy.PluginValidationError as error:
        # An unknown hook gets the near names; the rest are wrong signatures.
        for caller in manager.get_hookcallers(module) or ():
            if not caller.has_spec():
                raise PluginError(str(UnknownNameError("hook", caller.name, HOOKS))) from error
        raise PluginError(
            f"plugin: expected hooks as pgcore/hooks.py declares them, got {error}; "
            "use the same parameters"
        ) from error
    # pluggy ignores a function without the decorator; the specification itself may be imported.
    for name in sorted(set(HOOKS).intersection(dir(module))):
        function = inspect.getattr_static(module, name, None)
        plain = inspect.isfunction(function) and not hasattr(function, "pgcore_impl")
        if plain and function is not getattr(hooks, name):
            raise PluginError(
                f"hook {name}: expected the decorator @hookimpl, got a plain function; "
                "put it above the function"
            )
    return {
        kind: _checked_providers(getattr(manager.hook, f"pgcore_{kind}"), module) for kind in KINDS
    }


def _checked_providers(caller: pluggy.HookCaller, module: object) -> tuple[hooks.Provider, ...]:
    """Return the providers of a plugin's implementations of one hook, or raise PluginError."""
    hook, providers = caller.name, list[hooks.Provider]()
    for implementation in caller.get_hookimpls():
        result = implementation.function() if implementation.plugin is module else ()
        listed = isinstance(result, Iterable) and not isinstance(result, hooks.Provider)
        rule = "a Provider" if listed else "a list of Provider"
        for provider in cast("Iterable[object]", result if listed else (result,)):
            if not listed or not isinstance(provider, hooks.Provider):
                raise PluginError(
                    f"hook {hook}: expected {rule}, got {type(provider).__name__}; "
                    "return [Provider(...)]"
                )
            _check_fields(hook, provider)
            providers.append(provider)
    return tuple(providers)


def _check_fields(hook: str, provider: hooks.Provider) -> None:
    """Raise PluginError for a field of the wrong type: its author need not use a type checker."""
    for name, value in provider._asdict().items():
        rule, advice = "a string", "correct it"
        valid = isinstance(value, str) or value is provider._field_defaults.get(name, "")
        if name == "distributions":
            rule = "a tuple of strings"
            items = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (None,)
            valid = all(isinstance(item, str) for item in items)
        elif name == "at_least" and isinstance(value, str):
            rule, advice = "numbers and dots", "write such as '2.13'"
            valid = re.fullmatch(r"\d+(\.\d+)*", value)
        if not valid:
            raise PluginError(
                f"hook {hook}: expected Provider.{name} to be {rule}, got {value!r}; {advice}"
            )
