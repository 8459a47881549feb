"""Networks as tf.Module and variables: those of a spec, and the user's own."""

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

# How lines begin that say where a failure was.
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
        """Return what a copy is made of: variables belong to their process."""
        return {"spec": self.spec, "native": in_numpy(self.native), "device": self.device}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Make the variables again."""
        dtype = tf.as_dtype(next(iter(state["native"].values())).dtype)
        self.__init__(state["spec"], state["native"], dtype, state["device"])

    def __call__(self, observations: Any) -> Outputs:
        """Return what the network says of [N, ...] observations."""
        outputs, values = self.spec.apply(xp, self.native, observations)
        if values is not None and self.spec.critic_values == "state":
            values = values[:, 0]
        return Outputs(outputs, values, head_parameters(self.native))


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

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: models by Keras's own way, and which of their variables is which parameter.

        Raises:
            SpecError: network and critic share a variable; Keras copies each model by itself, and two variables would come out.
        """
        models = [self.network] if self.critic is None else [self.network, self.critic]
        places = [
            {id(variable.value): number for number, variable in enumerate(model.variables)}
            for model in models
        ]
        if len(places) == 2 and (both := places[0].keys() & places[1].keys()):
            path = self.network.variables[places[0][both.pop()]].path
            raise SpecError(
                f"keras {self.network.name}: expected models that share no variable, to copy or pickle their policy, got {path} in network and "
                "critic; make one model of two outputs of them, and adopt it with critic='shared'"
            )
        trained = {
            name: next(
                (number, known[id(value)])
                for number, known in enumerate(places)
                if id(value) in known
            )
            for name, value in self.native.items()
            if name not in self.head
        }
        return {
            "models": models,
            "shared": self.shared,
            "names": tuple(self.native),
            "trained": trained,
            "head": in_numpy(self.head),
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Find the parameters in the models."""
        models = state["models"]
        found = {
            name: models[model].variables[number].value
            for name, (model, number) in state["trained"].items()
        }
        found |= {name: tf.Variable(tf.constant(value)) for name, value in state["head"].items()}
        native = {name: found[name] for name in state["names"]}
        self.__init__(
            models[0], models[1] if len(models) == 2 else None, native, shared=state["shared"]
        )

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
        kept = [
            (variable, variable.numpy())
            for model in models
            for variable in model.non_trainable_variables
        ]
        changed: list[str] = []
        try:
            yield
        finally:
            for variable, old in kept:
                if not np.array_equal(variable.numpy(), old, equal_nan=old.dtype.kind == "f"):
                    variable.assign(old)
                    # Keras draws seeds in evaluation mode too; outputs show whether they are used.
                    changed += (
                        [] if variable.path.endswith("seed_generator_state") else [variable.path]
                    )
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
