"""A run's configuration: defaults, then a TOML file, then the command line, in one frozen value."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgcore.cli.assignments import nested, overlaid, without_none
from pgcore.cli.assignments import read_assignments as read_values
from pgcore.data.files import checked_path
from pgcore.errors import FileError, SpecError, UnknownNameError
from pgcore.registry.registry import registry
from pgcore_train.config.settings import (
    ExplorationSettings,
    NetworkSettings,
    ReplaySettings,
    RolloutSettings,
    RunSettings,
    TargetSettings,
    TrainingSettings,
)

__all__ = [
    "SECTIONS",
    "Layer",
    "RunConfig",
    "merge",
    "read_assignments",
    "read_extras",
    "read_network",
    "read_toml",
]

# Section to key to value, unchecked: one source of settings.
Layer = dict[str, dict[str, Any]]

# Sections whose keys are fixed: the fields of a class.
CLOSED = {
    "run": RunSettings,
    "network": NetworkSettings,
    "rollout": RolloutSettings,
    "training": TrainingSettings,
    "replay": ReplaySettings,
    "target": TargetSettings,
    "exploration": ExplorationSettings,
}
# Sections with a name and the fields of the class of that name, and their default names.
# `pgcore_train.building` checks those fields. Section `extras` has the estimator's names.
OPEN = {"environment": None, "estimator": "ppo", "optimizer": None, "head": None, "extras": None}
SECTIONS = (*OPEN, *CLOSED)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All settings of a run: two equal ones give equal results on one machine.

    Attributes:
        environment: Its Gymnasium name under `name`, and keyword arguments for it.
        estimator: Its name under `name`, and hyper-parameters.
        optimizer: Its name under `name`, by default the estimator's usual one, and
            hyper-parameters; see `pgcore_train.building.make_optimizer`.
        head: Fields of the action space's usual head, or of the one under `name`.
        extras: `module:function` by the extra's name; see `pgcore_train.rollout.extras`.
        run: See `RunSettings`.
        network: See `NetworkSettings`.
        rollout: See `RolloutSettings`.
        training: See `TrainingSettings`.
        replay: See `ReplaySettings`.
        target: See `TargetSettings`.
        exploration: See `ExplorationSettings`.
    """

    environment: Mapping[str, Any]
    estimator: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    run: RunSettings = field(default_factory=RunSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    exploration: ExplorationSettings = field(default_factory=ExplorationSettings)

    @staticmethod
    def of(layer: Layer) -> RunConfig:
        """Return the configuration of a layer, with defaults for absent settings.

        Raises:
            UnknownNameError: a section or a key of a closed section is not known.
            SpecError: a value cannot be taken, or no environment is named.
        """
        check_known("section", layer, SECTIONS)
        # Closed sections know their keys, so a misspelt one is found here.
        sections: dict[str, Any] = {}
        for name, settings in CLOSED.items():
            values = layer.get(name, {})
            fields = [field.name for field in dataclasses.fields(settings)]
            check_known(f"{name} setting", values, fields)
            sections[name] = settings(**without_none(settings, values))
        for name, default in OPEN.items():
            sections[name] = {"name": default} if default else {}
            sections[name] |= layer.get(name, {})
            check_plain(name, sections[name])

        # An environment has no default, and the optimizer's depends on the estimator.
        # So has the head, which depends on the actions.
        for name in ("environment", "estimator", "optimizer", "head"):
            default = "" if name in ("optimizer", "head") else None
            value = sections[name].get("name", default)
            if not isinstance(value, str):
                raise SpecError(
                    f"{name}.name: expected a name, got {value!r}; "
                    "give one on the command line or in the file"
                )
        return RunConfig(**sections)

    def layer(self) -> Layer:
        """Return the sections as plain data, from which `of` makes the same configuration."""
        # JSON makes lists of tuples, so that a layer from a checkpoint equals this one.
        sections = json.loads(json.dumps(dataclasses.asdict(self)))
        return {name: values for name, values in sections.items() if values}

    def to_toml(self) -> str:
        """Return the configuration as a TOML document, without settings that are None."""
        lines: list[str] = []
        for section, settings in self.layer().items():
            lines += ["", f"[{section}]"]
            for key, value in settings.items():
                if value is not None:
                    lines.append(f"{key} = {toml_value(value)}")
        return "\n".join(lines[1:]) + "\n"


def read_toml(path: str | Path) -> Layer:
    """Return the settings of a TOML file with a table for each section.

    Raises:
        FileError: the file cannot be read, is not TOML, or has a value outside of any table.
    """
    try:
        with checked_path("--config", path).open("rb") as handle:
            data = tomllib.load(handle)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{path}: expected a TOML file, got {error.strerror}; check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: expected TOML, got something else ({error}); correct the file"
        ) from error
    # A key above the first table would otherwise be taken for a section.
    for name, value in data.items():
        if not isinstance(value, dict):
            raise FileError(
                f"{path}: expected tables such as [run] and [estimator], got {name!r} outside of "
                "any; move it into its section"
            )
    return data


