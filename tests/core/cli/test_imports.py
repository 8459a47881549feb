"""One distribution in which everything is broken, imported in processes of its own: each fault has its reason."""

from __future__ import annotations

import io
import json
import signal
import sys

import pytest

from pgcore.cli import doctor, imports
from pgcore.cli.imports import import_plugin, import_plugins
from pgcore.registry.registry import forget_registry, registry
from pgcore.targets import faults_of

PLUGIN = """
    @hookimpl
    def pgcore_estimators():
        names = (
            "right kinked gone exits killed crashes missing number misnamed plain forgotten thawed "
            "unfinished required refuses quits prints writes"
        )
        homes = {
            "gone": "bad_gone:X", "exits": "bad_exits:X", "killed": "bad_killed:X",
            "crashes": "bad_crashes:X", "prints": "bad_prints:Prints", "writes": "bad_writes:Writes",
        }
        return [
            Provider(name, homes.get(name, f"bad:{name.capitalize()}"), "")
            for name in names.split()
        ]

    @hookimpl
    def pgcore_heads():
        return [Provider("sized", "bad:Sized", ""), Provider("right", "bad:Right", "")]

    @hookimpl
    def pgcore_activations():
        return [Provider("square", "bad:Square", "")]

    @hookimpl
    def pgcore_metrics():
        return [Provider("good", "bad:good", ""), Provider("positional", "bad:positional", "")]

    @hookimpl
    def pgcore_commands():
        return [Provider("three", "bad:Number", "")]

    @hookimpl
    def pgcore_functions():
        return [Provider("thing", "bad:Right", ""), Provider("lone", "bad_gone:X", "")]
"""
BASE = """
    from dataclasses import dataclass
    from typing import ClassVar
    import pgcore as pg

    class Base(pg.Estimator):
        @property
        def claims(self):
            return pg.Claims(
                unbiased=False, off_policy="none", needs_critic=False, discrete_only=False
            )

        def signals(self, batch, evaluate):
            return {"advantage": batch.rewards}

        def surrogate(self, xp, *, log_prob, advantage):
            return -log_prob * advantage
"""
THINGS = """
    from pgcore.data.activations import Activation
    from bad_base import *

    Number = 3

    def good(*, log_prob):
        return 0.0

    def positional(log_prob):
        return 0.0

    @dataclass(frozen=True)
    class Right(Base):
        clip: float = 0.1
        name: ClassVar[str] = "right"

    class Kinked(Right):
        name: ClassVar[str] = "kinked"

    @dataclass(frozen=True)
    class Misnamed(Base):
        name = "missnamed"

    class Plain(Base):
        name = "plain"

    class Forgotten(Right):
        power: float = 2.0
        name = "forgotten"

    @dataclass
    class Thawed(Base):
        name = "thawed"

    @dataclass(frozen=True)
    class Unfinished(pg.Estimator):
        name = "unfinished"

    @dataclass(frozen=True)
    class Required(Base):
        clip: float
        power: float
        name = "required"

    @dataclass(frozen=True)
    class Refuses(Base):
        clip: float = -1.0
        name = "refuses"

        def __post_init__(self):
            raise ValueError("no")

    @dataclass(frozen=True)
    class Quits(Base):
        name = "quits"

        def __post_init__(self):
            raise SystemExit(5)

    @dataclass(frozen=True)
    class Sized(pg.Categorical):
        name = "sized"

    class Square(Activation):
        name = "square"

        def value(self, xp, x):
            return x * x

        def slope(self, xp, x, y):
            return 2.0 * x
"""
# A target that prints, in Python and below it.
LOUD = """
    {statement}

    @dataclass(frozen=True)
    class {name}(Base):
        name = {lower!r}
"""
DECORATE = "expected a frozen dataclass, got none; put @dataclass(frozen=True) above the class"
PRINTS = "expected an import that prints nothing, got output on stdout; write to stderr, or on use"
REASONS = {
    "gone": "expected an importable target, got RuntimeError: cannot be imported; "
    "`python -c 'import bad_gone'` shows where",
    "exits": "expected a module, got SystemExit(4); correct it",
    "killed": "expected an importable target, got exit status 7 (killed at import); correct it",
    "crashes": f"got {signal.strsignal(signal.SIGSEGV)}; correct it",
    "missing": "expected 'bad:Missing' of bad-dist to exist, got",
    "number": "expected a subclass of pgcore.interfaces.estimator.Estimator, got 3; correct the",
    "misnamed": "expected the class attribute name = 'misnamed', as in its Provider, got 'missnamed'",
    "plain": DECORATE,
    "forgotten": DECORATE,
    "thawed": DECORATE,
    "unfinished": "expected no abstract method, got claims, signals",
    "required": "expected a default for each field, got none for clip, power; give one, or a proof",
    "refuses": "expected an object of the default options, got ValueError: no; correct the class",
    "quits": "expected an object of the default options, got SystemExit: 5; correct the class",
    "prints": PRINTS,
    "writes": PRINTS,
    "heads/right": "expected a subclass of pgcore.heads.head.Head, got <class 'bad.Right'>",
    "positional": "expected keyword-only parameters, got (log_prob); write (*, names...)",
    "three": "expected a function, got int; correct the Provider's target",
    "lone": "expected an importable target, got RuntimeError: cannot be imported",
}


