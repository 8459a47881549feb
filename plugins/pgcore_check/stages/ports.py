"""The courses of two policies that should be equal, such as a network and its port.

Each policy has its own names for the same parameters.
"""

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

# The numbers of optimizer steps after which parameters are compared.
STEPS = (1, 10)

# The name under which the entries of unpaired arrays are compared.
UNPAIRED = "entries of all other arrays, in order of size"

# A policy's results on one batch: by stage, arrays by name.
Course = dict[str, dict[str, Array]]

# From arrays by a policy's names to the arrays that are compared.
View = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs of equal arrays of two policies' parameters.

    Attributes:
        axes: By the left name, the right name and the order of its axes.
        left: Names of the left policy that have no partner.
        right: Names of the right policy that have no partner.
    """

    axes: dict[str, tuple[str, tuple[int, ...]]]
    left: tuple[str, ...]
    right: tuple[str, ...]

    def of_left(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the left policy's arrays in the order of comparison."""
        return {name: arrays[name] for name in self.axes} | unpaired_entries(arrays, self.left)

    def of_right(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the right policy's arrays by the left names."""
        paired = {name: arrays[right].transpose(axes) for name, (right, axes) in self.axes.items()}
        return paired | unpaired_entries(arrays, self.right)


def unpaired_entries(arrays: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    """Return all entries of some arrays, sorted; no order of axes, rows or arrays changes them."""
    if not names:
        return {}
    return {UNPAIRED: np.sort(np.concatenate([arrays[name].reshape(-1) for name in names]))}


def pairing_of(left: Policy, right: Policy) -> Pairing:
    """Pair the arrays of two policies that hold the same numbers in some order of the axes.

    Raises:
        ParameterError: they have different numbers of parameters.
    """
    lefts, rights = left.parameters(), right.parameters()
    sizes = [sum(value.size for value in arrays.values()) for arrays in (lefts, rights)]
    if sizes[0] != sizes[1]:
        raise ParameterError(
            "compare_policies: expected two policies of as many parameters, "
            f"got {sizes[0]} and {sizes[1]}; compare a network with its port"
        )
    dtype = coarser(left, right)
    partners: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    # How many left arrays each right array equals.
    suitors = dict.fromkeys(rights, 0)
    for name, value in lefts.items():
        partners[name] = []
        for partner, array in rights.items():
            orders = [*matching_orders(array.astype(dtype), value.astype(dtype))]
            partners[name] += [(partner, order) for order in orders]
            suitors[partner] += bool(orders)
    # Biases that are all 0 are equal to each other, and an identity to its transpose: such arrays,
    # or their orders, cannot be told apart, and stay unpaired.
    axes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, candidates in partners.items():
        if len(candidates) == 1 and suitors[candidates[0][0]] == 1:
            axes[name] = candidates[0]
    paired = {partner for partner, _ in axes.values()}
    return Pairing(
        axes,
        tuple(name for name in lefts if name not in axes),
        tuple(name for name in rights if name not in paired),
    )


def matching_orders(array: Array, reference: Array) -> Iterator[tuple[int, ...]]:
    """Yield each order of axes in which an array equals the reference."""
    if array.ndim != reference.ndim or array.size != reference.size:
        return
    for axes in itertools.permutations(range(array.ndim)):
        if np.array_equal(array.transpose(axes), reference):
            yield axes


def coarser(left: Policy, right: Policy) -> np.dtype[Any]:
    """Return the dtype with the larger roundoff."""
    return left.dtype if np.finfo(left.dtype).eps >= np.finfo(right.dtype).eps else right.dtype


def courses_of(
    policy: Policy,
    view: View,
    estimator: Estimator,
    batch: Batch,
    signals: Signals,
    optimizer: OptimizerSpec,
) -> list[Course]:
    """Return a policy's course on a batch, then those of its perturbed inputs.

    The policy's parameters are changed.

    Args:
        policy: At the parameters to start from.
        view: From arrays by the policy's names to those that are compared.
        estimator: Which loss.
        batch: Whole episodes.
        signals: The signals of all stages after the first, computed by either policy.
        optimizer: The formula of the steps, with the norm to clip to.
    """
    # Before the first course, whose steps move the parameters.
    starts = nudged_parameters(policy)
    courses = [course_of(policy, view, estimator, batch, signals, optimizer)]
    for number, parameters in enumerate(starts):
        policy.load(parameters)
        moved = nudged_batch(batch, policy.dtype, number)
        courses.append(course_of(policy, view, estimator, moved, signals, optimizer))
    return courses


def course_of(
    policy: Policy,
    view: View,
    estimator: Estimator,
    batch: Batch,
    signals: Signals,
    optimizer: OptimizerSpec,
) -> Course:
    """Return a policy's results on a batch, by stage; see `courses_of`."""
    real = batch.episode_weights[batch.episode_of_step] > 0
    course: Course = {"parameters": view(policy.parameters())}
    computed = api.signals(policy, estimator, batch)
    # Integers, such as the numbers of episodes, are the batch's.
    course["signals"] = {
        name: value[real] for name, value in computed.values.items() if value.dtype.kind == "f"
    }
    # The other policy may have computed the shared signals, in the other dtype.
    cast = {
        name: value.astype(policy.dtype) if value.dtype.kind == "f" else value
        for name, value in signals.values.items()
    }
    shared = Signals(cast, signals.weights.astype(policy.dtype), padded=signals.padded)
    gradient = api.gradient(policy, estimator, batch, signals=shared)
    quantities = gradient.arguments()
    course["quantities"] = {name: quantities[name][real] for name in estimator.quantities}
    course["surrogate"] = {"term": gradient.terms()[real]}
    course["gradient"] = view(gradient.numpy())
    if optimizer.max_grad_norm is None:
        return course
    course["clipped gradient"] = view(gradient.clipped(optimizer.max_grad_norm).numpy())
    stepper = Optimizer(optimizer)
    for step in range(1, max(STEPS) + 1):
        if step > 1:
            gradient = api.gradient(policy, estimator, batch, signals=shared)
        stepper.step(policy, gradient)
        if step in STEPS:
            course[f"{step} step{'s' if step > 1 else ''}"] = view(policy.parameters())
    return course


def within_rounding(
    courses: Sequence[Mapping[str, Array]], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Return by name the rounding error of each entry, measured by perturbed inputs.

    Args:
        courses: The arrays of one stage, then those of each perturbation.
        dtype: The working precision.
    """
    exact, *perturbed = courses
    return {
        name: spread(value, [course[name] for course in perturbed], dtype)
        for name, value in exact.items()
    }
