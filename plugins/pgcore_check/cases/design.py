"""The design of the cases: every estimator with every head, and every pair of two levels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from pgcore.data.spec import PolicySpec
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS, ONCE, Case, fits, twinned
from pgcore_check.proofs import variants

__all__ = [
    "CRITICS",
    "DTYPES",
    "Choice",
    "covering",
    "few_of",
    "levels_of",
    "optimizers",
    "product",
    "spec_of",
]

# A spec's critic, with the word action for a critic of action values: twins for estimators of twins.
CRITICS = ("separate", "shared", "none", "separate action", "shared action")
DTYPES = ("float64", "float32")

# The number of optimizers whose cases' seeds follow on one another.
OPTIMIZERS = 4


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
        """The level of each factor: the factor's name, a space, and the level's name.

        An estimator is one factor, or one for each part of its surrogate.
        """
        spec, dtype = self.case.spec, self.case.dtype
        return (
            *(
                f"{factor} {level}"
                for factor, level in self.case.estimator.differentiated_parts.items()
            ),
            f"head {self.case.spec.head.name}",
            f"network {self.network}",
            f"critic {critic_of(spec)}",
            f"dtype {dtype}",
            f"optimizer {self.optimizer}",
        )

    @property
    def built(self) -> tuple[PolicySpec, str]:
        """The spec and the dtype, for which backends compile."""
        return self.case.spec, self.case.dtype

    @cached_property
    def labels(self) -> tuple[str, str]:
        """The variants of estimator and head, written as levels."""
        return f"variant {self.variant}", f"head variant {self.head}"

    @cached_property
    def compiled(self) -> tuple[str, ...]:
        """The levels, with the estimator's surrogate for its name: a mode compiles the formula."""
        surrogate = type(self.case.estimator).surrogate
        parts = (level for level in self.levels if not level.startswith("estimator "))
        return (f"surrogate {surrogate.__module__}.{surrogate.__qualname__}", *parts)

    @cached_property
    def moving(self) -> tuple[tuple[str, str], ...]:
        """What Fisher products and steps depend on, each in this dtype: all but the estimator."""
        head, network, critic, dtype, optimizer = self.levels[-5:]
        _, head_variant = self.labels
        parts = (head, head_variant, network, critic, optimizer)
        return tuple((part, dtype) for part in parts)

    def pairs(self, factor: str = "") -> set[tuple[str, ...]]:
        """Return every pair of two levels, and the labels of estimator and head, which occur once.

        Args:
            factor: "estimator" or "head" for the pairs of its label with other levels alone.
        """
        labels: dict[str, str] = dict(zip(("estimator", "head"), self.labels, strict=True))
        pairs = itertools.combinations(self.levels, 2)
        if factor:
            pairs = ((labels[factor], level) for level in self.levels)
        return {*pairs, *((label,) for label in self.labels)}


def optimizers() -> tuple[str, ...]:
    """Return the names of the first-order optimizers, built-in ones first; with default options."""
    rules = variants("optimizers").values()
    names = dict.fromkeys(rule.name for rule in rules if isinstance(rule, OptimizerSpec))
    built_in = {
        entry.provider.name
        for entry in registry().providers("optimizers")
        if entry.distribution == "pgcore"
    }
    return tuple(sorted(names, key=lambda name: name not in built_in))


