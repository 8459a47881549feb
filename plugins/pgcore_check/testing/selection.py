"""The objects that a test names: registered names, classes and instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from pgcore.errors import PluginError, UnknownNameError
from pgcore.registry.registry import registry
from pgcore.registry.unpackaged import REGISTER
from pgcore_check.kinds import ADVICE, PARTS, kind_of, message_of
from pgcore_check.proofs import proofs, variants

__all__ = ["Selection", "label_of", "registered_names", "selected", "usable_and_absent"]

Selection = Sequence[Any] | None


def selected(kind: str, selection: Selection) -> dict[str, Any]:
    """Return the objects to test by label.

    Args:
        kind: "estimators", "heads" or "optimizers".
        selection: Registered names and classes, each with every variant of its proofs, and
            instances; None takes all that are registered.

    Raises:
        UnknownNameError: a name is not registered.
        PluginError: an object is of another kind.
    """
    if selection is None:
        return variants(kind)
    objects: dict[str, Any] = {}
    for item in selection:
        objects |= named_variants(kind, item) if isinstance(item, str) else built(kind, item)
    return objects


def named_variants(kind: str, name: str) -> dict[str, Any]:
    """Return the variants of a registered name, by label."""
    # The error tells an unknown name from a disabled one.
    registry().find(kind, name)
    objects = {
        label: item for label, item in variants(kind).items() if name in proofs().names_of(item)
    }
    # One that cannot be built has an error to show, which loading or building it raises.
    return objects or built(kind, registry().load(kind, name))


def built(kind: str, item: Any) -> dict[str, Any]:
    """Return a class's variants, or else the class with default options, or an instance itself."""
    is_class = isinstance(item, type)
    cls: Any = item if is_class else type(item)
    if kind_of(cls) != kind:
        rule = f"names, classes or instances of {kind}"
        advice = (
            "give an estimator that has it"
            if kind_of(cls) == PARTS
            else f"give it as {kind_of(cls)}"
        )
        raise PluginError(f"testing: expected {rule}, got {item!r}; {advice}")
    if not is_class:
        return {label_of(item): item}
    tried = {label: variant for label, variant in variants(kind).items() if type(variant) is cls}
    if tried:
        return tried
    try:
        return {cls.name: cls()}
    except TypeError as problem:
        # An abstract class, or one with an option that has no default.
        rule = "a class that can be built without options"
        raise PluginError(
            f"{cls.__name__}: expected {rule}, got {message_of(problem)}; {ADVICE}, or an instance"
        ) from problem


def label_of(item: Any) -> str:
    """Return an instance's label: that of an equal variant, or else its repr."""
    cls = cast("Any", type(item))
    for label, variant in variants(kind_of(cls)).items():
        if type(variant) is cls and variant == item:
            return label
    return repr(item)


def registered_names(kind: str, selection: Selection) -> list[str] | None:
    """Return the names that `pgcore check` takes for a selection; None where another process lacks one.

    Args:
        kind: "estimators", "heads" or "optimizers".
        selection: Names, classes and instances.
    """
    names: list[str] = []
    for item in selection or ():
        name = item if isinstance(item, str) else getattr(item, "name", "")
        # An instance has options of its own, and `pg.register` is of this process.
        if (
            name not in registry().names(kind)
            or registry().find(kind, name).distribution == REGISTER
        ):
            return None
        if item not in (name, registry().load(kind, name)):
            return None
        names.append(name)
    return names


def usable_and_absent(names: Iterable[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the names of usable backends, and the reasons of the others by name.

    Args:
        names: Registered names; None takes all.

    Raises:
        UnknownNameError: a name is not registered.
    """
    entries = {entry.provider.name: entry for entry in registry().providers("backends")}
    names = [*entries] if names is None else [*names]
    for name in names:
        if name not in entries:
            note = registry().note_on_quarantined("names")
            raise UnknownNameError("backends", name, entries, note)
    absent = {
        name: entries[name].reason or "" for name in names if entries[name].status != "usable"
    }
    return [name for name in names if name not in absent], absent
