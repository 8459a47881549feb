"""Closed forms by the class that they were written for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from importlib import import_module
from typing import Any, Generic, TypeVar

from pgcore.errors import SpecError
from pgcore.validation.inheritance import overrides

__all__ = ["ClosedForms", "changes"]

FormT = TypeVar("FormT")


class ClosedForms(Generic[FormT]):
    """A function from a head or network to its closed form, dispatched on the class.

    A subclass has the form of its nearest registered base only where it changes none of the
    formulas that the form differentiates.
    """

    def __init__(
        self, kind: str, formulas: tuple[str, ...], where: str, modules: Iterable[str] = ()
    ) -> None:
        """Start with no class registered.

        Args:
            kind: "head" or "network", for messages.
            formulas: The methods that a closed form stands for.
            where: The import path of this object, for messages.
            modules: Those that register further forms, imported before a form is looked for or
                registered, so that a later registration replaces theirs.
        """
        self.kind, self.formulas, self.where = kind, formulas, where
        self._dispatch: Any = singledispatch(self._refuse)
        self._modules = tuple(modules)

    def register(self, cls: Any, func: Any = None) -> Any:
        """Register a function for a class, as `functools.singledispatch` does; the last one counts."""
        self._import()
        return self._dispatch.register(cls, func)

    def __call__(self, instance: object) -> FormT:
        """Return the closed form.

        Raises:
            SpecError: no form is registered for the class, or it changes a formula of the base
                whose form it would inherit.
        """
        self._import()
        cls, registered = type(instance), self._dispatch.registry
        base = next(base for base in cls.__mro__ if base in registered)
        # `object` has no formulas: its entry refuses all that no class in the order answers for.
        if base is not object and (names := changes(cls, base, self.formulas)):
            self._refuse(instance, f", which changes {names}")
        return self._dispatch(instance)

    def _import(self) -> None:
        for module in self._modules:
            import_module(module)

    def _refuse(self, instance: object, reason: str = "") -> FormT:
        raise SpecError(
            f"numpy backend: expected a {self.kind} with a closed form, got {instance}{reason}; "
            f"register one for {type(instance).__name__} with {self.where}.register, "
            "or choose a backend with automatic differentiation"
        )


def changes(cls: type, base: type, formulas: Iterable[str]) -> str:
    """Return the formulas of a base that a subclass changes, "Base.name" each; "" without any.

    A formula that is abstract in the base is filled in, not changed.
    """
    if cls is base:
        return ""
    names = [
        name
        for name in sorted(overrides(cls, base, formulas))
        if not getattr(getattr(base, name, None), "__isabstractmethod__", False)
    ]
    return ", ".join(f"{base.__name__}.{name}" for name in names)
