"""Decorators of tests: each gives a test one argument, from the registry or from objects.

They only mark the test. The plugin makes the parameters, narrowed by the options of the command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pgcore.errors import DependencyError

try:
    import pytest
except ModuleNotFoundError as error:
    raise DependencyError(
        "pgcore_check.testing: expected the package 'pytest', got none installed; "
        "pip install 'pgcore[check]'",
        name="pytest",
    ) from error

if TYPE_CHECKING:
    from pgcore.heads import Head
    from pgcore.interfaces.estimator import Estimator
    from pgcore.interfaces.optimizer import Rule
    from pgcore_check.testing.selection import Selection

__all__ = [
    "Request",
    "parametrize_backends",
    "parametrize_cells",
    "parametrize_estimators",
    "parametrize_heads",
    "parametrize_optimizers",
]


@dataclass(frozen=True, eq=False)
class Request:
    """The parameters that a test asks for.

    Attributes:
        items: Names, classes and instances; none stand for all that are registered.
        options: Arguments of `cells`, for cells alone.
        expected_failures: The reason of each, by id or pattern.
    """

    items: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expected_failures: Mapping[str, str] = field(default_factory=dict[str, str])


def parametrize_cells(
    *,
    estimators: Selection = None,
    heads: Selection = None,
    optimizers: Selection = None,
    backends: Sequence[str] | None = None,
    quick: bool = False,
    expected_failures: Mapping[str, str] | None = None,
) -> pytest.MarkDecorator:
    """Give a test the argument `cell`: one case of `pgcore check` on one backend.

    Args:
        estimators: Registered names, classes or instances; None takes all. See `cells`.
        heads: The same of heads.
        optimizers: The same of optimizers, which take 1, 10 and 100 steps.
        backends: Registered names; None takes all, and skips those that are not usable.
        quick: Whether few cases are enough, as with `--pg-quick`.
        expected_failures: The reason of each cell that is known to fail, by its fixture, the label
            of its case, its id, or a shell pattern of ids, such as "jax-*". It is strict: one that
            passes is a failure.

    Example:
        @parametrize_cells(estimators=["mine"], expected_failures={"extreme": "overflows"})
        def test_every_cell_agrees(cell):
            assert_agrees(cell)
    """
    options = {
        "estimators": estimators,
        "heads": heads,
        "optimizers": optimizers,
        "backends": backends,
        "quick": quick,
    }
    return mark("cell", Request((), options, expected_failures or {}))


def parametrize_backends(
    *names: str, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Give a test the argument `backend`, a registered name.

    Args:
        names: Registered names; none stand for all. One that is not usable is skipped.
        expected_failures: See `parametrize_cells`; by name.
    """
    return mark("backend", Request(names, {}, expected_failures or {}))


def parametrize_estimators(
    *estimators: str | type[Estimator] | Estimator,
    expected_failures: Mapping[str, str] | None = None,
) -> pytest.MarkDecorator:
    """Give a test the argument `estimator`, an instance.

    Args:
        estimators: Registered names and classes, each with every variant of its proofs, and
            instances; none stand for all that are registered.
        expected_failures: See `parametrize_cells`; by the variant's label, or an instance's repr.
    """
    return mark("estimator", Request(estimators, {}, expected_failures or {}))


def parametrize_heads(
    *heads: str | type[Head] | Head, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Give a test the argument `head`, an instance; see `parametrize_estimators`."""
    return mark("head", Request(heads, {}, expected_failures or {}))


def parametrize_optimizers(
    *optimizers: str | type[Rule] | Rule, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Give a test the argument `optimizer`, an instance; see `parametrize_estimators`."""
    return mark("optimizer", Request(optimizers, {}, expected_failures or {}))


def mark(noun: str, request: Request) -> pytest.MarkDecorator:
    """Return the mark that `pgcore_check.pytest_plugin` makes parameters of."""
    return pytest.mark.pgcore_parameters(noun, request)
