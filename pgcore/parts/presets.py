"""Presets: estimators of named parts with flat options, each one row of a table."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, cast

from pgcore.errors import EstimatorError, UnknownNameError
from pgcore.interfaces.estimator import AnyReduction, Claims
from pgcore.parts.advantages import Advantage
from pgcore.parts.composed import Composed
from pgcore.parts.composition import Composition, Normalisation
from pgcore.parts.corrections import Correction
from pgcore.parts.critics import CriticLoss
from pgcore.parts.fields import part_of
from pgcore.parts.levels import Level
from pgcore.parts.masks import Mask
from pgcore.parts.objectives import Objective
from pgcore.parts.penalties import Penalty
from pgcore.validation.fields import Number, annotation_of, choice, set_field

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
        options: Flat option to the field that it sets, such as {"clip_low": "objective.low"}, or to
            a tuple of them. The default is that field's, in this row. A field of the composition has
            no dot, one of the reduction is `reduction.NAME`. An option of a field that an earlier one
            sets too is None by default, which leaves it to that one. A field that the chosen part
            lacks is left out.
            A table makes the option a choice, its first name the default: of names, each with the
            parts that it changes, as in {"baseline": {"none": {}, "value": {"critic": "squared"}}}.
        settings: Fields of the composition that differ from its defaults, such as `reduction`.
        sources: The papers and equations it follows.
        notes: Sentences for the docstring, such as differences between public trainers.
        claims: Claims that differ from those of the composition; see `Claims`.
        usual_optimizer: See `Estimator`.
    """

    name: str
    summary: str
    parts: Mapping[str, Any]
    options: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sources: tuple[str, ...] = ()
    notes: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any])
    usual_optimizer: str = Composed.usual_optimizer


@dataclass(frozen=True)
class Resolved:
    """A row's parts and settings as objects.

    Attributes:
        parts: Kind to part, before any choice.
        settings: Field of the composition to value.
        choices: Option to name to the parts that it changes, None for none of a kind.
        places: Option to the fields that it sets, as (kind or "", field).
        secondary: Options that None leaves to earlier ones.
    """

    parts: Mapping[str, Any]
    settings: Mapping[str, Any]
    choices: Mapping[str, Mapping[str, Mapping[str, Any]]]
    places: Mapping[str, tuple[tuple[str, str], ...]]
    secondary: frozenset[str]

    def composition(self, value_of: Mapping[str, Any]) -> Composition:
        """Return the composition under values of the options."""
        parts, settings = {**self.parts}, {**self.settings}
        for option, changes in self.choices.items():
            parts |= changes[value_of[option]]
        fields: dict[str, dict[str, Any]] = {}
        for option, places in self.places.items():
            value = value_of[option]
            for kind, name in places if value is not None or option not in self.secondary else ():
                (fields.setdefault(kind, {}) if kind else settings)[name] = value
        parts["reduction"] = settings.pop("reduction", DEFAULTS["reduction"])
        for kind, values in fields.items():
            known = {
                name: values[name] for name in values.keys() & names_of(parts.get(kind)).keys()
            }
            if known:
                parts[kind] = dataclasses.replace(parts[kind], **known)
        return Composition.of(parts, reduction=parts.pop("reduction"), **settings)

    def alternatives(self, kind: str) -> Iterator[Any]:
        """Yield the parts that a kind may have, the defaults first."""
        tables = [next(iter(table.values())) for table in self.choices.values()]
        tables += [{"reduction": self.settings.get("reduction")}, self.parts]
        tables += [changes for table in self.choices.values() for changes in table.values()]
        for table in tables:
            if table.get(kind) is not None:
                yield table[kind]


