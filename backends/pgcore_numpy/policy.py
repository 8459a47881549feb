"""Policies whose gradients are closed forms: estimator, head and network, one after the other, block by block."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError, ShapeError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host
from pgcore_numpy.gradient import NumpyGradient
from pgcore_numpy.heads import make_kernel
from pgcore_numpy.kernel import Kernel
from pgcore_numpy.network import Network
from pgcore_numpy.networks import build_network, check_network
from pgcore_numpy.optimizers import NumpyOptimizer
from pgcore_numpy.parameters import NumpyParameters, Views

__all__ = ["NumpyPolicy"]

# Steps handled at a time: a block's activations stay in the second-level cache. Blocks are fixed, and so is the order in
# which their gradients are added, so a gradient is the same to the bit in every run.
BLOCK = 512

ALL = slice(None)
NO_VALUES = np.empty((0, 0))

# The quantities that a critic gives.
VALUED = {"state": frozenset(("value",)), "action": frozenset(("action_value", "action_values"))}

# Buffers are kept for this many different block sizes; a training run needs three or four, and now and then a few more.
KEPT_SIZES = 16

# Forward passes are kept for batches of at most this many blocks.
KEPT_PASSES = 16


class Workspace:
    """Buffers for blocks of one size: the network's, the head's, and one gradient vector."""

    def __init__(self, policy: NumpyPolicy, steps: int, *, with_value: bool) -> None:
        """Allocate for a number of steps."""
        self.network: Network = build_network(
            policy.spec, steps, policy.dtype, with_value=with_value
        )
        self.kernel: Kernel = make_kernel(policy.spec.head)
        self.vector = np.zeros(policy.layout.size, policy.dtype)
        self.actions: Array = np.empty(0, np.intp)
        self.gradient: Views = policy.layout.views(self.vector)
        self.layout = policy.layout

    @cached_property
    def direction_vector(self) -> Array:
        """[D] a direction in parameter space; made for the first Fisher-vector product."""
        return np.zeros_like(self.vector)

    @cached_property
    def direction(self) -> Views:
        """Its views."""
        return self.layout.views(self.direction_vector)

    @cached_property
    def own(self) -> list[tuple[slice, Array, Array]]:
        """Where each of the policy's own parameters lies: in a canonical vector, and as views into `direction_vector` and `vector`."""
        along, derivatives = (
            self.layout.named(vector) for vector in (self.direction_vector, self.vector)
        )
        return [
            (place, along[name], derivatives[name])
            for name, place in self.layout.places.items()
            if not name.startswith("critic.")
        ]

    def collect(self, steps: slice) -> None:
        """Write the derivatives of all parameters, summed over some of the block's steps, to `vector`."""
        self.network.collect(self.gradient, steps)
        self.kernel.collect(self.gradient.head, steps)


class Passes(NamedTuple):
    """Forward passes that the Fisher-vector products of one solve have in common: a batch, the parameters, a workspace a block."""

    batch: Batch
    vector: Array
    works: list[Workspace]


