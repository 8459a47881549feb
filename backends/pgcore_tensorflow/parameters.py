"""Variables by canonical name, of a spec's module or of adopted Keras models."""

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
        device: The variables' device, None for TensorFlow's default.
    """

    native: dict[str, Any]
    device: str | None

    def placed(self) -> AbstractContextManager[Any]:
        """Return the context in which TensorFlow computes on the policy's device."""
        return nullcontext() if self.device is None else tf.device(self.device)

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Parameters.load`."""
        for name, value in check_parameters(self.spec, parameters, self.dtype).items():
            self.native[name].assign(value)

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        arrays: dict[str, Array] = {}
        for name, value in self.native.items():
            if name.startswith("head."):
                arrays[name.removeprefix("head.")] = value.numpy()
        return arrays

    def leaves(self, vector: Array) -> dict[str, Any]:
        """See `AutodiffParameters.leaves`."""
        with self.placed():
            return {name: tf.constant(part) for name, part in self.layout.named(vector).items()}

    def canonical(self, name: str, leaf: Any) -> Array:
        """See `AutodiffParameters.canonical`."""
        # A copy: `numpy` may share the tensor's memory.
        return np.array(leaf.numpy())

    def to_numpy(self, native: Any) -> Array:
        """See `AutodiffParameters.to_numpy`."""
        return native.numpy()


def flat(arrays: list[Any]) -> Any:
    """Return all entries in one vector."""
    return tf.concat([tf.reshape(array, [-1]) for array in arrays], 0)


def adopted_parameters(where: str, network: Any, critic: Any, head: Head) -> dict[str, Any]:
    """Return the trainable tf.Variables of adopted models by Keras's paths.

    The critic's and the head's have a prefix. A variable that network and critic share has the
    network's name.

    Args:
        where: The beginning of errors.
        network: A built Keras model.
        critic: Another, or None.
        head: The head, whose parameters start at their initial values.

    Raises:
        SpecError: two variables would have one name, there are none, or dtypes differ.
        ParameterError: one of them is NaN or infinite.
    """
    variables = {
        path_in(network, variable): variable.value for variable in network.trainable_variables
    }
    if len(variables) < len(network.trainable_variables):
        raise SpecError(
            f"{where}: expected variables of different paths, got two of one; "
            "name the layers differently"
        )
    if not variables:
        raise SpecError(
            f"{where}: expected a model with variables to train, got none; adopt one that has some"
        )
    first = next(iter(variables.values()))
    # A shared variable is told by its identity, since its names differ.
    shared = {id(value) for value in variables.values()}
    prefixed: dict[str, Any] = {}
    for variable in [] if critic is None else critic.trainable_variables:
        if id(variable.value) not in shared:
            prefixed[f"critic.{path_in(critic, variable)}"] = variable.value
    for name, value in head.initial_parameters().items():
        prefixed[f"head.{name}"] = tf.Variable(tf.constant(value, first.dtype))
    if twice := [name for name in prefixed if name in variables]:
        raise SpecError(
            f"{where}: expected {twice[0]} to name one variable, got two; "
            "rename the model's own layer"
        )
    variables |= prefixed
    for name, value in variables.items():
        check_variable(where, name, value, first.dtype)
    return variables


def check_variable(where: str, name: str, value: Any, dtype: tf.DType) -> None:
    """Raise SpecError or ParameterError unless a variable is finite and of the others' dtype."""
    if value.dtype not in (tf.float32, tf.float64) or value.dtype != dtype:
        raise SpecError(
            f"{where}: expected variables all float32 or all float64, "
            f"got {name} {value.dtype.name}; build the layers with one dtype"
        )
    if not np.isfinite(value.numpy()).all():
        raise ParameterError(
            f"{where}: expected finite parameters, got NaN or infinity in {name}; load good weights"
        )


def path_in(model: Any, variable: Any) -> str:
    """Return a variable's path without the model's name.

    Keras numbers that name anew in every process.
    """
    return variable.path.removeprefix(f"{model.name}/")
