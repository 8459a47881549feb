"""Which methods a subclass changes, directly or through what they call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType

__all__ = ["overrides"]


def overrides(cls: type, base: type, methods: Iterable[str]) -> set[str]:
    """Return the names by which a class changes methods of one of its bases.

    A name counts where a class before `base` in the method resolution order defines it, and it is one of the methods or
    is read by their code, or by the code that they read in turn. Attributes that are data on both sides do not count:
    they are hyper-parameters. What a method reads by `getattr`, or through a function outside the class, is not seen.

    Args:
        cls: The subclass, whose order of bases holds.
        base: The class that the methods are judged from.
        methods: Their names.
    """
    order = cls.__mro__[:-1]  # without `object`
    newer, older = order[: order.index(base)], order[order.index(base) :]
    changed: set[str] = set()
    for name in read_by(older, methods):
        usual = [vars(owner)[name] for owner in older if name in vars(owner)]
        for member in (vars(owner)[name] for owner in newer if name in vars(owner)):
            differs = not usual or member is not usual[0]
            if differs and any(code_of(each) is not None for each in (member, *usual)):
                changed.add(name)
    return changed


def read_by(classes: tuple[type, ...], methods: Iterable[str]) -> set[str]:
    """Return the methods and every attribute of the classes that their code reads, directly or through one another."""
    todo, seen = list(methods), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for owner in classes:
            code = code_of(vars(owner).get(name))
            if code is not None:
                todo += [
                    word for word in words_of(code) if any(word in vars(each) for each in classes)
                ]
    return seen


def code_of(member: object) -> CodeType | None:
    """Return the code of a method or property, or None for data."""
    for wrapper in (
        "fget",
        "func",
        "__func__",
    ):  # of a property, a cached property, a class or static method
        member = getattr(member, wrapper, member)
    return member.__code__ if isinstance(member, FunctionType) else None


def words_of(code: CodeType) -> Iterator[str]:
    """Yield the names that code reads, those of the functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from words_of(constant)
