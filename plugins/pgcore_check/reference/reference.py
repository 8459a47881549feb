"""The closed forms once more: plain, row by row, in any number system that NumPy's functions work on.

Written apart from the fast NumPy backend and sharing nothing with it. Arrays are row-major [B, ...], weights and biases are separate,
and nothing is reused or fused. Run on `np.longdouble` it is the truth that backends are compared with; run on `Bounded` arrays it says how far from
the truth an honest result may be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import MLP, Linear, PolicySpec, Table
from pgcore.errors import DependencyError, EstimatorError
from pgcore.interfaces.estimator import KLS, QUANTITIES, Estimator
from pgcore.interfaces.parameters import flat
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_check.reference.formula_run import FormulaRun
from pgcore_check.reference.head_form import head_form

__all__ = [
    "critic_cotangents",
    "episode_scores",
    "extended",
    "fisher_vector_product",
    "gradient",
    "loss",
    "named_quantities",
    "quantities",
    "step_cotangents",
    "surrogate_inputs",
    "surrogate_terms",
    "terms",
]

# The activations of `_Run`, by name.
ACTIVATIONS = ("tanh", "relu", "sigmoid")

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]


def extended(array: Array) -> Array:
    """Return the array in extended precision."""
    return np.asarray(array, np.longdouble)


def gradient(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift = extended,
) -> dict[str, Number]:
    """Return the gradient of sum_t w_t surrogate_t by canonical parameter name.

    Derivatives are those of the estimator's reference implementation, or where it has none those of its own surrogate.

    Args:
        spec: The architecture.
        parameters: In the policy's dtype; taken as exact.
        surrogate: The estimator with its signals and weights, as a backend is given them; taken as exact.
        batch: The steps.
        lift: From NumPy arrays to the number system to compute in.
    """
    run, head, named = _forward(spec, parameters, surrogate, batch, lift)
    cotangents = step_cotangents(surrogate, named, lift)
    return run.backward(
        head.backward(cotangents), critic_cotangents(spec, cotangents, batch), head.own
    )


def step_cotangents(
    surrogate: Surrogate, named: Mapping[str, Number], lift: Lift
) -> dict[str, Number]:
    """Return [B, ...] derivatives of the loss in each quantity, from what the surrogate is given."""
    weights, form = lift(surrogate.weights), estimator_form(surrogate.estimator)
    slopes = slopes_of(surrogate.estimator, named) if form is None else form.cotangents(named)
    return {
        name: value
        * (weights.reshape(-1, 1) if name in ("log_probs", "action_values") else weights)
        for name, value in slopes.items()
    }


def slopes_of(estimator: Estimator, named: Mapping[str, Number]) -> Mapping[str, Number]:
    """Return [B, ...] d surrogate_t / d quantity_t of an estimator without a reference implementation.

    They are derived from its surrogate; its own cotangents are taken where nothing can be derived.
    """
    try:
        return Estimator.cotangents(estimator, **named)
    except (DependencyError, EstimatorError):
        return estimator.cotangents(**named)


def loss(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift = extended,
) -> Number:
    """Return sum_t w_t surrogate_t, forward only; see `gradient`."""
    found, _ = surrogate_terms(spec, parameters, surrogate, batch, lift)
    return (lift(surrogate.weights) * found).sum()


def surrogate_terms(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift = extended,
) -> tuple[Number, dict[str, Number]]:
    """Return [B] surrogate_t and the quantities that it was given, by name, forward only; see `gradient`."""
    _, _, named = _forward(spec, parameters, surrogate, batch, lift)
    return terms(surrogate, named), {name: named[name] for name in surrogate.estimator.quantities}


def terms(surrogate: Surrogate, named: Mapping[str, Number]) -> Number:
    """Return [B] surrogate_t from what the surrogate is given."""
    form = estimator_form(surrogate.estimator)
    return surrogate.estimator.surrogate(host, **named) if form is None else form.terms(named)


def quantities(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    names: Collection[str],
    reference: Array | None = None,
    lift: Lift = extended,
) -> dict[str, Number]:
    """Return quantities by name, forward only; see `pgcore.interfaces.estimator.QUANTITIES`.

    Args:
        spec: The architecture.
        parameters: In the policy's dtype; taken as exact.
        batch: The steps.
        names: Of quantities.
        reference: [B, width] description of the distributions that `kl` measures from, in the policy's dtype.
        lift: From NumPy arrays to the number system to compute in.
    """
    dtype = next(iter(parameters.values())).dtype
    run, head = _pass(spec, parameters, batch, dtype, lift)
    described = None if reference is None else lift(reference)
    return named_quantities(spec, names, head, run.outputs, run.values, described)


def episode_scores(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    step_weights: Array | None = None,
    lift: Lift = extended,
) -> Number:
    """Return [E, D] sums over each episode's steps of c_t d log pi(a_t given s_t) / d theta; see `Policy.episode_scores`."""
    dtype = next(iter(parameters.values())).dtype
    c_t = np.ones(batch.num_steps, dtype) if step_weights is None else step_weights.astype(dtype)
    rows: list[Number] = []
    for episode in range(batch.num_episodes):
        own = slice(batch.episode_starts[episode], batch.episode_ends[episode] + 1)
        run, head = _pass(spec, parameters, batch.episodes([episode]), dtype, lift)
        found = run.backward(head.backward({"log_prob": lift(c_t[own])}), None, head.own)
        rows.append(flat(found).reshape(1, -1))
    return np.concatenate(rows)


