"""A module's variables, and those of adopted Keras models: their names, and their faults."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.spec_checks import check_parameters
from pgcore.errors import ParameterError, SpecError
from pgcore.heads import Head
from pgcore.validation.arrays import Array

__all__ = ["TensorflowParameters", "adopted_parameters", "flat"]


class TensorflowParameters(AutodiffParameters):
    """See `AutodiffParameters`.

    Attributes:
        native: The tf.Variables by canonical name.
        device: Where they are, None for TensorFlow's default.
    """

    native: dict[str, Any]
    device: str | None

    def placed(self) -> AbstractContextManager[Any]:
        """Return the context in which TensorFlow computes on the policy's device."""
        return nullcontext() if self.device is None else tf.device(self.device)

    def parameters(self) -> dict[str, Array]:
        """See `Parameters.parameters`."""
        return {name: self.canonical(name, value) for name, value in self.native.items()}

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Parameters.load`."""
        for name, value in check_parameters(self.spec, parameters, self.dtype).items():
            self.native[name].assign(value)

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        own = {name: value for name, value in self.native.items() if name.startswith("head.")}
        return {name.removeprefix("head."): value.numpy() for name, value in own.items()}

    def leaves(self, vector: Array) -> dict[str, Any]:
        """See `AutodiffParameters.leaves`."""
        with self.placed():
            return {name: tf.constant(part) for name, part in self.layout.named(vector).items()}

    def canonical(self, name: str, leaf: Any) -> Array:
        """See `AutodiffParameters.canonical`."""
        return np.array(leaf.numpy())

    def to_numpy(self, native: Any) -> Array:
        """See `AutodiffParameters.to_numpy`."""
        return native.numpy()


def flat(arrays: list[Any]) -> Any:
    """Return all entries in one vector."""
    return tf.concat([tf.reshape(array, [-1]) for array in arrays], 0)


def adopted_parameters(what: str, network: Any, critic: Any, head: Head) -> dict[str, Any]:
    """Return the models' trainable tf.Variables by Keras's paths, the critic's and the head's behind a prefix.

    A variable that network and critic share has the network's name.

    Raises:
        SpecError: two variables would have one name, there are none, or dtypes are not the same for all.
        ParameterError: one of them is NaN or infinite.
    """
    found = {
        own_path(network, variable): variable.value for variable in network.trainable_variables
    }
    if len(found) < len(network.trainable_variables):
        raise SpecError(
            f"{what}: expected variables of different paths, got two of one; name the layers differently"
        )
    if not found:
        raise SpecError(
            f"{what}: expected a model with variables to train, got none; adopt one that has some"
        )
    known = {id(value) for value in found.values()}
    of_critic = [] if critic is None else critic.trainable_variables
    others = {
        f"critic.{own_path(critic, v)}": v.value for v in of_critic if id(v.value) not in known
    }
    first = next(iter(found.values()))
    others |= {
        f"head.{name}": tf.Variable(tf.constant(value, first.dtype))
        for name, value in head.initial_parameters().items()
    }
    for name in (name for name in others if name in found):
        raise SpecError(
            f"{what}: expected {name} to name one variable, got two; rename the model's own layer"
        )
    found |= others
    for name, value in found.items():
        if value.dtype not in (tf.float32, tf.float64) or value.dtype != first.dtype:
            raise SpecError(
                f"{what}: expected variables all float32 or all float64, got {name} {value.dtype.name}; build the layers with one dtype"
            )
        if not np.isfinite(value.numpy()).all():
            raise ParameterError(
                f"{what}: expected finite parameters, got NaN or infinity in {name}; load good weights"
            )
    return found


def own_path(model: Any, variable: Any) -> str:
    """Return a variable's path without the model's name, which Keras numbers anew in every process."""
    return variable.path.removeprefix(f"{model.name}/")
