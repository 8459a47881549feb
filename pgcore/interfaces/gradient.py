"""Gradients: the derivatives of one loss, in a backend's own arrays until they are read."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.errors import DependencyError, EstimatorError, NonFiniteError, OptimizerError
from pgcore.interfaces.copying import Copied
from pgcore.interfaces.estimator import QUANTITIES
from pgcore.interfaces.metrics import compute_metrics
from pgcore.interfaces.parameters import Parameters, flat
from pgcore.interfaces.surrogate import SummedSurrogate, Surrogate
from pgcore.validation.arrays import Array, first_not_finite, first_row
from pgcore.validation.fields import instance_check, number, positive_or_infinite

__all__ = ["Gradient", "ensure_gradient"]

# Below it a float32 square has lost digits to underflow: float32's least normal number is 1.2e-38.
LEAST_SQUARE = 1e-30


class Gradient(Copied, ABC):
    """The gradient of a loss by one policy's parameters; terms, loss and metrics come on demand.

    A backend writes the abstract methods. `arguments` and `terms` of a sum, which has `addends`, are
    `joined_arguments` and `joined_terms`.
    """

    policy: Parameters  # the policy with the parameters
    surrogate: Surrogate  # the differentiated loss
    addends: tuple[Gradient, ...] = ()  # of a sum: the records of the gradients in it

    @abstractmethod
    def arguments(self) -> dict[str, Array]:
        """Return the surrogate's quantities and signals, [B, ...] by name."""

    @abstractmethod
    def terms(self) -> Array:
        """Return [B] surrogate_t, of the policy's dtype."""

    @abstractmethod
    def added(self, other: Any) -> Gradient:
        """Return the sum of derivatives, native and unchecked, with this gradient's surrogate.

        Args:
            other: A gradient of the same class and policy.
        """

    @abstractmethod
    def record(self) -> Gradient:
        """Return the gradient without derivatives: its terms and arguments, as they are."""

    @abstractmethod
    def numpy(self) -> dict[str, Array]:
        """Return d loss / d parameter by canonical name, of the policy's dtype; the caller owns it."""

    @abstractmethod
    def times(self, factor: float) -> Gradient:
        """Return the result of `scaled`, unchecked."""

    @abstractmethod
    def square(self) -> float:
        """Return the sum of all squared entries; it may over- or underflow."""

    def total(self, before: Gradient | None = None) -> float:
        """Return sum_t w_t surrogate_t, or its fall since another gradient of the same surrogate.

        It may be NaN or infinite.
        """
        terms = self.terms()
        with np.errstate(all="ignore"):
            if before is not None:
                terms = before.terms().astype(np.float64) - terms
            return float(np.dot(self.surrogate.weights, terms))

    def joined_arguments(self) -> dict[str, Array]:
        """Return `arguments` of a sum, from its addends."""
        parts = [addend.arguments() for addend in self.addends]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        # Every addend numbers its episodes from 0.
        return joined | (
            {"episode": self.surrogate.values["episode"]} if "episode" in joined else {}
        )

    def joined_terms(self) -> Array:
        """Return `terms` of a sum, from its addends."""
        return np.concatenate([addend.terms() for addend in self.addends])

    @property
    def loss(self) -> float:
        """sum_t w_t * surrogate_t, in the surrogate's unit.

        Raises:
            NonFiniteError: it is NaN or infinite; names the step.
        """
        loss = self.total()
        if math.isfinite(loss):
            return loss
        weights, terms = self.surrogate.weights, self.terms()
        # A term can overflow although its derivatives, which a step is taken against, do not.
        real = np.flatnonzero(weights)
        step = int(real[np.abs(terms[real]).argmax()])  # NaN counts as the largest
        raise NonFiniteError(
            f"loss of {self.surrogate.estimator.name}: expected a finite number, "
            f"got {terms[step]} at step {step}; scale the rewards down, or use float64"
        )

    @property
    def metrics(self) -> dict[str, float]:
        """`loss`, and every metric that has its keywords; see `pgcore.interfaces.metrics`."""
        with np.errstate(all="ignore"):
            arguments, terms, norm = self.arguments(), self.terms(), self.norm()
            return {"loss": self.loss} | compute_metrics(self.surrogate, arguments, terms, norm)

    def norm(self) -> float:
        """Return the Euclidean norm over all parameters."""
        square = self.square()
        if math.isfinite(square) and square > LEAST_SQUARE:
            return math.sqrt(square)
        # The squares over- or underflowed, which `hypot` avoids.
        return math.hypot(*flat(self.numpy()).tolist())

    def scaled(self, factor: float) -> Gradient:
        """Return the gradient times a finite number; terms, loss and metrics but the norm stay.

        Raises:
            NonFiniteError: the factor is not finite, or an entry overflows.
        """
        number("Gradient.scaled factor", factor, NonFiniteError)
        # A factor of at most 1 cannot overflow, and the square is cheaper than a look at each entry.
        gradient = self.times(factor)
        gradient.addends = self.addends
        if abs(factor) > 1 and not math.isfinite(gradient.square()):
            gradient.check_finite()
        return gradient

    def plus(self, other: Gradient) -> Gradient:
        """Return the sum with a gradient of the same policy and estimator, for one step.

        Derivatives add, the loss is the sum of the losses, and metrics are of all steps. Of the addends
        it keeps terms, arguments and batches, not their derivatives; nothing is computed or
        transferred before it is read. An overflow is found where the gradient is used.

        Args:
            other: Of the parameters of the same moment, which nothing checks.

        Raises:
            EstimatorError: it is no gradient, or one of another policy or estimator.

        Example:
            >>> policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)))
            >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
            ...                  episode_lengths=[2], terminated=[True])
            >>> estimator = pg.estimator("reinforce")
            >>> signals = pg.signals(policy, estimator, batch)
            >>> first, second = (pg.gradient(policy, estimator, batch.steps([i]),
            ...                              signals=signals.part([i])) for i in range(2))
            >>> bool(np.isclose(first.plus(second).loss, first.loss + second.loss))
            True
        """
        self._check_addend(other)
        total = self.added(other)
        total.surrogate = SummedSurrogate((*losses_of(self), *losses_of(other)))
        total.addends = tuple(
            record for part in (self, other) for record in part.addends or (part.record(),)
        )
        return total

    def _check_addend(self, other: Any) -> None:
        """Raise EstimatorError unless the other is a gradient of this policy and estimator."""
        rule, estimator = "Gradient.plus: expected a gradient", self.surrogate.estimator
        if not isinstance(other, Gradient):
            raise EstimatorError(
                f"{rule}, got {type(other).__name__}; pass the result of pgcore.gradient"
            )
        if other.policy is not self.policy:
            raise EstimatorError(
                f"{rule} of this policy, got one of another; compute both on the policy you step"
            )
        if other.surrogate.estimator != estimator:
            raise EstimatorError(
                f"{rule} of {estimator}, got one of {other.surrogate.estimator}; add the gradients "
                "of one estimator, with the same options"
            )

    def clipped(self, max_norm: float) -> Gradient:
        """Return the gradient g as g * c / max(norm, c), with c > 0 its largest norm.

        Raises:
            OptimizerError: the largest norm is not above 0.
        """
        positive_or_infinite("Gradient.clipped max_norm", max_norm, OptimizerError)
        norm = self.norm()
        return self if norm <= max_norm else self.scaled(max_norm / norm)

    def check_finite(self) -> None:
        """Raise NonFiniteError, naming a parameter or a quantity and its step, unless all are finite."""
        overflowed = first_not_finite(self.numpy())
        if overflowed is None:
            return
        # Parameters first: one that is NaN makes every quantity NaN.
        where = f"gradient of {self.surrogate.estimator.name}"
        self.policy.check_finite(where)
        for name, value in self._suspects().items():
            # Masked actions' log-probabilities are -inf by definition.
            bad: Array = ~np.isfinite(value)
            if name == "log_probs":
                bad &= value != -np.inf
            if bad.any():
                step = first_row(bad)
                raise NonFiniteError(
                    f"{where}: expected finite numbers, got {name} = {value[step]} at step {step}; "
                    "the parameters are unchanged, look at that step's observation and advantage"
                )
        raise NonFiniteError(
            f"{where}: expected finite numbers, got an overflow in {overflowed}; "
            "the parameters are unchanged, scale the rewards or use float64"
        )

    def _suspects(self) -> Mapping[str, Any]:
        """Return the possible sources of an infinite entry, in the order of computation."""
        arguments = self.arguments()
        quantities = {name: value for name, value in arguments.items() if name in QUANTITIES}
        try:
            with np.errstate(all="ignore"):
                cotangents = self.surrogate.estimator.cotangents(**arguments)
        except (EstimatorError, DependencyError):
            # Without a closed form the terms stand in for their derivatives.
            return quantities | {"surrogate": self.terms()}
        return quantities | {f"d surrogate / d {name}": value for name, value in cotangents.items()}


def losses_of(gradient: Gradient) -> tuple[Surrogate, ...]:
    """Return the losses that a gradient is the sum of; its own of one that is no sum."""
    surrogate = gradient.surrogate
    return surrogate.parts if isinstance(surrogate, SummedSurrogate) else (surrogate,)


ensure_gradient = instance_check(
    Gradient, "pgcore.gradient(policy, estimator, batch)", OptimizerError
)