def fisher_vector_product(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    vector: Array,
    lift: Lift = extended,
) -> Number:
    """Return [D] F v: outputs moved along v, weighed by the head's Fisher information, carried back; see `Policy`."""
    dtype = next(iter(parameters.values())).dtype
    direction: dict[str, Number] = {}
    start = 0
    for name, shape in spec.parameter_shapes.items():
        stop = start + int(np.prod(shape))
        direction[name] = lift(vector[start:stop].astype(dtype).reshape(shape))
        start = stop
    real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
    run, head = _pass(spec, parameters, batch, dtype, lift)
    weights = lift((real / real.sum()).astype(dtype))
    return flat(
        run.backward(head.fisher(run.tangent(direction), direction, weights), None, head.own)
    )


def _forward(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift,
) -> tuple[_Run | FormulaRun, Any, dict[str, Number]]:
    """Return the pass through the network, the head, and what the surrogate is given."""
    run, head = _pass(spec, parameters, batch, surrogate.weights.dtype, lift)
    return run, head, surrogate_inputs(spec, surrogate, head, run.outputs, run.values, lift)


def surrogate_inputs(
    spec: PolicySpec, surrogate: Surrogate, head: Any, outputs: Number, values: Number, lift: Lift
) -> dict[str, Number]:
    """Return the quantities and signals that a surrogate is given, from the head's form and what the network says."""
    reference = surrogate.values.get("reference")
    described = None if reference is None else lift(reference)
    named = named_quantities(spec, surrogate.estimator.quantities, head, outputs, values, described)
    signals = {
        name: surrogate.values[name]
        for name in surrogate.estimator.keywords
        if name not in QUANTITIES
    }
    # Integers, such as the numbers of episodes, are no numbers to compute with.
    return named | {
        name: lift(value) if value.dtype.kind == "f" else value for name, value in signals.items()
    }


def _pass(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    dtype: np.dtype[Any],
    lift: Lift,
) -> tuple[_Run | FormulaRun, Any]:
    """Return the pass through the network and the head; `dtype` is the policy's."""
    lifted = {name: lift(value) for name, value in parameters.items()}
    states = spec.network.num_states is not None
    observations = batch.observations if states else lift(batch.observations.astype(dtype))
    run = (_Run if has_plain_form(spec) else FormulaRun)(spec, lifted, observations)
    return run, head_form(spec, run.outputs, lifted, batch, dtype, lift)


def named_quantities(
    spec: PolicySpec,
    names: Collection[str],
    head: Any,
    outputs: Number,
    values: Number,
    reference: Number,
) -> dict[str, Number]:
    """Return quantities by name, from the head's form, [B, outputs] and [B, k] values."""
    found: dict[str, Number] = {}
    for name in names:
        q = outputs if spec.head.action_values else values
        if name == "value":
            found[name] = values[:, 0]
        elif name == "action_values":
            found[name] = q
        elif name == "action_value":
            found[name] = q[np.arange(len(head.actions)), head.actions]
        elif name in KLS:
            found[name] = getattr(head, name)(reference)
        else:
            found[name] = getattr(head, name)()
    return found


def critic_cotangents(spec: PolicySpec, cotangents: Mapping[str, Number], batch: Batch) -> Number:
    """Return [B, k] derivatives of the critic's outputs, None where it takes no part."""
    if spec.head.action_values or spec.critic_values == "state":
        return cotangents["value"].reshape(-1, 1) if "value" in cotangents else None
    d = cotangents.get("action_values")
    if "action_value" in cotangents:
        chosen = np.equal(np.arange(spec.critic_outputs), batch.actions[:, None])
        own = chosen * cotangents["action_value"].reshape(-1, 1)
        d = own if d is None else d + own
    return d


