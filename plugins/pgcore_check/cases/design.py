"""Which cases to try: every estimator with every head, and every pair of two of the other things in as few cases as will do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pgcore.data.spec import PolicySpec
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore_check.cases.cases import NETWORKS, Case, fits
from pgcore_check.proofs import proofs

__all__ = ["DTYPES", "Choice", "covering", "optimizers", "product"]

CRITICS = ("separate", "shared", "none", "separate action", "shared action")
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Choice:
    """One case, and the optimizer that takes its steps.

    Attributes:
        variant: The label of the estimator.
        head: The label of the head.
        network: The label of the network.
        optimizer: A registered name.
        case: What they make.
    """

    variant: str
    head: str
    network: str
    optimizer: str
    case: Case

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """What is chosen, thing by thing."""
        spec, dtype = self.case.spec, self.case.dtype
        critic = spec.critic if spec.critic_values == "state" else f"{spec.critic} action"
        return (
            f"estimator {self.case.estimator.name}",
            f"head {self.case.spec.head.name}",
            f"network {self.network}",
            f"critic {critic}",
            f"dtype {dtype}",
            f"optimizer {self.optimizer}",
        )

    @cached_property
    def pairs(self) -> set[tuple[str, str]]:
        """Every pair of two of them; and estimator and head each with their hyper-parameters, once."""
        return {
            *itertools.combinations(self.levels, 2),
            ("estimator", self.variant),
            ("head", self.head),
        }


def optimizers() -> tuple[str, ...]:
    """Return the names of the first-order optimizers that have a proof; each takes its steps as it is by default."""
    return tuple(proof.of.name for proof in proofs().all if issubclass(proof.of, OptimizerSpec))


def product(estimators: Mapping[str, Estimator], heads: Mapping[str, Head]) -> list[Choice]:
    """Return every case that makes sense."""
    options = itertools.product(estimators, heads, NETWORKS, CRITICS, DTYPES, optimizers())
    return [
        choice
        for seed, option in enumerate(options)
        for choice in made(estimators, heads, seed, *option)
    ]


def covering(estimators: Mapping[str, Estimator], heads: Mapping[str, Head]) -> list[Choice]:
    """Return cases in which every pair of two things occurs, chosen greedily: each adds as many new pairs as it can."""
    everything = product(estimators, heads)
    wanted = set[tuple[str, str]]().union(*(choice.pairs for choice in everything))
    groups: dict[tuple[str, str], list[Choice]] = {}
    for choice in everything:
        groups.setdefault((choice.case.estimator.name, choice.case.spec.head.name), []).append(
            choice
        )
    chosen: list[Choice] = []
    for group in groups.values():
        best = max(group, key=lambda choice: len(choice.pairs & wanted))
        chosen.append(best)
        wanted -= best.pairs
    while wanted:
        best = max(everything, key=lambda choice: len(choice.pairs & wanted))
        chosen.append(best)
        wanted -= best.pairs
    return chosen


def made(  # noqa: PLR0917 - one argument a thing
    estimators: Mapping[str, Estimator],
    heads: Mapping[str, Head],
    seed: int,
    variant: str,
    head: str,
    network: str,
    critic: str,
    dtype: str,
    optimizer: str,
) -> Iterable[Choice]:
    """Yield the case, unless its parts do not fit each other."""
    estimator = estimators[variant]
    kind, _, values = critic.partition(" ")
    if kind == "shared" and not NETWORKS[network].has_torso:
        return
    if values and (heads[head].action_values or not heads[head].enumerable):
        return
    spec = PolicySpec(NETWORKS[network], heads[head], kind, values or "state")
    if not fits(estimator, spec):
        return
    label = f"{variant}-{head}-{network}-{critic}-{dtype}-{optimizer}"
    yield Choice(variant, head, network, optimizer, Case(label, spec, estimator, dtype, seed))
