"""The backend's front door."""

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
from pgcore_tensorflow.networks import AdoptedModule, PolicyModule
from pgcore_tensorflow.parameters import adopted_parameters
from pgcore_tensorflow.policy import TensorflowPolicy

__all__ = ["TensorflowBackend"]

# Names of keras.layers; whoever uses no Keras does not import it.
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
    """See `Backend`; devices are TensorFlow's, such as "cpu" and "gpu:0". Everything is a graph, with `compiled` one that XLA compiles."""

    name: ClassVar[str] = "tensorflow"
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
        """See `Backend.adopt`; modules are `keras.Model`, on Keras's TensorFlow backend, and built."""
        kind = critic_kind("tensorflow", critic)
        own_critic = critic if kind == "separate" else None
        check_model("module", module, evaluation_mode=evaluation_mode)
        if own_critic is not None:
            check_model("critic", own_critic, evaluation_mode=evaluation_mode)
        PolicySpec(
            Adopted(f"keras {module.name}", ()), head, kind, critic_values
        )  # refuses what is no head
        native = adopted_parameters(f"tensorflow.adopt {module.name}", module, own_critic, head)
        shapes = tuple((name, tuple(value.shape)) for name, value in native.items())
        spec = PolicySpec(Adopted(f"keras {module.name}", shapes), head, kind, critic_values)
        numbers = np.dtype(next(iter(native.values())).dtype.name)
        adopted = AdoptedModule(module, own_critic, native, shared=kind == "shared")
        policy = TensorflowPolicy(self.name, spec, numbers, adopted, None, compiled=compiled)
        policy.probe = Probe(str(spec.network), adopted.preserved)
        return policy


def usable_device(device: str | None) -> str | None:
    """Return the device as TensorFlow names it, None for its default; raise SpecError where there is no such device."""
    if device is None:
        return None
    known = [
        found.name.removeprefix("/device:").lower() for found in tf.config.list_logical_devices()
    ]
    name = str(device).lower()
    wanted = name if ":" in name else f"{name}:0"
    if wanted not in known:
        raise SpecError(
            f"tensorflow.policy device: expected one of {', '.join(known)}, got {device!r}; choose one that TensorFlow has here"
        )
    return f"/device:{wanted.upper()}"


def check_model(what: str, model: Any, *, evaluation_mode: bool) -> None:
    """Raise SpecError unless this is a built Keras model on TensorFlow without layers that behave differently in training."""
    keras = sys.modules.get(
        "keras"
    )  # whoever has a Keras model has imported it; nobody else needs it
    if keras is None or not isinstance(model, keras.Model):
        raise SpecError(
            f"tensorflow.adopt {what}: expected a keras.Model, got {type(model).__name__}; pass a model"
        )
    if keras.config.backend() != "tensorflow":
        raise SpecError(
            f"tensorflow.adopt {what}: expected Keras on TensorFlow, got Keras on {keras.config.backend()}, whose variables TensorFlow cannot "
            "differentiate; set KERAS_BACKEND=tensorflow before Keras is imported, or adopt the model where it is"
        )
    if not model.built:
        raise SpecError(
            f"tensorflow.adopt {what}: expected a model that is built, got {model.name} without weights; call it once, or model.build(shape)"
        )
    for layer in model._flatten_layers():  # noqa: SLF001 - the only list that sees layers of layers
        if getattr(layer, "stateful", False):
            raise SpecError(
                f"tensorflow.adopt {what}: expected outputs that depend on one observation alone, got the layer {layer.name}, which keeps a state "
                "between calls; make it with stateful=False and give it windows of observations"
            )
        if not evaluation_mode and differs_in_training(keras, layer):
            raise SpecError(
                f"tensorflow.adopt {what}: expected outputs that depend on one observation alone, got the layer {layer.name}, which differs in "
                "training; pass evaluation_mode=True to run the model with training=False"
            )


def differs_in_training(keras: Any, layer: Any) -> bool:
    """Whether a layer's outputs in training are no function of one step's observation alone."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.trainable  # Keras runs a frozen one in evaluation mode everywhere
    if isinstance(layer, tuple(getattr(keras.layers, name) for name in RANDOM)):
        return getattr(layer, "rate", 1) > 0
    shares = (getattr(layer, name, 0) for name in ("dropout", "recurrent_dropout"))
    return any(isinstance(share, int | float) and share > 0 for share in shares)
