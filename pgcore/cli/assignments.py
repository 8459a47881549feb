"""Values of hyper-parameters and settings as a command line writes them: `--set FIELD=VALUE`."""

from __future__ import annotations

import contextlib
import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pgcore.errors import SpecError

__all__ = ["nested", "overlaid", "read_assignments", "read_value", "without_none"]

BOOLEANS = {"true": True, "false": False}
NONE = "none"  # in any case, as BOOLEANS are


def read_assignments(
    assignments: Iterable[str], *, form: str = "field=value", example: str = "clip=0.1"
) -> dict[str, Any]:
    """Return the values of `name=value` assignments by name; later ones win.

    Args:
        assignments: The text after each `--set`.
        form: An assignment's form, for errors.
        example: One, for errors.

    Raises:
        SpecError: an assignment is not of that form.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise SpecError(
                f"--set: expected {form}, got {assignment!r}; write it as in --set {example}"
            )
        values[name.strip()] = read_value(text.strip())
    return values


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with dotted names as tables of options.

    So `objective=clip` and `objective.high=0.28` are {"objective": {"name": "clip", "high": 0.28}}.

    Args:
        values: By name, in any order.
    """
    tables: dict[str, Any] = {}
    # A name without a dot comes first: a table's options are laid over it.
    for name, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        first, dot, option = name.partition(".")
        tables[first] = overlaid(tables.get(first), nested({option: value}) if dot else value)
    return tables


def overlaid(old: Any, new: Any) -> Any:
    """Return the new value of a setting; a table without a name changes options of the old one.

    Args:
        old: A name, a table of options, or any other value, such as None.
        new: Of the same setting, which wins.
    """
    table = {"name": old} if isinstance(old, str) else old
    if not isinstance(new, Mapping) or "name" in new or not isinstance(table, Mapping):
        return cast("Any", new)
    options = cast("Mapping[str, Any]", table)
    changes = cast("Mapping[str, Any]", new)
    return {**options, **{key: overlaid(options.get(key), changes[key]) for key in changes}}


def read_value(text: str) -> Any:
    """Return the TOML value of a text, else the boolean or number of Python, else the text.

    So `--set head.log_std=fixed` needs no quotes, and `False` and `.5` are a boolean and a number.
    """
    if text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    # TOML before Python: it has integers, lists and quoted strings.
    for read in (lambda: tomllib.loads(f"value = {text}")["value"], lambda: float(text)):
        with contextlib.suppress(ValueError):
            return read()
    return text


def without_none(cls: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a dataclass with None for "none", as neither TOML nor a shell has a None.

    Args:
        cls: The dataclass.
        fields: Values by name.
    """
    # A type is written out, as `Positive | None`, or evaluated, as in a preset.
    types = ((field.name, str(field.type)) for field in dataclasses.fields(cls))
    optional = {name for name, kind in types if "None" in kind or "Optional" in kind}
    values = dict(fields)
    for name in optional & values.keys():
        if str(values[name]).lower() == NONE:
            values[name] = None
    return values
