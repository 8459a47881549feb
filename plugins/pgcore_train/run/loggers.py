"""The loggers of a run: plugins that hear of its start, of each update and of its end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pluggy import HookRelay

from pgcore.registry.entry_points import hook_manager
from pgcore.registry.registry import registry

__all__ = ["Loggers"]

HOOKS = ("pgcore_before_training", "pgcore_after_update", "pgcore_after_training")


class Loggers:
    """The plugins with a hook of training; one that raises is set aside, and training goes on."""

    def __init__(self, folder: Path | None) -> None:
        """Find the loggers.

        Args:
            folder: The folder of the run's results, or None.
        """
        self._folder = folder
        self._loggers = find_loggers()

    def start(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Pass on the settings, which are keys and values by section, under names as in `--set`."""
        flat = {
            f"{section}.{key}": value
            for section, values in settings.items()
            for key, value in values.items()
        }
        self._call("pgcore_before_training", settings=read_only(flat))

    def update(self, metrics: Mapping[str, float]) -> None:
        """Pass on the metrics of an update."""
        self._call("pgcore_after_update", metrics=read_only(metrics))

    def end(self, summary: Mapping[str, Any], error: BaseException | None) -> None:
        """Pass on the summary and the error that ended the run, if one did; later calls do nothing."""
        try:
            self._call("pgcore_after_training", summary=read_only(summary), error=error)
        finally:
            self._loggers.clear()

    def _call(self, hook: str, **arguments: Any) -> None:
        for name, logger in [*self._loggers.items()]:
            try:
                getattr(logger, hook)(folder=self._folder, **arguments)
            # A logger is a stranger's code, and may even end the process.
            except (Exception, SystemExit) as error:  # noqa: BLE001
                del self._loggers[name]
                reason = f"logger {name} is set aside: {type(error).__name__}: {error}"
                warnings.warn(f"{reason}; correct or uninstall its plugin", stacklevel=3)


def find_loggers() -> dict[str, HookRelay]:
    """Return the hooks of each plugin that implements one of training, by its module."""
    callers = [getattr(registry().hook, hook) for hook in HOOKS]
    # pluggy lists the last one registered first.
    implementations = [item for caller in callers for item in reversed(caller.get_hookimpls())]
    plugins = {getattr(x.plugin, "__name__", x.plugin_name): x.plugin for x in implementations}
    loggers: dict[str, HookRelay] = {}
    for name, plugin in plugins.items():
        # Each in a manager of its own, so that one that raises does not stop the others.
        manager = hook_manager()
        manager.register(plugin)
        loggers[name] = manager.hook
    return loggers


def read_only(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a read-only copy, whose lists are tuples."""
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return MappingProxyType(plain)
