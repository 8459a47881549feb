"""The declaration of an object without a plugin module: its kind and its `Provider`."""

from __future__ import annotations

import inspect
from typing import Any, cast

from pgcore.errors import PluginError, UnknownNameError
from pgcore.hooks import Provider
from pgcore.registry.entry_points import KINDS, noun_of

__all__ = ["DATACLASSES", "declare", "interface_of", "is_frozen"]

# The kinds without a base class, whose targets are functions; those that are no dataclasses; and
# those that are frozen ones, so that two of equal options are equal.
FUNCTIONS = frozenset({"commands", "derivers", "functions", "metrics"})
OTHERS = frozenset({"activations", "backends", "proofs"})
DATACLASSES = frozenset(KINDS) - FUNCTIONS - OTHERS


def interface_of(value: object) -> str | None:
    """Return the kind that the base class of a class or of a proof states, None without one."""
    # A class attribute: other objects, such as modules, may compute attributes of any name.
    is_class = isinstance(value, type)
    kind: str | None = getattr(value if is_class else type(value), "registered_as", None)
    # Proofs are registered as objects, everything else as a class.
    return kind if is_class != (kind == "proofs") else None


def declare(
    value: Any, *, kind: str | None = None, name: str | None = None, summary: str | None = None
) -> tuple[str, Provider]:
    """Return the kind and the `Provider` of an object; see `pgcore.register`.

    Raises:
        UnknownNameError: there is no such kind.
        PluginError: the object cannot be one of the kind, or has no name.
    """
    # An array has no single truth value to compare by.
    if kind is not None and not (isinstance(kind, str) and kind in KINDS):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnknownNameError("kind", kind, KINDS)
    label = cast("Any", value if hasattr(value, "__qualname__") else type(value))
    interface = interface_of(value)
    kind, stated = kind or interface, kind
    if kind is None or (interface != kind and not (kind in FUNCTIONS and callable(value))):
        got = "a class" if isinstance(value, type) else "an object"
        raise PluginError(
            f"{label.__qualname__}: expected a subclass of an interface such as pgcore.Estimator, "
            f"or a function and its kind, got {got} and kind={stated!r}; correct one"
        )
    where = f"{noun_of(kind)} {label.__qualname__}"
    if kind not in FUNCTIONS and isinstance(value, type):
        _check_class(where, kind, value)
        if name not in (None, getattr(value, "name", None)):
            raise PluginError(
                f"{where}: expected the name of the class, got {name!r}; write name = {name!r} in it"
            )
        name = getattr(value, "name", None)
    elif name is None:
        name = getattr(value, "__name__", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f"{where}: expected a name, got {name!r}; write name = 'mine'")
    text = (value.__doc__ or "").partition("\n")[0] if summary is None else summary
    return kind, Provider(name, f"{label.__module__}:{label.__qualname__}", text)


def _check_class(where: str, kind: str, cls: Any) -> None:
    """Raise PluginError for a class of which no object can be made."""
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise PluginError(f"{where}: expected a whole class, got none of {missing}; write them")
    if kind in DATACLASSES and not is_frozen(cls):
        raise PluginError(
            f"{where}: expected a frozen dataclass, got another class; "
            "write @dataclass(frozen=True) directly above it"
        )


def is_frozen(cls: type[Any]) -> bool:
    """Return whether a class is a frozen dataclass, and no field of its own lacks the decorator."""
    fields = [text for text in inspect.get_annotations(cls).values() if "ClassVar" not in str(text)]
    parameters = vars(cls).get("__dataclass_params__")
    if not fields and parameters is None:
        parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen
