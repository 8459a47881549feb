"""Which methods a subclass changes, directly or through the code that they call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType

__all__ = ["overrides"]

# The attributes that hold the function of a property, a cached property, a class or static method.
WRAPPED = ("fget", "func", "__func__")


def overrides(cls: type, base: type, methods: Iterable[str]) -> set[str]:
    """Return the names by which a class changes methods of one of its bases.

    A name counts if a class that `base` does not derive from defines it, and it is one of the
    methods or is read by their code, or by the code that they read in turn. Attributes that
    are data on both sides do not count: they are hyper-parameters. A name that a method reads by
    `getattr`, or through a function outside the class, is not seen.

    Args:
        cls: The subclass.
        base: The class that the methods are judged from.
        methods: Their names.
    """
    older = base.__mro__[:-1]  # without `object`
    # With several bases a class that `base` never saw may come between it and its own bases.
    newer = [owner for owner in cls.__mro__[:-1] if owner not in older]
    changed: set[str] = set()
    for name in _names_read(older, methods):
        members = [vars(owner)[name] for owner in older if name in vars(owner)]
        for member in (vars(owner)[name] for owner in newer if name in vars(owner)):
            differs = not members or member is not members[0]
            # Data that replaces data is a hyper-parameter.
            if differs and any(map(_code_of, (member, *members))):
                changed.add(name)
    return changed


def _names_read(classes: tuple[type, ...], methods: Iterable[str]) -> set[str]:
    """Return the methods and all attributes of the classes that their code reads, transitively."""
    attributes = set[str]().union(*map(vars, classes))
    # Methods may call one another in a circle.
    todo, seen = set(methods), set[str]()
    while todo:
        name = todo.pop()
        seen.add(name)
        for owner in classes:
            code = _code_of(vars(owner).get(name))
            if code is not None:
                todo |= attributes.intersection(_words_of(code)) - seen
    return seen


def _code_of(member: object) -> CodeType | None:
    """Return the code of a method or property, or None for data."""
    for wrapper in WRAPPED:
        member = getattr(member, wrapper, member)
    return member.__code__ if isinstance(member, FunctionType) else None


def _words_of(code: CodeType) -> Iterator[str]:
    """Yield the names that code reads, those of the functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words_of(constant)
