"""The pytest plugin: options, markers and the fixture `pg_case`.

pytest imports this module wherever pgcore is installed. It imports pytest alone, and the kit once a
test is decorated by `pgcore_check.testing` or an option is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pgcore_check.testing.example import MakeCase

__all__ = [
    "pg_case",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_sessionstart",
]

PARAMETERS = "pgcore_parameters"
SLOW = "pgcore_slow"

MARKERS = (
    f"{PARAMETERS}(noun, request): made by the decorators of pgcore_check.testing",
    f"{SLOW}: takes long; left out by --pg-quick",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("pgcore", "pgcore's conformance kit")
    group.addoption(
        "--pg-backends",
        metavar="NAMES",
        help="backends to test, separated by commas; each must be usable; all by default",
    )
    group.addoption(
        "--pg-dtype",
        choices=("float32", "float64"),
        help="leave out the tests of the other dtype",
    )
    group.addoption(
        "--pg-quick",
        action="store_true",
        help="test few cases that contain everything once, and leave out tests marked " + SLOW,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse names of backends that are not usable."""
    if session.config.getoption("pg_backends"):
        from pgcore_check.testing.generation import refuse_unusable

        refuse_unusable(session.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the parameters that the decorators of `pgcore_check.testing` request."""
    markers = [*metafunc.definition.iter_markers(PARAMETERS)]
    if markers:
        from pgcore_check.testing.generation import generate

        generate(metafunc, markers)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that `--pg-dtype` and `--pg-quick` leave out."""
    dtype, quick = config.getoption("pg_dtype"), bool(config.getoption("pg_quick"))
    if dtype is None and not quick:
        return
    remaining: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (left_out if is_left_out(item, dtype, quick=quick) else remaining).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = remaining


def is_left_out(item: pytest.Item, dtype: str | None, *, quick: bool) -> bool:
    """Return whether the options leave a test out; those of other projects never are."""
    if quick and item.get_closest_marker(SLOW):
        return True
    if dtype is None or not item.get_closest_marker(PARAMETERS):
        return False
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    # A cell has its dtype, that of an absent backend none; other tests have a parameter of that name.
    subject = getattr(parameters.get("cell"), "dtype", parameters.get("dtype", dtype))
    return subject not in ("", dtype)


@pytest.fixture
def pg_case(pytestconfig: pytest.Config) -> MakeCase:
    """Return a function that makes a policy and a batch; see `pgcore_check.testing.example`."""
    from pgcore_check.testing.example import make_example

    return make_example(pytestconfig.getoption("pg_dtype") or "float64")
