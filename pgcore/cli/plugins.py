"""`--plugin MODULE` and `--plugin FILE.py` of every command, before or after the command's name."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pgcore.errors import PluginError
from pgcore.registry.registry import forget_registry, registry
from pgcore.registry.unpackaged import UNPACKAGED, is_file

__all__ = ["HELP", "command_line", "load_plugins", "take_plugins"]

HELP = (
    "Every command also takes --plugin MODULE and --plugin FILE.py, for what no installed "
    "distribution provides; repeatable."
)


def take_plugins(words: Sequence[str]) -> list[str]:
    """Return the words without `--plugin`, whose values join PGCORE_PLUGINS.

    The variable also serves the processes that a command starts.

    Raises:
        PluginError: an option has no value.
    """
    remaining: list[str] = []
    plugins = [os.environ.get("PGCORE_PLUGINS", "")]
    pending = iter(words)
    for word in pending:
        option, equals, value = word.partition("=")
        if option != "--plugin":
            # After "--" there are arguments alone.
            remaining += [word, *pending] if word == "--" else [word]
            continue
        value = value if equals else next(pending, "")
        if not value:
            raise PluginError("--plugin: expected a module or a file, got none; name one")
        plugins.append(str(Path(value).resolve()) if is_file(value) else value)
    if len(plugins) > 1:
        os.environ["PGCORE_PLUGINS"] = os.pathsep.join(filter(None, plugins))
        forget_registry()
    return remaining


def command_line(words: Sequence[str]) -> str:
    """Return a command for a shell, with a `--plugin` for each of PGCORE_PLUGINS.

    Args:
        words: Those after `pgcore`.
    """
    plugins = dict.fromkeys(filter(None, os.environ.get("PGCORE_PLUGINS", "").split(os.pathsep)))
    options = [word for plugin in plugins for word in ("--plugin", plugin)]
    return shlex.join(["pgcore", *options, *words])


def load_plugins(variable: str) -> None:
    """End the process with status 1 unless each module and file of PGCORE_PLUGINS is loaded.

    Args:
        variable: PGCORE_PLUGINS before those of `--plugin` joined it.
    """
    broken = [plugin for plugin in registry().quarantined if plugin.version == UNPACKAGED]
    for plugin in broken:
        option = f"--plugin {plugin.entry_point}"
        where, command = option, f"pgcore doctor {option}"
        if plugin.entry_point in variable.split(os.pathsep):
            where, command = f"PGCORE_PLUGINS: {plugin.entry_point}", "pgcore doctor"
        sys.stderr.write(
            f"error: {where}: expected a plugin that can be loaded, got {plugin.reason}; "
            f"see {command}\n"
        )
    if broken:
        sys.exit(1)
