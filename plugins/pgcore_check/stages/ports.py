"""Two policies that should be one: a network and its port to another framework, each with its own names for the same parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore import api
from pgcore.data.batch import Batch
from pgcore.errors import ParameterError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array
from pgcore_check.bounds.rounding import nudged_batch, nudged_parameters, spread

__all__ = ["Course", "Pairing", "coarser", "courses_of", "pairing_of", "within_rounding"]

# After how many of the optimizer's steps to look.
STEPS = (1, 10)

# What is left of the parameters once arrays were paired.
REST = "entries of all other arrays, in order of size"

# By stage, arrays by name.
Course = dict[str, dict[str, Array]]
View = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which array of parameters of one policy is which of the other.

    Attributes:
        axes: By the left name, the right name and the order of its axes.
        left: Names that have no partner.
        right: The same of the other policy.
    """

    axes: dict[str, tuple[str, tuple[int, ...]]]
    left: tuple[str, ...]
    right: tuple[str, ...]

    def of_left(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the left policy's arrays as they are compared."""
        return {name: arrays[name] for name in self.axes} | rest(arrays, self.left)

    def of_right(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the right policy's arrays by the left names."""
        found = {name: arrays[other].transpose(axes) for name, (other, axes) in self.axes.items()}
        return found | rest(arrays, self.right)


def rest(arrays: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    """Return all entries of some arrays by their size, which no order of axes, rows or arrays changes."""
    return (
        {REST: np.sort(np.concatenate([arrays[name].reshape(-1) for name in names]))}
        if names
        else {}
    )


def pairing_of(left: Policy, right: Policy) -> Pairing:
    """Pair the arrays of two policies by what they hold: the same numbers, for some order of the axes.

    Raises:
        ParameterError: they have different numbers of parameters.
    """
    own, other = left.parameters(), right.parameters()
    sizes = [sum(value.size for value in arrays.values()) for arrays in (own, other)]
    if sizes[0] != sizes[1]:
        raise ParameterError(
            f"compare_policies: expected two policies of as many parameters, got {sizes[0]} and {sizes[1]}; compare a network with its port"
        )
    coarse = coarser(left, right)
    found = {
        name: [
            match
            for each, given in other.items()
            for match in matches(each, given.astype(coarse), value.astype(coarse))
        ]
        for name, value in own.items()
    }
    taken = [partner for partners in found.values() for partner in {each for each, _ in partners}]
    # Biases that are all 0 are equal to each other, and an identity to its transpose: which is whose, or which way, nobody can say.
    axes = {
        name: partners[0]
        for name, partners in found.items()
        if len(partners) == 1 and taken.count(partners[0][0]) == 1
    }
    used = {each for each, _ in axes.values()}
    return Pairing(
        axes,
        tuple(name for name in own if name not in axes),
        tuple(name for name in other if name not in used),
    )


def matches(name: str, given: Array, wanted: Array) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name with each order of axes in which an array is the one wanted."""
    if given.ndim != wanted.ndim or given.size != wanted.size:
        return
    for axes in itertools.permutations(range(given.ndim)):
        if np.array_equal(given.transpose(axes), wanted):
            yield name, axes


def coarser(left: Policy, right: Policy) -> np.dtype[Any]:
    """Return the dtype with the larger roundoff."""
    return left.dtype if np.finfo(left.dtype).eps >= np.finfo(right.dtype).eps else right.dtype


def courses_of(
    policy: Policy,
    view: View,
    estimator: Estimator,
    batch: Batch,
    given: Signals,
    optimizer: OptimizerSpec,
) -> list[Course]:
    """Return what a policy makes of a batch, and again wherever rounding may lead. Moves its parameters.

    Args:
        policy: At the parameters to start from.
        view: From arrays in its own names to those that are compared.
        estimator: Which loss.
        batch: Whole episodes.
        given: The signals that all stages after the first are given, whoever computed them.
        optimizer: Of the steps, with the norm to clip to.
    """
    starts = nudged_parameters(policy)  # of the parameters as they are now
    courses = [course_of(policy, view, estimator, batch, given, optimizer)]
    for number, parameters in enumerate(starts):
        policy.load(parameters)
        moved = nudged_batch(batch, policy.dtype, number)
        courses.append(course_of(policy, view, estimator, moved, given, optimizer))
    return courses


def course_of(
    policy: Policy,
    view: View,
    estimator: Estimator,
    batch: Batch,
    given: Signals,
    optimizer: OptimizerSpec,
) -> Course:
    """Return what a policy makes of a batch, by stage; see `courses_of`."""
    real = batch.episode_weights[batch.episode_of_step] > 0
    course: Course = {"parameters": view(policy.parameters())}
    own = api.signals(policy, estimator, batch)
    # Integers, such as the numbers of episodes, are the batch's.
    course["signals"] = {
        name: value[real] for name, value in own.values.items() if value.dtype.kind == "f"
    }
    cast = {
        name: value.astype(policy.dtype) if value.dtype.kind == "f" else value
        for name, value in given.values.items()
    }
    signals = Signals(cast, given.weights.astype(policy.dtype), padded=given.padded)
    gradient = api.gradient(policy, estimator, batch, signals=signals)
    told = gradient.arguments()
    course["quantities"] = {name: told[name][real] for name in estimator.quantities}
    course["surrogate"] = {"term": gradient.terms()[real]}
    course["gradient"] = view(gradient.numpy())
    if optimizer.max_grad_norm is None:
        return course
    course["clipped gradient"] = view(gradient.clipped(optimizer.max_grad_norm).numpy())
    stepper = Optimizer(optimizer)
    for step in range(1, max(STEPS) + 1):
        if step > 1:
            gradient = api.gradient(policy, estimator, batch, signals=signals)
        stepper.step(policy, gradient)
        if step in STEPS:
            course[f"{step} step{'s' if step > 1 else ''}"] = view(policy.parameters())
    return course


def within_rounding(
    courses: Sequence[Mapping[str, Array]], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Return, by name, what rounding may make of each entry of the first, the others being where it led."""
    exact, *others = courses
    return {
        name: spread(value, [other[name] for other in others], dtype)
        for name, value in exact.items()
    }
