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

from pgcore.cli.assignments import read_assignments as read_values
from pgcore.cli.assignments import without_none
from pgcore.errors import FileError, SpecError, UnknownNameError
from pgcore_train.config.settings import (
    ExplorationSettings,
    NetworkSettings,
    ReplaySettings,
    RolloutSettings,
    RunSettings,
    TargetSettings,
    TrainingSettings,
)

__all__ = ["SECTIONS", "Layer", "RunConfig", "merged", "read_assignments", "read_toml"]

# Section to key to value: one source of settings, before anything is checked.
Layer = dict[str, dict[str, Any]]

CLOSED = {
    "run": RunSettings,
    "network": NetworkSettings,
    "rollout": RolloutSettings,
    "training": TrainingSettings,
    "replay": ReplaySettings,
    "target": TargetSettings,
    "exploration": ExplorationSettings,
}
# Each of these takes a name and whatever the thing of that name takes; who builds it checks the rest.
OPEN = {"environment": None, "estimator": "ppo", "optimizer": None, "head": None}
SECTIONS = (*OPEN, *CLOSED)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run; two equal ones give equal results on one machine.

    Attributes:
        environment: Its Gymnasium name under `name`, and keyword arguments for it.
        estimator: Its name under `name`, and hyper-parameters.
        optimizer: Its name under `name`, else it is the estimator's usual one, and hyper-parameters; see
            `pgcore_train.building.make_optimizer`.
        head: Fields of the head that the action space asks for, or of the one under `name`.
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
    run: RunSettings = field(default_factory=RunSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    exploration: ExplorationSettings = field(default_factory=ExplorationSettings)

    @staticmethod
    def of(layer: Layer) -> RunConfig:
        """Return the configuration that a layer describes, with defaults for what it leaves out.

        Raises:
            UnknownNameError: a section or a key of a closed section is not known.
            SpecError: a value cannot be taken, or no environment is named.
        """
        check_known("section", layer, SECTIONS)
        sections: dict[str, Any] = {}
        for name, settings in CLOSED.items():
            given = layer.get(name, {})
            check_known(
                f"{name} setting", given, [field.name for field in dataclasses.fields(settings)]
            )
            sections[name] = settings(**without_none(settings, given))
        for name, default in OPEN.items():
            sections[name] = {**({"name": default} if default else {}), **layer.get(name, {})}
            check_plain(name, sections[name])
        for name in ("environment", "estimator", "optimizer"):
            if not isinstance(sections[name].get("name", "" if name == "optimizer" else None), str):
                raise SpecError(
                    f"{name}.name: expected a name, got {sections[name].get('name')!r}; give one on the command line or in the file"
                )
        return RunConfig(**sections)

    def layer(self) -> Layer:
        """Return the sections as plain data; `of` makes the same configuration of it."""
        return {
            name: values
            for name, values in json.loads(json.dumps(dataclasses.asdict(self))).items()
            if values
        }

    def to_toml(self) -> str:
        """Return the configuration as a TOML document; what is None is left out, as TOML has no such value."""
        lines: list[str] = []
        for section, settings in self.layer().items():
            given = {key: value for key, value in settings.items() if value is not None}
            # JSON's strings, finite numbers, booleans and lists of them are TOML's too.
            lines += [
                "",
                f"[{section}]",
                *(
                    f"{key} = {json.dumps(value, ensure_ascii=False)}"
                    for key, value in given.items()
                ),
            ]
        return "\n".join(lines[1:]) + "\n"


def read_toml(path: str | Path) -> Layer:
    """Return the settings of a TOML file, a table for each section.

    Raises:
        FileError: the file cannot be read, is not TOML, or has something other than tables at its top.
    """
    try:
        with Path(path).open("rb") as handle:
            data = tomllib.load(handle)
    except OSError as error:
        raise FileError(
            f"{path}: expected a TOML file, got {error.strerror}; check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: expected TOML, got something else ({error}); correct the file"
        ) from error
    for name, value in data.items():
        if not isinstance(value, dict):
            raise FileError(
                f"{path}: expected tables such as [run] and [estimator], got {name!r} outside of any; move it into its section"
            )
    return data


def read_assignments(assignments: Iterable[str]) -> Layer:
    """Return the settings of `section.key=value` assignments; see `pgcore.cli.assignments`.

    Raises:
        SpecError: an assignment is not of that form.
        UnknownNameError: a section is not known.
    """
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
    return layer


def merged(*layers: Layer) -> Layer:
    """Return one layer; later ones win."""
    result: Layer = {}
    for layer in layers:
        for section, values in layer.items():
            result.setdefault(section, {}).update(values)
    return result


def check_plain(section: str, values: Mapping[str, Any]) -> None:
    """Raise SpecError unless keys are names and values are what both JSON and TOML can hold, so that a run can be written down."""
    for key, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        if not key.isidentifier() or not all(
            item is None or isinstance(item, str | int | float) for item in items
        ):
            raise SpecError(
                f"{section}.{key}: expected a name with a string, number, boolean or list of these, got {value!r}; change this value"
            )
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            raise SpecError(
                f"{section}.{key}: expected finite numbers, got {value!r}; change this value"
            )


def check_known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownNameError, with the near matches, at the first name that is not known."""
    choices = tuple(known)
    for name in names:
        if name not in choices:
            raise UnknownNameError(where, name, choices)
