"""The command `pgcore new`: a plugin project that installs and passes its tests."""

from __future__ import annotations

import keyword
import re
import sys
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from pgcore.errors import PluginError
from pgcore.registry.entry_points import noun_of
from pgcore.registry.registry import registry
from pgcore_new.templates import copy_template

__all__ = ["new_command"]


class Kind(Enum):
    """The kinds of projects; each has a template."""

    ESTIMATOR = "estimator"
    PART = "part"
    HEAD = "head"
    OPTIMIZER = "optimizer"
    BACKEND = "backend"
    LOGGER = "logger"


# The registered kind of the object that a project's plugin provides; loggers have no names.
REGISTERED = {
    "estimator": "estimators",
    "part": "objectives",
    "head": "heads",
    "optimizer": "optimizers",
    "backend": "backends",
    "logger": None,
}

# A command that shows the new object at work, by kind.
TRIALS = {
    "estimator": "pgcore check --estimators {name}",
    "part": "pgcore check --estimators policy_gradient --set objective={name}",
    "head": "pgcore check --heads {name} --quick",
    "optimizer": "pgcore check --optimizers {name}",
    "backend": "pgcore check --backends {name} --quick",
    "logger": "pgcore train CartPole-v1",
}


def new_command(
    kind: Annotated[Kind, typer.Argument(help="What the plugin provides.", metavar="KIND")],
    name: Annotated[
        str,
        typer.Argument(
            help="The module's and the registered name, such as my_idea.", metavar="NAME"
        ),
    ],
    *,
    folder: Annotated[
        Path | None,
        typer.Option(help="The project's folder; NAME by default.", show_default=False),
    ] = None,
) -> None:
    """Write a plugin project that installs and passes its tests untouched.

    KIND is estimator, part, head, optimizer, backend or logger. The project is a small example of its kind
    under the new name: change its formulas to yours.
    """
    check_name(kind.value, name)
    folder = folder or Path(name)
    copy_template(kind.value, name, folder)
    sys.stdout.write(text_of(kind.value, name, folder))


def check_name(kind: str, name: str) -> None:
    """Raise PluginError unless a plugin's module and object can have this name."""
    where = f"new {kind}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise PluginError(
            f"{where}: expected a name that Python can import, in lower case, got {name!r}; "
            "write such as my_idea"
        )
    registered = REGISTERED[kind]
    if registered is not None and name in registry().names(registered):
        raise PluginError(
            f"{where}: expected a new name, got that of a registered {noun_of(registered)}, "
            f"{name!r}; choose another"
        )
    if find_spec(name) is not None:
        raise PluginError(
            f"{where}: expected a new name, got that of a module that can be imported, {name!r}; "
            "choose another, or uninstall it"
        )


def text_of(kind: str, name: str, folder: Path) -> str:
    """Return the next commands."""
    project = folder.as_posix() if folder.is_absolute() else f"./{folder.as_posix()}"
    lines = (
        f"wrote {folder}, whose {kind} is in {folder / name / f'{kind}.py'}; next:",
        f"    pip install --editable '{project}[test]'",
        f"    {TRIALS[kind].format(name=name)}",
        f"    pytest {folder}",
    )
    return "\n".join(lines) + "\n"
