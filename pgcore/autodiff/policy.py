"""Policies of backends whose framework differentiates `pgcore.autodiff.terms`."""

from __future__ import annotations

import math
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from pgcore.autodiff import fisher as autodiff_fisher
from pgcore.autodiff.adoption import STEPS, Probe
from pgcore.autodiff.gradient import AutodiffGradient
from pgcore.autodiff.inputs import (
    Inputs,
    arrays_in,
    episode_chunks,
    padded,
    padded_size,
    repeat_last,
)
from pgcore.autodiff.resident import ResidentPolicy
from pgcore.data.batch import Batch
from pgcore.data.device_array import DeviceArray, place_of
from pgcore.errors import ShapeError, SpecError
from pgcore.interfaces.estimator import KLS, Reduction
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native
from pgcore.xp.numpy import host

__all__ = ["AutodiffPolicy", "critic_kind"]

# The values that a critic returns for a step, by `PolicySpec.critic_values`.
VALUES_A_STEP = {
    "state": "one value",
    "action": "one value an action",
    "twin": "two values an action",
}


class AutodiffPolicy(ResidentPolicy):
    """See `Policy`; a backend writes the abstract methods."""

    probe: Probe | None = None  # the trial of an adopted network

    @abstractmethod
    def forward(self, observations: Any) -> tuple[Native, Native]:
        """Return native [N, outputs] and, with a critic, [N] or [N, critic outputs] values, else None.

        They are of the policy's dtype.

        Args:
            observations: [N, ...] NumPy's or native, or a dict of them for an adopted network.
        """

    @abstractmethod
    def head_parameters(self) -> dict[str, Array]:
        """Return the head's own parameters by name, without the prefix, as NumPy arrays."""

    @abstractmethod
    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Native]:
        """Return native quantities by name, forward only."""

    @abstractmethod
    def differentiate(
        self, surrogate: Surrogate, inputs: Inputs
    ) -> tuple[AutodiffGradient, Native]:
        """Return the gradient of sum_t w_t surrogate_t, unchecked, and its sum of squares, native."""

    @abstractmethod
    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """Return [R, D] sum_t rows[r, t] d log pi(a_t given s_t) / d theta for [R, N] rows."""

    @abstractmethod
    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """Return [D] sum_t w_t F_t v: J^T times `autodiff_fisher.metric` of J v.

        Args:
            inputs: N steps, w their weights; J is the Jacobian of `autodiff_fisher.coordinates`.
            vector: [D] v in canonical order, as the result.
        """

    def distribution(self, observations: Any, action_mask: Any = None) -> Any:
        """See `Policy.distribution`; normalised in float64 by the core, as sampling is."""
        head = self.spec.head
        outputs, _ = self._forward(observations)
        if isinstance(outputs, DeviceArray):
            mask = None if action_mask is None else outputs.place.native(action_mask, "b")
            return self._distribution_of(outputs, mask)
        own = {name: value.astype(np.float64) for name, value in self.head_parameters().items()}
        return head.distribution(host, outputs.astype(np.float64), own, action_mask)

    def distribution_at(self, batch: Batch) -> Any:
        """See `Policy.distribution_at`."""
        whole, rows = batch.whole()
        if not self.resident or not self.holds(whole):
            return super().distribution_at(batch)
        self.try_out(batch)
        observations, _, mask = self.resident_steps(whole, rows)
        with self.place.arrays.computing(self.dtype.name):
            outputs, _ = self.forward(observations)
            return self._distribution_of(self.place.array(outputs), mask)[: batch.num_steps]

    def _distribution_of(self, outputs: DeviceArray, mask: Native) -> DeviceArray:
        """Return the distribution of a network's outputs on a device."""
        place = outputs.place
        own = {
            name.removeprefix("head."): place.arrays.xp.stop_gradient(value)
            for name, value in self.native.items()
            if name.startswith("head.")
        }
        return place.array(self.spec.head.distribution(place.arrays.xp, outputs.native, own, mask))

    def quantities_at(self, names: tuple[str, ...], batch: Batch) -> dict[str, Array]:
        """See `Policy.quantities_at`."""
        signals: dict[str, Array] = {}
        if not KLS.isdisjoint(names):
            signals["reference"] = batch.extras["reference"].astype(self.dtype)
        steps = batch.num_steps
        results = self.run(names, self._inputs(batch, signals, np.ones(steps, self.dtype)))
        if (place := batch.place) is not None and self.beside(batch):
            arrays: dict[str, Any] = {
                name: place.array(value)[:steps] for name, value in results.items()
            }
            return {name: cast("Any", place.holding(array)) for name, array in arrays.items()}
        self.check_unread()
        return {name: self.to_numpy(value)[:steps] for name, value in results.items()}

    def values_at(self, observations: Array, *, from_outputs: bool = False) -> Array:
        """See `Policy.values_at`."""
        outputs, values = self._forward(observations)
        source = outputs if from_outputs else values
        assert source is not None
        return source.reshape(len(observations), -1)

    def gradient(self, surrogate: Surrogate) -> AutodiffGradient:
        """See `Policy.gradient`."""
        gradient, square = self.differentiated(surrogate)
        # A number that is read waits for the device.
        if self.resident:
            self.unread.add(self, square, surrogate)
        elif not math.isfinite(self.number(square)):
            gradient.check_finite()
        return gradient

    def differentiated(self, surrogate: Surrogate) -> tuple[AutodiffGradient, Native]:
        """Return the result of `differentiate`.

        The backend's sum of squares finds what is not finite without a copy to the host.
        """
        inputs = self.resident_inputs(surrogate)
        if inputs is None:
            values = surrogate.values
            used = {name: values[name] for name in surrogate.estimator.signal_names}
            inputs = self._inputs(surrogate.batch, used, surrogate.weights)
        gradient, square = self.differentiate(surrogate, inputs)
        # Those of a batch that is too large for the device are NumPy's.
        if self.resident and not isinstance(inputs.weights, np.ndarray):
            gradient.weights = inputs.weights
        return gradient, square

    def gradient_from(self, vector: Array, surrogate: Surrogate) -> AutodiffGradient:
        """See `Policy.gradient_from`."""
        gradient = self.gradient(surrogate).replaced(self.leaves(np.asarray(vector, self.dtype)))
        gradient.check_finite()
        return gradient

    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """See `Policy.episode_scores`."""
        self.check(batch)
        weights = np.ones(batch.num_steps)
        if step_weights is not None:
            where = "episode_scores step_weights"
            weights = self.check_vector(where, step_weights, batch.num_steps, "step")
        scores = np.empty((batch.num_episodes, self.size), self.dtype)
        for episodes in episode_chunks(batch.episode_lengths):
            numbers, steps = batch.episode_steps(episodes)
            inputs = self._inputs(batch.steps(steps), {}, np.zeros(len(steps), self.dtype))
            # Row e holds the weights of episode e's steps; rows of padding stay 0.
            count = padded_size(len(numbers)) if self.pads else len(numbers)
            rows = np.zeros((count, len(inputs.weights)), self.dtype)
            rows[batch.episode_of_step[steps] - numbers[0], np.arange(len(steps))] = weights[steps]
            scores[episodes] = self.log_prob_products(inputs, rows)[: len(numbers)]
        self.check_computed("episode_scores", scores)
        return scores

    def fisher_vector_product(self, batch: Batch, vector: Array) -> Array:
        """See `Policy.fisher_vector_product`."""
        self.check(batch)
        vector = self.check_vector("fisher_vector_product", vector, self.size, "parameter")
        head, points = self.spec.head, dict[str, Array]()
        # Without a closed form the metric is a sum over actions, which travel as signals.
        if not autodiff_fisher.has_closed_form(head):
            distribution = self.distribution(batch.observations, batch.action_mask)
            points = autodiff_fisher.quadrature(head, distribution, self.dtype)
        inputs = self._inputs(batch, points, self._shares(batch))
        product = self.fisher_product(inputs, np.asarray(vector, self.dtype))
        self.check_computed("fisher_vector_product", product)
        return product

    def _shares(self, batch: Batch) -> Array:
        """Return [N] weights of a mean over real steps; the same array again for the last batch."""
        kept = self.shares
        if kept is None or kept[0]() is not batch:
            weights = Reduction.STEP.weights(batch).astype(self.dtype)
            kept = self.shares = (weakref.ref(batch), weights)
        return kept[1]

    def flat_values(self, values: Native) -> Native:
        """Return an adopted critic's [N, 1] state values as [N]; anything else as it is."""
        column = len(getattr(values, "shape", ())) == 2 and values.shape[1] == 1
        return values[:, 0] if column and self.spec.critic_values == "state" else values

    def check_outputs(self, outputs: Native, values: Native, steps: int | None) -> None:
        """Raise ShapeError or SpecError unless an adopted network's results fit the spec.

        Args:
            outputs: The network's result for the head; anything.
            values: The critic's, [N], or [N, critic outputs] of actions; None without a critic.
            steps: N, or None where it is unknown while a graph is built.
        """
        spec, row = self.spec, "one row of natural parameters"
        self._check_output("outputs", outputs, [steps, spec.head.outputs], row)
        if spec.critic != "none":
            shape = [steps] if spec.critic_values == "state" else [steps, spec.critic_outputs]
            self._check_output("values", values, shape, VALUES_A_STEP[spec.critic_values])

    def _check_output(self, name: str, value: Native, expected: list[int | None], row: str) -> None:
        """Check one of the arrays; see `check_outputs`."""
        shape: list[Any] | None = list(value.shape) if hasattr(value, "shape") else None
        # A length of None is any length.
        lengths = [n and size for size, n in zip(shape or (), expected, strict=False)]
        if shape is None or len(shape) != len(expected) or lengths != expected:
            raise ShapeError(
                f"{self.spec.network}: expected {name} of shape {expected} for {self.spec.head}, got "
                f"{type(value).__name__ if shape is None else shape}; return {row} a step"
            )
        if self.dtype.name not in str(value.dtype):
            raise SpecError(
                f"{self.spec.network}: expected {name} in {self.dtype}, as its parameters are, "
                f"got {value.dtype}; compute in one dtype"
            )

    def _inputs(self, batch: Batch, signals: Mapping[str, Array], weights: Array) -> Inputs:
        """Return a policy's inputs in its dtype, padded for compiled code."""
        # The numbers of a part's rows take time that a policy in host memory need not spend.
        whole, rows = batch.whole() if self.resident else (batch, None)
        if self.holds(whole):
            self.try_out(whole)
            extra = self.padding(batch.num_steps)
            used = {name: self.signal(name, value, extra) for name, value in signals.items()}
            arrays = self.resident_steps(whole, rows)
            return Inputs(*arrays, used, self.moved_weights(weights))
        observations, actions = self._observations(batch.observations), self.actions(batch.actions)
        inputs = Inputs(observations, actions, batch.action_mask, dict(signals), weights)
        return padded(inputs) if self.pads else inputs

    def try_out(self, batch: Batch) -> None:
        """See `ResidentPolicy.try_out`."""
        if self.probe is not None and not self.probe.finished:
            observations: Any = batch.held("observations")
            # Few rows of those on a device are copied.
            self._observations(np.asarray(observations[:STEPS]))

    def _observations(self, observations: Array) -> Any:
        """Return observations as the network takes them, once an adopted one was tried on them."""
        observations = self.observations(observations)
        if self.probe is not None:
            self.probe(self._numbers, observations)
        return observations

    def _forward(self, observations: Array) -> tuple[Any, Any]:
        """Return `forward` of observations as a batch holds them: on a device the results stay there."""
        place = place_of(observations)
        if place is None or not self.is_here(place):
            self.check_unread()
            return self._numbers(self._observations(np.asarray(observations)))
        steps = len(observations)
        if self.probe is not None and not self.probe.finished:
            self._observations(np.asarray(observations[:STEPS]))
        with place.arrays.computing(self.dtype.name):
            taken = self.taken("observations", observations, self.padding(steps))
            outputs, values = self.forward(taken)
        found = [None if x is None else place.array(x)[:steps] for x in (outputs, values)]
        first, second = (None if x is None else place.holding(x) for x in found)
        return first, second

    def _numbers(self, observations: Any) -> tuple[Array, Array | None]:
        """Return `forward` as NumPy's arrays, with observations padded for compiled code."""
        steps = len(arrays_in(observations)[0])
        found = self.forward(repeat_last(observations, self.padding(steps)))
        outputs, values = (None if x is None else self.to_numpy(x)[:steps] for x in found)
        return cast("Array", outputs), values


def critic_kind(backend: str, critic: Any) -> str:
    """Return the spec's critic for that of `Backend.adopt`, or raise SpecError for an unknown word."""
    if isinstance(critic, str) and critic != "shared":
        raise SpecError(
            f"{backend}.adopt critic: expected None, 'shared' or a network that returns values, "
            f"got {critic!r}; pass the critic itself"
        )
    if critic is None:
        return "none"
    return critic if isinstance(critic, str) else "separate"
