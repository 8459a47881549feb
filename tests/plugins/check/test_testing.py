"""`pgcore_check.testing`, as a third party uses it: parameters, options, messages and the lines that reproduce them."""

from __future__ import annotations

import dataclasses
import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import DependencyError, OptimizerError, PluginError, UnknownNameError
from pgcore_check import testing
from pgcore_check.proofs import variants
from pgcore_check.testing import assert_agrees, assert_same_gradient, cells
from pgcore_check.testing.failures import outcome_text
from pgcore_numpy.policy import NumpyPolicy
from pgcore_optimizers.first_order import SGD

PLUGIN = """
    @hookimpl
    def pgcore_estimators():
        return [Provider("h1_sign", "h1:Sign", "cotangents of a wrong sign")]
"""
ESTIMATORS = """
    from dataclasses import dataclass
    import pgcore as pg

    @dataclass(frozen=True)
    class Right(pg.Estimator):
        name = "h1_right"

        @property
        def claims(self):
            return pg.Claims(
                unbiased=False, off_policy="none", needs_critic=False, discrete_only=False
            )

        def signals(self, batch, evaluate):
            return {"weight": batch.rewards}

        def surrogate(self, xp, *, log_prob, weight):
            return -log_prob * weight

        def cotangents(self, *, log_prob, weight):
            return {"log_prob": -weight}

    @dataclass(frozen=True)
    class Sign(Right):
        name = "h1_sign"

        def cotangents(self, *, log_prob, weight):
            return {"log_prob": weight}
"""
THOSE_OF_THE_PAGE = """
    class Mine(Right):
        name = "mine"

    class Backwards(Sign):
        name = "mine"
"""
# Cases of a few heads and one backend, which take no time.
FEW = "heads=['categorical'], backends=['numpy'], quick=True"


@pytest.fixture
def run(site, tmp_path):
    """Return a function that runs pytest on a test file in a new process, where `h1` is installed."""
    site.module("h1", ESTIMATORS)
    site.plugin("h1_plugin", PLUGIN)
    site.distribution("h1-dist", {"h1": "h1_plugin"})

    def running(source, *options):
        heading = "from h1 import Right, Sign\nfrom pgcore_check.testing import *\n\n"
        (tmp_path / "test_h1.py").write_text(heading + source)
        words = ["-m", "pytest", "-p", "no:cacheprovider", "-rA", "-W", "error", *options]
        return process([sys.executable, *words], tmp_path)

    return running


def process(words, folder):
    """Return the exit status and the output of a process with the made-up distributions."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    variables = {**kept, "PYTHONPATH": str(folder / "site"), "COLUMNS": "400"}
    done = subprocess.run(
        words, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def verdicts(output):
    """Return how often each verdict occurs in pytest's summary, by test; without those of the head alone."""
    counts = {}
    pattern = r"^(PASSED|FAILED|XFAIL) \S+::(\w+)(?!\[numpy-eager-kink-|\[reference-)"
    for verdict, test in re.findall(pattern, output, re.MULTILINE):
        counts.setdefault(test, {}).setdefault(verdict, 0)
        counts[test][verdict] += 1
    return counts


def of_cells(name, selection):
    """Return a test of cells."""
    return f"@parametrize_cells({selection}, {FEW})\ndef {name}(cell):\n    assert_agrees(cell)\n\n"


def test_a_right_estimator_passes_and_a_wrong_sign_fails_with_its_stage(run):
    source = of_cells("test_right", "estimators=[Right]") + of_cells(
        "test_sign", "estimators=[Sign]"
    )
    status, output = run(source)
    assert status == 1
    counts = verdicts(output)
    assert counts["test_right"].keys() == {"PASSED"}
    assert counts["test_sign"].keys() == {"FAILED"}
    for words in (
        "stage: cotangents",
        "entry: h1_sign.cotangents['log_prob'][",
        r"values: expected -\S+, got \d\S+, a relative difference of 2",
        "each entry is -1 times the expected one",
        r"error: \S+ times the rounding-error bound u e, the limit is 4",
    ):
        assert re.search(words.replace("['log_prob'][", r"\['log_prob'\]\["), output), words


@pytest.mark.parametrize(
    ("selection", "options", "program"),
    [
        ("estimators=[Sign]", (), "pgcore"),
        ("estimators=['h1_sign']", ("--pg-quick",), "pgcore"),
        ("estimators=[Sign()]", ("--pg-quick",), "pytest"),
    ],
)
def test_the_line_of_a_failure_reproduces_it(run, tmp_path, selection, options, program):
    source = of_cells("test_sign", selection)
    if options:
        source = source.replace(", quick=True", "")
    _, output = run(source, *options, "-x")
    (line,) = re.findall(r"^E +reproduce: (.*)$", output, re.MULTILINE)
    words = shlex.split(line)
    assert words[0] == program
    bin_folder = Path(sys.executable).parent
    status, again = process([bin_folder / words[0], *words[1:]], tmp_path)
    assert status == 1
    # The same entry with the same values, in the words of either program.
    values = re.findall(r"expected -?[\d.]+, got -?[\d.]+", output)
    assert values[0] in again, again
    assert "h1_sign.cotangents['log_prob'][" in again


