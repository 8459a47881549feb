"""All proofs that are registered: what the kit tries, and the reference implementation of each class."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from pgcore.errors import PgcoreError, PluginError
from pgcore.heads import Head
from pgcore.hooks import Provider
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.optimizer import Rule
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.registry.registry import Registry, registry
from pgcore.validation.inheritance import overrides
from pgcore_check.proof import Kink, Proof

__all__ = [
    "Proofs",
    "first_formula",
    "hold_to_parent",
    "kinks",
    "proofs",
    "reference_of",
    "told",
    "variants",
]

# By kind, the base classes and the methods that a reference implementation stands for.
FORMULAS: dict[str, tuple[tuple[type[Any], ...], tuple[str, ...]]] = {
    "estimators": ((Estimator,), ("signals", "surrogate", "finalise", "differentiate", "combine")),
    "heads": (
        (Head,),
        ("initial_parameters", "distribution", "log_prob", "log_probs", "entropy", "kl", "fisher"),
    ),
    "optimizers": ((OptimizerSpec, Rule), ("scalars", "update")),
}


class Proofs:
    """The proofs of a registry, pgcore's own first.

    Attributes:
        all: Those that are usable.
        problems: Why others are not, and why plugins are quarantined, by where.
        variants: What the proofs say to try, by kind and label.
        references: Reference implementations by the class that they were written for.
    """

    def __init__(self, source: Registry) -> None:
        """Load every proof; whatever goes wrong with one stays with it."""
        self.source = source
        self.all: list[Proof] = []
        self.variants: dict[str, dict[str, Any]] = {kind: {} for kind in FORMULAS}
        self.problems = {
            f"plugin {plugin.entry_point!r}": plugin.reason for plugin in source.quarantined
        }
        # An installed plugin moves no case of the built-ins.
        plugins = sorted(source.plugins, key=lambda plugin: plugin.distribution != "pgcore")
        for provider in (provider for plugin in plugins for provider in plugin.providers["proofs"]):
            try:
                self._add(provider)
            except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything, and the others are tried
                self.problems[f"proof {provider.name!r}"] = told(problem)
        self.references = {
            proof.of: proof.reference for proof in self.all if proof.reference is not None
        }

    @cached_property
    def defaults(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The estimators without a variant, by name, as they are by default; and why others cannot be built so."""
        built: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for name, cls in self.unproven("estimators").items():
            if isinstance(cls, str):
                refused[name] = cls
                continue
            try:
                built[name] = cls()
            except Exception as problem:  # noqa: BLE001 - see above
                refused[name] = told(problem)
        return built, refused

    def unproven(self, kind: str) -> dict[str, Any]:
        """Return what is registered and has no variant, by name: its class, or why it cannot be loaded."""
        proven: set[type[Any]] = {type(variant) for variant in self.variants[kind].values()}
        classes: dict[str, Any] = {}
        for name in self.source.names(kind):
            try:
                classes[name] = self.source.load(kind, name)
            except Exception as problem:  # noqa: BLE001 - see above
                classes[name] = told(problem)
        return {name: cls for name, cls in classes.items() if cls not in proven}

    def reference(self, cls: type[Any]) -> type[Any] | None:
        """Return the reference implementation of a class; see `Proof.reference`."""
        base = next((base for base in cls.__mro__ if base in self.references), None)
        if base is None or (base is not cls and overrides(cls, base, FORMULAS[kind_of(base)][1])):
            return None
        return self.references[base]

    def _add(self, provider: Provider) -> None:
        """Load what one provider gives: all of it, or nothing."""
        target = self.source.load("proofs", provider.name)
        proofs: list[Any] = [*target] if isinstance(target, list | tuple) else [target]
        added: list[tuple[str, str, Any]] = []
        for proof in proofs:
            if not isinstance(proof, Proof):
                raise PluginError(
                    f"{provider.target}: expected Proof objects, got {type(proof).__name__}; see pgcore_check.proof"
                )
            kind = kind_of(proof.of)
            added += [
                (kind, label, proof.of(**options)) for label, options in proof.variants.items()
            ]
        for kind, label, _ in added:
            if label in self.variants[kind]:
                raise PluginError(
                    f"{provider.target}: expected a label of its own, got {label!r} again; choose another"
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
    """Return what is tried of the kind estimators, heads or optimizers, by label."""
    tried = dict(proofs().variants[kind])
    if kind == "estimators":
        tried |= proofs().defaults[0]
    # Estimators whose gradient is made from scores come last: they have fewer stages.
    return dict(sorted(tried.items(), key=lambda item: isinstance(item[1], ScoreEstimator)))


def first_formula() -> OptimizerSpec:
    """Return the first optimizer with an update formula, for stages that read none or any."""
    rules = variants("optimizers").values()
    return next(rule for rule in rules if isinstance(rule, OptimizerSpec))


def kinks() -> tuple[Kink, ...]:
    """Return all non-differentiable and extreme points."""
    return tuple(kink for proof in proofs().all for kink in proof.kinks)


def reference_of(cls: type[Any]) -> type[Any] | None:
    """Return the reference implementation that a class is held to, None where there is none; see `Proof.reference`."""
    return proofs().reference(cls)


def hold_to_parent(cls: type[Any]) -> None:
    """Hold a class to the reference implementation of its nearest base that has one: what changes is a planted bug."""
    references = proofs().references
    references.setdefault(cls, next(references[base] for base in cls.__mro__ if base in references))


def kind_of(cls: object) -> str:
    """Return the kind of a class.

    Raises:
        PluginError: it is no class of an estimator, a head or an optimizer.
    """
    for kind, (bases, _) in FORMULAS.items():
        if isinstance(cls, type) and issubclass(cls, bases):
            return kind
    raise PluginError(
        f"Proof.of: expected the class of an estimator, head or optimizer, got {cls!r}; name a class"
    )


def told(problem: Exception) -> str:
    """Return an error's message, with its type where it is not pgcore's."""
    return (
        str(problem) if isinstance(problem, PgcoreError) else f"{type(problem).__name__}: {problem}"
    )
