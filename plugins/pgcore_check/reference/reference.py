"""The reference implementation: plain closed forms in any number system of NumPy's functions.

It shares nothing with the fast NumPy backend. Arrays are row-major [B, ...], weights and biases are
separate, and nothing is reused or fused. Backends are compared with its run on `np.longdouble`; its
run on `Bounded` arrays gives the rounding-error bound of a correct result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import MLP, Linear, PolicySpec, Table
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import KLS, QUANTITIES
from pgcore.interfaces.parameters import flat
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_check.bounds.numbers import numbers
from pgcore_check.reference.definition import head_form, loss_cotangents
from pgcore_check.reference.estimator_form import term_form
from pgcore_check.reference.formula_run import FormulaRun

__all__ = [
    "critic_cotangents",
    "episode_scores",
    "extended",
    "fisher_vector_product",
    "gradient",
    "loss",
    "named_quantities",
    "outputs",
    "quantities",
    "step_cotangents",
    "surrogate_inputs",
    "surrogate_terms",
    "terms",
]

# Names of the activations that `_Run` implements.
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

    Derivatives are those of the estimator's reference implementation; without one, of its surrogate
    in forward mode.

    Args:
        spec: The architecture.
        parameters: In the policy's dtype; taken as exact.
        surrogate: The estimator with the signals and weights that a backend gets; taken as exact.
        batch: The steps.
        lift: From NumPy arrays to the number system of the result.
    """
    run, head, inputs = _forward(spec, parameters, surrogate, batch, lift)
    cotangents = step_cotangents(surrogate, inputs, lift)
    d_outputs = head.backward(cotangents)
    return run.backward(d_outputs, critic_cotangents(spec, cotangents, batch), head.own)


def step_cotangents(
    surrogate: Surrogate, inputs: Mapping[str, Number], lift: Lift
) -> dict[str, Number]:
    """Return [B, ...] derivatives of the loss in each quantity.

    Args:
        surrogate: The estimator with its signals and weights.
        inputs: The surrogate's quantities and signals by name.
        lift: From NumPy arrays to the number system of the inputs.
    """
    weights, form = lift(surrogate.weights), term_form(surrogate.estimator)
    if form is None:
        return loss_cotangents(surrogate, inputs, weights)
    cotangents: dict[str, Number] = {}
    for name, value in form.cotangents(inputs).items():
        # These hold a number for each action.
        per_action = name in ("log_probs", "action_values", "twin_action_values")
        cotangents[name] = value * (weights.reshape(-1, 1) if per_action else weights)
    return cotangents


def loss(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift = extended,
) -> Number:
    """Return sum_t w_t surrogate_t, forward only; see `gradient`."""
    terms_of_steps, _ = surrogate_terms(spec, parameters, surrogate, batch, lift)
    return (lift(surrogate.weights) * terms_of_steps).sum()


def surrogate_terms(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift = extended,
) -> tuple[Number, dict[str, Number]]:
    """Return [B] surrogate_t and its quantities by name, forward only; see `gradient`."""
    _, _, inputs = _forward(spec, parameters, surrogate, batch, lift)
    names = surrogate.estimator.quantities
    return terms(surrogate, inputs), {name: inputs[name] for name in names}


