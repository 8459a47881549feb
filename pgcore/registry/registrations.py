"""`pgcore.register`: objects of this process beside those of installed plugins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, overload

from pgcore.errors import PluginError
from pgcore.registry.declaration import declare
from pgcore.registry.registry import forget_registry, registry
from pgcore.registry.unpackaged import REGISTERED

__all__ = ["register"]

Target = TypeVar("Target")


@overload
def register(
    target: Target, *, name: str | None = None, kind: str | None = None, summary: str | None = None
) -> Target: ...
@overload
def register(
    *, name: str | None = None, kind: str | None = None, summary: str | None = None
) -> Callable[[Target], Target]: ...
def register(
    target: Any = None,
    *,
    name: str | None = None,
    kind: str | None = None,
    summary: str | None = None,
) -> Any:
    """Register an object in this process, as an installed plugin would; also a decorator.

    Registered again, as by a notebook's cell that runs twice, it replaces the earlier one. Other
    processes do not know it; there a file is `--plugin FILE.py` or in PGCORE_PLUGINS.

    Args:
        target: A class of an estimator, head, network, activation, optimizer, schedule or backend,
            a proof, or a function. None, with options, returns the decorator.
        name: Of a function or a proof, its `__name__` by default; a class has its own.
        kind: As in `pgcore list`, such as "metrics"; the interface that a class derives from by default.
        summary: One line for listings; the first line of the docstring by default.

    Returns:
        The target.

    Raises:
        PluginError: the target cannot be one of the kind, has no name, or has that of another.
        UnknownNameError: there is no such kind.

    Example:
        >>> @pg.register(kind="metrics")
        ... def weight(*, weights):
        ...     return weights.sum()
    """
    if target is None:
        return partial(register, name=name, kind=kind, summary=summary)
    kind, provider = declare(target, kind=kind, name=name, summary=summary)
    key = kind, provider.name
    # The same class, defined again, takes its own place alone.
    if key not in REGISTERED or REGISTERED[key][0].target != provider.target:
        for row in registry().providers(kind):
            if row.provider.name == provider.name and row.status != "disabled":
                raise PluginError(
                    f"{row.where}: expected a name that nothing has, got that of "
                    f"{row.provider.target} of {row.distribution}; choose another"
                )
    REGISTERED[key] = provider, target
    # All that was computed from the registry belongs to the old one.
    forget_registry()
    return target
