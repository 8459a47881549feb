"""Plugins that no distribution declares: modules and files of PGCORE_PLUGINS, and registered objects.

Each is an entry point to the registry, so that it is read as an installed plugin is.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from pgcore.errors import PluginError
from pgcore.hooks import Provider, hookimpl
from pgcore.registry.declaration import declare, interface_of

__all__ = ["REGISTER", "REGISTERED", "UNPACKAGED", "is_file", "unpackaged"]

# Stand for the distribution of registered objects, and for the version of any here.
REGISTER, UNPACKAGED = "pg.register", "unpackaged"

# The provider and the object of each registration of this process, by kind and name.
REGISTERED: dict[tuple[str, str], tuple[Provider, object]] = {}


class _Nowhere:
    """A distribution that has a name alone."""

    def __init__(self, name: str) -> None:
        self.metadata = {"Name": name, "Version": UNPACKAGED}


class _Unpackaged(EntryPoint):
    """An entry point that is loaded by a function."""

    def __init__(self, name: str, distribution: str, loaded: Callable[[], ModuleType]) -> None:
        super().__init__(name, __name__, "pgcore")
        vars(self).update(dist=_Nowhere(distribution), loaded=loaded)

    def load(self) -> ModuleType:
        """Return a module with hooks."""
        return vars(self)["loaded"]()


def unpackaged() -> Iterator[EntryPoint]:
    """Yield the modules and files of PGCORE_PLUGINS, and then the registered objects."""
    texts = os.environ.get("PGCORE_PLUGINS", "").split(os.pathsep)
    for text in filter(None, dict.fromkeys(texts)):
        distribution = Path(text).name if is_file(text) else text
        yield _Unpackaged(text, distribution, partial(_plugin_module, text))
    # Last: a file may register objects while it is imported.
    if REGISTERED:
        rows = [(kind, provider) for (kind, _), (provider, _) in REGISTERED.items()]
        yield _Unpackaged(REGISTER, REGISTER, partial(_module_of, REGISTER, rows))


def is_file(text: str) -> bool:
    """Return whether a plugin is named by its file, not by its module."""
    return text.endswith(".py") or os.sep in text


def _plugin_module(text: str) -> ModuleType:
    """Import a module or file, and return it, or a module that provides the classes in it."""
    module = _import(text)
    for name, value in vars(module).items():
        if name.startswith("pgcore_") and inspect.isfunction(value):
            return module
    return _module_of(text, _declarations(module))


def _import(text: str) -> ModuleType:
    """Import a module or a file, and leave its folder on the path for its neighbours."""
    path = Path(text).resolve()
    folder = str(path.parent if is_file(text) else Path.cwd())
    # Last, so that nothing in it hides an installed module. Python starts other processes with
    # this path, in which they find the classes that they are sent.
    if folder not in sys.path:
        sys.path.append(folder)
    if not is_file(text):
        return importlib.import_module(text)
    if not path.is_file():
        raise PluginError(f"{text}: expected a file, got none at {path}; correct the path")
    module = importlib.import_module(path.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise PluginError(
            f"{text}: expected a name that no other module has, got that of {module}; rename it"
        )
    return module


def _declarations(module: ModuleType) -> Iterable[tuple[str, Provider]]:
    """Return kind and provider of each class and proof that a module defines."""
    rows: dict[tuple[str, str], tuple[str, Provider]] = {}
    registered = [value for _, value in REGISTERED.values()]
    offered = {
        id(value): name for name, value in vars(module).items() if _is_offered(module, value)
    }
    for attribute in offered.values():
        value = getattr(module, attribute)
        kind, provider = declare(value, name=None if isinstance(value, type) else attribute)
        provider = provider._replace(target=f"{module.__name__}:{attribute}")
        if (kind, provider.name) in rows:
            raise PluginError(
                f"{module.__name__}.{attribute}: expected a name of its own, got "
                f"{provider.name!r} again; rename it"
            )
        rows[kind, provider.name] = kind, provider
    if not rows and not any(value.__module__ == module.__name__ for value in registered):
        raise PluginError(
            f"{module.__name__}: expected hooks, or classes such as of pgcore.Estimator, got "
            "neither; write one"
        )
    return rows.values()


def _is_offered(module: ModuleType, value: object) -> bool:
    """Return whether an object in a module is one to provide."""
    if interface_of(value) is None or any(value is item for _, item in REGISTERED.values()):
        return False
    # An imported or unfinished class is a base of those to provide; a package imports its own.
    return not isinstance(value, type) or (
        f"{value.__module__}.".startswith(f"{module.__name__}.")
        and not inspect.isabstract(value)
        and not value.__name__.startswith("_")
    )


def _module_of(name: str, rows: Iterable[tuple[str, Provider]]) -> ModuleType:
    """Return a module whose hooks provide these rows."""
    by_kind: dict[str, list[Provider]] = {}
    for kind, provider in rows:
        by_kind.setdefault(kind, []).append(provider)
    module = ModuleType(name)
    for kind, providers in by_kind.items():
        setattr(module, f"pgcore_{kind}", _hook_of(providers))
    return module


def _hook_of(providers: list[Provider]) -> Callable[[], list[Provider]]:
    @hookimpl
    def hook() -> list[Provider]:
        return providers

    return hook
