"""The hooks that a plugin implements; a plugin's author reads this file.

A distribution joins pgcore by naming a module in the entry-point group `pgcore`:

    [project.entry-points.pgcore]
    mine = "my_package.plugin"

That module imports `hookimpl` and `Provider` from here, and nothing heavy, since `pgcore list`
imports it; a provider's `target` is imported on first use. It implements any of the hooks below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

__all__ = [
    "Provider",
    "hookimpl",
    "pgcore_activations",
    "pgcore_advantages",
    "pgcore_after_training",
    "pgcore_after_update",
    "pgcore_backends",
    "pgcore_before_training",
    "pgcore_commands",
    "pgcore_corrections",
    "pgcore_critics",
    "pgcore_derivers",
    "pgcore_estimators",
    "pgcore_functions",
    "pgcore_heads",
    "pgcore_levels",
    "pgcore_masks",
    "pgcore_metrics",
    "pgcore_networks",
    "pgcore_objectives",
    "pgcore_optimizers",
    "pgcore_penalties",
    "pgcore_proofs",
    "pgcore_reductions",
    "pgcore_schedules",
]

# pluggy matches specifications and implementations by this project name.
hookspec = pluggy.HookspecMarker("pgcore")
hookimpl = pluggy.HookimplMarker("pgcore")


class Provider(NamedTuple):
    """A plugin's entry for one object that it provides.

    Attributes:
        name: The word that users type, as in `pg.backend("numpy")` and `pg.estimator("ppo")`.
        target: `"module:attribute"`, imported on first use.
        summary: One line for `pgcore list`.
        requires: The importable package that the target needs beside its own distribution's, or None.
        extra: The extra of pgcore that installs `requires`, such as `"torch"`, or None.
        at_least: The least version of `requires` that works, such as `"2.13"`, or None.
        distributions: The distributions of `requires` whose versions count, if not its namesake.
    """

    name: str
    target: str
    summary: str
    requires: str | None = None
    extra: str | None = None
    at_least: str | None = None
    distributions: tuple[str, ...] = ()


@hookspec
def pgcore_backends() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide backends; each target is a subclass of `pgcore.Backend`."""


@hookspec
def pgcore_estimators() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide estimators; each target is a subclass of `pgcore.Estimator`."""


@hookspec
def pgcore_reductions() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide reductions; each target is a subclass of `pgcore.Reduction`."""


@hookspec
def pgcore_advantages() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide advantages of estimators; each target is a subclass of `pgcore.parts.Advantage`."""


@hookspec
def pgcore_objectives() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide objectives of estimators; each target is a subclass of `pgcore.parts.Objective`."""


@hookspec
def pgcore_levels() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide levels of ratios; each target is a subclass of `pgcore.parts.Level`."""


@hookspec
def pgcore_corrections() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide corrections for a rollout policy; each target is a subclass of `pgcore.parts.Correction`."""


@hookspec
def pgcore_penalties() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide penalties; each target is a subclass of `pgcore.parts.Penalty`."""


@hookspec
def pgcore_masks() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide masks of steps; each target is a subclass of `pgcore.parts.Mask`."""


@hookspec
def pgcore_critics() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide losses of critics; each target is a subclass of `pgcore.parts.CriticLoss`."""


@hookspec
def pgcore_heads() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide action distributions; each target is a subclass of `pgcore.Head`."""


@hookspec
def pgcore_networks() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide networks; each target is a subclass of `pgcore.data.networks.Network`."""


@hookspec
def pgcore_activations() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide activations; each target is a subclass of `pgcore.data.activations.Activation`."""


@hookspec
def pgcore_optimizers() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide optimizers; each target is a subclass of `OptimizerSpec` or of another `Rule`."""


@hookspec
def pgcore_schedules() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide learning-rate schedules; each target is a subclass of `pgcore.Schedule`."""


@hookspec
def pgcore_metrics() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide metrics; each target is a function as in `pgcore.interfaces.metrics`."""


@hookspec
def pgcore_proofs() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide test material for `pgcore check`; each target is a `Proof` of it, or several."""


@hookspec
def pgcore_commands() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide subcommands of `pgcore`; each target is a function that typer makes a command of."""


@hookspec
def pgcore_functions() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide functions and classes of the namespace `pgcore`, such as `pgcore.check`."""


@hookspec
def pgcore_derivers() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide derivers; each target is a function from an estimator to its closed form."""


@hookspec
def pgcore_before_training(folder: Path | None, settings: Mapping[str, Any]) -> None:
    """Hear that a run starts, for loggers; they may leave out parameters, and mappings are read-only.

    Args:
        folder: The folder of the run's results, or None.
        settings: Name to value, as in `--set`: `run.seed`, `estimator.name`, `estimator.clip`, ...
    """


@hookspec
def pgcore_after_update(folder: Path | None, metrics: Mapping[str, float]) -> None:
    """Take the metrics of a training update, for loggers; called after each one, never per step.

    Args:
        folder: See `pgcore_before_training`.
        metrics: Name to value, as in the metrics file: `update`, `steps`, `mean_return`, `loss`, ...
    """


@hookspec
def pgcore_after_training(
    folder: Path | None, summary: Mapping[str, Any], error: BaseException | None
) -> None:
    """Hear that a run ended, for loggers; called once its results are written, after an error too.

    Args:
        folder: See `pgcore_before_training`.
        summary: Name to value, as in `summary.json`: `ending`, `steps`, `evaluation_returns`, ...;
            `ending` is "goal", "steps", "interrupt" or "error".
        error: The error that ended the run, or None.
    """