def read_assignments(assignments: Iterable[str]) -> Layer:
    """Return the settings of `section.key=value` assignments; see `pgcore.cli.assignments`.

    Raises:
        SpecError: an assignment is not of that form.
        UnknownNameError: a section is not known.
    """
    # Both appear in the messages of `pgcore.cli.assignments` too.
    form, example = "section.key=value", "estimator.clip=0.1"
    layer: Layer = {}
    for name, value in read_values(assignments, form=form, example=example).items():
        section, dot, key = name.partition(".")
        if not dot or not key:
            raise SpecError(
                f"--set: expected {form}, got {name!r} before '='; write it as in --set {example}"
            )
        check_known("section", [section], SECTIONS)
        layer.setdefault(section, {})[key.strip()] = value
    return {section: nested(values) for section, values in layer.items()}


def read_extras(assignments: Iterable[str]) -> dict[str, str]:
    """Return `module:function` by name of `name=module:function` assignments.

    Raises:
        SpecError: an assignment is not of that form.
    """
    targets: dict[str, str] = {}
    for assignment in assignments:
        name, equals, target = assignment.partition("=")
        if not equals or not name.strip():
            raise SpecError(
                f"--extras: expected name=module:function, got {assignment!r}; "
                "write it as in --extras teacher=my_module:teacher"
            )
        targets[name.strip()] = target.strip()
    return targets


def read_network(text: str | None) -> dict[str, str]:
    """Return the settings of section `network` of a registered name or `module:function`, or of None."""
    if text is None:
        return {}
    # A registered name may hold a colon too, behind its distribution's name.
    of_factory = ":" in text and text not in registry().names("networks")
    return {"factory" if of_factory else "type": text}


def merge(*layers: Layer) -> Layer:
    """Return one layer of all their settings; later ones win, options of a table one by one."""
    result: Layer = {}
    for layer in layers:
        for section, values in layer.items():
            merged = result.setdefault(section, {})
            for key, value in values.items():
                merged[key] = overlaid(merged.get(key), value)
    return result


def check_plain(section: str, values: Mapping[str, Any]) -> None:
    """Raise SpecError unless keys are identifiers and values exist in both JSON and TOML."""
    for key, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        # Tables of options, such as those of an estimator's parts, are checked likewise.
        for table in filter(is_table, items):
            check_plain(f"{section}.{key}", table)
        items = [item for item in items if not is_table(item)]
        plain = all(isinstance(item, str | int | float | None) for item in items)
        if not key.isidentifier() or not plain:
            raise SpecError(
                f"{section}.{key}: expected a name with a string, number, boolean or list of "
                f"these, got {value!r}; change this value"
            )
        # JSON's NaN and Infinity are Python's invention; another reader would refuse the file.
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            raise SpecError(
                f"{section}.{key}: expected finite numbers, got {value!r}; change this value"
            )


def is_table(value: object) -> bool:
    """Return whether a value is a table of options."""
    return isinstance(value, Mapping)


def toml_value(value: Any) -> str:
    """Return a value in TOML; its strings, numbers, booleans and lists are JSON's."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if not isinstance(value, Mapping):
        # JSON has DEL as it is, TOML escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")
    # TOML has no null.
    items = [f"{key} = {toml_value(item)}" for key, item in value.items() if item is not None]
    return f"{{ {', '.join(items)} }}"


def check_known(where: str, names: Iterable[str], choices: Iterable[str]) -> None:
    """Raise UnknownNameError with the near matches at the first name outside the choices."""
    valid = tuple(choices)
    for name in names:
        if name not in valid:
            raise UnknownNameError(where, name, valid)
