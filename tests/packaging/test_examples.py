"""The projects of third parties in examples/plugins: installed from their folders, and with planted bugs.

pgcore and its kit know none of them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from mutations_page import listed, section

from pgcore import api
from pgcore.registry.registry import forget_registry
from pgcore_new.templates import TEMPLATES

HEADING = "## Example projects"
PROJECTS = Path(__file__).parents[2] / "examples" / "plugins"
NAMES = sorted(path.parent.name for path in PROJECTS.glob("*/pyproject.toml"))

# The backends of short runs: closed forms, and a stranger's own.
BACKENDS = ("--backends", "numpy,hips")
QUICK = ("check", "--quick", "--processes", "1")

# What a user of each project would run first.
CHECKS = {
    "dapo": (*BACKENDS, "--estimators", "dapo:dapo", "--heads", "categorical"),
    "hips": ("--backends", "hips"),
    "laplace": (*BACKENDS, "--heads", "laplace", "--estimators", "ppo,reinforce"),
    "lion": (*BACKENDS, "--optimizers", "lion", "--heads", "categorical"),
    "spo": (*BACKENDS, "--estimators", "policy_gradient", "--set", "objective=spo"),
    "vanilla": (*BACKENDS, "--estimators", "vanilla", "--heads", "categorical"),
}


CACHES = shutil.ignore_patterns("__pycache__", ".*_cache")


class Bug(NamedTuple):
    """A text in a project's file, what is planted in its place, and where that must be found."""

    project: str
    file: str
    old: str
    new: str
    words: tuple[str, ...]  # of `pgcore`
    stage: str | None  # of an outcome of `pgcore check`, None of an error
    text: str = ""  # a part of the outcome's entry or error, or of the output of another command


ON_NUMPY, ON_HIPS = (*QUICK, "--json", "--backends", "numpy"), (*QUICK, "--json", *BACKENDS[:1])
VANILLA = (*ON_NUMPY, "--estimators", "vanilla", "--heads", "categorical")
DAPO = (*ON_NUMPY, "--estimators", "dapo:dapo", "--heads", "categorical")
LAPLACE = (*ON_NUMPY, "--heads", "laplace", "--estimators", "reinforce,ppo")
ALL_OF_PPO = (*LAPLACE[:1], *LAPLACE[2:-1], "ppo")  # with its penalties of divergence
LION = (*ON_NUMPY, "--optimizers", "lion", "--estimators", "reinforce", "--heads", "categorical")
SPO = (*ON_NUMPY, "--estimators", "policy_gradient", "--heads", "categorical")
HIPS = (*ON_HIPS, "hips", "--estimators", "reinforce,trpo", "--heads", "categorical")
PROBES = (*ON_HIPS, "hips", "--heads", "categorical")

