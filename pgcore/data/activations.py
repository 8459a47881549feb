"""Activations: elementwise functions between a network's layers, with their derivatives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pgcore.errors import PgcoreError, SpecError
from pgcore.registry.registry import load_class, registry
from pgcore.validation.fields import choice
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Activation", "Relu", "Sigmoid", "Tanh", "activation", "registered_activation"]


@dataclass(frozen=True, slots=True)
class Activation(ABC):
    """An elementwise function; two of one class are equal.

    The hook `pgcore_activations` registers a subclass under `name`, by which `MLP` takes it.

    Attributes:
        name: The registered name.
        gain: Of the orthogonal weights of the layer before it, at the start of learning.
    """

    registered_as = "activations"  # the kind
    name: ClassVar[str]
    gain: ClassVar[float] = math.sqrt(2.0)  # as in OpenAI Baselines' PPO

    @abstractmethod
    def value(self, xp: ArrayNamespace, x: Native) -> Native:
        """Return the function's value.

        Args:
            xp: The backend's array functions.
            x: An array of any shape.
        """

    @abstractmethod
    def slope(self, xp: ArrayNamespace, x: Native, y: Native) -> Native:
        """Return the derivative, for backends that work with closed forms.

        Args:
            xp: The backend's array functions.
            x: An array of any shape.
            y: The function's value at `x`, from which some derivatives are cheaper.
        """


class Tanh(Activation):
    """The hyperbolic tangent."""

    name: ClassVar[str] = "tanh"

    def value(self, xp: ArrayNamespace, x: Native) -> Native:
        """See `Activation.value`."""
        return xp.tanh(x)

    def slope(self, xp: ArrayNamespace, x: Native, y: Native) -> Native:
        """See `Activation.slope`."""
        return 1.0 - y * y


class Relu(Activation):
    """max(x, 0), with derivative 0 at 0."""

    name: ClassVar[str] = "relu"

    def value(self, xp: ArrayNamespace, x: Native) -> Native:
        """See `Activation.value`."""
        return xp.relu(x)

    def slope(self, xp: ArrayNamespace, x: Native, y: Native) -> Native:
        """See `Activation.slope`."""
        return xp.where(y > 0, xp.full_like(y, 1.0), 0.0)


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    name: ClassVar[str] = "sigmoid"

    def value(self, xp: ArrayNamespace, x: Native) -> Native:
        """See `Activation.value`."""
        return xp.sigmoid(x)

    def slope(self, xp: ArrayNamespace, x: Native, y: Native) -> Native:
        """See `Activation.slope`."""
        return y * (1.0 - y)


# Activations by their classes.
_MADE: dict[Callable[[], Activation], Activation] = {}


def activation(name: str) -> Activation:
    """Return the activation that is registered under a name.

    Raises:
        UnknownNameError: no activation has the name.
        PluginError: its target does not exist, or is no activation.
    """
    kind = cast("Callable[[], Activation]", load_class("activations", name, Activation))
    # Kept, since a tracing compiler may not trace the making of an object with abstract methods.
    if kind not in _MADE:
        _MADE[kind] = kind()
    return _MADE[kind]


def registered_activation(where: str, value: object, error: type[PgcoreError] = SpecError) -> Any:
    """Return the value, or raise unless it names a registered activation; see `Rule`."""
    registry().refuse_disabled("activations", value)
    return choice(*registry().names("activations"))(where, value, error)
