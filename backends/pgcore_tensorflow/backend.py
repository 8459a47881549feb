"""The TensorFlow backend's entry point."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from pgcore.autodiff.adoption import Probe
from pgcore.autodiff.policy import critic_kind
from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.interfaces.backend import Backend, float_dtype
from pgcore.wording import shown
from pgcore_tensorflow.arrays import TensorflowArrays
from pgcore_tensorflow.networks import AdoptedModule, PolicyModule
from pgcore_tensorflow.parameters import adopted_parameters
from pgcore_tensorflow.policy import TensorflowPolicy

__all__ = ["TensorflowBackend"]

# The layers of `keras.layers` that draw numbers in training. By name, since a program without a
# Keras model does not import Keras.
RANDOM = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
)


class TensorflowBackend(Backend):
    """See `Backend`; devices are TensorFlow's, such as "cpu" and "gpu:0".

    All computations are graphs, compiled by XLA with `compiled`.
    """

    name: ClassVar[str] = "tensorflow"
    arrays = TensorflowArrays()
    modes: ClassVar[tuple[str, ...]] = ("graph", "compiled")

    def policy(
        self,
        spec: PolicySpec,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        compiled: bool = False,
    ) -> TensorflowPolicy:
        """See `Backend.policy`."""
        place = usable_device(device)
        numbers = float_dtype("tensorflow.policy dtype", dtype)
        module = PolicyModule(spec, spec.initial_parameters(seed), tf.as_dtype(dtype), place)
        return TensorflowPolicy(self.name, spec, numbers, module, place, compiled=compiled)

    def adopt(
        self,
        module: Any,
        head: Head,
        critic: Any = None,
        *,
        critic_values: str = "state",
        compiled: bool = False,
        evaluation_mode: bool = False,
    ) -> TensorflowPolicy:
        """See `Backend.adopt`; modules are built `keras.Model`s on Keras's TensorFlow backend."""
        kind = critic_kind("tensorflow", critic)
        critic_model = critic if kind == "separate" else None
        check_model("module", module, evaluation_mode=evaluation_mode)
        if critic_model is not None:
            check_model("critic", critic_model, evaluation_mode=evaluation_mode)
        description = f"keras {module.name}"
        # The shapes are not known yet; this draft refuses a wrong head or critic.
        PolicySpec(Adopted(description, ()), head, kind, critic_values)
        native = adopted_parameters(f"tensorflow.adopt {module.name}", module, critic_model, head)
        shapes = tuple((name, tuple(value.shape)) for name, value in native.items())
        spec = PolicySpec(Adopted(description, shapes), head, kind, critic_values)
        numbers = np.dtype(next(iter(native.values())).dtype.name)
        adopted = AdoptedModule(module, critic_model, native, shared=kind == "shared")
        policy = TensorflowPolicy(self.name, spec, numbers, adopted, None, compiled=compiled)
        policy.probe = Probe(str(spec.network), adopted.preserved)
        return policy


def usable_device(device: str | None) -> str | None:
    """Return TensorFlow's name of a device, None for its default.

    Raises:
        SpecError: TensorFlow has no such device here.
    """
    if device is None:
        return None
    devices = tf.config.list_logical_devices()
    available = [entry.name.removeprefix("/device:").lower() for entry in devices]
    # "gpu" is short for the first one.
    name = str(device).lower()
    if ":" not in name:
        name = f"{name}:0"
    if name not in available:
        raise SpecError(
            f"tensorflow.policy device: expected one of {', '.join(available)}, got {shown(device)}; "
            "choose one that TensorFlow has here"
        )
    return f"/device:{name.upper()}"


def check_model(role: str, model: Any, *, evaluation_mode: bool) -> None:
    """Refuse an object that is no built Keras model with a policy's outputs.

    Args:
        role: "module" or "critic", for messages.
        model: The user's object.
        evaluation_mode: Whether the model may have layers that differ in training.

    Raises:
        SpecError: it is no built model on TensorFlow, or a layer's outputs depend on more than one
            step's observation.
    """
    where = f"tensorflow.adopt {role}"
    # A caller with a Keras model has imported Keras.
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        raise SpecError(
            f"{where}: expected a keras.Model, got {type(model).__name__}; pass a model"
        )
    if keras.config.backend() != "tensorflow":
        raise SpecError(
            f"{where}: expected Keras on TensorFlow, got Keras on {keras.config.backend()}, whose "
            "variables TensorFlow cannot differentiate; set KERAS_BACKEND=tensorflow before Keras "
            "is imported, or adopt the model where it is"
        )
    if not model.built:
        raise SpecError(
            f"{where}: expected a model that is built, got {model.name} without weights; "
            "call it once, or model.build(shape)"
        )
    rule = "expected outputs that depend on one observation alone"
    for layer in model._flatten_layers():  # noqa: SLF001 - the only list that sees layers of layers
        if getattr(layer, "stateful", False):
            raise SpecError(
                f"{where}: {rule}, got the layer {layer.name}, which keeps a state between calls; "
                "make it with stateful=False and give it windows of observations"
            )
        if not evaluation_mode and differs_in_training(keras, layer):
            raise SpecError(
                f"{where}: {rule}, got the layer {layer.name}, which differs in training; "
                "pass evaluation_mode=True to run the model with training=False"
            )


def differs_in_training(keras: Any, layer: Any) -> bool:
    """Whether a layer draws numbers or mixes the batch in training."""
    # Keras runs a frozen batch normalisation in evaluation mode everywhere.
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.trainable
    if isinstance(layer, tuple(getattr(keras.layers, name) for name in RANDOM)):
        return getattr(layer, "rate", 1) > 0
    # Recurrent and attention layers drop a share of their inputs or states.
    shares = (getattr(layer, name, 0) for name in ("dropout", "recurrent_dropout"))
    return any(isinstance(share, int | float) and share > 0 for share in shares)
