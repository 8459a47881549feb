"""The registered proofs: the variants that the kit tries and the reference implementations."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any, cast

from pgcore.errors import PgcoreError, PluginError
from pgcore.heads import Head
from pgcore.hooks import Provider
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.optimizer import Rule
from pgcore.interfaces.reduction import Reduction
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import Registration, Registry, registry
from pgcore.registry.unpackaged import REGISTER, REGISTERED
from pgcore.validation.inheritance import overrides
from pgcore_check.proof import Kink, Proof

__all__ = [
    "ADVICE",
    "Proofs",
    "first_formula",
    "hold_to_parent",
    "kind_of",
    "kinks",
    "message_of",
    "proofs",
    "reference_of",
    "variants",
]

# By kind, the base classes and the methods that a reference implementation replaces. A subclass
# that overrides one of them has other formulas, and needs another reference implementation.
FORMULAS: dict[str, tuple[tuple[type[Any], ...], tuple[str, ...]]] = {
    "estimators": ((Estimator,), ("signals", "surrogate", "finalise", "differentiate", "combine")),
    "heads": (
        (Head,),
        ("initial_parameters", "distribution", "log_prob", "log_probs", "entropy", "kl", "fisher"),
    ),
    "optimizers": ((OptimizerSpec, Rule), ("scalars", "update")),
    "reductions": ((Reduction,), ("weights",)),
}


# By kind, the properties that choosing cases reads.
PROPERTIES = {"estimators": ("claims", "quantities"), "heads": ("outputs", "width", "quantities")}

# The remedy for a class that cannot be built without options.
ADVICE = "give defaults, or a Proof with variants by the hook pgcore_proofs"

# The reference implementations that classes with planted bugs are compared with, in any registry.
_PLANTED: dict[type[Any], type[Any]] = {}


class Proofs:
    """The proofs of a registry, pgcore's own first.

    Attributes:
        all: The usable proofs.
        problems: The errors of broken proofs and quarantined plugins, by proof or plugin.
        variants: Objects built from the proofs' options, by kind and label.
        references: Reference implementations by the class that they were written for.
    """

    def __init__(self, source: Registry) -> None:
        """Load every proof; a broken one is a problem, and the others are loaded."""
        self.source = source
        self.all: list[Proof] = []
        self.variants: dict[str, dict[str, Any]] = {kind: {} for kind in FORMULAS}
        self.problems = {
            f"plugin {plugin.entry_point!r}": plugin.reason for plugin in source.quarantined
        }
        # Built-ins first: a case's seed is its number, so that an installed plugin moves none.
        plugins = sorted(source.plugins, key=lambda plugin: plugin.distribution != "pgcore")
        disabled = self.disabled("proofs")
        for plugin in plugins:
            for provider in plugin.providers["proofs"]:
                if provider.name in disabled:
                    continue
                try:
                    self._add(provider)
                except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
                    self.problems[f"proof {provider.name!r}"] = message_of(problem)
        self.references = {
            proof.of: proof.reference for proof in self.all if proof.reference is not None
        }

    @cached_property
    def defaults(self) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
        """By kind: the unproven objects with default options by name, and the others' errors."""
        by_kind: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        for kind in FORMULAS:
            built, refused = by_kind.setdefault(kind, ({}, {}))
            for name, cls in self.unproven(kind).items():
                if isinstance(cls, str):
                    refused[name] = cls
                    continue
                try:
                    made = cls()
                    # Properties are a stranger's code too, and are read while cases are chosen.
                    for attribute in PROPERTIES.get(kind, ()):
                        getattr(made, attribute)
                    built[name] = made
                except Exception as problem:  # noqa: BLE001 - see above
                    refused[name] = f"{message_of(problem)}; {ADVICE}"
        return by_kind

    def disabled(self, kind: str) -> set[str]:
        """Return the names that PGCORE_DISABLE leaves out."""
        rows = self.source.providers(kind)
        return {row.provider.name for row in rows if row.status == "disabled"}

    @cached_property
    def names(self) -> dict[type[Any], set[str]]:
        """The registered names of each class, such as `dist:name`, disabled ones too."""
        names: dict[type[Any], set[str]] = {}
        for row in itertools.chain(*map(self.source.providers, FORMULAS)):
            try:
                target = self._target(row)
            except Exception:  # noqa: BLE001, S112 - see above; `unproven` reports it
                continue
            if isinstance(target, type):
                names.setdefault(target, set()).add(row.provider.name)
        return names

    def names_of(self, variant: Any) -> set[str]:
        """Return the registered names of an object's class; its own of one that is not registered."""
        cls = cast("type[Any]", type(variant))
        return self.names.get(cls) or {variant.name}

    def unproven(self, kind: str) -> dict[str, Any]:
        """Return the registered classes without a variant, by name, or the error of loading one."""
        proven: set[type[Any]] = {type(variant) for variant in self.variants[kind].values()}
        classes: dict[str, Any] = {}
        for name in self.source.names(kind):
            try:
                classes[name] = self.source.load(kind, name)
            except Exception as problem:  # noqa: BLE001 - see above
                classes[name] = message_of(problem)
        return {name: cls for name, cls in classes.items() if cls not in proven}

    def reference(self, cls: type[Any]) -> type[Any] | None:
        """Return the reference implementation of a class; see `Proof.reference`."""
        if cls in _PLANTED:
            return _PLANTED[cls]
        base = next((base for base in cls.__mro__ if base in self.references), None)
        # A subclass with another formula is not what the implementation was written for.
        if base is None or (base is not cls and overrides(cls, base, FORMULAS[kind_of(base)][1])):
            return None
        return self.references[base]

    def _target(self, row: Registration) -> object:
        """Return a row's target; a disabled one, which cannot be loaded, if a proof imported it."""
        if row.status != "disabled":
            return self.source.load(row.kind, row.provider.name)
        if row.distribution == REGISTER:
            return REGISTERED[row.kind, row.provider.name.removeprefix(f"{REGISTER}:")][1]
        module, _, attribute = row.provider.target.partition(":")
        return attrgetter(attribute)(sys.modules[module])

    def _add(self, provider: Provider) -> None:
        """Load all proofs of one provider, or none."""
        target = self.source.load("proofs", provider.name)
        proofs: list[Any] = [*target] if isinstance(target, list | tuple) else [target]
        added: list[tuple[str, str, Any]] = []
        for proof in proofs:
            if not isinstance(proof, Proof):
                raise PluginError(
                    f"{provider.target}: expected Proof objects, got {type(proof).__name__}; "
                    "see pgcore_check.proof"
                )
            kind = kind_of(proof.of)
            added += [
                (kind, label, proof.of(**options)) for label, options in proof.variants.items()
            ]
        # Labels are checked before any is added, so that a refused proof leaves no trace.
        for kind, label, _ in added:
            if label in self.variants[kind]:
                raise PluginError(
                    f"{provider.target}: expected a label of its own, got {label!r} again; "
                    "choose another"
                )
        for kind, label, variant in added:
            self.variants[kind][label] = variant
        self.all += proofs


