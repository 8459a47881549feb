"""The design of the cases: every estimator with every head, and every pair of two levels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pgcore.data.spec import PolicySpec
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore_check.cases.cases import NETWORKS, Case, fits
from pgcore_check.proofs import proofs

__all__ = ["DTYPES", "Choice", "covering", "optimizers", "product"]

# A spec's critic, with the word action for a critic of action values.
CRITICS = ("separate", "shared", "none", "separate action", "shared action")
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Choice:
    """One case, and the optimizer of its steps.

    Attributes:
        variant: The label of the estimator.
        head: The label of the head.
        network: The label of the network.
        optimizer: A registered name.
        case: The case with these parts.
    """

    variant: str
    head: str
    network: str
    optimizer: str
    case: Case

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """The level of each factor: the factor's name, a space, and the level's name."""
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
        """Every pair of two levels, and the labels of estimator and head, which occur once."""
        return {
            *itertools.combinations(self.levels, 2),
            ("estimator", self.variant),
            ("head", self.head),
        }


def optimizers() -> tuple[str, ...]:
    """Return the names of the first-order optimizers with a proof; cases use default options."""
    return tuple(proof.of.name for proof in proofs().all if issubclass(proof.of, OptimizerSpec))


def product(estimators: Mapping[str, Estimator], heads: Mapping[str, Head]) -> list[Choice]:
    """Return every case whose parts fit each other."""
    choices: list[Choice] = []
    options = itertools.product(estimators, heads, NETWORKS, CRITICS, DTYPES, optimizers())
    for seed, (variant, head, network, critic, dtype, optimizer) in enumerate(options):
        spec = spec_of(heads[head], network, critic)
        if spec is None or not fits(estimators[variant], spec):
            continue
        label = f"{variant}-{head}-{network}-{critic}-{dtype}-{optimizer}"
        case = Case(label, spec, estimators[variant], dtype, seed)
        choices.append(Choice(variant, head, network, optimizer, case))
    return choices


def covering(estimators: Mapping[str, Estimator], heads: Mapping[str, Head]) -> list[Choice]:
    """Return cases that contain every pair of two levels, chosen greedily by their new pairs."""
    everything = product(estimators, heads)
    missing = set[tuple[str, str]]().union(*(choice.pairs for choice in everything))
    groups: dict[tuple[str, str], list[Choice]] = {}
    for choice in everything:
        group = (choice.case.estimator.name, choice.case.spec.head.name)
        groups.setdefault(group, []).append(choice)

    def gain(choice: Choice) -> int:
        return len(choice.pairs & missing)

    # First a case for each estimator with each head, then cases for the pairs that are left.
    selection: list[Choice] = []
    for choices in groups.values():
        selection.append(max(choices, key=gain))
        missing -= selection[-1].pairs
    while missing:
        selection.append(max(everything, key=gain))
        missing -= selection[-1].pairs
    return selection


def spec_of(head: Head, network: str, critic: str) -> PolicySpec | None:
    """Return the spec of some parts, None where they do not fit.

    Args:
        head: The head.
        network: A name in `NETWORKS`.
        critic: One of `CRITICS`.
    """
    kind, _, values = critic.partition(" ")
    if kind == "shared" and not NETWORKS[network].has_torso:
        return None
    if values and (head.action_values or not head.enumerable):
        return None
    return PolicySpec(NETWORKS[network], head, kind, values or "state")