def terms(surrogate: Surrogate, inputs: Mapping[str, Number]) -> Number:
    """Return [B] surrogate_t from the surrogate's quantities and signals by name."""
    estimator = surrogate.estimator
    form = term_form(estimator)
    if form is not None:
        return form.terms(inputs)
    # A term depends on its own step or episode alone: each is evaluated without the others.
    steps = np.arange(len(surrogate.weights))
    own = np.asarray(inputs["episode"]) if estimator.sees_episodes else steps
    starts = np.flatnonzero(np.diff(own, prepend=-1))
    parts: list[Number] = []
    for start, stop in itertools.pairwise((*starts, len(steps))):
        rows = {name: value[start:stop] for name, value in inputs.items()}
        part: Number = estimator.surrogate(numbers, **rows)
        shape = getattr(part, "shape", ())
        if shape != (stop - start,):
            raise EstimatorError(
                f"{estimator.name}.surrogate: expected one term for each step, [{stop - start}], got "
                f"shape {[*shape]}; reduce over actions alone"
            )
        parts.append(part)
    return np.concatenate(parts)


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
        names: Names of quantities.
        reference: [B, width] distribution parameters of the reference policy, from which KLs are
            measured, in the policy's dtype.
        lift: From NumPy arrays to the number system of the result.
    """
    dtype = next(iter(parameters.values())).dtype
    run, head = _pass(spec, parameters, batch, dtype, lift)
    anchor = None if reference is None else lift(reference)
    return named_quantities(spec, names, head, run.outputs, run.values, anchor)


def episode_scores(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    step_weights: Array | None = None,
    lift: Lift = extended,
) -> Number:
    """Return [E, D] sums of c_t d log pi(a_t given s_t) / d theta over each episode's steps.

    See `Policy.episode_scores`.

    Args:
        spec: The architecture.
        parameters: In the policy's dtype; taken as exact.
        batch: The episodes.
        step_weights: [B] c_t, or None for 1.
        lift: From NumPy arrays to the number system of the result.
    """
    dtype = next(iter(parameters.values())).dtype
    c_t = np.ones(batch.num_steps, dtype) if step_weights is None else step_weights.astype(dtype)
    scores: list[Number] = []
    # One pass for each episode: slow, and with nothing to get wrong.
    for episode in range(batch.num_episodes):
        steps = slice(batch.episode_starts[episode], batch.episode_ends[episode] + 1)
        run, head = _pass(spec, parameters, batch.episodes([episode]), dtype, lift)
        # A head's definition differentiates the quantities that it was asked for.
        head.log_prob()
        score = run.backward(head.backward({"log_prob": lift(c_t[steps])}), None, head.own)
        scores.append(flat(score).reshape(1, -1))
    return np.concatenate(scores)


def fisher_vector_product(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    vector: Array,
    lift: Lift = extended,
) -> Number:
    """Return [D] J^T F J v: F the head's Fisher information, J the outputs' Jacobian.

    See `Policy.fisher_vector_product`.

    Args:
        spec: The architecture.
        parameters: In the policy's dtype; taken as exact.
        batch: The steps, with the weights of padding.
        vector: [D] v, in canonical order.
        lift: From NumPy arrays to the number system of the result.
    """
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
    d_outputs = head.fisher(run.tangent(direction), direction, weights)
    return flat(run.backward(d_outputs, None, head.own))


def _forward(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    lift: Lift,
) -> tuple[_Run | FormulaRun, Any, dict[str, Number]]:
    """Return the pass through the network, the head, and the surrogate's inputs."""
    run, head = _pass(spec, parameters, batch, surrogate.weights.dtype, lift)
    return run, head, surrogate_inputs(spec, surrogate, head, run.outputs, run.values, lift)


def outputs(
    spec: PolicySpec, parameters: Mapping[str, Array], batch: Batch, lift: Lift = extended
) -> Number:
    """Return [B, outputs] of the network, forward only; see `quantities`."""
    dtype = next(iter(parameters.values())).dtype
    run, _ = _pass(spec, parameters, batch, dtype, lift)
    return run.outputs


def surrogate_inputs(
    spec: PolicySpec, surrogate: Surrogate, head: Any, outputs: Number, values: Number, lift: Lift
) -> dict[str, Number]:
    """Return a surrogate's quantities and signals by name.

    Args:
        spec: The architecture.
        surrogate: The estimator with its signals and weights.
        head: The head's reference implementation at the outputs.
        outputs: [B, outputs] of the network.
        values: [B, k] of the critic, or None.
        lift: From NumPy arrays to the number system of the outputs.
    """
    estimator = surrogate.estimator
    reference = surrogate.values.get("reference")
    anchor = None if reference is None else lift(reference)
    inputs = named_quantities(spec, estimator.quantities, head, outputs, values, anchor)
    for name in estimator.keywords:
        if name not in QUANTITIES:
            signal = surrogate.values[name]
            # Integers, such as the numbers of episodes, are no numbers to compute with.
            inputs[name] = lift(signal) if signal.dtype.kind == "f" else signal
    return inputs


