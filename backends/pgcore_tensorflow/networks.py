"""Networks as tf.Module and variables: those of a spec, and the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from pgcore.adoption import refusal
from pgcore.arrays import Array
from pgcore.autodiff_inputs import Outputs
from pgcore.errors import ParameterError, PgcoreError, SpecError
from pgcore.spec import MLP, PolicySpec, Table

__all__ = ["AdoptedModule", "PolicyModule", "reason"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"tanh": tf.tanh, "relu": tf.nn.relu, "sigmoid": tf.sigmoid}


# How lines begin that say where a failure was.
WHERE = ("Exception encountered when calling", "Graph execution error", "Detected at node", "  File ", "\t")


class PolicyModule(tf.Module):
    """A spec's network, critic and head parameters.

    Attributes:
        native: tf.Variable by canonical name, in canonical shape.
    """

    def __init__(self, spec: PolicySpec, parameters: Mapping[str, Array], dtype: tf.DType) -> None:
        """Make the variables."""
        super().__init__(name="policy")
        self.spec = spec
        self.native = {name: tf.Variable(tf.constant(value, dtype), name=name) for name, value in parameters.items()}

    def __call__(self, observations: Any) -> Outputs:
        """Return what the network says of [N, ...] observations."""
        network, critic, values = self.spec.network, self.spec.critic, None
        own = head_parameters(self.native)
        if isinstance(network, Table):
            if critic != "none":
                values = self._valued(tf.gather(self.native["critic.table"], observations))
            return Outputs(tf.gather(self.native["network.table"], observations), values, own)
        depth = len(network.hidden) if isinstance(network, MLP) else 0
        features = self._hidden("network", observations)
        if critic == "shared":
            values = self._valued(self._layer("critic.0", features))
        elif critic == "separate":
            values = self._valued(self._layer(f"critic.{depth}", self._hidden("critic", observations)))
        return Outputs(self._layer(f"network.{depth}", features), values, own)

    def _valued(self, values: Any) -> Any:
        """Return [N] state values from the critic's column, or its [N, A] action values as they are."""
        return values[:, 0] if self.spec.critic_values == "state" else values

    def _hidden(self, prefix: str, observations: Any) -> Any:
        network, features = self.spec.network, observations
        if isinstance(network, MLP):
            for number in range(len(network.hidden)):
                features = ACTIVATIONS[network.activation](self._layer(f"{prefix}.{number}", features))
        return features

    def _layer(self, name: str, features: Any) -> Any:
        return tf.matmul(features, self.native[f"{name}.weight"]) + self.native[f"{name}.bias"]


class AdoptedModule(tf.Module):
    """The user's own Keras models, with the head's parameters beside them; always in evaluation mode.

    Attributes:
        native: tf.Variable by the models' own names.
    """

    def __init__(self, network: Any, critic: Any, native: dict[str, Any], *, shared: bool) -> None:
        """Keep the models."""
        super().__init__(name="adopted")
        self.network = network
        self.critic = critic
        self.native = native
        self.head = {name: value for name, value in native.items() if name.startswith("head.")}
        self.shared = shared

    def __call__(self, observations: Any) -> Outputs:
        """Return what the models say of [N, ...] observations; nobody has looked at it yet."""
        self.check_current()
        outputs, values = called(self.network, observations), None
        if self.shared and isinstance(outputs, tuple | list) and len(outputs) == 2:
            outputs, values = outputs
        elif self.critic is not None:
            values = called(self.critic, observations)
        return Outputs(outputs, values, head_parameters(self.native))

    def check_current(self) -> None:
        """Raise ParameterError unless the models still have the variables that they were adopted with; a graph keeps those it is built of."""
        models = [self.network] if self.critic is None else [self.network, self.critic]
        known = {id(variable.value) for model in models for variable in model.variables}
        for name, value in self.native.items():
            if id(value) not in known and value is not self.head.get(name):
                raise ParameterError(
                    f"keras {self.network.name}: expected the variables that it was adopted with, got another {name} or none; adopt the model "
                    "again once its layers are changed"
                )

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Put back what running the models changes, and raise SpecError where it is a variable."""
        models = [self.network] if self.critic is None else [self.network, self.critic]
        kept = [(variable, variable.numpy()) for model in models for variable in model.non_trainable_variables]
        changed: list[str] = []
        try:
            yield
        finally:
            for variable, old in kept:
                if not np.array_equal(variable.numpy(), old, equal_nan=old.dtype.kind == "f"):
                    variable.assign(old)
                    # Keras draws seeds in evaluation mode too; outputs show whether they are used.
                    changed += [] if variable.path.endswith("seed_generator_state") else [variable.path]
        if changed:
            raise SpecError(
                f"keras {self.network.name}: expected variables that stay as they are, got one that a call changes, {changed[0]}; let the model "
                "keep nothing between calls"
            )


def called(model: Any, observations: Any) -> Any:
    """Return what a user's model makes of observations, or raise BatchError, naming it, where it fails."""
    try:
        return model(observations, training=False)
    except (PgcoreError, MemoryError):
        raise
    except Exception as error:
        raise refusal(f"keras {model.name}", observations, error, reason(error)) from error


def reason(error: Exception) -> str:
    """Return the first line of an error that says something: both frameworks begin with where it was, and Keras prints in bold."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    return next((line for line in lines if line.strip() and not line.startswith(WHERE)), "")


def head_parameters(native: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head's own variables' values, without their prefix."""
    return {
        name.removeprefix("head."): tf.convert_to_tensor(value)
        for name, value in native.items()
        if name.startswith("head.")
    }
