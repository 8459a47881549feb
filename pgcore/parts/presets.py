"""Presets: estimators of fixed parts with flat options, each one row of a table."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, cast

from pgcore.errors import EstimatorError, UnknownNameError
from pgcore.interfaces.estimator import AnyReduction
from pgcore.parts.advantages import Advantage
from pgcore.parts.composed import Composed
from pgcore.parts.composition import Composition, Normalisation
from pgcore.parts.corrections import Correction
from pgcore.parts.critics import CriticLoss
from pgcore.parts.fields import part_of
from pgcore.parts.levels import Level
from pgcore.parts.masks import Mask
from pgcore.parts.objectives import Objective
from pgcore.parts.part import Part
from pgcore.parts.penalties import Penalty
from pgcore.validation.fields import Number, annotation_of, choice

__all__ = ["Preset", "preset_class"]

# The base class of each kind of part, by its name in a row.
KINDS: dict[str, Any] = {
    "advantage": Advantage,
    "objective": Objective,
    "level": Level,
    "correction": Correction,
    "mask": Mask,
    "penalty": Penalty,
    "critic": CriticLoss,
}
# The options of the composition itself, with their checks and defaults.
OWN: dict[str, Any] = {
    "value_coefficient": Number,
    "entropy_coefficient": Number,
    "normalise": Normalisation,
    "ddof": Annotated[int, choice(0, 1)],
    "reduction": AnyReduction,
}
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Composition)}


@dataclass(frozen=True)
class Preset:
    """One row of a table of presets.

    Attributes:
        name: The estimator's registered name.
        summary: One line for `pgcore list`, which begins its docstring.
        parts: Kind to part: an object, a name, or a table of options; see `pgcore.parts.fields`.
        options: Flat option to the field that it sets, such as {"clip_low": "objective.low"}. The
            default is that part's, in this row. A field of the composition has no dot.
        settings: Fields of the composition that differ from its defaults, such as `reduction`.
        sources: The papers and equations it follows.
        notes: Sentences for the docstring, such as differences between public trainers.
    """

    name: str
    summary: str
    parts: Mapping[str, Any]
    options: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sources: tuple[str, ...] = ()
    notes: str = ""


class FromPreset(Composed):
    """An estimator made of a row.

    Attributes:
        preset: The row.
        preset_parts: The row's parts by kind.
    """

    preset: ClassVar[Preset]
    preset_parts: ClassVar[Mapping[str, Part]]

    def compose(self) -> Composition:
        """See `Composed.compose`: the row's parts, with the options in their fields."""
        changes: dict[str, dict[str, Any]] = {}
        settings: dict[str, Any] = {**self.preset.settings}
        for option, place in self.preset.options.items():
            kind, dot, name = place.partition(".")
            if dot:
                changes.setdefault(kind, {})[name] = getattr(self, option)
            else:
                settings[place] = getattr(self, option)
        parts: dict[str, Any] = {
            kind: dataclasses.replace(cast("Any", part), **changes.get(kind, {}))
            for kind, part in self.preset_parts.items()
        }
        return Composition.of(parts, **settings)


def preset_class(row: Preset, class_name: str, module: str) -> type[FromPreset]:
    """Return the estimator of a row: a frozen dataclass with its flat options.

    Assign it to `class_name` in that module, so that instances pickle.

    Args:
        row: The preset.
        class_name: The class's name, such as "DAPO".
        module: The module's `__name__`.

    Raises:
        UnknownNameError: a part is not registered, or a part or the composition lacks such a field.
        EstimatorError: a part or a setting has a value it cannot take, or the parts do not meet.
    """
    parts = {
        kind: part_of(KINDS[kind])(f"{class_name}.{kind}", part)
        for kind, part in {"level": "token", **row.parts}.items()
    }
    for name in row.settings:
        check_known(f"{class_name}.settings", name, OWN)
    settings = {
        name: check_of(OWN[name])(f"{class_name}.{name}", value, EstimatorError)
        for name, value in row.settings.items()
    }
    row = dataclasses.replace(row, settings=settings)
    options = [
        (option, *field_at(f"{class_name}.{option}", place, parts, settings))
        for option, place in row.options.items()
    ]
    namespace: dict[str, Any] = {
        "name": row.name,
        "sources": row.sources,
        "preset": row,
        "preset_parts": parts,
        "__doc__": document(row, parts),
        "__module__": module,
    }
    # Without an option for it, the reduction is the class's.
    if "reduction" not in row.options.values() and "reduction" in settings:
        namespace["reduction"] = settings["reduction"]
    cls = dataclasses.make_dataclass(
        class_name, options, bases=(FromPreset,), namespace=namespace, frozen=True
    )
    return cast("type[FromPreset]", cls)


def field_at(
    where: str, place: str, parts: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Return annotation and dataclass field of the option that sets a place; see `Preset.options`."""
    kind, dot, name = place.partition(".")
    if not dot:
        check_known(where, place, OWN)
        return OWN[place], field(default=settings.get(place, DEFAULTS[place]))
    check_known(where, kind, parts)
    part = parts[kind]
    declared = {option.name: option for option in dataclasses.fields(part)}
    check_known(where, name, declared)
    annotation = annotation_of(cast("Any", type(part)), declared[name])
    return annotation, field(default=getattr(part, name))


def check_known(where: str, name: str, names: Iterable[str]) -> None:
    """Raise UnknownNameError unless a name is one of these."""
    choices = [*names]
    if name not in choices:
        raise UnknownNameError(where, name, choices)


def check_of(annotation: Any) -> Any:
    """Return the check of an annotated type."""
    return annotation.__metadata__[0]


def document(row: Preset, parts: Mapping[str, Any]) -> str:
    """Return the docstring of a row's class: summary, parts and options."""
    lines = [f"{row.summary[0].upper()}{row.summary[1:]}.", ""]
    lines += [f"{kind} = {part}" for kind, part in parts.items()]
    lines += [f"{name} = {value}" for name, value in row.settings.items()]
    if row.notes:
        lines += ["", *textwrap.wrap(row.notes, 96)]
    lines += ["", "Attributes:"]
    for option, place in row.options.items():
        kind, dot, name = place.partition(".")
        lines.append(
            f"    {option}: `{name}` of the {kind}."
            if dot
            else f"    {option}: See `policy_gradient`."
        )
    lines += ["", "Raises:", "    EstimatorError: a field has a value it cannot take."]
    return "\n".join(lines)