class NumpyPolicy(NumpyParameters, Policy):
    """See `Policy`.

    Attributes:
        views: Of `vector`, for the arithmetic.
    """

    left_out: ClassVar[frozenset[str]] = Policy.left_out | {"views", "_buffers"}

    def __init__(self, backend: str, spec: PolicySpec, dtype: np.dtype[Any], seed: int) -> None:
        """Allocate the parameters and set them to the spec's initial ones."""
        self.backend, self.spec, self.dtype = backend, spec, dtype
        make_kernel(
            spec.head
        )  # refuses a head without a closed form here, where the spec is at hand
        check_network(spec.network)
        self._critic = frozenset[str]() if spec.critic == "none" else VALUED[spec.critic_values]
        self.vector = np.zeros(self.layout.size, dtype)
        self.rebuild()
        self.load(spec.initial_parameters(seed))

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self.views = self.layout.views(self.vector)
        self._buffers = threading.local()

    def optimizer_state(self, formula: OptimizerSpec) -> NumpyOptimizer:
        """See `Policy.optimizer_state`."""
        return NumpyOptimizer(formula, self)

    def distribution(self, observations: Array, action_mask: Array | None = None) -> Array:
        """See `Policy.distribution`."""
        result = np.empty((len(observations), self.spec.head.width))
        head = {name: value.astype(np.float64) for name, value in self.views.head.items()}
        for block in blocks(len(observations)):
            network = self._workspace(block.stop - block.start, with_value=False).network
            network.forward(self.views, observations[block])
            mask = None if action_mask is None else action_mask[block]
            result[block] = self.spec.head.distribution(
                host, network.outputs.T.astype(np.float64), head, mask
            )
        return result

    def quantities_at(self, names: tuple[str, ...], batch: Batch) -> dict[str, Array]:
        """See `Policy.quantities_at`."""
        reference = batch.extras.get("reference")
        parts: list[dict[str, Array]] = []
        for block in blocks(batch.num_steps):
            part = None if reference is None else reference[block].astype(self.dtype, copy=False)
            parts.append(self._quantities(names, batch, block, part)[1])
        return {name: joined([part[name] for part in parts]) for name in names}

    def values_at(self, observations: Array, *, from_outputs: bool = False) -> Array:
        """See `Policy.values_at`."""
        parts: list[Array] = []
        for block in blocks(len(observations)):
            network = self._workspace(block.stop - block.start, with_value=not from_outputs).network
            network.forward(self.views, observations[block])
            parts.append((network.outputs if from_outputs else network.values).T.copy())
        return joined(parts)

    def gradient(self, surrogate: Surrogate) -> NumpyGradient:
        """See `Policy.gradient`."""
        estimator, batch, signals, weights = (
            surrogate.estimator,
            surrogate.batch,
            surrogate.values,
            surrogate.weights,
        )
        names, keywords = estimator.quantities, estimator.keywords
        total: Array | None = None
        given: list[dict[str, Array]] = []
        with np.errstate(all="ignore"):  # what overflows is found below, by name and step
            for block in blocks_of(estimator, batch):
                whole = block.stop - block.start == batch.num_steps
                own = signals if whole else {name: value[block] for name, value in signals.items()}
                work, named = self._quantities(names, batch, block, own.get("reference"))
                for name in keywords:
                    if name not in named:
                        named[name] = own[name]
                given.append(named)
                cotangents = estimator.cotangents(**named)
                if len(cotangents) != len(names) or not all(map(cotangents.__contains__, names)):
                    raise missing_cotangents(estimator, cotangents)
                own_weights = weights if whole else weights[block]
                self._backward(
                    work, {name: weigh(value, own_weights) for name, value in cotangents.items()}
                )
                work.collect(ALL)
                total = (
                    work.vector.copy() if total is None else np.add(total, work.vector, out=total)
                )
            assert total is not None
            gradient = NumpyGradient(self, total, surrogate, given)
            if not math.isfinite(np.dot(total, total)):
                gradient.check_finite()
        return gradient

    def gradient_from(self, vector: Array, surrogate: Surrogate) -> NumpyGradient:
        """See `Policy.gradient_from`."""
        estimator, batch, signals = surrogate.estimator, surrogate.batch, surrogate.values
        given: list[dict[str, Array]] = []
        for block in blocks_of(estimator, batch):
            own = signals["reference"][block] if "reference" in signals else None
            _, named = self._quantities(estimator.quantities, batch, block, own)
            given.append(
                named
                | {name: signals[name][block] for name in estimator.keywords if name not in named}
            )
        native = np.empty(self.layout.size, self.dtype)
        native[self.layout.order] = vector
        gradient = NumpyGradient(self, native, surrogate, given)
        gradient.check_finite()
        return gradient

    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """See `Policy.episode_scores`."""
        self.check(batch)
        weights = (
            np.ones(batch.num_steps, self.dtype)
            if step_weights is None
            else step_weights.astype(self.dtype)
        )
        scores = np.zeros((batch.num_episodes, self.layout.size), self.dtype)
        episode_of_step = batch.episode_of_step
        for block in blocks(batch.num_steps):
            work, _ = self._quantities(("log_prob",), batch, block, None)
            self._backward(work, {"log_prob": weights[block]})
            for episode in range(episode_of_step[block.start], episode_of_step[block.stop - 1] + 1):
                start = max(batch.episode_starts[episode] - block.start, 0)
                stop = min(batch.episode_ends[episode] + 1, block.stop) - block.start
                work.collect(slice(start, stop))
                scores[episode] += work.vector
        scores = scores[:, self.layout.order]
        self.check_scores(scores)
        return scores

    def fisher_vector_product(self, batch: Batch, vector: Array) -> Array:
        """See `Policy.fisher_vector_product`."""
        self.check(batch)
        if np.shape(vector) != (self.layout.size,):
            raise ShapeError(
                f"fisher_vector_product: expected [{self.layout.size}], the parameters, got {list(np.shape(vector))}; flatten in canonical order"
            )
        real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        weights = (real / real.sum()).astype(self.dtype)
        product = np.zeros(self.layout.size, self.dtype)
        for block, work in zip(blocks(batch.num_steps), self._passes(batch), strict=True):
            network, direction = work.network, work.direction
            for place, along, _ in work.own:
                along[...] = vector[place].reshape(along.shape)
            moved = network.tangent(self.views, direction)
            network.backward(
                self.views, work.kernel.fisher(moved, weights[block], direction.head), NO_VALUES
            )
            work.collect(ALL)
            for place, _, derivative in work.own:
                product[place] += derivative.reshape(-1)
        self.check_product(product)
        return product

    def _passes(self, batch: Batch) -> Iterator[Workspace]:
        """Yield every block's workspace after its forward pass; the last batch's are kept while it and the parameters stay the same."""
        if batch.num_steps > KEPT_PASSES * BLOCK:
            for block in blocks(batch.num_steps):
                yield self._quantities((), batch, block, None)[0]
            return
        kept: Passes | None = self._buffers.__dict__.get("passes")
        if kept is None or kept.batch is not batch or not np.array_equal(kept.vector, self.vector):
            works = [
                Workspace(self, block.stop - block.start, with_value=False)
                for block in blocks(batch.num_steps)
            ]
            for block, work in zip(blocks(batch.num_steps), works, strict=True):
                mask = None if batch.action_mask is None else batch.action_mask[block]
                work.network.forward(self.views, batch.observations[block])
                work.kernel.forward(work.network.outputs, self.views.head, mask)
            kept = self._buffers.passes = Passes(batch, self.vector.copy(), works)
        yield from kept.works

    def _quantities(
        self, names: Collection[str], batch: Batch, block: slice, reference: Array | None
    ) -> tuple[Workspace, dict[str, Array]]:
        """Run a block forward; `reference` is the block's own."""
        critic = [name for name in names if name in self._critic]
        steps = block.stop - block.start
        work = self._workspace(steps, with_value=bool(critic))
        observations, actions, mask = batch.observations, batch.actions, batch.action_mask
        if steps != batch.num_steps:
            observations, actions, mask = (
                observations[block],
                actions[block],
                None if mask is None else mask[block],
            )
        work.network.forward(self.views, observations)
        work.kernel.forward(work.network.outputs, self.views.head, mask)
        named = work.kernel.quantities(names, actions, reference)
        for name in critic:
            values = work.network.values
            if name == "action_values":
                named[name] = values.T.copy()
            else:
                named[name] = (
                    values[0].copy() if name == "value" else values[actions, np.arange(steps)]
                )
        if "action_value" in critic:
            work.actions = actions
        return work, named

    def _backward(self, work: Workspace, cotangents: dict[str, Array]) -> None:
        """Carry a block's weighted cotangents back; `collect` then sums them up."""
        d_values = NO_VALUES
        for name in [name for name in cotangents if name in self._critic]:
            given = cotangents.pop(name)
            part = given.T if name == "action_values" else given[None]
            if name == "action_value":
                part = np.zeros_like(work.network.values)
                part[work.actions, np.arange(len(given))] = given
            d_values = part if d_values is NO_VALUES else d_values + part
        work.network.backward(self.views, work.kernel.backward(cotangents), d_values)

    def _workspace(self, steps: int, *, with_value: bool) -> Workspace:
        """Return this thread's buffers for blocks of this size."""
        kept: dict[tuple[int, bool], Workspace] = self._buffers.__dict__.setdefault("kept", {})
        work = kept.get((steps, with_value))
        if work is None:
            if len(kept) >= KEPT_SIZES:
                kept.pop(next(iter(kept)))
            work = kept[steps, with_value] = Workspace(self, steps, with_value=with_value)
        return work


