"""The parameters of decorated tests, narrowed by the options of pytest's command line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import pytest

from pgcore import api
from pgcore.errors import EstimatorError, PgcoreError, UnknownNameError
from pgcore_check.conformance import Outcome, usable_backends
from pgcore_check.outcomes import OF_HEADS
from pgcore_check.testing.cells import CheckCell, cells
from pgcore_check.testing.decorators import Request
from pgcore_check.testing.selection import selected, usable_and_absent

__all__ = ["generate", "refuse_unusable"]

# How many near ids the error about an unknown one lists, of a hundred or more.
NEAR = 5

Parameters = Sequence[tuple[str, Any, Sequence[Any]]]


def refuse_unusable(config: pytest.Config) -> None:
    """Refuse names in `--pg-backends` that are not usable.

    Raises:
        pytest.UsageError: a name is not registered, or its framework is not installed.
    """
    try:
        usable_backends(backends_option(config))
    except PgcoreError as error:
        raise pytest.UsageError(f"--pg-backends: {error}") from error


def backends_option(config: pytest.Config) -> list[str] | None:
    """Return the names in `--pg-backends`; None without the option."""
    text = config.getoption("pg_backends")
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def generate(metafunc: pytest.Metafunc, markers: Iterable[pytest.Mark]) -> None:
    """Make a test's parameters.

    Args:
        metafunc: The test.
        markers: Its marks, the nearest first: a function's, then those of its class and module.
    """
    nouns: set[str] = set()
    for marker in markers:
        noun, request = marker.args
        # A module's mark is for those of its tests that have the argument.
        is_for_all = marker not in metafunc.definition.own_markers
        if noun in nouns or (is_for_all and noun not in metafunc.fixturenames):
            continue
        nouns.add(noun)
        try:
            rows = MAKERS[noun](metafunc.config, request)
            parameters = [*with_failures(rows, request.expected_failures)]
            refuse_unmatched(metafunc, noun, request, rows)
        except PgcoreError as error:
            # Without a traceback through the kit: the message says what to do.
            raise pytest.Collector.CollectError(f"{metafunc.definition.name}: {error}") from error
        # Tests of one backend follow on one another, since a test's backend is of the whole session.
        metafunc.parametrize(noun, parameters, scope="session" if noun == "backend" else None)


def with_failures(rows: Parameters, expected_failures: Mapping[str, str]) -> Iterable[Any]:
    """Yield pytest's parameters, those that are expected to fail with a strict mark."""
    for label, value, marks in rows:
        reasons = [text for key, text in expected_failures.items() if matches(label, value, key)]
        expected = [pytest.mark.xfail(reason=reason, strict=True) for reason in reasons[:1]]
        yield pytest.param(value, id=label, marks=[*marks, *expected])


def matches(label: str, value: Any, key: str) -> bool:
    """Return whether a key of expected failures means a parameter.

    Args:
        label: The parameter's id.
        value: The parameter.
        key: An id or a pattern of ids; of a cell also its fixture or the label of its case.
    """
    aliases = (value.fixture, value.label) if isinstance(value, CheckCell) else ()
    return key in (label, *aliases) or fnmatchcase(label, key)


def refuse_unmatched(
    metafunc: pytest.Metafunc, noun: str, request: Request, rows: Parameters
) -> None:
    """Refuse a key of expected failures without a parameter, unless an option left some out.

    Raises:
        UnknownNameError: a key matches no parameter.
    """
    option = metafunc.config.getoption
    narrowed = option("pg_backends") or option("pg_quick")
    if noun in ("cell", "backend") and (narrowed or usable_and_absent(None)[1]):
        return
    for key in request.expected_failures:
        if not any(matches(label, value, key) for label, value, _ in rows):
            labels = [label for label, _, _ in rows]
            near = difflib.get_close_matches(key, labels, n=NEAR, cutoff=0.0)
            note = "`pytest --collect-only` lists every id"
            raise UnknownNameError("expected_failures", key, near, note)


def backend_parameters(config: pytest.Config, request: Request) -> Parameters:
    """Return a parameter for each backend; absent ones are skipped, unless they are required."""
    usable, absent = backends_of(config, request.items)
    return [
        *((name, name, ()) for name in usable),
        *((name, name, absence(name, why)) for name, why in absent.items()),
    ]


def cell_parameters(config: pytest.Config, request: Request) -> Parameters:
    """Return a parameter for each cell, and one for each absent backend."""
    usable, absent = backends_of(config, request.options["backends"] or ())
    # A case that only a quick run has is found again by another quick run.
    options = ("--pg-quick",) if config.getoption("pg_quick") else ()
    selection: dict[str, Any] = {**request.options, "backends": usable}
    selection["quick"] = request.options["quick"] or bool(options)
    named = bool(request.options["backends"] or backends_option(config))
    tried = [replace(cell, options=options, named=named) for cell in cells(**selection)]
    if usable and {cell.fixture for cell in tried} <= OF_HEADS:
        raise EstimatorError(
            "parametrize_cells: expected an estimator that fits a head, got none; check its claims, "
            "its quantities and the heads"
        )
    return [
        *((cell.id, cell, ()) for cell in tried),
        *(
            (f"{name}-absent", absent_cell(name), absence(name, why))
            for name, why in absent.items()
        ),
    ]


def object_parameters(kind: str, _: pytest.Config, request: Request) -> Parameters:
    """Return a parameter for each estimator, head or optimizer."""
    return [(label, item, ()) for label, item in selected(kind, request.items or None).items()]


def backends_of(config: pytest.Config, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the usable backends of a test, and the absent ones with the reason of each."""
    requested = backends_option(config)
    if requested is not None:
        return [name for name in requested if not names or name in names], {}
    usable, absent = usable_and_absent(names or None)
    # Required ones fail, even where their plugin is not installed.
    unknown = [name for name in required() if not names and name not in {*usable, *absent}]
    return usable, absent | dict.fromkeys(unknown, "not registered")


def absence(name: str, why: str) -> list[pytest.MarkDecorator]:
    """Return the skip of an absent backend; a required one fails where its test asks for it."""
    return [] if name in required() else [pytest.mark.skip(f"{name}: {why}")]


def absent_cell(name: str) -> CheckCell:
    """Return a cell that fails with the reason for which a backend is absent."""

    def run() -> Outcome:
        # The error of an absent backend says what to install.
        raise AssertionError(f"{name}: expected a usable backend, got {api.backend(name)}")

    return CheckCell(name, "absent", "absent", name, "", "", run)


def required() -> list[str]:
    """Return the backends that must be usable, by the variable PGCORE_REQUIRE_BACKENDS."""
    return os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()


MAKERS: dict[str, Callable[[pytest.Config, Request], Parameters]] = {
    "backend": backend_parameters,
    "cell": cell_parameters,
    "estimator": partial(object_parameters, "estimators"),
    "head": partial(object_parameters, "heads"),
    "optimizer": partial(object_parameters, "optimizers"),
}