def _pass(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    batch: Batch,
    dtype: np.dtype[Any],
    lift: Lift,
) -> tuple[_Run | FormulaRun, Any]:
    """Return the pass through the network and the head; `dtype` is the policy's."""
    lifted = {name: lift(value) for name, value in parameters.items()}
    # States are indices; other observations are numbers, cast as a policy casts them.
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
    """Return quantities by name.

    Args:
        spec: The architecture.
        names: Names of quantities.
        head: The head's reference implementation at the outputs.
        outputs: [B, outputs] of the network.
        values: [B, k] of the critic, or None.
        reference: [B, width] lifted distribution parameters for KLs, or None.
    """
    # Action values are the network's outputs, or the critic's; twins stand side by side.
    actions = spec.head.outputs
    action_values = outputs if spec.head.action_values else values
    quantities: dict[str, Number] = {}
    for name in names:
        if name == "value":
            quantities[name] = values[:, 0]
        elif name == "action_values":
            quantities[name] = action_values[:, :actions]
        elif name == "twin_action_values":
            quantities[name] = action_values[:, actions:]
        elif name == "action_value":
            quantities[name] = action_values[np.arange(len(head.actions)), head.actions]
        elif name == "twin_action_value":
            quantities[name] = action_values[np.arange(len(head.actions)), head.actions + actions]
        elif name in KLS:
            quantities[name] = getattr(head, name)(reference)
        else:
            quantities[name] = getattr(head, name)()
    return quantities


def critic_cotangents(spec: PolicySpec, cotangents: Mapping[str, Number], batch: Batch) -> Number:
    """Return [B, k] derivatives in the critic's outputs, None for a loss without the critic.

    Args:
        spec: The architecture.
        cotangents: [B, ...] derivatives in the quantities, by name.
        batch: The steps.
    """
    if spec.head.action_values or spec.critic_values == "state":
        return cotangents["value"].reshape(-1, 1) if "value" in cotangents else None
    blocks: list[Number] = []
    for prefix in ("", "twin_")[: 2 if spec.critic_values == "twin" else 1]:
        d_values = cotangents.get(f"{prefix}action_values")
        if f"{prefix}action_value" in cotangents:
            one_hot = np.equal(np.arange(spec.head.outputs), batch.actions[:, None])
            d_taken = one_hot * cotangents[f"{prefix}action_value"].reshape(-1, 1)
            d_values = d_taken if d_values is None else d_values + d_taken
        blocks.append(d_values)
    present = [block for block in blocks if block is not None]
    if not present:
        return None
    return np.concatenate([present[0] * 0 if d is None else d for d in blocks], axis=1)


def critic_prefixes(spec: PolicySpec) -> tuple[str, ...]:
    """Return the prefixes of the parameters of critics that are networks of their own."""
    if spec.critic != "separate":
        return ()
    return ("critic.first", "critic.second") if spec.critic_values == "twin" else ("critic",)


