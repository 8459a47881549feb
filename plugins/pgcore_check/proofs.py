"""The registered proofs: the variants that the kit tries and the reference implementations."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any, cast

from pgcore.errors import PluginError
from pgcore.hooks import Provider
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.parts import Composed
from pgcore.registry.registry import Registration, Registry, registry
from pgcore.registry.unpackaged import REGISTER, REGISTERED
from pgcore.validation.inheritance import overrides
from pgcore_check.compositions import compositions
from pgcore_check.kinds import (
    ADVICE,
    FORMULAS,
    PART_KINDS,
    PARTS,
    kind_of,
    message_of,
    with_properties,
)
from pgcore_check.proof import Kink, Proof

__all__ = [
    "Proofs",
    "first_formula",
    "hold_to_parent",
    "kinks",
    "proofs",
    "reference_of",
    "untried_parts",
    "variants",
]

# The reference implementations that classes with planted bugs are compared with, in any registry.
_PLANTED: dict[type[Any], type[Any]] = {}


class Proofs:
    """The proofs of a registry, pgcore's own first.

    Attributes:
        all: The usable proofs.
        problems: The errors of broken proofs and quarantined plugins, by proof or plugin.
        variants: Objects built from the proofs' options, by kind and label; those of all kinds of
            parts under "parts".
        references: Reference implementations by the class that they were written for.
    """

    def __init__(self, source: Registry) -> None:
        """Load every proof; a broken one is a problem, and the others are loaded."""
        self.source = source
        self.all: list[Proof] = []
        self.variants: dict[str, dict[str, Any]] = {kind: {} for kind in (*FORMULAS, PARTS)}
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
        return {kind: self._with_defaults(kind) for kind in FORMULAS}

    @cached_property
    def parts(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The parts to try by label, unproven ones with default options, and the others' errors."""
        built, refused = dict(self.variants[PARTS]), dict[str, str]()
        for kind, noun in PART_KINDS.items():
            of_kind, errors = self._with_defaults(kind)
            built |= {f"{noun} {name}": part for name, part in of_kind.items()}
            refused |= {f"{noun} {name!r}": why for name, why in errors.items()}
        return built, refused

    def _with_defaults(self, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the unproven objects of one kind, and the others' errors; see `defaults`."""
        built: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for name, cls in self.unproven(kind).items():
            if isinstance(cls, str):
                refused[name] = cls
                continue
            try:
                built[name] = with_properties(kind, cls())
            except Exception as problem:  # noqa: BLE001 - see above
                refused[name] = f"{message_of(problem)}; {ADVICE}"
        return built, refused

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
        proven = self._proven(kind)
        classes: dict[str, Any] = {}
        for name in self.source.names(kind):
            try:
                classes[name] = self.source.load(kind, name)
            except Exception as problem:  # noqa: BLE001 - see above
                classes[name] = message_of(problem)
        return {name: cls for name, cls in classes.items() if cls not in proven}

    def _proven(self, kind: str) -> set[type[Any]]:
        """Return the classes of a kind that are tried without their default options.

        A part is, as part of any variant; one with a proof of its own is tried as that says.
        """
        if kind not in PART_KINDS:
            return {type(variant) for variant in self.variants[kind].values()}
        tried = [*self.variants["estimators"].values(), *self.defaults["estimators"][0].values()]
        composed = [estimator for estimator in tried if isinstance(estimator, Composed)]
        parts = {type(part) for estimator in composed for part in estimator.composition}
        return parts | {proof.of for proof in self.all}

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
    tried = own_variants(kind)
    if kind != "estimators":
        return tried
    return tried | reduced(tried) | compositions(tried.values(), proofs().parts[0])[0]


def untried_parts() -> dict[str, str]:
    """Return the reason of each registered part that no variant of an estimator tries."""
    built, refused = proofs().parts
    return refused | compositions(own_variants("estimators").values(), built)[1]


def own_variants(kind: str) -> dict[str, Any]:
    """Return the variants of proofs, and unproven objects with default options, by label."""
    disabled = proofs().disabled(kind)
    proven = proofs().variants[kind].items()
    tried = {
        label: variant for label, variant in proven if not proofs().names_of(variant) <= disabled
    }
    tried |= proofs().defaults[kind][0]
    # Estimators whose gradient is made from scores come last: they have fewer stages.
    return dict(sorted(tried.items(), key=lambda item: isinstance(item[1], ScoreEstimator)))


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
