"""The targets of one plugin, imported and compared with the interfaces of their kinds.

`python -m pgcore.targets ENTRY_POINT DISTRIBUTION SKIPPED` is a process of `pgcore doctor`,
which a target may end. It writes lines of JSON: the plugin's seconds, faults and targets; then a list
of faults for each target, but for those to skip.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Generator
from importlib.metadata import entry_points
from time import perf_counter
from typing import Any, cast

from pgcore.errors import PgcoreError
from pgcore.registry.declaration import DATACLASSES, is_frozen
from pgcore.registry.entry_points import KINDS
from pgcore.registry.registry import Registration, Registry
from pgcore.registry.unpackaged import REGISTER, unpackaged

__all__ = ["faults_of", "main"]

# Kinds that `pgcore check` builds without options, unless a proof has some.
DEFAULTS = frozenset({"estimators", "optimizers"})
PRINTED = "expected an import that prints nothing, got output on stdout; write to stderr, or on use"


def main() -> None:
    """Examine the plugin that the arguments name; see the module's docstring."""
    entry_point, distribution, skipped = sys.argv[1:]
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryFile() as printed:
        # A target's output, also that of C code, must not come between the lines.
        os.dup2(printed.fileno(), 1)
        if distribution == REGISTER:
            # A module or file of PGCORE_PLUGINS registers objects while it is imported.
            Registry(unpackaged())
        declared = [*entry_points(group="pgcore"), *unpackaged()]
        same = [p for p in declared if p.name == entry_point]
        points = [p for p in same if p.dist and p.dist.metadata["Name"] == distribution]
        before, started = _printed(), perf_counter()
        source = Registry(points[:1])
        report: dict[str, Any] = {"seconds": perf_counter() - started}
        report["faults"] = [plugin.reason for plugin in source.quarantined]
        report["faults"] += [PRINTED] * (_printed() > before)
        rows = [row for kind in KINDS for row in source.providers(kind) if row.status == "usable"]
        report["targets"] = [(row.kind, row.provider.name) for row in rows]
        lines.write(f"{json.dumps(report)}\n")
        for row in rows[int(skipped) :]:
            lines.write(f"{json.dumps(faults_of(source, row))}\n")


def faults_of(source: Registry, row: Registration) -> list[str]:
    """Import a usable target and return its faults: the rule, the finding and the next thing to do."""
    printed = _printed()
    try:
        faults = [*_target_faults(source, row, source.load(row.kind, row.provider.name))]
    except PgcoreError as error:
        faults = [str(error).removeprefix(f"{row.where}: ")]
    # A target is a stranger's code, which may raise anything.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        module = row.provider.target.partition(":")[0]
        got, advice = (
            f"{type(error).__name__}: {error}",
            f"`python -c 'import {module}'` shows where",
        )
        faults = [f"expected an importable target, got {got}; {advice}"]
    return faults + [PRINTED] * (_printed() > printed)


def _target_faults(source: Registry, row: Registration, target: Any) -> Generator[str]:
    # Imported after the plugin, whose own import of NumPy counts.
    from pgcore.interfaces.metrics import Metric, keywords_of

    base = _interfaces().get(row.kind)
    if base is not None and isinstance(target, type) and issubclass(target, base):
        proven = any(plugin.providers["proofs"] for plugin in source.plugins)
        yield from _class_faults(row, target, proven=proven)
    elif base is not None:
        rule = f"a subclass of {base.__module__}.{base.__name__}"
        yield f"expected {rule}, got {target!r}; correct the Provider's target"
    elif row.kind != "proofs" and not callable(target):  # proofs are the kit's to judge
        got = type(target).__name__
        yield f"expected a function, got {got}; correct the Provider's target"
    elif row.kind == "metrics":
        keywords_of(cast("Metric", target))


def _class_faults(row: Registration, cls: type[Any], *, proven: bool) -> Generator[str]:
    """Yield the faults of a class; `proven` tells whether its plugin has proofs."""
    name, abstract = getattr(cls, "name", None), getattr(cls, "__abstractmethods__", ())
    if name != row.provider.name:
        rule = f"the class attribute name = {row.provider.name!r}, as in its Provider"
        yield f"expected {rule}, got {name!r}; give both one name"
    if row.kind in DATACLASSES and not is_frozen(cls):
        yield "expected a frozen dataclass, got none; put @dataclass(frozen=True) above the class"
    if abstract:
        yield f"expected no abstract method, got {', '.join(sorted(abstract))}; write them"
        return
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    required = [f for f in fields if f.init and f.default is f.default_factory]  # both are missing
    if not required:
        try:
            cls()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see `faults_of`
            rule, got = "an object of the default options", f"{type(error).__name__}: {error}"
            yield f"expected {rule}, got {got}; correct the class"
    elif row.kind in DEFAULTS and not proven:
        names = ", ".join(field.name for field in required)
        rule = "a default for each field"
        yield f"expected {rule}, got none for {names}; give one, or a proof with options"


def _interfaces() -> dict[str, type]:
    """Return the base class of each kind whose targets are classes."""
    from pgcore.data.activations import Activation
    from pgcore.data.networks import Network
    from pgcore.heads import Head
    from pgcore.interfaces.backend import Backend
    from pgcore.interfaces.estimator import Estimator
    from pgcore.interfaces.formula import Rule
    from pgcore.interfaces.reduction import Reduction
    from pgcore.interfaces.schedules import Schedule

    classes = (Backend, Estimator, Reduction, Head, Network, Activation, Rule, Schedule)
    kinds = "backends estimators reductions heads networks activations optimizers schedules"
    return dict(zip(kinds.split(), classes, strict=True)) | part_bases()


def part_bases() -> dict[str, type]:
    """Return the base class of each kind of part."""
    from pgcore import parts

    classes = [cls for cls in vars(parts).values() if isinstance(cls, type)]
    # A subclass of a kind's base inherits the kind's name.
    bases: list[Any] = [cls for cls in classes if "registered_as" in vars(cls)]
    return {cls.registered_as: cls for cls in bases}


def _printed() -> int:
    """Return the number of bytes on stdout, which is a file."""
    sys.stdout.flush()
    return os.fstat(1).st_size


if __name__ == "__main__":
    main()
    # Threads of a target, and a framework's clean-up, are not waited for.
    os._exit(0)