def test_the_line_of_a_registered_class_is_pytests_own(run):
    source = "import pgcore as pg\n\n@pg.register\nclass Mine(Sign):\n    name = 'h1_mine'\n\n"
    _, output = run(source + of_cells("test_mine", "estimators=[Mine]"), "-x")
    (line,) = re.findall(r"^E +reproduce: (.*)$", output, re.MULTILINE)
    assert shlex.split(line)[1].startswith("test_h1.py::test_mine[numpy-")


def test_expected_failures_are_strict(run):
    reason = "expected_failures={'*-random-*': 'known', 'extreme': 'known too'}"
    source = of_cells("test_sign", f"estimators=[Sign], {reason}")
    source += of_cells("test_right", f"estimators=[Right], {reason}")
    source += (
        "@parametrize_estimators(Right, Sign, expected_failures={'h1_sign': 'known'})\n"
        "def test_each(estimator):\n    assert estimator.name == 'h1_right'\n"
    )
    status, output = run(source)
    assert status == 1
    counts = verdicts(output)
    assert counts["test_sign"].keys() == {"XFAIL"}
    assert counts["test_right"].keys() == {"FAILED"}
    assert "[XPASS(strict)] known" in output
    assert "[XPASS(strict)] known too" in output
    assert counts["test_each"] == {"PASSED": 1, "XFAIL": 1}


def test_an_expected_failure_of_nothing_is_an_error(run):
    source = "@parametrize_estimators(Sign, expected_failures={'h1_sing': 'known'})\n"
    status, output = run(source + "def test_each(estimator):\n    raise AssertionError\n")
    assert status == 2
    assert (
        "test_each: expected_failures: expected a known name, got 'h1_sing'; "
        "did you mean 'h1_sign'? known: h1_sign" in output
    )


EACH = """
@parametrize_backends()
@parametrize_heads("categorical")
@parametrize_optimizers("sgd")
@parametrize_estimators(Right)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_each(backend, head, optimizer, estimator, dtype, pg_case):
    policy, batch = pg_case(estimator, head, backend=backend, dtype=dtype)
    assert policy.backend == backend and policy.dtype == dtype

@pytest.mark.pgcore_slow
def test_slow():
    pass

@parametrize_cells(estimators=[Right])
def test_cells(cell):
    assert_agrees(cell)

@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_of_another_project(dtype):
    pass
"""


def collected(output):
    return re.findall(r"^test_h1.py::(.*)$", output, re.MULTILINE)


def test_options_narrow_what_is_tested(run):
    source = "import pytest\n" + EACH
    more = ("--pg-backends", "numpy,torch")
    every = collected(run(source, "--collect-only", "-q", *more)[1])
    options = ("--pg-backends", "numpy", "--pg-dtype", "float32", "--pg-quick")
    few = collected(run(source, "--collect-only", "-q", *options)[1])
    assert set(few) < set(every) | set(few)
    assert "test_slow" in every
    assert "test_slow" not in few
    names = {entry.split("[")[0] for entry in few}
    assert names == {"test_each", "test_cells", "test_of_another_project"}
    assert sum(entry.startswith("test_each") for entry in few) == len(
        [label for label, head in variants("heads").items() if head.name == "categorical"]
    ) * len([label for label, rule in variants("optimizers").items() if rule.name == "sgd"])
    assert all("-numpy" in entry for entry in few if entry.startswith("test_each"))
    of_cell = [entry for entry in few if entry.startswith("test_cells")]
    assert all(entry.startswith("test_cells[numpy-") and "float32" in entry for entry in of_cell)
    assert 0 < len(of_cell) < sum(entry.startswith("test_cells[numpy-") for entry in every)
    # A parameter of that name in somebody else's test is left alone.
    assert sum(entry.startswith("test_of_another_project") for entry in few) == 2
    status, output = run(source, *options)
    assert status == 0, output


def test_a_backend_that_is_not_usable_is_a_usage_error_where_it_is_named(run):
    status, output = run("def test_nothing():\n    pass\n", "--pg-backends", "numpy,nmupy")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert (
        "--pg-backends: backends: expected a known name, got 'nmupy'; did you mean 'numpy'?"
        in output
    )


