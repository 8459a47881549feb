"""The conformance suite against a stranger's backends: one that is right passes, and each with a planted bug fails where it should."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# A backend's name, the methods of its policy with a bug, the suite's module and test that find it, and words of the message.
BUGS = {
    "a factor": (
        """
        def gradient(self, surrogate):
            return super().gradient(surrogate).scaled(1.0 + 1e-9)
        """,
        "test_cells::test_every_cell_agrees_with_the_reference",
        "times the rounding-error bound u e, the limit is 4",
    ),
    "padding": (
        """
        def gradient(self, surrogate):
            padded = surrogate.batch.step_weights is not None
            return super().gradient(surrogate).scaled(1.0 + 1e-9 * padded)
        """,
        "test_gradients::test_padding_changes_nothing",
        "Not equal to tolerance",
    ),
    "many steps": (
        """
        def gradient(self, surrogate):
            many = surrogate.batch.num_steps > 1000
            return super().gradient(surrogate).scaled(1.0 + 1e-9 * many)
        """,
        "test_gradients::test_many_steps_give_what_their_parts_add_up_to",
        "gradient_row",
    ),
    "an error of its own": (
        """
        def gradient(self, surrogate):
            try:
                return super().gradient(surrogate)
            except pg.PgcoreError as error:
                raise OverflowError("too large") from error
        """,
        "test_values::test_a_step_that_overflows_is_named_wherever_it_is",
        "OverflowError: too large",
    ),
    "another draw": (
        """
        def act(self, observations, rng, action_mask=None):
            rng.random()
            return super().act(observations, rng, action_mask)
        """,
        "test_portability::test_one_seed_draws_the_same_actions",
        "Not equal to tolerance",
    ),
    "another seed": (
        """
        def __init__(self, backend, spec, dtype, seed):
            super().__init__(backend, spec, dtype, seed + 1)
        """,
        "test_portability::test_initial_parameters_are_the_same_to_the_bit",
        "AssertionError: ",
    ),
    "a lost state": (
        """
        def optimizer_state(self, formula):
            state = super().optimizer_state(formula)
            state.load = lambda slots: None
            return state
        """,
        "test_portability::test_an_optimizer_goes_on_on_another_backend",
        "AssertionError: ",
    ),
    "a lost sign of zero": (
        """
        def __getstate__(self):
            state = super().__getstate__()
            return state | {"vector": state["vector"] + 0.0}
        """,
        "test_copies::test_a_copy_is_the_same_to_the_bit_and_goes_on_alike",
        "assert ",
    ),
    "an entropy": (
        """
        def evaluate(self, batch, quantities):
            values = super().evaluate(batch, quantities)
            return {k: v * (1.0 + 1e-9) if k == "entropy" else v for k, v in values.items()}
        """,
        "test_values::test_quantities_are_within_their_running_error_bounds",
        "'entropy': ",
    ),
    "a Fisher product": (
        """
        def fisher_vector_product(self, batch, vector):
            product = super().fisher_vector_product(batch, vector)
            return product + 1e-9 * np.arange(len(product)) / len(product) * vector
        """,
        "test_trust_regions::test_steps_are_those_of_numpy",
        "assert ",
    ),
    "scores": (
        """
        def episode_scores(self, batch, weights=None):
            return super().episode_scores(batch)
        """,
        "test_scores::test_scores_weighed_by_returns_are_the_reinforce_gradient",
        "",
    ),
}
PLUGIN = """
    @hookimpl
    def pgcore_backends():
        return [Provider("loopback", "loopback_backend:Loopback", "NumPy once more")]
"""
BACKEND = """
import numpy as np
import pgcore as pg
from pgcore_numpy.backend import NumpyBackend
from pgcore_numpy.policy import NumpyPolicy

class LoopbackPolicy(NumpyPolicy):
    "NumPy's policy, perhaps with a bug."
{bug}
class Loopback(NumpyBackend):
    "NumPy once more, as a stranger's."
    name = "loopback"

    def policy(self, spec, *, seed=0, dtype="float32", device=None, compiled=False):
        self.check_compiled(compiled=compiled)
        return LoopbackPolicy(self.name, spec, np.dtype(dtype), seed)
"""


@pytest.fixture
def run(site, tmp_path):
    """Return a function that runs the suite, or one module of it, away from the checkout."""
    site.plugin("loopback_plugin", PLUGIN)
    site.distribution("loopback-dist", {"loopback": "loopback_plugin"})

    def running(bug, *words):
        source = BACKEND.format(bug=textwrap.indent(textwrap.dedent(bug), "    "))
        (site.folder / "loopback_backend.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *words]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        done = subprocess.run(
            [*command, "--pg-backends", "loopback"],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(site.folder), "COLUMNS": "400"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return running


def test_a_strangers_backend_is_held_to_all_of_it(run, tmp_path):
    status, output = run("", "--pyargs", "pgcore_check.suite", "-W", "error")
    assert status == 0, output
    assert int(re.findall(r"(\d+) passed", output)[-1]) > 600
    # Nothing is written beside the distribution that was installed for it.
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(run, name):
    bug, test, words = BUGS[name]
    module, _, function = test.partition("::")
    place = f"pgcore_check.suite.{module}"
    status, output = run(bug, "--pg-quick", "--pyargs", place, "-k", function, "-x")
    assert status == 1, output
    assert f" {function}[loopback" in output
    assert words in output


def test_a_failed_cell_is_reproduced_by_its_line(run, tmp_path, site):
    bug, _, _ = BUGS["a factor"]
    options = ("--pg-quick", "-x", "-k", "random")
    _, output = run(bug, *options, "--pyargs", "pgcore_check.suite.test_cells")
    (line,) = re.findall(r"^E +reproduce: (.*)$", output, re.MULTILINE)
    words = shlex.split(line)
    assert words[:3] == ["pgcore", "check", "--quick"]
    done = subprocess.run(
        [Path(sys.executable).parent / words[0], *words[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site.folder), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (stage,) = re.findall(r"^E +stage: (.*)$", output, re.MULTILINE)
    assert f"departs at {stage}, " in done.stdout
    assert words[-1] in done.stdout


def test_a_dtype_may_be_left_out(run):
    options = ("--pg-dtype", "float32", "--pg-quick", "--collect-only")
    status, output = run("", "--pyargs", "pgcore_check.suite", *options)
    assert status == 0, output
    assert "float32" in output
    # One test rounds from either dtype to the other.
    assert [x for x in output.splitlines() if "float64" in x and "float32" not in x] == []