@lru_cache(2)
def proofs_of(source: Registry) -> Proofs:
    """Return a registry's proofs, loaded once."""
    return Proofs(source)


def proofs() -> Proofs:
    """Return the proofs of this process's registry."""
    return proofs_of(registry())


def variants(kind: str) -> dict[str, Any]:
    """Return the estimators, heads, optimizers or reductions that the kit tries, by label."""
    disabled = proofs().disabled(kind)
    proven = proofs().variants[kind].items()
    tried = {
        label: variant for label, variant in proven if not proofs().names_of(variant) <= disabled
    }
    tried |= proofs().defaults[kind][0]
    # Estimators whose gradient is made from scores come last: they have fewer stages.
    ordered = dict(sorted(tried.items(), key=lambda item: isinstance(item[1], ScoreEstimator)))
    return ordered | (reduced(ordered) if kind == "estimators" else {})


def reduced(estimators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first estimator with a choice, by label, with each reduction that none of them has."""
    choosing = {
        label: estimator
        for label, estimator in estimators.items()
        if "reduction" in (field.name for field in dataclasses.fields(estimator))
    }
    used = {estimator.reduction.name for estimator in estimators.values()}
    further: dict[str, Any] = {}
    for label, estimator in list(choosing.items())[:1]:
        for variant, reduction in variants("reductions").items():
            if reduction.name not in used:
                name = f"{label}, reduction {variant}"
                further[name] = dataclasses.replace(estimator, reduction=reduction)
    return further


def first_formula() -> OptimizerSpec:
    """Return the first optimizer with an update formula, for stages that accept any."""
    rules = variants("optimizers").values()
    return next(rule for rule in rules if isinstance(rule, OptimizerSpec))


def kinks() -> tuple[Kink, ...]:
    """Return all non-differentiable and extreme points."""
    return tuple(kink for proof in proofs().all for kink in proof.kinks)


def reference_of(cls: type[Any]) -> type[Any] | None:
    """Return a class's reference implementation, None without one; see `Proof.reference`."""
    return proofs().reference(cls)


def hold_to_parent(cls: type[Any]) -> None:
    """Compare a class with the reference implementation of its nearest base that has one.

    Any formula that the class changes is then a planted bug. A class that has a reference
    implementation of its own changes nothing, nor does one whose bases have none.
    """
    references = proofs().references
    base = next((base for base in cls.__mro__ if base in references), cls)
    if base is not cls:
        _PLANTED[cls] = references[base]


def kind_of(cls: object) -> str:
    """Return the kind of a class.

    Raises:
        PluginError: it is no class of an estimator, a head, an optimizer or a reduction.
    """
    for kind, (bases, _) in FORMULAS.items():
        if isinstance(cls, type) and issubclass(cls, bases):
            return kind
    raise PluginError(
        f"Proof.of: expected the class of an estimator, head, optimizer or reduction, got {cls!r}; "
        "name a class"
    )


def message_of(problem: Exception) -> str:
    """Return an error's message, with its type where it is not pgcore's."""
    return (
        str(problem) if isinstance(problem, PgcoreError) else f"{type(problem).__name__}: {problem}"
    )