@pytest.mark.parametrize("options", [(), ("--pg-dtype", "float32")])
def test_a_required_backend_that_is_absent_fails(run, monkeypatch, options):
    monkeypatch.setenv("PGCORE_REQUIRE_BACKENDS", "h1_backend")
    source = of_cells("test_cells", "estimators=[Right]").replace("backends=['numpy'], ", "")
    source += "@parametrize_backends()\ndef test_each(backend):\n    import pgcore\n"
    status, output = run(source + "    pgcore.backend(backend)\n", "-k", "h1_backend", *options)
    assert status == 1
    assert {test: [*counts] for test, counts in verdicts(output).items()} == {
        "test_cells": ["FAILED"],
        "test_each": ["FAILED"],
    }
    assert output.count("backend: expected a known name, got 'h1_backend'") >= 2


def test_a_decorator_without_its_argument_is_an_error(run):
    status, output = run("@parametrize_backends()\ndef test_nothing():\n    pass\n")
    assert status == 2
    assert "uses no argument 'backend'" in output


def test_pytest_starts_without_numpy_and_without_the_kit(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import sys\n\ndef pytest_unconfigure():\n    print('loaded:', *sys.modules)\n"
    )
    (tmp_path / "test_other.py").write_text("def test_of_another_project():\n    pass\n")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly"]
    status, output = process(words, tmp_path)
    assert status == 0, output
    (line,) = re.findall(r"^loaded: (.*)$", output, re.MULTILINE)
    loaded = set(line.split())
    assert {name for name in loaded if name.startswith("pgcore")} == {
        "pgcore_check",
        "pgcore_check.pytest_plugin",
    }
    assert not {"numpy", "torch", "tensorflow", "jax"} & loaded


def test_cells_are_those_of_a_selection():
    chosen = cells(estimators=["reinforce"], heads=[pg.Categorical(3)], backends=["numpy"])
    assert {cell.backend for cell in chosen} == {"numpy", "reference"}
    assert {cell.fixture for cell in chosen} >= {"random", "extreme"}
    assert "probe" not in {cell.fixture for cell in chosen}
    assert {cell.dtype for cell in chosen} == {"float32", "float64"}
    assert len({cell.id for cell in chosen}) == len(chosen)
    # A head with options of its own cannot be named on a command line.
    assert {cell.command for cell in chosen} == {""}
    assert "probe" in {cell.fixture for cell in cells(backends=["numpy"], quick=True)}
    for cell in cells(optimizers=[SGD(momentum=0.5)], backends=["numpy"]):
        assert cell.fixture == "steps"
        assert_agrees(cell)


def test_objects_of_another_kind_and_unknown_names_are_refused():
    with pytest.raises(
        PluginError, match="expected names, classes or instances of estimators, got"
    ):
        cells(estimators=[pg.Categorical(2)])
    with pytest.raises(PluginError, match=r"Abstract: expected a class that .*; give defaults, or"):
        cells(estimators=[type("Abstract", (pg.Estimator,), {"name": "h1_abstract"})])
    with pytest.raises(UnknownNameError, match="expected a known name, got 'reinforced'"):
        cells(estimators=["reinforced"])
    with pytest.raises(UnknownNameError, match="expected a known name, got 'nmupy'"):
        cells(backends=["nmupy"])
    with pytest.raises(
        OptimizerError, match="expected optimizers with an update formula, got trpo"
    ):
        cells(optimizers=["trpo"], backends=["numpy"])


class Rounded(SGD):
    """Rounds its steps in double precision, and not in the kit's."""

    name = "h1_rounded"

    def update(self, xp, parameter, gradient, slots, *scalars):
        moved, slots = super().update(xp, parameter, gradient, slots, *scalars)
        is_working = getattr(parameter, "dtype", None) in (np.float32, np.float64)
        return (np.round(moved, 3) if is_working else moved), slots


def test_an_optimizer_that_departs_from_its_formula_fails_at_a_step():
    (cell, *_) = cells(optimizers=[Rounded()], backends=["numpy"])
    with pytest.raises(AssertionError, match=r"stage: 1 step\n.*entry: .*\n.*values: expected "):
        assert_agrees(cell)


def test_a_planted_bug_in_a_backend_fails_the_cells_of_its_non_differentiable_points(monkeypatch):
    original = NumpyPolicy.gradient
    tilted = lambda policy, surrogate: original(policy, surrogate).scaled(1.001)  # noqa: E731
    monkeypatch.setattr(NumpyPolicy, "gradient", tilted)
    kinks = [
        cell
        for cell in cells(estimators=["ppo"], heads=["categorical"], backends=["numpy"])
        if cell.fixture == "kink" and cell.dtype == "float64"
    ]
    messages = []
    for cell in kinks:
        try:
            assert_agrees(cell)
        except AssertionError as error:
            messages.append(str(error))
    assert messages
    for message in messages:
        assert "stage: gradient" in message
        assert "values: expected" in message
        assert "a relative difference of 0.001" in message
        assert "reproduce: pgcore check --estimators ppo --heads categorical" in message