@pytest.fixture
def bad(site):
    """Install the distribution alone, and return its plugin."""
    site.module("bad_base", BASE)
    site.module("bad", THINGS)
    site.module("bad_gone", "raise RuntimeError('cannot be imported')")
    site.module("bad_exits", "import sys\nsys.exit(4)")
    site.module(
        "bad_killed",
        "import os, sys\nsys.stderr.write('killed at import\\n')\nsys.stderr.flush()\nos._exit(7)",
    )
    site.module("bad_crashes", "import ctypes\nctypes.string_at(0)")
    for name, statement in (
        ("Prints", "print('hello')"),
        ("Writes", "import os; os.write(1, b'hi')"),
    ):
        source = LOUD.format(statement=statement, name=name, lower=name.lower())
        site.module(f"bad_{name.lower()}", f"    from bad_base import *\n{source}")
    site.plugin("bad_plugin", PLUGIN)
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    (plugin,) = site.registry().plugins
    return plugin


@pytest.fixture
def alone(monkeypatch):
    """Return a function that leaves one plugin in the registry."""

    def leave(plugin):
        forget_registry()
        monkeypatch.setattr(registry(), "plugins", (plugin,))
        monkeypatch.setattr(registry(), "quarantined", ())

    return leave


def test_each_fault_has_its_reason_and_imports_nothing_here(bad):
    seconds, faults = import_plugin(bad)
    assert seconds is not None
    assert 0.0 < seconds < imports.PATIENCE
    assert {fault.distribution for fault in faults} == {"bad-dist"}
    reasons = {
        "heads/right" if fault.kind == "heads" else fault.name: fault.reason for fault in faults
    }
    assert len(reasons) == len(faults)
    assert reasons.keys() == REASONS.keys()
    for name, words in REASONS.items():
        assert words in reasons[name], name
    assert not {"bad", "bad_gone", "bad_exits", "bad_prints"} & sys.modules.keys()


def test_the_faults_are_the_same_in_this_process(bad, site):
    source = site.registry()
    rows = [row for kind in bad.providers for row in source.providers(kind)]
    # Those that would end this process, and those that print, which needs a file as stdout.
    left_out = {"killed", "crashes", "prints", "writes"}
    faults = {
        (row.kind, row.provider.name): faults_of(source, row)
        for row in rows
        if row.provider.name not in left_out
    }
    faulty = {key for key, reasons in faults.items() if reasons}
    assert {name for kind, name in faulty if kind != "heads"} == (
        REASONS.keys() - left_out - {"heads/right"}
    )
    assert all(len(faults[key]) == 1 for key in faulty)
    assert all(REASONS[name] in faults[kind, name][0] for kind, name in faulty if kind != "heads")


def test_doctor_has_a_row_and_a_line_for_each_and_fails(pgcore, bad, alone):
    alone(bad)
    status, out, err = pgcore("doctor", "--json")
    assert (status, err) == (1, "")
    report = json.loads(out)
    assert len(report["faults"]) == len(REASONS)
    row = next(row for row in report["faults"] if row["name"] == "plain")
    assert row == {
        "kind": "estimators",
        "name": "plain",
        "distribution": "bad-dist",
        "reason": DECORATE,
    }
    assert f"estimator 'plain' of bad-dist: {DECORATE}" in report["problems"]
    assert report["plugins"][0]["seconds"] > 0.0
    status, out, _ = pgcore("doctor")
    assert status == 1
    assert "\nProblems\n" in out
    assert f"  estimator 'plain' of bad-dist: {DECORATE}\n" in out