class FromPreset(Composed):
    """An estimator made of a row.

    Attributes:
        preset: The row.
        resolved: Its parts.
    """

    preset: ClassVar[Preset]
    resolved: ClassVar[Resolved]

    def __post_init__(self) -> None:
        """Check the fields, and that the parts meet."""
        super().__post_init__()
        set_field(self, "reduction", self.composition.reduction)

    def compose(self) -> Composition:
        """See `Composed.compose`: the row's parts, with the options in their fields."""
        return self.resolved.composition(
            {name: getattr(self, name) for name in self.preset.options}
        )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`: the row's, else the composition's."""
        return dataclasses.replace(super().claims, **self.preset.claims)

    def adapted(self, metrics: Mapping[str, float]) -> FromPreset:
        """See `Estimator.adapted`: options of the penalty may follow the update's metrics."""
        changes: dict[str, Any] = {}
        for penalty in self.composition.penalties:
            adapted = penalty.adapted(metrics)
            for option, places in self.resolved.places.items():
                for kind, name in places:
                    if kind == "penalty" and getattr(adapted, name) != getattr(penalty, name):
                        changes[option] = getattr(adapted, name)
        return dataclasses.replace(cast("Any", self), **changes) if changes else self


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
    resolved = resolve(row, class_name)
    options: list[tuple[str, Any, Any]] = []
    for option, places in row.options.items():
        where = f"{class_name}.{option}"
        if isinstance(places, Mapping):
            names = [*cast("Mapping[str, Any]", places)]
            options.append((option, Annotated[str, choice(*names)], field(default=names[0])))
            continue
        annotation, default = field_at(where, resolved.places[option][0], resolved)
        for place in resolved.places[option][1:]:
            field_at(where, place, resolved)
        if option in resolved.secondary:
            annotation, default = annotation | None, None
        options.append((option, annotation, field(default=default)))
    namespace: dict[str, Any] = {
        "name": row.name,
        "sources": row.sources,
        "usual_optimizer": row.usual_optimizer,
        "preset": row,
        "resolved": resolved,
        "__doc__": document(row, resolved),
        "__module__": module,
    }
    # Without an option for it, the reduction is the class's.
    if "reduction" not in row.options and "reduction" in resolved.settings:
        namespace["reduction"] = resolved.settings["reduction"]
    cls = dataclasses.make_dataclass(
        class_name, options, bases=(FromPreset,), namespace=namespace, frozen=True
    )
    return cast("type[FromPreset]", cls)


def resolve(row: Preset, class_name: str) -> Resolved:
    """Return a row's parts and settings as objects; see `preset_class` for the errors."""

    def part(kind: str, value: Any) -> Any:
        where = f"{class_name}.{kind}"
        check_known(where, kind, KINDS)
        return None if value is None else part_of(KINDS[kind])(where, value)

    settings: dict[str, Any] = {}
    for name, value in row.settings.items():
        check_known(f"{class_name}.settings", name, OWN)
        settings[name] = OWN[name].__metadata__[0](f"{class_name}.{name}", value, EstimatorError)
    choices: dict[str, dict[str, dict[str, Any]]] = {}
    places: dict[str, tuple[tuple[str, str], ...]] = {}
    secondary: set[str] = set()
    seen: set[tuple[str, str]] = set()
    for option, target in row.options.items():
        if isinstance(target, Mapping):
            table = cast("Mapping[str, Mapping[str, Any]]", target)
            choices[option] = {
                name: {kind: part(kind, value) for kind, value in changes.items()}
                for name, changes in table.items()
            }
            continue
        names = [target] if isinstance(target, str) else target
        halves = (name.rpartition(".") for name in names)
        places[option] = tuple((kind, name) for kind, _, name in halves)
        if not seen.isdisjoint(places[option]):
            secondary.add(option)
        seen.update(places[option])
    parts = {kind: part(kind, value) for kind, value in {"level": "token", **row.parts}.items()}
    return Resolved(parts, settings, choices, places, frozenset(secondary))


def field_at(where: str, place: tuple[str, str], resolved: Resolved) -> tuple[Any, Any]:
    """Return annotation and default of the field that an option sets; see `Preset.options`."""
    kind, name = place
    if not kind:
        check_known(where, name, OWN)
        return OWN[name], resolved.settings.get(name, DEFAULTS[name])
    parts = [*resolved.alternatives(kind)]
    check_known(where, kind, (*KINDS, "reduction") if parts else ())
    check_known(where, name, {name: None for part in parts for name in names_of(part)})
    part = next(part for part in parts if name in names_of(part))
    return annotation_of(cast("Any", type(part)), names_of(part)[name]), getattr(part, name)


def names_of(part: Any) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a part or a reduction by name; none of None."""
    return {} if part is None else {field.name: field for field in dataclasses.fields(part)}


def check_known(where: str, name: str, names: Iterable[str]) -> None:
    """Raise UnknownNameError unless a name is one of these."""
    choices = [*names]
    if name not in choices:
        raise UnknownNameError(where, name, choices)


def document(row: Preset, resolved: Resolved) -> str:
    """Return the docstring of a row's class: summary, parts and options."""
    lines = [f"{row.summary[0].upper()}{row.summary[1:]}.", ""]
    lines += [f"{kind} = {part!r}" for kind, part in resolved.parts.items()]
    lines += [f"{name} = {value}" for name, value in resolved.settings.items()]
    if row.notes:
        lines += ["", *textwrap.wrap(row.notes, 96)]
    lines += ["", "Attributes:"]
    for option in row.options:
        if option in resolved.choices:
            lines.append(f"    {option}: One of")
            for name, changes in resolved.choices[option].items():
                parts = ", ".join(f"{kind} = {part!r}" for kind, part in changes.items())
                lines.append(f"        {name!r}: {parts or 'the parts above'};")
        else:
            text = f"{option}: {described(option, resolved)}"
            lines += textwrap.wrap(text, 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
    lines += ["", "Raises:", "    EstimatorError: a field has a value it cannot take."]
    return "\n".join(lines)


def described(option: str, resolved: Resolved) -> str:
    """Return what an option is: what its fields are in the docstrings of their parts."""
    texts: list[str] = []
    for kind, name in resolved.places[option]:
        parts = (part for part in resolved.alternatives(kind) if name in names_of(part))
        text = next((f"`{kind}.{name}`: {attribute(part, name)}" for part in parts), "")
        texts.append(text or "See `policy_gradient`.")
    if option in resolved.secondary:
        texts.append("None leaves it to an option above.")
    return " ".join(texts)


def attribute(part: Any, name: str) -> str:
    """Return the text of an attribute in the docstring of a part's class, or in that of a base."""
    for base in type(part).__mro__:
        text = inspect.cleandoc(base.__doc__ or "")
        found = re.search(rf"^ {{4}}{name}: (.*(?:\n {{8}}.*)*)", text, re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return f"See `{type(part).__name__}`."
