"""Networks as tf.Module, built from a spec or adopted from the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from pgcore.autodiff.adoption import refusal
from pgcore.autodiff.inputs import Outputs
from pgcore.data.spec import PolicySpec
from pgcore.errors import ParameterError, PgcoreError, SpecError
from pgcore.validation.arrays import Array
from pgcore_tensorflow.xp import xp

__all__ = ["AdoptedModule", "PolicyModule", "reason"]

# The beginnings of an error's lines that name a place instead of the failure.
WHERE = (
    "Exception encountered when calling",
    "Graph execution error",
    "Detected at node",
    "  File ",
    "\t",
)


class PolicyModule(tf.Module):
    """A spec's network, critic and head parameters.

    Attributes:
        native: tf.Variable by canonical name, in canonical shape.
    """

    def __init__(
        self,
        spec: PolicySpec,
        parameters: Mapping[str, Array],
        dtype: tf.DType,
        device: str | None = None,
    ) -> None:
        """Make the variables."""
        super().__init__(name="policy")
        self.spec = spec
        self.device = device
        with tf.device(device):
            self.native = {
                name: tf.Variable(tf.constant(value, dtype), name=name)
                for name, value in parameters.items()
            }

    def __getstate__(self) -> dict[str, Any]:
        """Return a copy's state in NumPy, since variables belong to their process."""
        return {"spec": self.spec, "native": in_numpy(self.native), "device": self.device}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Make the variables again."""
        dtype = tf.as_dtype(next(iter(state["native"].values())).dtype)
        self.__init__(state["spec"], state["native"], dtype, state["device"])

    def __call__(self, observations: Any) -> Outputs:
        """Return outputs and values for [N, ...] observations."""
        outputs, values = self.spec.apply(xp, self.native, observations)
        # One value a step is [N]; action values stay [N, A].
        if values is not None and self.spec.critic_values == "state":
            values = values[:, 0]
        return Outputs(outputs, values, head_parameters(self.native))


class AdoptedModule(tf.Module):
    """The user's own Keras models in evaluation mode, with the head's parameters beside them.

    Attributes:
        native: tf.Variable by the models' own names.
    """

    def __init__(self, network: Any, critic: Any, native: dict[str, Any], *, shared: bool) -> None:
        """Keep the models.

        Args:
            network: The user's model.
            critic: The user's critic, or None.
            native: See the attributes.
            shared: Whether the network returns outputs and values.
        """
        super().__init__(name="adopted")
        self.network = network
        self.critic = critic
        self.models = [network] if critic is None else [network, critic]
        self.native = native
        self.head = {name: value for name, value in native.items() if name.startswith("head.")}
        self.shared = shared

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: the models, and the place of each parameter in them.

        Raises:
            SpecError: network and critic share a variable. Keras copies one model at a time, which
                would make two variables of it.
        """
        places: dict[int, tuple[int, int]] = {}
        # A place is the number of a model and of a variable in it.
        for number, model in enumerate(self.models):
            for index, variable in enumerate(model.variables):
                if places.setdefault(id(variable.value), (number, index))[0] != number:
                    raise SpecError(
                        f"keras {self.network.name}: expected models that share no variable, to "
                        f"copy or pickle their policy, got {variable.path} in network and critic; "
                        "make one model of two outputs of them, and adopt it with critic='shared'"
                    )
        trained = {
            name: places[id(value)] for name, value in self.native.items() if name not in self.head
        }
        return {
            "models": self.models,
            "shared": self.shared,
            "names": tuple(self.native),
            "trained": trained,
            "head": in_numpy(self.head),
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the parameters' variables from the models again."""
        models = state["models"]
        variables: dict[str, Any] = {}
        for name, (number, index) in state["trained"].items():
            variables[name] = models[number].variables[index].value
        # The head's have no model that would bring them.
        for name, value in state["head"].items():
            variables[name] = tf.Variable(tf.constant(value))
        native = {name: variables[name] for name in state["names"]}
        critic = models[1] if len(models) == 2 else None
        self.__init__(models[0], critic, native, shared=state["shared"])

    def __call__(self, observations: Any) -> Outputs:
        """Return the models' results, whose shapes are not checked yet."""
        self.check_current()
        outputs, values = call(self.network, observations), None
        if self.shared and isinstance(outputs, tuple | list) and len(outputs) == 2:
            outputs, values = outputs
        elif self.critic is not None:
            values = call(self.critic, observations)
        return Outputs(outputs, values, head_parameters(self.native))

    def check_current(self) -> None:
        """Raise ParameterError unless the models still have the variables of their adoption.

        A graph that is built keeps its variables, so that this runs where one is built.
        """
        current = {id(variable.value) for model in self.models for variable in model.variables}
        for name, value in self.native.items():
            if id(value) not in current and value is not self.head.get(name):
                raise ParameterError(
                    f"keras {self.network.name}: expected the variables that it was adopted with, "
                    f"got another {name} or none; "
                    "adopt the model again once its layers are changed"
                )

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Put back variables that running the models changes.

        Raises:
            SpecError: one changed that is no state of a random generator.
        """
        before: list[tuple[Any, Array]] = []
        for model in self.models:
            before += [(variable, variable.numpy()) for variable in model.non_trainable_variables]
        changed: list[str] = []
        try:
            yield
        finally:
            for variable, old in before:
                if np.array_equal(variable.numpy(), old, equal_nan=old.dtype.kind == "f"):
                    continue
                variable.assign(old)
                # Keras draws seeds in evaluation mode too; outputs show whether they are used.
                if not variable.path.endswith("seed_generator_state"):
                    changed.append(variable.path)
        if changed:
            raise SpecError(
                f"keras {self.network.name}: expected variables that stay as they are, "
                f"got one that a call changes, {changed[0]}; "
                "let the model keep nothing between calls"
            )


def call(model: Any, observations: Any) -> Any:
    """Return a user's model's result, or raise BatchError with the model's name if it fails."""
    # This package's own errors, and those of memory, say enough already.
    try:
        return model(observations, training=False)
    except (PgcoreError, MemoryError):
        raise
    except Exception as error:
        raise refusal(f"keras {model.name}", observations, error, reason(error)) from error


def reason(error: Exception) -> str:
    """Return the first line of an error that describes the failure, without Keras's bold type."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    return next((line for line in lines if line.strip() and not line.startswith(WHERE)), "")


def in_numpy(variables: Mapping[str, Any]) -> dict[str, Array]:
    """Return variables' values by name."""
    return {name: value.numpy() for name, value in variables.items()}


def head_parameters(native: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head's own variables' values, without their prefix."""
    return {
        name.removeprefix("head."): tf.convert_to_tensor(value)
        for name, value in native.items()
        if name.startswith("head.")
    }