def blocks(steps: int) -> Iterator[slice]:
    """Yield the fixed blocks that steps are handled in."""
    for start in range(0, steps, BLOCK):
        yield slice(start, min(start + BLOCK, steps))


def blocks_of(estimator: Estimator, batch: Batch) -> Iterator[slice]:
    """Yield the fixed blocks; those of an estimator that sees episodes end where episodes do, and a longer one is a block by itself."""
    if not estimator.sees_episodes:
        yield from blocks(batch.num_steps)
        return
    start = 0
    for first, last in zip(batch.episode_starts.tolist(), batch.episode_ends.tolist(), strict=True):
        if first > start and last + 1 - start > BLOCK:
            yield slice(start, first)
            start = first
    yield slice(start, batch.num_steps)


def joined(parts: list[Array]) -> Array:
    """Return the blocks' arrays as one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def missing_cotangents(estimator: Estimator, cotangents: Mapping[str, Array]) -> EstimatorError:
    """Return the error for derivatives that are not those of the quantities that the surrogate uses."""
    return EstimatorError(
        f"{estimator.name}.cotangents: expected derivatives for {', '.join(estimator.quantities)}, got them for "
        f"{', '.join(cotangents)}; return one array for each quantity that the surrogate uses"
    )


def weigh(cotangent: Array, weights: Array) -> Array:
    """Return a [n] or [n, A] cotangent times the [n] weights of the loss."""
    return cotangent * (weights[:, None] if cotangent.ndim == 2 else weights)