def product(
    estimators: Mapping[str, Estimator],
    heads: Mapping[str, Head],
    *,
    rules: Collection[str] | None = None,
) -> list[Choice]:
    """Return every case whose parts fit each other, of all optimizers or of some names.

    Networks of `ONCE` have the first estimator and critic that fit a head.
    """
    choices: list[Choice] = []
    once: set[tuple[str, str]] = set()
    # A case's seed is its number among all combinations, whether their parts fit or not. What else
    # is installed moves no seed: those of a stranger's optimizer come after the others.
    order = {name: number for number, name in enumerate(optimizers())}
    runs = list(itertools.product(DTYPES, order))
    runs.sort(key=lambda run: order[run[1]] // OPTIMIZERS)
    # The selected ones retain their seeds.
    selected = order if rules is None else rules
    seeds = itertools.count(0, OPTIMIZERS * len(DTYPES))
    specs = {
        names: spec_of(heads[names[0]], *names[1:])
        for names in itertools.product(heads, NETWORKS, CRITICS)
    }
    for variant, names in itertools.product(estimators, specs):
        seed, spec, estimator = next(seeds), specs[names], estimators[variant]
        spec = spec and twinned(spec, estimator)
        if spec is None or not fits(estimator, spec):
            continue
        head, network, _ = names
        if network in ONCE and (head, network) in once:
            continue
        once.add((head, network))
        for number, (dtype, optimizer) in enumerate(runs, seed):
            if optimizer not in selected:
                continue
            label = f"{variant}-{head}-{network}-{critic_of(spec)}-{dtype}-{optimizer}"
            case = Case(label, spec, estimator, dtype, number)
            choices.append(Choice(variant, head, network, optimizer, case))
    return choices


def covering(
    estimators: Mapping[str, Estimator],
    heads: Mapping[str, Head],
    factor: str = "",
    *,
    rules: Collection[str] | None = None,
) -> list[Choice]:
    """Return cases that contain every pair of two levels, chosen greedily by their new pairs.

    Of equally good cases it is one of a spec that occurs already, whose compiled functions serve
    both.

    Args:
        estimators: By label.
        heads: By label.
        factor: See `Choice.pairs`.
        rules: See `product`.
    """
    everything = product(estimators, heads, rules=rules)
    masks = packed(bit_masks([choice.pairs(factor) for choice in everything]))
    specs = {spec: number for number, spec in enumerate(dict.fromkeys(c.built for c in everything))}
    spec_of_case = np.array([specs[choice.built] for choice in everything], np.intp)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, choice in enumerate(everything):
        # A composition has pairs of its parts alone.
        if len(choice.case.estimator.differentiated_parts) == 1:
            group = (choice.case.estimator.name, choice.case.spec.head.name)
            groups.setdefault(group, []).append(number)
    missing = np.bitwise_or.reduce(masks, axis=0) if everything else masks[:0]
    selection: list[int] = []
    built = np.zeros(len(specs), np.bool_)
    # First a case for each estimator with each head, then cases for the pairs that are left.
    unlimited = itertools.repeat(np.arange(len(masks)))
    for numbers in itertools.chain(map(np.array, groups.values()), unlimited):
        if not missing.any():
            break
        # The first of the best: a compiled spec is worth less than a new pair.
        new = np.bitwise_count(masks[numbers] & missing).sum(axis=1, dtype=np.intp)
        best = int(numbers[(2 * new + built[spec_of_case[numbers]]).argmax()])
        selection.append(best)
        built[spec_of_case[best]] = True
        missing &= ~masks[best]
    return [everything[number] for number in selection]


def packed(masks: Sequence[int]) -> NDArray[np.uint64]:
    """Return [N, W] bits of N masks, in words of 64."""
    words = max((mask.bit_length() for mask in masks), default=0) // 64 + 1
    joined = b"".join(mask.to_bytes(8 * words, "little") for mask in masks)
    return np.frombuffer(joined, "<u8").reshape(len(masks), words)


def few_of(
    choices: Sequence[Choice],
    contents: Callable[[Choice], Iterable[Hashable]] = attrgetter("levels"),
    beside: Collection[Choice] = (),
) -> list[Choice]:
    """Return few cases with all contents of the choices, chosen greedily.

    Of equally good cases it is the one with the smaller network, which compiles sooner.

    Args:
        choices: The cases to select from.
        contents: The function from a case to its contents; by default its levels.
        beside: Cases whose contents need no other case.
    """
    # Tables and linear networks are listed first.
    size = {name: number for number, name in enumerate(NETWORKS)}
    numbers = sorted(range(len(choices)), key=lambda number: size[choices[number].network])
    *masks, present = bit_masks(
        [*map(contents, choices), itertools.chain.from_iterable(map(contents, beside))]
    )
    return [choices[number] for number in greedy_cover(masks, union(masks) & ~present, numbers)]


def levels_of(choice: Choice, factors: Collection[str]) -> list[str]:
    """Return a case's levels of some factors."""
    return [level for level in choice.levels if level.partition(" ")[0] in factors]


def bit_masks(sets: Iterable[Iterable[Hashable]]) -> list[int]:
    """Return each set as an integer with a bit for each of its members."""
    bits: dict[Hashable, int] = {}
    masks: list[int] = []
    for members in sets:
        mask = 0
        for member in members:
            mask |= bits.setdefault(member, 1 << len(bits))
        masks.append(mask)
    return masks


def union(masks: Iterable[int]) -> int:
    """Return the mask with the bits of all."""
    return functools.reduce(lambda left, right: left | right, masks, 0)


def greedy_cover(masks: Sequence[int], missing: int, numbers: Iterable[int]) -> list[int]:
    """Return the numbers of masks that contain the missing bits, the most new ones first.

    Args:
        masks: A bit for each member of a set.
        missing: The bits to contain.
        numbers: The masks to select from; the first of equally good ones is selected.
    """
    selection: list[int] = []
    while missing:
        selection.append(max(numbers, key=lambda number: (masks[number] & missing).bit_count()))
        missing &= ~masks[selection[-1]]
    return selection


def critic_of(spec: PolicySpec) -> str:
    """Return a spec's critic, with its values where those are not of states."""
    return spec.critic if spec.critic_values == "state" else f"{spec.critic} {spec.critic_values}"


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