def has_plain_form(spec: PolicySpec) -> bool:
    """Whether `_Run` implements the network and its activation; others run as their formula."""
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
        # [B, fan-in] inputs of each layer, by its prefix, for the backward pass.
        self.inputs: dict[str, Number] = {}
        self.values: Number = None
        if isinstance(spec.network, Table):
            self.outputs = parameters["network.table"][observations]
            values = [parameters[f"{name}.table"][observations] for name in critic_prefixes(spec)]
        else:
            hidden = self._hidden("network")
            self.outputs = self._layer(f"network.{self.depth}", hidden)
            values = [
                self._layer(f"{name}.{self.depth}", self._hidden(name))
                for name in critic_prefixes(spec)
            ]
            if spec.critic == "shared":
                values = [self._layer("critic.0", hidden)]
        if values:
            self.values = np.concatenate(values, axis=1)

    @property
    def depth(self) -> int:
        """The number of hidden layers."""
        return len(self.spec.network.hidden) if isinstance(self.spec.network, MLP) else 0

    def backward(
        self, d_outputs: Number, d_column: Number, head: dict[str, Number]
    ) -> dict[str, Number]:
        """Return the derivatives of all parameters; see `FormulaRun.backward`."""
        derivatives = {f"head.{name}": value for name, value in head.items()}
        columns: dict[str, Number] = {}
        # Each critic has its block of the columns.
        if d_column is not None:
            critics = critic_prefixes(self.spec)
            for number, name in enumerate(critics):
                width = self.spec.critic_outputs // len(critics)
                columns[name] = d_column[:, number * width : (number + 1) * width]
        if isinstance(self.spec.network, Table):
            # [states, B] 1 where a step is in a state.
            states = np.arange(self.spec.network.states)[:, None]
            visits = np.equal(states, self.observations).astype(np.longdouble)
            derivatives["network.table"] = visits @ d_outputs
            for name, d_critic in columns.items():
                derivatives[f"{name}.table"] = visits @ d_critic
        else:
            d_hidden = self._layer_backward(f"network.{self.depth}", d_outputs, derivatives)
            # A shared torso gets both losses' derivatives, a separate critic has its own torso.
            if d_column is not None and self.spec.critic == "shared":
                d_hidden = d_hidden + self._layer_backward("critic.0", d_column, derivatives)
            self._hidden_backward("network", d_hidden, derivatives)
            for name, d_critic in columns.items():
                d_hidden = self._layer_backward(f"{name}.{self.depth}", d_critic, derivatives)
                self._hidden_backward(name, d_hidden, derivatives)
        # Parameters that take no part have derivatives of 0.
        shapes = self.spec.parameter_shapes
        return {
            name: derivatives.get(name, np.zeros(shape, np.longdouble))
            for name, shape in shapes.items()
        }

    def tangent(self, direction: Mapping[str, Number]) -> Number:
        """Return [B, outputs]: the outputs' derivative along a direction in parameter space."""
        if isinstance(self.spec.network, Table):
            return direction["network.table"][self.observations]
        tangent: Number = None
        for layer in range(self.depth + 1):
            h, name = self.inputs[f"network.{layer}"], f"network.{layer}"
            d_layer = h @ direction[f"{name}.weight"] + direction[f"{name}.bias"]
            # The first layer's inputs are the observations, which do not move.
            if tangent is not None:
                d_layer = d_layer + (self._slope(h) * tangent) @ self.parameters[f"{name}.weight"]
            tangent = d_layer
        return tangent

    def _hidden(self, prefix: str) -> Number:
        h = self.observations
        for layer in range(self.depth):
            h = self._activation(self._layer(f"{prefix}.{layer}", h))
        return h

    def _layer(self, name: str, h: Number) -> Number:
        self.inputs[name] = h
        return h @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def _layer_backward(self, name: str, d: Number, derivatives: dict[str, Number]) -> Number:
        """Record the layer's parameter derivatives and return those of its inputs."""
        derivatives[f"{name}.weight"] = self.inputs[name].T @ d
        derivatives[f"{name}.bias"] = d.sum(axis=0)
        return d @ self.parameters[f"{name}.weight"].T

    def _hidden_backward(self, prefix: str, d: Number, derivatives: dict[str, Number]) -> None:
        for layer in range(self.depth - 1, -1, -1):
            # A layer's activations are the next one's inputs.
            d = d * self._slope(self.inputs[f"{prefix}.{layer + 1}"])
            d = self._layer_backward(f"{prefix}.{layer}", d, derivatives)

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