def has_plain_form(spec: PolicySpec) -> bool:
    """Whether the network and its activation are among those written out below; any other is run as its own formula."""
    network = spec.network
    return (
        type(network) in (Table, Linear, MLP)
        and getattr(network, "activation", "tanh") in ACTIVATIONS
    )


class _Run:
    """One pass through the network and the critic, and back."""

    def __init__(
        self, spec: PolicySpec, parameters: dict[str, Number], observations: Number
    ) -> None:
        self.spec, self.parameters, self.observations = spec, parameters, observations
        self.inputs: dict[str, Number] = {}  # of each layer, by its prefix
        self.values: Number = None
        if isinstance(spec.network, Table):
            self.outputs = parameters["network.table"][observations]
            if spec.critic != "none":
                self.values = parameters["critic.table"][observations]
            return
        hidden = self._hidden("network")
        self.outputs = self._layer(f"network.{self.depth}", hidden)
        if spec.critic == "separate":
            self.values = self._layer(f"critic.{self.depth}", self._hidden("critic"))
        elif spec.critic == "shared":
            self.values = self._layer("critic.0", hidden)

    @property
    def depth(self) -> int:
        """How many hidden layers there are."""
        return len(self.spec.network.hidden) if isinstance(self.spec.network, MLP) else 0

    def backward(
        self, d_outputs: Number, d_column: Number, head: dict[str, Number]
    ) -> dict[str, Number]:
        """Return the derivatives of all parameters from those of the outputs and the values."""
        found = {f"head.{name}": value for name, value in head.items()}
        if isinstance(self.spec.network, Table):
            visits = np.equal(
                np.arange(self.spec.network.states)[:, None], self.observations
            ).astype(np.longdouble)
            found["network.table"] = visits @ d_outputs
            if d_column is not None:
                found["critic.table"] = visits @ d_column
        else:
            d_hidden = self._layer_backward(f"network.{self.depth}", d_outputs, found)
            if d_column is not None and self.spec.critic == "shared":
                d_hidden = d_hidden + self._layer_backward("critic.0", d_column, found)
            self._hidden_backward("network", d_hidden, found)
            if d_column is not None and self.spec.critic == "separate":
                self._hidden_backward(
                    "critic", self._layer_backward(f"critic.{self.depth}", d_column, found), found
                )
        shapes = self.spec.parameter_shapes
        return {
            name: found.get(name, np.zeros(shape, np.longdouble)) for name, shape in shapes.items()
        }

    def tangent(self, direction: Mapping[str, Number]) -> Number:
        """Return [B, outputs]: the outputs' derivative along a direction in parameter space."""
        if isinstance(self.spec.network, Table):
            return direction["network.table"][self.observations]
        moved: Number = None
        for layer in range(self.depth + 1):
            h, name = self.inputs[f"network.{layer}"], f"network.{layer}"
            changed = h @ direction[f"{name}.weight"] + direction[f"{name}.bias"]
            if moved is not None:
                changed = changed + (self._slope(h) * moved) @ self.parameters[f"{name}.weight"]
            moved = changed
        return moved

    def _hidden(self, prefix: str) -> Number:
        h = self.observations
        for layer in range(self.depth):
            h = self._activation(self._layer(f"{prefix}.{layer}", h))
        return h

    def _layer(self, name: str, h: Number) -> Number:
        self.inputs[name] = h
        return h @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def _layer_backward(self, name: str, d: Number, found: dict[str, Number]) -> Number:
        """Note the layer's own derivatives and return those of its inputs."""
        found[f"{name}.weight"] = self.inputs[name].T @ d
        found[f"{name}.bias"] = d.sum(axis=0)
        return d @ self.parameters[f"{name}.weight"].T

    def _hidden_backward(self, prefix: str, d: Number, found: dict[str, Number]) -> None:
        for layer in range(self.depth - 1, -1, -1):
            activations = self.inputs[f"{prefix}.{layer + 1}"]
            d = self._layer_backward(f"{prefix}.{layer}", d * self._slope(activations), found)

    def _activation(self, x: Number) -> Number:
        activation = self.spec.network.activation if isinstance(self.spec.network, MLP) else ""
        if activation == "tanh":
            return np.tanh(x)
        return np.where(x > 0, x, 0) if activation == "relu" else 1 / (1 + np.exp(-x))

    def _slope(self, h: Number) -> Number:
        activation = self.spec.network.activation if isinstance(self.spec.network, MLP) else ""
        if activation == "tanh":
            return 1 - h * h
        return np.where(h > 0, 1, 0) if activation == "relu" else h * (1 - h)
