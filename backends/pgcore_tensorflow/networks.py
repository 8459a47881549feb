"""Networks as tf.Module and variables: those of a spec, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from pgcore.arrays import Array
from pgcore.autodiff import Outputs
from pgcore.spec import MLP, PolicySpec, Table

__all__ = ["AdoptedModule", "PolicyModule"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"tanh": tf.tanh, "relu": tf.nn.relu, "sigmoid": tf.sigmoid}


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
        self.shared = shared

    def __call__(self, observations: Any) -> Outputs:
        """Return what the models say of [N, ...] observations; nobody has looked at it yet."""
        outputs, values = self.network(observations, training=False), None
        if self.shared and isinstance(outputs, tuple | list) and len(outputs) == 2:
            outputs, values = outputs
        elif self.critic is not None:
            values = self.critic(observations, training=False)
        return Outputs(outputs, values, head_parameters(self.native))


def head_parameters(native: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head's own variables' values, without their prefix."""
    return {
        name.removeprefix("head."): tf.convert_to_tensor(value)
        for name, value in native.items()
        if name.startswith("head.")
    }
