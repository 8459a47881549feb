"""What backends that differentiate by themselves share: a batch in, the surrogate's terms through `xp`, arrays out.

A backend derives from `AutodiffPolicy` and writes the few methods that touch its framework. `surrogate_terms` is what it
differentiates: the head's and the estimator's formulas, in the order in which NumPy's closed forms are carried back.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pgcore import fisher
from pgcore.adoption import Probe
from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import EstimatorError, ShapeError, SpecError
from pgcore.estimator import KLS, Estimator
from pgcore.gradient import Gradient
from pgcore.heads import Head
from pgcore.host import host
from pgcore.namespace import ArrayNamespace, Native
from pgcore.policy import Policy
from pgcore.spec import Adopted, Table
from pgcore.surrogate import Surrogate

__all__ = [
    "AutodiffGradient",
    "AutodiffPolicy",
    "Inputs",
    "critic_kind",
    "fisher_coordinates",
    "fisher_metric",
    "quantities",
    "surrogate_terms",
]

# Scores are computed for at most this many episodes and about this many steps at a time.
EPISODES, STEPS = 64, 1024


class Inputs(NamedTuple):
    """What a policy computes from, NumPy or native, `N` steps: those of a batch and, where shapes are compiled, padding.

    Attributes:
        observations: [N, ...] as the network takes them.
        actions: [N] integer, or [N, n] of the policy's dtype.
        action_mask: [N, A] bool or None.
        signals: [N, ...] by name.
        weights: [N] weight of each step's term; 0 for padding.
    """

    observations: Native
    actions: Native
    action_mask: Native
    signals: dict[str, Native]
    weights: Native


class Outputs(NamedTuple):
    """What a network says of `N` steps.

    Attributes:
        outputs: [N, outputs] the head's natural parameters.
        values: [N] the critic's values, [N, A] where it values actions, or None.
        head: The head's own parameters by name.
    """

    outputs: Native
    values: Native
    head: dict[str, Native]


def quantities(
    xp: ArrayNamespace, head: Head, names: Collection[str], found: Outputs, inputs: Inputs
) -> dict[str, Native]:
    """Return the named quantities, native; see `pgcore.estimator.QUANTITIES`."""
    distribution = head.distribution(xp, found.outputs, found.head, inputs.action_mask)
    named: dict[str, Native] = {}
    for name in names:
        if name == "log_prob":
            named[name] = head.log_prob(xp, distribution, inputs.actions)
        elif name == "entropy":
            named[name] = head.entropy(xp, distribution)
        elif name == "kl":
            named[name] = head.kl(xp, inputs.signals["reference"], distribution)
        elif name == "reverse_kl":
            named[name] = head.kl(xp, distribution, inputs.signals["reference"])
        elif name in ("action_value", "action_values"):
            q = found.outputs if head.action_values else found.values
            named[name] = q if name == "action_values" else xp.take_last(q, inputs.actions)
        else:
            named[name] = distribution if name == "log_probs" else found.values
    return named


def surrogate_terms(
    xp: ArrayNamespace, head: Head, estimator: Estimator, found: Outputs, inputs: Inputs
) -> tuple[Native, dict[str, Native]]:
    """Return [N] surrogate_t, and the quantities that it was given, by name."""
    named = quantities(xp, head, estimator.quantities, found, inputs)
    signals = {name: inputs.signals[name] for name in estimator.keywords if name not in named}
    terms = estimator.surrogate(xp, **named, **signals)
    if len(terms.shape) != 1:
        raise EstimatorError(
            f"{estimator.name}.surrogate: expected one term a step, shape [B], got {list(terms.shape)}; sum over steps is the reduction's"
        )
    return terms, named


def fisher_coordinates(xp: ArrayNamespace, head: Head, found: Outputs, inputs: Inputs) -> Native:
    """Return the coordinates z of the distributions; see `pgcore.fisher`. A backend gives J v and J^T u, J = dz / d theta."""
    distribution = head.distribution(xp, found.outputs, found.head, inputs.action_mask)
    return fisher.coordinates(xp, head, distribution, inputs.signals)


def fisher_metric(xp: ArrayNamespace, head: Head, coordinates: Native, tangent: Native, inputs: Inputs) -> Native:
    """Return u = w_t M_t J v from the tangent J v, so that J^T u is the Fisher-vector product."""
    return fisher.metric(xp, head, coordinates, tangent, inputs.signals, inputs.weights)


class AutodiffGradient(Gradient):
    """See `Gradient`.

    Attributes:
        leaves: Native derivatives by canonical name, in the framework's own shapes.
    """

    leaves: dict[str, Native]

    def __init__(
        self,
        policy: AutodiffPolicy,
        surrogate: Surrogate,
        leaves: dict[str, Native],
        terms: Native,
        named: dict[str, Native],
    ) -> None:
        """Keep everything native."""
        self.policy = self._owner = policy
        self.surrogate = surrogate
        self.leaves = leaves
        self._terms = terms
        self._named = named

    def given(self) -> dict[str, Array]:
        """See `Gradient.given`."""
        quantities = self.told()[1]
        signals, keywords = self.surrogate.values, self.surrogate.estimator.keywords
        steps = len(self.surrogate.weights)
        return {name: quantities[name][:steps] if name in quantities else signals[name] for name in keywords}

    def terms(self) -> Array:
        """See `Gradient.terms`."""
        return self.told()[0][: len(self.surrogate.weights)]

    def told(self) -> tuple[Array, dict[str, Array]]:
        """Return the terms and the quantities as NumPy arrays, padding included."""
        to_numpy = self._owner.to_numpy
        return to_numpy(self._terms), {name: to_numpy(value) for name, value in self._named.items()}

    def numpy(self) -> dict[str, Array]:
        """See `Gradient.numpy`."""
        leaves = self.leaves
        return {name: self._owner.canonical(name, leaves[name]) for name in self._owner.names}

    def times(self, factor: float) -> AutodiffGradient:
        """See `Gradient.times`."""
        return self.replaced({name: leaf * factor for name, leaf in self.leaves.items()})

    def replaced(self, leaves: dict[str, Native]) -> AutodiffGradient:
        """Return the gradient with other derivatives; terms, loss and metrics stay."""
        return type(self)(self._owner, self.surrogate, leaves, self._terms, self._named)


class AutodiffPolicy(Policy):
    """A policy whose framework differentiates; a backend writes the methods that are abstract here.

    Attributes:
        names: Of the parameters, in canonical order.
        pads: Whether steps are padded to a few sizes, so that compiled code is reused.
        size: D, the number of parameters.
        probe: What tries an adopted network out; None for any other.
    """

    names: tuple[str, ...]
    pads: bool
    size: int
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

        J^T `fisher_metric`(J v), with J the Jacobian of `fisher_coordinates`.
        """

    @abstractmethod
    def leaves(self, vector: Array) -> dict[str, Native]:
        """Return native arrays by canonical name, in the framework's own shapes, from a [D] vector in canonical order."""

    @abstractmethod
    def canonical(self, name: str, leaf: Native) -> Array:
        """Return a parameter, or its derivative, as a NumPy array in canonical shape that the caller owns."""

    @abstractmethod
    def to_numpy(self, native: Native) -> Array:
        """Return a native array as NumPy's, which nobody writes to."""

    def distribution(self, observations: Array, action_mask: Array | None = None) -> Array:
        """See `Policy.distribution`; normalised in float64 by the core, as sampling is."""
        outputs = self._outputs(observations)[0]
        own = {name: value.astype(np.float64) for name, value in self.head_parameters().items()}
        return self.spec.head.distribution(host, outputs.astype(np.float64), own, action_mask)

    def evaluate(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Array]:
        """See `Policy.evaluate`."""
        self.check_evaluations(names, batch)
        self.check(batch)
        found: dict[str, Array] = {}
        if "distribution" in names:
            found["distribution"] = self.distribution(batch.observations, batch.action_mask)
        if "final_value" in names:
            found["final_value"] = self.at_final(batch, 1, lambda given, _: self._values(given, own=False))[:, 0]
        if "final_action_values" in names:
            head = self.spec.head
            found["final_action_values"] = self.at_final(
                batch, head.outputs, lambda given, _: self._values(given, own=head.action_values)
            )
        if "final_log_probs" in names:
            found["final_log_probs"] = self.at_final(batch, self.spec.head.width, self.distribution)
        wanted = tuple(name for name in names if name in self.quantities)
        if wanted:
            given = {"reference": batch.extras["reference"].astype(self.dtype)} if not KLS.isdisjoint(wanted) else {}
            inputs = self._inputs(batch, given, np.ones(batch.num_steps, self.dtype))
            for name, value in self.run(wanted, inputs).items():
                found[name] = value[: batch.num_steps].astype(np.float64)
        return found

    def gradient(self, surrogate: Surrogate, batch: Batch) -> AutodiffGradient:
        """See `Policy.gradient`."""
        self.check(batch)
        used = {name: surrogate.values[name] for name in surrogate.estimator.signal_names}
        inputs = self._inputs(batch, used, surrogate.weights)
        gradient, square = self.differentiate(surrogate, inputs)
        if not math.isfinite(square):
            gradient.check_finite()
        return gradient

    def gradient_from(self, vector: Array, surrogate: Surrogate, batch: Batch) -> AutodiffGradient:
        """See `Policy.gradient_from`."""
        gradient = self.gradient(surrogate, batch).replaced(self.leaves(np.asarray(vector, self.dtype)))
        gradient.check_finite()
        return gradient

    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """See `Policy.episode_scores`."""
        self.check(batch)
        weights = np.ones(batch.num_steps) if step_weights is None else step_weights
        scores = np.empty((batch.num_episodes, self.size), self.dtype)
        for episodes in episode_chunks(batch.episode_lengths):
            steps = slice(batch.episode_starts[episodes.start], batch.episode_ends[episodes.stop - 1] + 1)
            part = batch.steps(steps)
            inputs = self._inputs(part, {}, np.zeros(part.num_steps, self.dtype))
            count = padded_size(episodes.stop - episodes.start) if self.pads else episodes.stop - episodes.start
            rows = np.zeros((count, len(inputs.weights)), self.dtype)
            rows[batch.episode_of_step[steps] - episodes.start, np.arange(part.num_steps)] = weights[steps]
            scores[episodes] = self.log_prob_products(inputs, rows)[: episodes.stop - episodes.start]
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
        if not fisher.has_closed_form(head):
            distribution = self.distribution(batch.observations, batch.action_mask)
            points = fisher.quadrature(head, distribution, self.dtype)
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
        claimed: list[tuple[str, str, Any, list[int | None]]] = [("outputs", rows, outputs, [steps, head.outputs])]
        if self.spec.critic != "none" and self.spec.critic_values == "action":
            claimed.append(("values", "one value an action", values, [steps, self.spec.critic_outputs]))
        elif self.spec.critic != "none":
            claimed.append(("values", "one value", values, [steps]))
        for what, advice, value, wanted in claimed:
            shape: list[Any] | None = list(value.shape) if hasattr(value, "shape") else None
            if shape is None or len(shape) != len(wanted) or not all(map(same_length, shape, wanted)):
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
        inputs = Inputs(self._observations(batch.observations), actions, mask, dict(signals), weights)
        return padded(inputs) if self.pads else inputs

    def _observations(self, observations: Array) -> Array:
        """Return observations in the dtype that the network takes; integers are an adopted network's own business."""
        network = self.spec.network
        if isinstance(network, Table):
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
        outputs, values = self.forward(repeat_last(given, padded_size(steps) - steps) if self.pads else given)
        return outputs[:steps], None if values is None else values[:steps]

    def _values(self, observations: Array, *, own: bool) -> Array:
        """Return [n, k] what the critic says of observations, or the network's own outputs."""
        outputs, values = self._outputs(observations)
        found = outputs if own else values
        assert found is not None
        return found.reshape(len(observations), -1)


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