BUGS = {
    "a signal in single precision": Bug(
        "vanilla",
        "estimator.py",
        "self.gamma)}",
        'self.gamma).astype("float32")}',
        VANILLA,
        "signals",
    ),
    "a constant in single precision": Bug(
        "dapo",
        "estimator.py",
        "1.0 - self.clip_low, 1.0 + self.clip_high",
        '*__import__("numpy").float32((1.0 - self.clip_low, 1.0 + self.clip_high))',
        DAPO,
        None,
        "expected constants that are Python's numbers",
    ),
    "another sign of the advantage": Bug(
        "dapo",
        "estimator.py",
        "    def surrogate",
        "    def cotangents(self, *, log_prob, old_log_prob, advantage):\n"
        "        return {'log_prob': advantage}\n\n    def surrogate",
        DAPO,
        "cotangents",
    ),
    "a false claim of no bias": Bug(
        "dapo",
        "estimator.py",
        "unbiased=False",
        "unbiased=True",
        ("audit", "dapo:dapo"),
        None,
        "refuted",
    ),
    "a false claim about other policies": Bug(
        "vanilla",
        "estimator.py",
        'off_policy="none"',
        'off_policy="exact"',
        ("audit", "vanilla"),
        None,
        "refuted",
    ),
    "another density": Bug(
        "laplace", "head.py", "- self.n * LOG_2", "- self.n * 0.7", LAPLACE, "quantities"
    ),
    "another divergence": Bug(
        "laplace", "head.py", "overlap + scaled - 1.0", "scaled - 1.0", ALL_OF_PPO, "kernel"
    ),
    "another Fisher information": Bug(
        "laplace",
        "head.py",
        "tangent[:, self.n :]), 1)",
        "2.0 * tangent[:, self.n :]), 1)",
        LAPLACE,
        "Fisher product",
    ),
    "another kernel": Bug(
        "laplace", "kernel.py", "* (self.z - 1.0)", "* (self.z + 1.0)", LAPLACE, "kernel"
    ),
    "another kernel at the location": Bug(
        "laplace",
        "kernel.py",
        "-np.expm1(-self.d0) * np.sign(self.shift) / self.scale",
        "-np.expm1(-self.d) * np.sign(self.shift) / self.scale",
        ALL_OF_PPO,
        "kernel",
    ),
    "another penalty": Bug(
        "spo",
        "part.py",
        "change / (2.0 * self.epsilon)",
        "change / self.epsilon",
        SPO,
        "cotangents",
    ),
    "another sign of a slope": Bug(
        "spo", "part.py", "(advantage - penalty)", "(advantage + penalty)", SPO, "cotangents"
    ),
    "a ratio that overflows": Bug(
        "spo",
        "part.py",
        "np.exp(np.where(advantage == 0, 0.0, log_ratio))",
        "np.exp(log_ratio)",
        SPO,
        None,
        "expected finite numbers",
    ),
    "a forgotten slot": Bug(
        "lion", "optimizer.py", '{"momentum": momentum}', "{}", LION, None, "expected the new slots"
    ),
    "a slot of another name": Bug(
        "lion",
        "optimizer.py",
        '{"momentum": momentum}',
        '{"mean": momentum}',
        LION,
        None,
        "expected the new slots",
    ),
    "a tie that goes to the second": Bug(
        "hips", "xp.py", "(x >= y) | (x != x)", "(x > y) | (x != x)", PROBES, "probe", "xp.maximum"
    ),
    "a slope at zero": Bug(
        "hips",
        "xp.py",
        "choose(x == 0, 0.0, choose(x < 0, -x, x))",
        "choose(x < 0, -x, x)",
        PROBES,
        "probe",
        "xp.abs",
    ),
    "a derivative of autograd's in double precision": Bug(
        "hips",
        "xp.py",
        "where = staticmethod(choose)",
        "where = staticmethod(anp.where)",
        PROBES,
        "probe",
        "xp.exp",
    ),
    "weights that are left out": Bug(
        "hips", "policy.py", "pull(inputs.weights)", "pull(np.ones_like(terms))", HIPS, "gradient"
    ),
    "a Fisher metric that is left out": Bug(
        "hips",
        "policy.py",
        "fisher_metric(head, values, push(vector), inputs)",
        "push(vector)",
        HIPS,
        "Fisher product",
    ),
    "scores that are rounded": Bug(
        "hips",
        "policy.py",
        "np.array([pull(row) for row in rows], self.dtype)",
        'np.array([pull(row) for row in rows], "float16").astype(self.dtype)',
        (HIPS[0], *HIPS[2:]),  # with its baselines that read scores
        "gradient",
    ),
}


def install(site, name):
    """Install a project's package into a folder on the path; return the package's folder."""
    project = tomllib.loads((PROJECTS / name / "pyproject.toml").read_text())["project"]
    package = site.folder / name
    shutil.copytree(PROJECTS / name / name, package, ignore=CACHES)
    site.distribution(name, project["entry-points"]["pgcore"], project["version"])
    forget_registry()
    return package


