"""Values of hyper-parameters and settings as a command line writes them."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from typing import Any

__all__ = ["read_value", "without_none"]


def read_value(text: str) -> Any:
    """Return what a TOML value says, or the text itself where it is none: `--set head.log_std=fixed` needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def without_none(cls: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with None for "none" where a dataclass takes None: neither TOML nor a command line can say None."""
    optional = {field.name for field in dataclasses.fields(cls) if "None" in str(field.type)}
    return {name: None if value == "none" and name in optional else value for name, value in fields.items()}