def episode_chunks(lengths: Array) -> Iterator[slice]:
    """Yield slices of episodes, each of at most `EPISODES`, and of at most `STEPS` steps unless one alone has more."""
    start = steps = 0
    for episode, length in enumerate(lengths.tolist()):
        if episode > start and (episode - start == EPISODES or steps + length > STEPS):
            yield slice(start, episode)
            start, steps = episode, 0
        steps += length
    yield slice(start, len(lengths))


def padded_size(steps: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least `steps`: two sizes for each doubling."""
    power = 1 << (steps - 1).bit_length()
    return power * 3 // 4 if steps <= power * 3 // 4 and power >= 4 else power


def padded(inputs: Inputs) -> Inputs:
    """Return the inputs with their last step repeated, at weight 0, up to a `padded_size`."""
    steps = len(inputs.weights)
    extra = padded_size(steps) - steps
    if extra == 0:
        return inputs
    return Inputs(
        repeat_last(inputs.observations, extra),
        repeat_last(inputs.actions, extra),
        None if inputs.action_mask is None else repeat_last(inputs.action_mask, extra),
        # Each step of padding is an episode of its own: a product of many ratios could overflow, and weight 0 would not take that away.
        {
            name: np.append(value, value[-1] + 1 + np.arange(extra)) if name == "episode" else repeat_last(value, extra)
            for name, value in inputs.signals.items()
        },
        np.append(inputs.weights, np.zeros(extra, inputs.weights.dtype)),
    )


def repeat_last(array: Array, times: int) -> Array:
    """Return the array with its last row repeated."""
    return array if times == 0 else np.concatenate([array, np.repeat(array[-1:], times, axis=0)])


def same_length(found: Any, wanted: int | None) -> bool:
    """Whether two lengths are the same, as far as both are known."""
    return found is None or wanted is None or found == wanted
