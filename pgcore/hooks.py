"""The hooks a plugin implements: the one file that a plugin author reads.

A distribution joins pgcore by naming a module in the entry-point group `pgcore`:

    [project.entry-points.pgcore]
    mine = "my_package.plugin"

That module imports `hookimpl` and `Provider` from here and nothing heavy, and implements any of the hooks below.
Listing what is registered imports such modules only; a provider's `target` is imported when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pluggy

__all__ = [
    "Provider",
    "hookimpl",
    "pgcore_activations",
    "pgcore_after_update",
    "pgcore_backends",
    "pgcore_commands",
    "pgcore_derivers",
    "pgcore_estimators",
    "pgcore_executors",
    "pgcore_functions",
    "pgcore_heads",
    "pgcore_metrics",
    "pgcore_networks",
    "pgcore_optimizers",
    "pgcore_proofs",
    "pgcore_schedules",
]

hookspec = pluggy.HookspecMarker("pgcore")
hookimpl = pluggy.HookimplMarker("pgcore")


@dataclass(frozen=True, slots=True)
class Provider:
    """What a plugin says about one thing it provides.

    Attributes:
        name: What users type: `pg.backend("numpy")`, `pg.estimator("ppo")`.
        target: `"module:attribute"`, imported on first use.
        summary: One line for `pgcore list`.
        requires: The importable package that the target needs beyond its own distribution's, or None.
        extra: The extra of pgcore that installs `requires` (`"torch"` gives `pip install 'pgcore[torch]'`), or None.
        at_least: The least version of `requires` that the target works with, such as `"2.13"`, or None.
        distributions: Names that `requires` is distributed under, where they are not its own alone; versions are theirs.
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
    """Provide optimizers; each target is a subclass of `pgcore.OptimizerSpec`, or of `pgcore_optimizers.trust_region.TrustRegionSpec`."""


@hookspec
def pgcore_schedules() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide learning-rate schedules; each target is a subclass of `pgcore.Schedule`."""


@hookspec
def pgcore_metrics() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide metrics; each target is a function of keyword-only parameters that returns a float; see `pgcore.interfaces.metrics`."""


@hookspec
def pgcore_proofs() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide what estimators, heads and optimizers are tried on; each target is a `pgcore_check.proof.Proof`, or several."""


@hookspec
def pgcore_executors() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide executors, which shard a batch over workers."""


@hookspec
def pgcore_commands() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide subcommands of `pgcore`; each target is a function that typer can turn into a command."""


@hookspec
def pgcore_derivers() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide derivers; each target is a function from an estimator to its closed form, an object with `cotangents`.

    An estimator without `cotangents` takes the first usable deriver by name.
    """


@hookspec
def pgcore_functions() -> Iterable[Provider]:  # pyright: ignore[reportReturnType]
    """Provide functions and classes of the namespace `pgcore`, such as `pgcore.check`."""


@hookspec
def pgcore_after_update(metrics: Mapping[str, float]) -> None:
    """Called after each training update (never per step) with that update's metrics, for loggers.

    Args:
        metrics: Name to value of one update, as in the metrics file: `update`, `steps`, `mean_return`, `loss`, ...
    """
