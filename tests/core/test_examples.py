import doctest
import inspect

import numpy as np
import pytest

import pgcore as pg

FUNCTIONS = [name for name in pg.__all__ if inspect.isfunction(getattr(pg, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example_that_runs(name, registrations):
    found = doctest.DocTestFinder(recurse=False).find(
        getattr(pg, name), name, module=False, globs={"np": np, "pg": pg}
    )
    report: list[str] = []
    result = doctest.DocTestRunner().run(found[0], out=report.append)
    assert result.attempted > 0, f"pg.{name} has no example"
    assert result.failed == 0, "".join(report)
