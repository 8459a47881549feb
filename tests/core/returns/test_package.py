import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import pgcore as pg
import pgcore.returns as package

MODULES = [
    importlib.import_module(f"pgcore.returns.{module.name}")
    for module in pkgutil.iter_modules(package.__path__)
]


def test_the_package_exports_every_public_function_of_its_modules():
    public = {name for module in MODULES for name in module.__all__}
    assert sorted(public) == sorted(package.__all__)
    assert {"gae", "normalise", "returns", "vtrace", "by_group"} <= public


def test_what_is_exported_is_what_the_modules_define():
    for module in MODULES:
        for name in module.__all__:
            assert getattr(package, name) is getattr(module, name)
            if inspect.isfunction(getattr(module, name)):
                assert getattr(module, name).__module__ == module.__name__


def test_no_exported_function_hides_a_submodule():
    names = {module.__name__.rpartition(".")[2] for module in MODULES}
    assert names == {"baselines", "discounted", "groups", "off_policy"}
    assert not names & set(package.__all__)


EXAMPLES = [name for name in package.__all__ if ">>>" in (getattr(package, name).__doc__ or "")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    namespace = {**vars(package), "np": np, "pg": pg}
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(package, name), name, module=False, globs=namespace)
    report: list[str] = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)
