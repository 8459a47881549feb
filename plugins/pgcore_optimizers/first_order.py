"""First-order optimizers, with one set of conventions on every backend; see docs/conventions.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.errors import OptimizerError
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.validation.fields import Decay, Flag, NonNegative, Positive
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


@dataclass(frozen=True)
class SGD(OptimizerSpec):
    """Stochastic gradient descent, with optional momentum.

    m <- momentum m + g
    parameter <- parameter - rate m, or with Nesterov parameter - rate (g + momentum m)

    The buffer m holds no learning rate, so a change of rate acts at once.

    Attributes:
        momentum: In [0, 1).
        nesterov: Look ahead along the buffer; needs momentum.
    """

    momentum: Decay = 0.0
    nesterov: Flag = False
    name = "sgd"
    slots = ("momentum",)

    def __post_init__(self) -> None:
        """Check the fields, and Nesterov's need of momentum."""
        super().__post_init__()
        if self.nesterov and self.momentum == 0.0:
            raise OptimizerError(
                "SGD.nesterov: expected momentum above 0 with it, got 0; set momentum"
            )

    def update(
        self,
        xp: ArrayNamespace,
        parameter: Native,
        gradient: Native,
        slots: Mapping[str, Native],
        *scalars: Native,
    ) -> tuple[Native, dict[str, Native]]:
        """See `OptimizerSpec.update`."""
        (learning_rate,) = scalars
        momentum = self.momentum * slots["momentum"] + gradient
        direction = gradient + self.momentum * momentum if self.nesterov else momentum
        return parameter - learning_rate * direction, {"momentum": momentum}


@dataclass(frozen=True)
class Adam(OptimizerSpec):
    """Adam: epsilon outside the root, after bias correction.

    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
    parameter <- parameter - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Attributes:
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        eps: Added to the root; positive, so that a first gradient of 0 gives no NaN.

    Source: Kingma and Ba 2015, algorithm 1, arXiv:1412.6980.
    """

    # Kingma and Ba 2015, algorithm 1.
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    name = "adam"
    slots = ("first_moment", "second_moment")

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """See `OptimizerSpec.scalars`: rate / (1 - beta1^t) and sqrt(1 - beta2^t)."""
        # In Python floats, once a step: in float32 1 - beta2 loses digits at the first steps.
        return learning_rate / (1.0 - self.beta1**step), math.sqrt(1.0 - self.beta2**step)

    def update(
        self,
        xp: ArrayNamespace,
        parameter: Native,
        gradient: Native,
        slots: Mapping[str, Native],
        *scalars: Native,
    ) -> tuple[Native, dict[str, Native]]:
        """See `OptimizerSpec.update`."""
        # sqrt(v / c) = sqrt(v) / sqrt(c): the corrections are scalars outside the arrays.
        rate, correction = scalars
        first = self.beta1 * slots["first_moment"] + (1.0 - self.beta1) * gradient
        second = self.beta2 * slots["second_moment"] + (1.0 - self.beta2) * gradient * gradient
        root = xp.sqrt(second) / correction + self.eps
        return parameter - rate * first / root, {"first_moment": first, "second_moment": second}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: a parameter is first scaled by 1 - rate weight_decay.

    Attributes:
        weight_decay: At least 0; 0 by default, since frameworks' defaults differ.

    Source: Loshchilov and Hutter 2019, algorithm 2, arXiv:1711.05101.
    """

    weight_decay: NonNegative = 0.0
    name = "adamw"

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """See `OptimizerSpec.scalars`: Adam's, and the factor of a parameter."""
        return *super().scalars(step, learning_rate), 1.0 - learning_rate * self.weight_decay

    def update(
        self,
        xp: ArrayNamespace,
        parameter: Native,
        gradient: Native,
        slots: Mapping[str, Native],
        *scalars: Native,
    ) -> tuple[Native, dict[str, Native]]:
        """See `OptimizerSpec.update`."""
        # Before Adam's step, as in the paper: the decay does not enter the moments.
        *adam_scalars, factor = scalars
        return super().update(xp, parameter * factor, gradient, slots, *adam_scalars)


@dataclass(frozen=True)
class RMSprop(OptimizerSpec):
    """RMSprop, with optional momentum.

    v <- decay v + (1 - decay) g^2
    m <- momentum m + g / (sqrt(v) + eps)
    parameter <- parameter - rate m

    Attributes:
        decay: Of the second moment, in [0, 1).
        eps: Positive; added to the root, or under it with `eps_inside`.
        eps_inside: sqrt(v + eps), TensorFlow's convention.
        momentum: In [0, 1); the buffer holds g / root.

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """

    decay: Decay = 0.99
    eps: Positive = 1e-8
    eps_inside: Flag = False
    momentum: Decay = 0.0
    name = "rmsprop"
    slots = ("second_moment", "momentum")

    def update(
        self,
        xp: ArrayNamespace,
        parameter: Native,
        gradient: Native,
        slots: Mapping[str, Native],
        *scalars: Native,
    ) -> tuple[Native, dict[str, Native]]:
        """See `OptimizerSpec.update`."""
        (learning_rate,) = scalars
        # Frameworks disagree on the place of epsilon, by orders of magnitude where g is small.
        second = self.decay * slots["second_moment"] + (1.0 - self.decay) * gradient * gradient
        root = xp.sqrt(second + self.eps) if self.eps_inside else xp.sqrt(second) + self.eps
        momentum = self.momentum * slots["momentum"] + gradient / root
        return parameter - learning_rate * momentum, {"second_moment": second, "momentum": momentum}
