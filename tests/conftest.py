"""Settings and fixtures that all tests share."""

import importlib
import importlib.metadata
import os
import re
import sys
from pathlib import Path
from textwrap import dedent

import hypothesis
import numpy as np
import pytest

from pgcore.cli import main
from pgcore.data.batch import Batch
from pgcore.registry.registry import Registry, forget_registry
from pgcore.registry.unpackaged import REGISTERED

# The same examples in every run, and no health check that looks at the clock.
hypothesis.settings.register_profile(
    "pgcore",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("pgcore")


# With PGCORE_REQUIRE_BACKENDS=torch,jax a test that is skipped for want of one of these fails, wherever it asked for it.
REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
IMPORTS = {"keras": "tensorflow", "optax": "jax"}


def refuse_skip(report):
    """Turn a report of a skip into one of a failure, where `pytest.importorskip` missed what a required backend is made of."""
    if report.outcome != "skipped" or not isinstance(report.longrepr, tuple):
        return report
    missing = re.search(r"could not import '(?:pgcore_)?(\w+)", report.longrepr[2])
    if missing and IMPORTS.get(missing[1], missing[1]) in REQUIRED:
        report.outcome, report.longrepr = "failed", f"PGCORE_REQUIRE_BACKENDS: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Hold a module's own skips to what is required."""
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Hold a test's skips to what is required."""
    return refuse_skip((yield))


@pytest.fixture
def batch_fields():
    """What `Batch` takes: two episodes of 2 and 4 steps, the second one cut, three actions, every optional array but weights."""
    rng = np.random.default_rng(20)
    actions = np.array([0, 2, 1, 1, 0, 2])
    mask = rng.random((6, 3)) < 0.5
    mask[np.arange(6), actions] = True
    return {
        "observations": rng.standard_normal((6, 3)),
        "actions": actions,
        "rewards": rng.standard_normal(6),
        "episode_lengths": np.array([2, 4]),
        "terminated": np.array([True, False]),
        "final_observations": rng.standard_normal((2, 3)),
        "log_probs": -rng.random(6),
        "action_mask": mask,
        "extras": {"reference": np.log(np.full((6, 3), 1 / 3)), "teacher": np.arange(6)},
    }


@pytest.fixture
def make_batch(batch_fields):
    """Return a function that makes a batch of `batch_fields`, with those replaced that it is given; None leaves one out."""
    return lambda **replaced: Batch(
        **{name: value for name, value in (batch_fields | replaced).items() if value is not None}
    )


class Site:
    """A folder on the path that stands for site-packages, to install made-up distributions into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, source: str) -> None:
        """Write a module."""
        (self.folder / f"{name}.py").write_text(dedent(source))

    def plugin(self, name: str, source: str) -> None:
        """Write a plugin's module, with what every plugin imports."""
        self.module(name, "from pgcore.hooks import Provider, hookimpl\n" + dedent(source))

    def distribution(
        self, name: str, entry_points: dict[str, str], version: str = "1.0", group: str = "pgcore"
    ) -> None:
        """Write the metadata of an installed distribution with entry points."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entry_points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def registry(self) -> Registry:
        """Return a registry of this folder's distributions alone."""
        found = importlib.metadata.distributions(path=[str(self.folder)])
        return Registry(
            point
            for distribution in found
            for point in distribution.entry_points
            if point.group == "pgcore"
        )


@pytest.fixture
def registrations():
    """The objects of `pg.register`, those of the test forgotten afterwards."""
    before = dict(REGISTERED)
    yield REGISTERED
    REGISTERED.clear()
    REGISTERED.update(before)
    forget_registry()


@pytest.fixture
def site(tmp_path, monkeypatch, registrations):
    """A folder for made-up distributions; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    forget_registry()
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    forget_registry()


@pytest.fixture
def pgcore(monkeypatch, capsys):
    """Run the command line in this process; returns its exit status, output and errors."""
    monkeypatch.setenv("COLUMNS", "200")
    # A command's `--plugin` joins it, for that command's processes alone.
    monkeypatch.setenv("PGCORE_PLUGINS", os.environ.get("PGCORE_PLUGINS", ""))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["pgcore", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def loop(monkeypatch):
    """Return a function that imports a file of `examples/loops` by name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples" / "loops")
    imported = []

    def load(name):
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in imported:
        sys.modules.pop(name, None)


@pytest.fixture
def assert_swap():
    """Return a check that two computations in float64 differ by less than float32 could show.

    Each entry may be off by one rounding of float32, 2^-24 of the largest. Rounding in float64 is 2^-53,
    so sums of thousands of numbers and a few optimizer steps are far below, and a term that is
    weighed, masked or divided in another way is far above.
    """

    def check(actual, expected):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.dtype == expected.dtype == np.float64
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2.0**-24 * scale)

    return check