def environment_with(projects, folder):
    """Install projects into a folder as pip does; return the environment that has it."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", folder, *projects]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}


def run(environment, folder, *words):
    """Run Python in an environment; return its output, which is the failure's message."""
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment with all projects."""
    projects = [PROJECTS / name for name in NAMES]
    return environment_with(projects, tmp_path_factory.mktemp("installed"))


@pytest.fixture
def command(installed, tmp_path):
    """Run Python where the projects are installed; return its output."""
    return partial(run, installed, tmp_path)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A project of each kind by `pgcore new`, and the environment that has them."""
    folder = tmp_path_factory.mktemp("copied")
    for kind in TEMPLATES:
        run(os.environ, folder, *PGCORE, "new", kind, f"my_{kind}")
    target = tmp_path_factory.mktemp("copied_installed")
    return folder, environment_with(sorted(folder.iterdir()), target)


PGCORE = ("-c", "import sys; from pgcore.cli import main; sys.argv[0] = 'pgcore'; main()")


def test_each_project_is_listed_as_usable_and_doctor_has_no_complaint(command):
    pytest.importorskip("autograd")
    listing = json.loads(command(*PGCORE, "list", "--json"))
    statuses = {row["distribution"]: row["status"] for kind in listing.values() for row in kind}
    # A logger provides nothing by name.
    assert {name: statuses[name] for name in CHECKS} == dict.fromkeys(CHECKS, "usable")
    assert json.loads(command(*PGCORE, "doctor", "--json", "--quick"))["problems"] == []


@pytest.mark.parametrize("name", CHECKS)
def test_each_project_agrees_with_its_definition(command, name):
    pytest.importorskip("autograd")
    printed = command(*PGCORE, *QUICK, *CHECKS[name])
    assert re.search(r"\nall \d+ agree", printed)


@pytest.mark.parametrize("name", NAMES)
def test_each_projects_own_tests_pass(command, name, tmp_path):
    pytest.importorskip("autograd")
    # The tests alone are copied, so that the installed package is what they import.
    shutil.copytree(PROJECTS / name / "tests", tmp_path / "tests", ignore=CACHES)
    shutil.copy(PROJECTS / name / "pyproject.toml", tmp_path)
    backends = () if name == "journal" else ("--pg-backends", "numpy,hips")
    assert " passed" in command("-m", "pytest", "-p", "no:cacheprovider", *backends)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_new_project_passes_its_tests_untouched(copied, kind, tmp_path):
    pytest.importorskip("autograd")
    folder, environment = copied
    shutil.copytree(folder / f"my_{kind}" / "tests", tmp_path / "tests")
    assert " passed" in run(environment, tmp_path, *pytest_words(kind, tmp_path))


@pytest.mark.parametrize("kind", [kind for kind in TEMPLATES if kind != "logger"])
def test_a_bug_planted_in_a_new_project_fails_its_tests(copied, kind, tmp_path):
    pytest.importorskip("autograd")
    folder, environment = copied
    # The first of its template; a logger's file is read by its own tests alone.
    bug = next(bug for bug in BUGS.values() if bug.project == TEMPLATES[kind])
    project = shutil.copytree(folder / f"my_{kind}", tmp_path / "project")
    path = project / f"my_{kind}" / bug.file
    text = path.read_text()
    assert bug.old in text
    path.write_text(text.replace(bug.old, bug.new))
    # Before the installed copy, which has no bug.
    paths = os.pathsep.join([str(project), environment["PYTHONPATH"]])
    words = (*pytest_words(kind, project), "--exitfirst")
    with pytest.raises(AssertionError, match=r"\b1 failed"):
        run(environment | {"PYTHONPATH": paths}, project, *words)


