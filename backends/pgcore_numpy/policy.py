"""Policies with closed-form gradients, block by block."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.quantities import PER_ACTION, VALUES, columns_of
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host
from pgcore_numpy.blocks import ALL, BLOCK, blocks, blocks_of, joined
from pgcore_numpy.gradient import NumpyGradient
from pgcore_numpy.heads import make_kernel
from pgcore_numpy.networks import check_network
from pgcore_numpy.optimizers import NumpyOptimizer
from pgcore_numpy.parameters import NumpyParameters
from pgcore_numpy.workspace import Passes, Workspace

__all__ = ["NumpyPolicy"]

# The derivatives in a critic's values where no quantity of the surrogate is a critic's.
NO_VALUES = np.empty((0, 0))

# Block sizes whose buffers stay allocated; a training run needs three or four, rarely a few more.
MOST_SIZES = 16

# Blocks of a batch whose forward passes stay in memory between Fisher-vector products.
MOST_PASSES = 16


class NumpyPolicy(NumpyParameters, Policy):
    """See `Policy`.

    Attributes:
        views: Of `vector`, for the arithmetic.
    """

    left_out: ClassVar[frozenset[str]] = Policy.left_out | {"views", "_buffers"}

    def __init__(self, backend: str, spec: PolicySpec, dtype: np.dtype[Any], seed: int) -> None:
        """Allocate the parameters and set them to the spec's initial ones."""
        self.backend, self.spec, self.dtype = backend, spec, dtype
        # A head or network without a closed form is refused here, where the spec is at hand.
        make_kernel(spec.head)
        check_network(spec.network)
        self._critic = frozenset[str]() if spec.critic == "none" else VALUES[spec.critic_values]
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
        # Sampling needs distribution parameters in float64 at any dtype of the network.
        head = {name: value.astype(np.float64) for name, value in self.views.head.items()}
        for block in blocks(len(observations)):
            network = self._workspace(block.stop - block.start, with_value=False).network
            network.forward(self.views, observations[block])
            mask = None if action_mask is None else action_mask[block]
            outputs = network.outputs.T.astype(np.float64)
            result[block] = self.spec.head.distribution(host, outputs, head, mask)
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
            # A copy, since the next block of this size overwrites the buffers.
            parts.append((network.outputs if from_outputs else network.values).T.copy())
        return joined(parts)

    def gradient(self, surrogate: Surrogate) -> NumpyGradient:
        """See `Policy.gradient`."""
        estimator, batch = surrogate.estimator, surrogate.batch
        signals, weights = surrogate.values, surrogate.weights
        names, keywords = estimator.quantities, estimator.keywords
        total: Array | None = None
        by_block: list[dict[str, Array]] = []
        # NumPy's warnings are off: overflow is reported by `check_finite`, by name and step.
        with np.errstate(all="ignore"):
            slices = blocks_of(estimator, batch)
            # Most minibatches are one block, whose arrays need no slicing.
            whole = len(slices) == 1
            for block in slices:
                part = signals if whole else {name: value[block] for name, value in signals.items()}
                work, arguments = self._quantities(names, batch, block, part.get("reference"))
                for name in keywords:
                    if name not in arguments:
                        arguments[name] = part[name]
                by_block.append(arguments)
                # The loss weighs terms, so the weights multiply here and nowhere below.
                w = weights if whole else weights[block]
                self._backward(work, weighed(estimator, estimator.cotangents(**arguments), w))
                work.collect(ALL)
                total = (
                    work.vector.copy() if total is None else np.add(total, work.vector, out=total)
                )
            assert total is not None
            gradient = NumpyGradient(self, total, surrogate, by_block)
            # One product tells whether any entry is NaN or infinite.
            if not math.isfinite(np.dot(total, total)):
                gradient.check_finite()
        return gradient

    def gradient_from(self, vector: Array, surrogate: Surrogate) -> NumpyGradient:
        """See `Policy.gradient_from`."""
        estimator, batch, signals = surrogate.estimator, surrogate.batch, surrogate.values
        by_block: list[dict[str, Array]] = []
        # The terms and metrics of the gradient need the surrogate's arguments, block by block.
        for block in blocks_of(estimator, batch):
            reference = signals["reference"][block] if "reference" in signals else None
            _, arguments = self._quantities(estimator.quantities, batch, block, reference)
            for name in estimator.keywords:
                if name not in arguments:
                    arguments[name] = signals[name][block]
            by_block.append(arguments)
        native = np.empty(self.layout.size, self.dtype)
        native[self.layout.order] = vector
        gradient = NumpyGradient(self, native, surrogate, by_block)
        gradient.check_finite()
        return gradient

    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """See `Policy.episode_scores`."""
        self.check(batch)
        weights = np.ones(batch.num_steps, self.dtype)
        if step_weights is not None:
            where = "episode_scores step_weights"
            weights = self.check_vector(where, step_weights, batch.num_steps, "step").astype(
                self.dtype
            )
        scores = np.zeros((batch.num_episodes, self.layout.size), self.dtype)
        episode_of_step = batch.episode_of_step
        for block in blocks(batch.num_steps):
            work, _ = self._quantities(("log_prob",), batch, block, None)
            self._backward(work, {"log_prob": weights[block]})
            # One backward pass serves all episodes of the block; an episode may go on in the next.
            for episode in range(episode_of_step[block.start], episode_of_step[block.stop - 1] + 1):
                start = max(batch.episode_starts[episode] - block.start, 0)
                stop = min(batch.episode_ends[episode] + 1, block.stop) - block.start
                work.collect(slice(start, stop))
                scores[episode] += work.vector
        scores = scores[:, self.layout.order]
        self.check_computed("episode_scores", scores)
        return scores

    def fisher_vector_product(self, batch: Batch, vector: Array) -> Array:
        """See `Policy.fisher_vector_product`."""
        self.check(batch)
        vector = self.check_vector("fisher_vector_product", vector, self.layout.size, "parameter")
        product = np.zeros(self.layout.size, self.dtype)
        for work, weights in self._passes(batch):
            network, direction = work.network, work.direction
            for place, along, _ in work.actor_places:
                along[...] = vector[place].reshape(along.shape)
            # J v forward, F (J v) in the head, J^T (F J v) backward.
            tangent = network.tangent(self.views, direction)
            d_outputs = work.kernel.fisher(tangent, weights, direction.head)
            network.backward(self.views, d_outputs, NO_VALUES)
            work.collect(ALL)
            for place, _, derivative in work.actor_places:
                product[place] += derivative.reshape(-1)
        self.check_computed("fisher_vector_product", product)
        return product

    def _passes(self, batch: Batch) -> Iterable[tuple[Workspace, Array]]:
        """Return each block's workspace after its forward pass, with [n] weights of its steps.

        The last batch's workspaces, at most `MOST_PASSES`, stay in memory while batch and parameters
        are the same.
        """
        if batch.num_steps > MOST_PASSES * BLOCK:
            return self._forward(batch, kept=False)
        passes: Passes | None = self._buffers.__dict__.get("passes")
        # A solve asks for some ten products at the same parameters; each saves its forward pass.
        if (
            passes is None
            or passes.batch is not batch
            or not np.array_equal(passes.vector, self.vector)
        ):
            works = [*self._forward(batch, kept=True)]
            passes = self._buffers.passes = Passes(batch, self.vector.copy(), works)
        return passes.works

    def _forward(self, batch: Batch, *, kept: bool) -> Iterator[tuple[Workspace, Array]]:
        """Yield what `_passes` returns, with workspaces to keep or with those of `_workspace`."""
        # The mean over the batch's real steps: padding has weight 0.
        step_weights = (
            np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        )
        weights = (step_weights / step_weights.sum()).astype(self.dtype)
        workspace = partial(Workspace, self) if kept else self._workspace
        for block in blocks(batch.num_steps):
            work = workspace(block.stop - block.start, with_value=False)
            mask = None if batch.action_mask is None else batch.action_mask[block]
            work.network.forward(self.views, batch.observations[block])
            work.kernel.forward(work.network.outputs, self.views.head, mask)
            yield work, weights[block]

    def _quantities(
        self, names: Collection[str], batch: Batch, block: slice, reference: Array | None
    ) -> tuple[Workspace, dict[str, Array]]:
        """Run a block forward and return its workspace and quantities.

        Args:
            names: The quantities.
            batch: All steps.
            block: The block's steps in the batch.
            reference: [n, width] the reference's distribution parameters at the block's steps.
        """
        critic = [name for name in names if name in self._critic]
        steps = block.stop - block.start
        work = self._workspace(steps, with_value=bool(critic))
        observations, actions, mask = batch.observations, batch.actions, batch.action_mask
        if steps != len(actions):
            observations, actions = observations[block], actions[block]
            mask = None if mask is None else mask[block]
        work.network.forward(self.views, observations)
        work.kernel.forward(work.network.outputs, self.views.head, mask)
        arguments = work.kernel.quantities(names, actions, reference)
        # The head has given its quantities; copies, since the buffers are used again.
        values = work.network.values
        for name in critic:
            if name == "value":
                arguments[name] = values[0].copy()
                continue
            q = values[columns_of(name, self.spec.head.outputs)]
            if name in PER_ACTION:
                arguments[name] = q.T.copy()
            else:
                work.actions = actions
                arguments[name] = q[actions, np.arange(steps)]
        return work, arguments

    def _backward(self, work: Workspace, cotangents: dict[str, Array]) -> None:
        """Carry a block's weighted cotangents back; `collect` then sums them up."""
        d_values = NO_VALUES
        # The critic's cotangents go to its values, the others through the head to the outputs.
        for name in self._critic & cotangents.keys():
            cotangent = cotangents.pop(name)
            part = cotangent[None]
            if name != "value":
                part = np.zeros_like(work.network.values)
                q = part[columns_of(name, self.spec.head.outputs)]
                if name in PER_ACTION:
                    q[...] = cotangent.T
                else:
                    q[work.actions, np.arange(len(cotangent))] = cotangent
            d_values = part if d_values is NO_VALUES else d_values + part
        work.network.backward(self.views, work.kernel.backward(cotangents), d_values)

    def _workspace(self, steps: int, *, with_value: bool) -> Workspace:
        """Return this thread's buffers for blocks of this size."""
        works: dict[tuple[int, bool], Workspace] = self._buffers.__dict__.setdefault("works", {})
        work = works.get((steps, with_value))
        if work is None:
            # The oldest size makes room; a dict keeps the order of insertion.
            if len(works) >= MOST_SIZES:
                works.pop(next(iter(works)))
            work = works[steps, with_value] = Workspace(self, steps, with_value=with_value)
        return work


def weighed(
    estimator: Estimator, cotangents: Mapping[str, Array], weights: Array
) -> dict[str, Array]:
    """Return [n] or [n, A] cotangents of all quantities, times the [n] weights of the loss.

    Raises:
        EstimatorError: they are of other quantities than the surrogate's.
    """
    names, result = estimator.quantities, {}
    if len(names) == len(cotangents):
        for name, value in cotangents.items():
            if name in names:
                result[name] = value * (weights if value.ndim == 1 else weights[:, None])
    if len(result) < len(names):
        raise EstimatorError(
            f"{estimator.name}.cotangents: expected derivatives for {', '.join(names)}, "
            f"got them for {', '.join(cotangents)}; "
            "return one array for each quantity that the surrogate uses"
        )
    return result
