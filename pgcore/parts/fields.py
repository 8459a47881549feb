"""Fields of an estimator that hold parts: as objects, by name, or as a table of options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from pgcore.cli.assignments import without_none
from pgcore.errors import EstimatorError, PgcoreError, UnknownNameError
from pgcore.parts.advantages import Advantage
from pgcore.parts.corrections import Correction
from pgcore.parts.critics import CriticLoss
from pgcore.parts.levels import Level
from pgcore.parts.masks import Mask
from pgcore.parts.objectives import Objective
from pgcore.parts.part import Part
from pgcore.parts.penalties import Penalty
from pgcore.registry.registry import load_class

__all__ = ["AnyAdvantage", "AnyCorrection", "AnyCritic", "AnyLevel", "AnyMask", "AnyObjective"]
__all__ += ["AnyPenalty", "part_of", "parts_of"]

Check = Callable[..., Any]


def part_of(base: Any) -> Check:
    """Return the check of a field that holds one part of a kind; see `pgcore.validation.fields`.

    The field takes a part, a registered name such as "clip", or a mapping of options with the name,
    such as {"name": "clip", "high": 0.28}.

    Args:
        base: The kind's base class.
    """

    def check(where: str, value: object, error: type[PgcoreError] = EstimatorError) -> Part:
        if isinstance(value, base):
            return cast("Part", value)
        options = {"name": value} if isinstance(value, str) else value
        table = cast("Mapping[str, Any]", options if isinstance(options, Mapping) else {})
        name = table.get("name")
        if not isinstance(name, str):
            raise error(
                f"{where}: expected {base.__name__}, its registered name or a table with `name`, "
                f"got {value!r:.80}; `pgcore list {base.registered_as}` shows the names"
            )
        fields = {key: option for key, option in table.items() if key != "name"}
        return build(where, base, name, fields, error)

    return check


def parts_of(base: Any) -> Check:
    """Return the check of a field that holds one part or several; see `part_of`.

    Args:
        base: The kind's base class.
    """
    one = part_of(base)

    def check(where: str, value: object, error: type[PgcoreError] = EstimatorError) -> Any:
        if isinstance(value, list | tuple):
            items = cast("Sequence[object]", value)
            return tuple(one(f"{where}[{i}]", item, error) for i, item in enumerate(items))
        return one(where, value, error)

    return check


def build(
    where: str, base: Any, name: str, fields: Mapping[str, Any], error: type[PgcoreError]
) -> Any:
    """Return a registered part with these options."""
    cls: Any = load_class(base.registered_as, name, base)
    names = [field.name for field in dataclasses.fields(cls)]
    for field in fields:
        if field not in names:
            raise UnknownNameError(f"{where} {name} option", field, names)
    try:
        return cls(**without_none(cls, fields))
    except TypeError as problem:
        raise error(
            f"{where}: expected values for {', '.join(names)}, got {sorted(fields)} ({problem}); "
            "give the missing ones"
        ) from problem


# The types of fields; a correction, a penalty or a mask may also be a list of them.
AnyAdvantage = Annotated[Any, part_of(Advantage)]
AnyObjective = Annotated[Any, part_of(Objective)]
AnyLevel = Annotated[Any, part_of(Level)]
AnyCorrection = Annotated[Any, parts_of(Correction)]
AnyPenalty = Annotated[Any, parts_of(Penalty)]
AnyMask = Annotated[Any, parts_of(Mask)]
AnyCritic = Annotated[Any, part_of(CriticLoss)]
