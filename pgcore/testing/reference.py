"""The closed forms once more: plain, row by row, in any number system that NumPy's functions work on.

Written apart from the fast NumPy backend and sharing nothing with it. Arrays are row-major [B, ...], weights and biases are separate,
and nothing is reused or fused. Run on `np.longdouble` it is the truth that backends are compared with; run on `Bounded` arrays it says how far from
the truth an honest result may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import SpecError
from pgcore.estimator import QUANTITIES, Surrogate
from pgcore.heads import Categorical, DiagonalGaussian
from pgcore.host import host
from pgcore.spec import MLP, PolicySpec, Table

__all__ = ["extended", "gradient", "loss"]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]


def extended(array: Array) -> Array:
    """Return the array in extended precision."""
    return np.asarray(array, np.longdouble)


def gradient(
    spec: PolicySpec, parameters: Mapping[str, Array], surrogate: Surrogate, batch: Batch, lift: Lift = extended
) -> dict[str, Number]:
    """Return the gradient of sum_t w_t surrogate_t by canonical parameter name.

    Args:
        spec: The architecture.
        parameters: In the policy's dtype; taken as exact.
        surrogate: The estimator with its signals and weights, as a backend is given them; taken as exact.
        batch: The steps.
        lift: From NumPy arrays to the number system to compute in.
    """
    run, head, named = _forward(spec, parameters, surrogate, batch, lift)
    weights = lift(surrogate.weights)
    cotangents = {
        name: value * (weights.reshape(-1, 1) if name == "log_probs" else weights)
        for name, value in surrogate.estimator.cotangents(**named).items()
    }
    return run.backward(head.backward(cotangents), cotangents.get("value"), head.own)


def loss(spec: PolicySpec, parameters: Mapping[str, Array], surrogate: Surrogate, batch: Batch) -> np.longdouble:
    """Return sum_t w_t surrogate_t in extended precision, forward only; see `gradient`."""
    _, _, named = _forward(spec, parameters, surrogate, batch, extended)
    return np.dot(extended(surrogate.weights), surrogate.estimator.surrogate(host, **named))


def _forward(
    spec: PolicySpec, parameters: Mapping[str, Array], surrogate: Surrogate, batch: Batch, lift: Lift
) -> tuple[_Run, Any, dict[str, Number]]:
    """Return the pass through the network, the head, and what the surrogate is given."""
    dtype = surrogate.weights.dtype
    lifted = {name: lift(value) for name, value in parameters.items()}
    observations = batch.observations if isinstance(spec.network, Table) else lift(batch.observations.astype(dtype))
    run = _Run(spec, lifted, observations)
    head = _head(spec, run.outputs, lifted, batch, dtype, lift)
    reference = surrogate.values.get("reference")
    named = _named(surrogate.estimator.quantities, head, run, None if reference is None else lift(reference))
    keywords = surrogate.estimator.keywords
    return run, head, named | {name: lift(surrogate.values[name]) for name in keywords if name not in QUANTITIES}


def _named(names: tuple[str, ...], head: Any, run: _Run, reference: Number) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for name in names:
        if name == "value":
            found[name] = run.values
        elif name == "kl":
            found[name] = head.kl(reference)
        else:
            found[name] = getattr(head, name)()
    return found


class _Run:
    """One pass through the network and the critic, and back."""

    def __init__(self, spec: PolicySpec, parameters: dict[str, Number], observations: Number) -> None:
        self.spec, self.parameters, self.observations = spec, parameters, observations
        self.inputs: dict[str, Number] = {}  # of each layer, by its prefix
        self.values: Number = None
        if isinstance(spec.network, Table):
            self.outputs = parameters["network.table"][observations]
            if spec.critic != "none":
                self.values = parameters["critic.table"][observations][:, 0]
            return
        hidden = self._hidden("network")
        self.outputs = self._layer(f"network.{self.depth}", hidden)
        if spec.critic == "separate":
            self.values = self._layer(f"critic.{self.depth}", self._hidden("critic"))[:, 0]
        elif spec.critic == "shared":
            self.values = self._layer("critic.0", hidden)[:, 0]

    @property
    def depth(self) -> int:
        """How many hidden layers there are."""
        return len(self.spec.network.hidden) if isinstance(self.spec.network, MLP) else 0

    def backward(self, d_outputs: Number, d_values: Number, head: dict[str, Number]) -> dict[str, Number]:
        """Return the derivatives of all parameters from those of the outputs and the values."""
        found = {f"head.{name}": value for name, value in head.items()}
        d_column = None if d_values is None else d_values.reshape(-1, 1)
        if isinstance(self.spec.network, Table):
            visits = np.equal(np.arange(self.spec.network.states)[:, None], self.observations).astype(np.longdouble)
            found["network.table"] = visits @ d_outputs
            if d_column is not None:
                found["critic.table"] = visits @ d_column
        else:
            d_hidden = self._layer_backward(f"network.{self.depth}", d_outputs, found)
            if d_column is not None and self.spec.critic == "shared":
                d_hidden = d_hidden + self._layer_backward("critic.0", d_column, found)
            self._hidden_backward("network", d_hidden, found)
            if d_column is not None and self.spec.critic == "separate":
                self._hidden_backward("critic", self._layer_backward(f"critic.{self.depth}", d_column, found), found)
        shapes = self.spec.parameter_shapes
        return {name: found.get(name, np.zeros(shape, np.longdouble)) for name, shape in shapes.items()}

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


class _Categorical:
    def __init__(self, head: Categorical, outputs: Number, actions: Array, mask: Array | None) -> None:
        self.temperature, self.actions, self.rows = head.temperature, actions, np.arange(len(actions))
        self.own: dict[str, Number] = {}
        shape: tuple[int, ...] = outputs.shape
        self.mask: Array = np.ones(shape, np.bool_) if mask is None else mask
        self.columns = np.arange(shape[1])
        z = outputs / self.temperature
        values: Array = np.where(self.mask, getattr(z, "value", z), -np.inf)
        peak = z[self.rows, values.argmax(axis=1)].reshape(-1, 1)
        shifted = np.where(self.mask, z - peak, 0)
        exponential = np.where(self.mask, np.exp(shifted), 0)
        total = exponential.sum(axis=1).reshape(-1, 1)
        self.pi: Number = exponential / total
        self.log_pi = np.where(self.mask, shifted - np.log(total), 0)  # 0 where masked, and never used there

    def log_prob(self) -> Number:
        return self.log_pi[self.rows, self.actions]

    def log_probs(self) -> Number:
        return np.where(self.mask, self.log_pi, -np.inf)

    def entropy(self) -> Number:
        return -(self.pi * self.log_pi).sum(axis=1)

    def kl(self, reference: Number) -> Number:
        possible = reference > -np.inf
        finite = np.where(possible, reference, 0)
        self.pi_reference = np.where(possible, np.exp(finite), 0)
        return (self.pi_reference * (finite - np.where(possible, self.log_pi, 0))).sum(axis=1)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        d = self.pi * 0
        if "log_prob" in cotangents:
            chosen = np.equal(self.columns, self.actions[:, None])
            others = np.where(chosen, 0, self.pi)
            score = np.where(chosen, others.sum(axis=1).reshape(-1, 1), -others)
            d = d + score * cotangents["log_prob"].reshape(-1, 1)
        if "entropy" in cotangents:
            d = d - self.pi * (self.log_pi + self.entropy().reshape(-1, 1)) * cotangents["entropy"].reshape(-1, 1)
        if "log_probs" in cotangents:
            given = cotangents["log_probs"]
            d = d + (given - self.pi * given.sum(axis=1).reshape(-1, 1))
        if "kl" in cotangents:
            d = d + (self.pi - self.pi_reference) * cotangents["kl"].reshape(-1, 1)
        return d / self.temperature


class _Gaussian:
    def __init__(self, head: DiagonalGaussian, outputs: Number, parameters: dict[str, Number], actions: Number) -> None:
        self.head, n = head, head.n
        self.own: dict[str, Number] = {}
        self.mean = outputs[:, :n]
        start = float(np.log(head.std))
        if head.log_std == "per-state":
            self.log_std = outputs[:, n:] + start
        else:
            self.log_std = self.mean * 0 + (parameters["head.log_std"] if head.log_std == "shared" else start)
        self.std = np.exp(self.log_std)
        self.z = (actions - self.mean) / self.std

    def log_prob(self) -> Number:
        return -(self.z * self.z / 2 + self.log_std).sum(axis=1) - self.head.n * (np.log(2 * PI) / 2)

    def entropy(self) -> Number:
        return self.log_std.sum(axis=1) + self.head.n * ((1 + np.log(2 * PI)) / 2)

    def kl(self, reference: Number) -> Number:
        n = self.head.n
        mean0, log_std0 = reference[:, :n], reference[:, n:]
        self.shift = (self.mean - mean0) / self.std
        self.ratio = np.exp(log_std0 - self.log_std)
        return (self.log_std - log_std0 + (self.ratio * self.ratio + self.shift * self.shift - 1) / 2).sum(axis=1)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        d_mean, d_log_std = self.mean * 0, self.mean * 0
        if "log_prob" in cotangents:
            column = cotangents["log_prob"].reshape(-1, 1)
            d_mean = d_mean + column * (self.z / self.std)
            d_log_std = d_log_std + column * (self.z * self.z - 1)
        if "entropy" in cotangents:
            d_log_std = d_log_std + cotangents["entropy"].reshape(-1, 1)
        if "kl" in cotangents:
            column = cotangents["kl"].reshape(-1, 1)
            d_mean = d_mean + column * (self.shift / self.std)
            d_log_std = d_log_std + column * (1 - (self.ratio * self.ratio + self.shift * self.shift))
        if self.head.log_std == "per-state":
            return np.concatenate((d_mean, d_log_std), axis=1)
        if self.head.log_std == "shared":
            self.own = {"log_std": d_log_std.sum(axis=0)}
        return d_mean


# pi to 30 digits; NumPy's own is rounded to float64.
PI = np.longdouble("3.14159265358979323846264338328")


def _head(
    spec: PolicySpec, outputs: Number, parameters: dict[str, Number], batch: Batch, dtype: np.dtype[Any], lift: Lift
) -> Any:
    head = spec.head
    if isinstance(head, Categorical):
        return _Categorical(head, outputs, batch.actions, batch.action_mask)
    if isinstance(head, DiagonalGaussian):
        return _Gaussian(head, outputs, parameters, lift(batch.actions.astype(dtype)))
    raise SpecError(f"reference: expected one of the core's heads, got {head}; write its closed form here")