def test_quick_leaves_the_imports_out(pgcore, bad, alone, monkeypatch):
    alone(bad)
    monkeypatch.setattr(doctor, "import_plugins", None)
    _, out, _ = pgcore("doctor", "--quick", "--json")
    report = json.loads(out)
    assert report["faults"] == []
    assert report["plugins"][0]["seconds"] is None


def test_a_class_of_a_plugin_with_proofs_needs_no_defaults(site):
    site.module(
        "proven",
        f"{BASE}\n    @dataclass(frozen=True)\n    class X(Base):\n        clip: float\n        name = 'x'\n    PROOF = 1\n",
    )
    site.plugin(
        "proven_plugin",
        """
        @hookimpl
        def pgcore_estimators():
            return [Provider("x", "proven:X", "")]

        @hookimpl
        def pgcore_proofs():
            return [Provider("x", "proven:PROOF", "")]
        """,
    )
    site.distribution("proven-dist", {"proven": "proven_plugin"})
    (plugin,) = site.registry().plugins
    assert import_plugin(plugin).faults == ()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('hello')", PRINTS),
        (
            "import sys\nif sys.argv[0].endswith('targets.py'): raise RuntimeError('alone')",
            "RuntimeError: alone",
        ),
        (
            "import os, sys\nif sys.argv[0].endswith('targets.py'): os._exit(3)",
            "expected a module to import, got exit status 3; correct the plugin",
        ),
    ],
)
def test_a_plugin_of_its_own_can_have_a_fault(site, source, reason):
    site.plugin("it_plugin", source)
    site.distribution("it-dist", {"it": "it_plugin"})
    (plugin,) = site.registry().plugins
    (fault,) = import_plugin(plugin).faults
    assert (fault.kind, fault.name, fault.reason) == ("plugins", "it", reason)
    assert str(fault) == f"plugin 'it' of it-dist: {reason}"


def test_a_process_that_does_not_end_is_not_waited_for(bad, monkeypatch):
    # No Python starts in this time.
    monkeypatch.setattr(imports, "PATIENCE", 1e-3)
    (fault,) = import_plugin(bad).faults
    assert fault.reason == (
        "expected a module to import, got no end within 0.001 s; correct the plugin"
    )


def test_ctrl_c_ends_the_doctor_too(site):
    site.plugin(
        "it_plugin",
        "@hookimpl\ndef pgcore_functions():\n    return [Provider('it', 'it_target:it', '')]",
    )
    site.module(
        "it_target",
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\nos.kill(os.getpid(), signal.SIGINT)",
    )
    site.distribution("it-dist", {"it": "it_plugin"})
    with pytest.raises(KeyboardInterrupt):
        import_plugins(site.registry().plugins)


def test_the_bar_shows_the_plugins_on_a_terminal(site, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in ("one", "two"):
        site.plugin(f"{name}_plugin", "")
        site.distribution(f"{name}-dist", {name: f"{name}_plugin"})
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", Terminal())
    import_plugins(site.registry().plugins)
    shown = sys.stderr.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "importing" in shown
    assert "2/2" in shown


def test_a_slow_plugin_is_told_to_move_its_imports(pgcore, site, alone, monkeypatch):
    site.plugin("it_plugin", "")
    site.distribution("it-dist", {"it": "it_plugin"})
    (plugin,) = site.registry().plugins
    alone(plugin)
    _, out, _ = pgcore("doctor")
    assert "  it (it-dist 1.0): nothing\n" in out
    monkeypatch.setattr(doctor, "import_plugins", lambda plugins: [imports.Imported(2.04)])
    _, out, _ = pgcore("doctor")
    assert (
        "  it (it-dist 1.0): nothing; imported in 2.0 s; move heavy imports into the target\n"
        in out
    )


def test_the_working_directory_does_not_stand_in_for_a_package(site, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not NumPy')")
    monkeypatch.chdir(tmp_path)
    site.plugin("it_plugin", "import numpy")
    site.distribution("it-dist", {"it": "it_plugin"})
    assert import_plugin(site.registry().plugins[0]).faults == ()
