"""What backends that differentiate by themselves share: a batch in, the surrogate's terms through `xp`, arrays out.

A backend derives from `AutodiffPolicy` and writes the few methods that touch its framework; `pgcore.autodiff.terms` holds the function
that it differentiates.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.autodiff import fisher as autodiff_fisher
from pgcore.autodiff.adoption import Probe
from pgcore.autodiff.gradient import AutodiffGradient
from pgcore.autodiff.inputs import Inputs, episode_chunks, padded, padded_size, repeat_last
from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.batch import Batch
from pgcore.data.spec import Adopted
from pgcore.errors import ShapeError, SpecError
from pgcore.interfaces.estimator import KLS
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native
from pgcore.xp.numpy import host

__all__ = ["AutodiffPolicy", "critic_kind"]


class AutodiffPolicy(AutodiffParameters, Policy):
    """A policy whose framework differentiates; a backend writes the methods that are abstract here.

    Attributes:
        pads: Whether steps are padded to a few sizes, so that compiled code is reused.
        probe: What tries an adopted network out; None for any other.
    """

    pads: bool
    probe: Probe | None = None

    @abstractmethod
    def forward(self, observations: Array) -> tuple[Array, Array | None]:
        """Return [N, outputs] and, with a critic, [N] or [N, A] values, as NumPy arrays of the policy's dtype."""

    @abstractmethod
    def head_parameters(self) -> dict[str, Array]:
        """Return the head's own parameters by name, without the prefix, as NumPy arrays."""

    @abstractmethod
    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Array]:
        """Return quantities by name, forward only, as NumPy arrays."""

    @abstractmethod
    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[AutodiffGradient, float]:
        """Return the gradient of sum_t w_t surrogate_t, unchecked, and the sum of its squared entries."""

    @abstractmethod
    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """Return [R, D] sum_t rows[r, t] d log pi(a_t given s_t) / d theta for [R, N] rows, columns in canonical order."""

    @abstractmethod
    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """Return [D] sum_t w_t F_t v for the inputs' weights and a [D] vector, both in canonical order.

        J^T times `autodiff_fisher.metric` of J v, with J the Jacobian of `autodiff_fisher.coordinates`.
        """

    def distribution(self, observations: Array, action_mask: Array | None = None) -> Array:
        """See `Policy.distribution`; normalised in float64 by the core, as sampling is."""
        outputs = self._outputs(observations)[0]
        own = {name: value.astype(np.float64) for name, value in self.head_parameters().items()}
        return self.spec.head.distribution(host, outputs.astype(np.float64), own, action_mask)

    def quantities_at(self, names: tuple[str, ...], batch: Batch) -> dict[str, Array]:
        """See `Policy.quantities_at`."""
        signals = (
            {}
            if KLS.isdisjoint(names)
            else {"reference": batch.extras["reference"].astype(self.dtype)}
        )
        inputs = self._inputs(batch, signals, np.ones(batch.num_steps, self.dtype))
        return {name: value[: batch.num_steps] for name, value in self.run(names, inputs).items()}

    def values_at(self, observations: Array, *, own: bool) -> Array:
        """See `Policy.values_at`."""
        outputs, values = self._outputs(observations)
        column = outputs if own else values
        assert column is not None
        return column.reshape(len(observations), -1)

    def gradient(self, surrogate: Surrogate) -> AutodiffGradient:
        """See `Policy.gradient`."""
        used = {name: surrogate.values[name] for name in surrogate.estimator.signal_names}
        inputs = self._inputs(surrogate.batch, used, surrogate.weights)
        gradient, square = self.differentiate(surrogate, inputs)
        if not math.isfinite(square):
            gradient.check_finite()
        return gradient

    def gradient_from(self, vector: Array, surrogate: Surrogate) -> AutodiffGradient:
        """See `Policy.gradient_from`."""
        gradient = self.gradient(surrogate).replaced(self.leaves(np.asarray(vector, self.dtype)))
        gradient.check_finite()
        return gradient

    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """See `Policy.episode_scores`."""
        self.check(batch)
        weights = np.ones(batch.num_steps) if step_weights is None else step_weights
        scores = np.empty((batch.num_episodes, self.size), self.dtype)
        for episodes in episode_chunks(batch.episode_lengths):
            steps = slice(
                batch.episode_starts[episodes.start], batch.episode_ends[episodes.stop - 1] + 1
            )
            part = batch.steps(steps)
            inputs = self._inputs(part, {}, np.zeros(part.num_steps, self.dtype))
            count = (
                padded_size(episodes.stop - episodes.start)
                if self.pads
                else episodes.stop - episodes.start
            )
            rows = np.zeros((count, len(inputs.weights)), self.dtype)
            rows[batch.episode_of_step[steps] - episodes.start, np.arange(part.num_steps)] = (
                weights[steps]
            )
            scores[episodes] = self.log_prob_products(inputs, rows)[
                : episodes.stop - episodes.start
            ]
        self.check_scores(scores)
        return scores

    def fisher_vector_product(self, batch: Batch, vector: Array) -> Array:
        """See `Policy.fisher_vector_product`."""
        self.check(batch)
        if np.shape(vector) != (self.size,):
            raise ShapeError(
                f"fisher_vector_product: expected [{self.size}], the parameters, got {list(np.shape(vector))}; flatten in canonical order"
            )
        real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        head, points = self.spec.head, dict[str, Array]()
        if not autodiff_fisher.has_closed_form(head):
            distribution = self.distribution(batch.observations, batch.action_mask)
            points = autodiff_fisher.quadrature(head, distribution, self.dtype)
        inputs = self._inputs(batch, points, (real / real.sum()).astype(self.dtype))
        product = self.fisher_product(inputs, np.asarray(vector, self.dtype))
        self.check_product(product)
        return product

    def flat_values(self, values: Native) -> Native:
        """Return an adopted critic's [N, 1] state values as [N]; anything else as it is."""
        column = len(getattr(values, "shape", ())) == 2 and values.shape[1] == 1
        return values[:, 0] if column and self.spec.critic_values == "state" else values

    def check_outputs(self, outputs: Native, values: Native, steps: int | None) -> None:
        """Raise ShapeError or SpecError unless an adopted network's outputs and values have one row a step, the head's width, its dtype.

        Args:
            outputs: What the network returned for the head; anything.
            values: [N] what it returned for the critic, [N, A] where that values actions, or None.
            steps: N, or None where it is not known while a graph is built.
        """
        head = self.spec.head
        rows = "one row of natural parameters"
        claimed: list[tuple[str, str, Any, list[int | None]]] = [
            ("outputs", rows, outputs, [steps, head.outputs])
        ]
        if self.spec.critic != "none" and self.spec.critic_values == "action":
            claimed.append(
                ("values", "one value an action", values, [steps, self.spec.critic_outputs])
            )
        elif self.spec.critic != "none":
            claimed.append(("values", "one value", values, [steps]))
        for what, advice, value, wanted in claimed:
            shape: list[Any] | None = list(value.shape) if hasattr(value, "shape") else None
            if (
                shape is None
                or len(shape) != len(wanted)
                or not all(map(same_length, shape, wanted))
            ):
                got = type(value).__name__ if shape is None else shape
                raise ShapeError(
                    f"{self.spec.network}: expected {what} of shape {wanted} for {head}, got {got}; "
                    f"return {advice} a step"
                )
            if self.dtype.name not in str(value.dtype):
                raise SpecError(
                    f"{self.spec.network}: expected {what} in {self.dtype}, as its parameters are, got {value.dtype}; compute in one dtype"
                )

    def _inputs(self, batch: Batch, signals: Mapping[str, Array], weights: Array) -> Inputs:
        """Return what is computed from, in the policy's dtype, padded where shapes are compiled."""
        actions, mask = batch.actions, batch.action_mask
        if actions.dtype.kind == "f" or not self.spec.head.discrete:
            actions = actions.astype(self.dtype, copy=False)
        inputs = Inputs(
            self._observations(batch.observations), actions, mask, dict(signals), weights
        )
        return padded(inputs) if self.pads else inputs

    def _observations(self, observations: Array) -> Array:
        """Return observations in the dtype that the network takes; integers are an adopted network's own business."""
        network = self.spec.network
        if network.num_states is not None:
            return observations.astype(np.int64, copy=False)  # frameworks index with no others
        whole = isinstance(network, Adopted) and observations.dtype.kind != "f"
        given = observations if whole else observations.astype(self.dtype, copy=False)
        if self.probe is not None:
            self.probe(self._forward, given)
        return given

    def _outputs(self, observations: Array) -> tuple[Array, Array | None]:
        """Return `forward` of observations as the batch holds them."""
        return self._forward(self._observations(observations))

    def _forward(self, given: Array) -> tuple[Array, Array | None]:
        """Return `forward`, with observations padded where shapes are compiled."""
        steps = len(given)
        outputs, values = self.forward(
            repeat_last(given, padded_size(steps) - steps) if self.pads else given
        )
        return outputs[:steps], None if values is None else values[:steps]


def critic_kind(backend: str, critic: Any) -> str:
    """Return the spec's critic for what `Backend.adopt` was given, or raise SpecError where it is another word than "shared"."""
    if critic is None:
        return "none"
    if not isinstance(critic, str):
        return "separate"
    if critic != "shared":
        raise SpecError(
            f"{backend}.adopt critic: expected None, 'shared' or a network that returns values, got {critic!r}; pass the critic itself"
        )
    return critic


def same_length(found: Any, wanted: int | None) -> bool:
    """Whether two lengths are the same, as far as both are known."""
    return found is None or wanted is None or found == wanted
