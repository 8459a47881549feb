"""The backend that makes the policies of cases and their signals."""

from __future__ import annotations

from functools import lru_cache

from pgcore.api import policy
from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.registry.registry import Registry, registry
from pgcore_check.kinds import message_of

__all__ = ["USUAL", "RefusalError", "builder_of"]

# The backend that makes every case that it can: it loads no framework.
USUAL = "numpy"


class RefusalError(SpecError):
    """A spec that a backend cannot build, such as a head without a closed form; or that none can."""


def builder_of(spec: PolicySpec) -> str:
    """Return the name of a usable backend that can build a spec.

    Raises:
        RefusalError: none can; with the usual backend's message.
    """
    return first_builder(spec, builders_in_order(registry()))


# Reading the versions of packages takes as long as making a small case.
@lru_cache(maxsize=1)
def builders_in_order(plugins: Registry) -> tuple[str, ...]:
    """Return the names of usable backends, the usual one first."""
    names = [e.provider.name for e in plugins.providers("backends") if e.status == "usable"]
    return tuple(sorted(names, key=lambda name: name != USUAL))


@lru_cache(maxsize=64)
def first_builder(spec: PolicySpec, names: tuple[str, ...]) -> str:
    """Return the first of some backends that can build a spec; see `builder_of`."""
    problems: list[Exception] = []
    for name in names:
        try:
            policy(spec, backend=name)
        except Exception as problem:  # noqa: BLE001 - a backend that cannot be loaded is none
            problems.append(problem)
        else:
            return name
    raise RefusalError(message_of(problems[0])) from problems[0]