def pytest_words(kind, folder):
    """Return the words of Python that run a new project's tests on its own backend or on NumPy."""
    backends = {"logger": (), "backend": ("--pg-backends", "my_backend")}
    selected = backends.get(kind, ("--pg-backends", "numpy"))
    return ("-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, *selected)


def test_a_strangers_estimator_optimizer_backend_and_logger_train_together(command, tmp_path):
    pytest.importorskip("autograd")
    words = ["train", "CartPole-v1", "--estimator", "vanilla", "--backend", "hips"]
    words += ["--set", "optimizer.name=lion", "--steps", "1024", "--out", "run"]
    command(*PGCORE, *words)
    journal = (tmp_path / "run" / "journal.md").read_text()
    assert journal.startswith("# vanilla on CartPole-v1, hips, seed 0")
    assert journal.count("\n| ") > 1


def test_an_estimator_with_extras_is_audited_and_derived(command):
    assert "confirmed" in command(*PGCORE, "audit", "dapo:dapo")
    assert "d surrogate / d log_prob =" in command(*PGCORE, "derive", "dapo:dapo")


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_found_where_it_was_planted(bug, site, pgcore, monkeypatch):
    # Backends are one instance a process, and this one is planted.
    monkeypatch.setattr(api, "_backends", {})
    if bug.project == "hips":
        pytest.importorskip("autograd")
    path = install(site, bug.project) / bug.file
    text = path.read_text()
    assert text.count(bug.old) >= 1
    path.write_text(text.replace(bug.old, bug.new))
    status, printed, _ = pgcore(*bug.words)
    assert status == 1, f"nothing found by {bug.words}"
    if "--json" not in bug.words:
        assert bug.text in printed
        return
    places = departures(printed)
    assert any(stage == bug.stage and bug.text in text for stage, text in places), places


def test_a_density_and_its_kernel_that_are_wrong_alike_break_an_identity(site, pgcore):
    package = install(site, "laplace")
    for file, old in (("head.py", "- self.n * LOG_2"), ("kernel.py", "- n * LOG_2")):
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, old.replace("LOG_2", "0.7")))
    places = departures(pgcore(*LAPLACE)[1])
    assert places
    assert all("integral of the density" in text for _, text in places), places


def test_a_gain_and_its_slope_that_are_wrong_alike_miss_their_points(site, pgcore):
    path = install(site, "spo") / "part.py"
    text = path.read_text()
    for old, new in (
        ("/ self.epsilon", "* 2.0 / self.epsilon"),
        ("(2.0 * self.epsilon)", "self.epsilon"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    rows = json.loads(pgcore(*SPO)[1])["outcomes"]
    missed = {row["label"] for row in rows if not row["agrees"]}
    assert missed == {
        "spo, at the bound, A > 0",
        "spo, beyond the bound, A > 0",
        "spo, beyond the bound, A < 0",
        "spo, ratio 2, A < 0",
    }


def departures(printed):
    """Return the stage of each outcome of `pgcore check --json` that disagrees, and error and entry."""
    rows = [row for row in json.loads(printed)["outcomes"] if not row["agrees"]]
    return {(row["stage"], f"{row['error'] or ''} {row['where']}") for row in rows}


def rows_of_bugs():
    """Return the rows of the page of planted bugs."""
    rows = [
        (
            name,
            f"{bug.project}: {bug.file}",
            f"`pgcore {bug.words[0]}`",
            bug.stage or ("refused" if bug.words[0] == "check" else bug.text),
        )
        for name, bug in BUGS.items()
    ]
    alike = ("another density", "laplace: head.py and kernel.py", "`pgcore check`", "identities")
    return [*rows, alike]


def section_of_bugs():
    """Return the page's section."""
    text = [
        "Planted in the projects of [third parties](plugins.md), of which the kit knows nothing."
    ]
    return section(HEADING, text, ("bug", "planted in", "found by", "found at"), rows_of_bugs())


def test_the_page_lists_these_bugs_at_these_stages():
    assert listed(HEADING, 4) == rows_of_bugs()