@pytest.fixture
def pair(pg_case):
    """Return two equal policies, an estimator and a batch."""
    estimator = pg.estimator("ppo")
    (left, batch), (right, _) = pg_case(estimator), pg_case(estimator)
    return left, right, estimator, batch


def test_equal_policies_have_the_same_gradient(pair):
    assert_same_gradient(*pair)


def test_policies_of_other_parameters_differ_at_that_stage(pair):
    left, right, estimator, batch = pair
    right.load({name: value * 1.5 for name, value in right.parameters().items()})
    with pytest.raises(AssertionError, match=r"the policies differ\n  stage: parameters\n"):
        assert_same_gradient(left, right, estimator, batch)


def test_a_wrong_gradient_is_told_with_its_values_and_the_running_test(pair, monkeypatch):
    left, right, estimator, batch = pair
    original = NumpyPolicy.gradient

    def planted(policy, surrogate):
        gradient = original(policy, surrogate)
        return gradient.scaled(-1.0) if policy is right else gradient

    monkeypatch.setattr(NumpyPolicy, "gradient", planted)
    with pytest.raises(AssertionError) as failed:
        assert_same_gradient(left, right, estimator, batch)
    message = str(failed.value)
    assert "stage: gradient" in message
    assert "a relative difference of 2; each entry is -1 times the expected one" in message
    assert "reproduce: pytest " in message
    assert "test_testing.py::test_a_wrong_gradient_is_told_with" in message


def test_a_blind_cell_warns(monkeypatch):
    (cell, *_) = cells(estimators=["reinforce"], backends=["numpy"], quick=True)
    # No distance from a branch is large enough.
    monkeypatch.setattr("pgcore_check.outcomes.DISTANCE", np.inf)
    monkeypatch.setattr(
        "pgcore_check.stages.truth.Truth.nearest", property(lambda truth: 3.0), raising=False
    )
    with pytest.warns(UserWarning, match="agreement means little; a choice is 3 u from its kink"):
        assert_agrees(cell)


def test_without_pytest_the_module_says_how_to_install_it():
    script = (
        "import sys; sys.modules['pytest'] = None\n"
        "try:\n    import pgcore_check.testing\nexcept Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        f"{DependencyError.__name__} pgcore_check.testing: expected the package 'pytest', got none "
        "installed; pip install 'pgcore[check]'"
    )


EXAMPLES = [name for name in testing.__all__ if ">>>" in (getattr(testing, name).__doc__ or "")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_function_runs(name):
    (example, *_) = doctest.DocTestFinder(recurse=False).find(getattr(testing, name), name)
    report = []
    assert doctest.DocTestRunner().run(example, out=report.append).failed == 0, "".join(report)


def test_every_function_outside_of_decorators_has_an_example():
    functions = {name for name in testing.__all__ if name.startswith(("assert", "cells"))}
    assert functions == set(EXAMPLES)


def test_the_page_on_testing_works_as_it_stands(site, tmp_path):
    page = (Path(__file__).parents[3] / "docs/testing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    site.module("my_package", ESTIMATORS + THOSE_OF_THE_PAGE)
    # The second is a change of the first, whose cells then pass unexpectedly.
    blocks[1] = blocks[0].split("\n\n\n")[0] + "\n\n" + blocks[1]
    for number, block in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(block)
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-rA", "--pg-quick", "-W", "error"]
    status, output = process([sys.executable, *words, "--pg-backends", "numpy"], tmp_path)
    assert status == 1
    tests = ["test_the_bug_is_found_where_it_is", "test_the_gradient_is_that_of_numpy"]
    for test in (*tests, "test_a_spec_survives_its_text"):
        assert verdicts(output)[test].keys() == {"PASSED"}
    failed = re.findall(r"^FAILED (\S+)::.*", output, re.MULTILINE)
    assert set(failed) == {"test_1.py"}
    assert "[XPASS(strict)] the weight overflows" in output


def test_a_heads_identities_are_a_cell_without_a_backend():
    tried = [
        cell
        for cell in cells(heads=["categorical"], backends=["numpy"], quick=True)
        if cell.fixture == "identity"
    ]
    assert {cell.backend for cell in tried} == {"reference"}
    assert "--case 'head " in tried[0].command
    for cell in tried:
        assert_agrees(cell)
    departed = dataclasses.replace(tried[0].run(), stage="identities", ratio=9.0)
    assert "error: 9 times a quarter of the tolerance, the limit is 4" in outcome_text(departed, "")
    page = (Path(__file__).parents[3] / "docs/testing.md").read_text()
    assert all(f"`{cell.fixture}`" in page for cell in tried)
