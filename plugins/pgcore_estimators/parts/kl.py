"""Penalties that estimate a KL divergence to a reference from the actions at hand.

l = log pi - log pi_ref of the action, and r = pi / mu the ratio to the behaviour policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.recorded import old_log_probs
from pgcore.parts import Penalty
from pgcore.parts.fields import part_of
from pgcore.parts.penalties import Divergence
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, check_fields, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import REFERENCE_LOG_PROBS

__all__ = ["K1", "K2", "K3", "KL", "AbsoluteK1", "SampledKL", "StraightK3"]

REFERENCE = replace(
    REFERENCE_LOG_PROBS, when=None, advice="add them, or set the penalty's coefficient to 0"
)


@dataclass(frozen=True)
class SampledKL(Penalty):
    """An estimate k(l), times its coefficient.

    Attributes:
        coefficient: Its factor; 0 leaves it out.
        ratio: Its weight: "none" for 1, "differentiated" for r, "constant" for r held constant.
        place: "loss", or "reward" to lower each reward by the estimate at the behaviour policy.
        gradients: By `ratio`, or "reward", the divergence whose gradient is the expected
            derivative. See `Penalty.gradient_of`.

    Raises:
        EstimatorError: a field has a value it cannot take, or a penalty in the reward has a ratio.
    """

    coefficient: Number = 0.1
    ratio: Annotated[str, choice("none", "differentiated", "constant")] = "none"
    place: Annotated[str, choice("loss", "reward")] = "loss"
    extras: ClassVar = {"reference_log_probs": REFERENCE}
    gradients: ClassVar[Mapping[str, Divergence]] = {}
    sources = ("Schulman 2020, 'Approximating KL divergence'",)

    def __post_init__(self) -> None:
        """Check the fields and their combination."""
        check_fields(self)
        if self.in_reward and self.ratio != "none":
            raise EstimatorError(
                f"{self}: expected ratio='none' in the reward, got {self.ratio!r}; "
                "choose place='loss' to weigh it"
            )

    @abstractmethod
    def estimate(self, xp: ArrayNamespace, log_ratio: Native) -> Native:
        """Return [B] k(l), nats, from [B] l."""

    @abstractmethod
    def estimate_slope(self, log_ratio: Array) -> Array:
        """Return [B] the derivative of `estimate` by l."""

    @property
    def in_reward(self) -> bool:
        """See `Penalty`."""
        return self.place == "reward"

    @property
    def gradient_of(self) -> Divergence:
        """See `Penalty`."""
        return self.gradients.get("reward" if self.in_reward else self.ratio, "none")

    @property
    def off_policy(self) -> bool:
        """See `Penalty`: the ratio makes up for the other policy's actions."""
        return self.ratio != "none" and self.gradient_of != "none"

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Part.reads`."""
        names = ("log_prob", "reference_log_prob")
        return names if self.ratio == "none" else (*names, "old_log_prob")

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Part.signals`."""
        reference = batch.extras["reference_log_probs"]
        return {} if self.in_reward else {"reference_log_prob": reference}

    def reward(self, batch: Batch, evaluate: Evaluate) -> Array:
        """See `Penalty.reward`."""
        log_ratio = old_log_probs(batch, evaluate) - batch.extras["reference_log_probs"]
        return self.coefficient * self.estimate(host, log_ratio)

    def term(self, xp: ArrayNamespace, **inputs: Native) -> Native:
        """See `Penalty.term`."""
        log_prob = inputs["log_prob"]
        penalty = self.estimate(xp, log_prob - inputs["reference_log_prob"])
        if self.ratio != "none":
            ratio = xp.exp(log_prob - inputs["old_log_prob"])
            penalty = penalty * (xp.stop_gradient(ratio) if self.ratio == "constant" else ratio)
        return self.coefficient * penalty

    def slope(self, **inputs: Any) -> Mapping[str, Array]:
        """See `Penalty.slope`."""
        log_prob = inputs["log_prob"]
        log_ratio = log_prob - inputs["reference_log_prob"]
        slope = self.estimate_slope(log_ratio)
        if self.ratio == "differentiated":
            slope = slope + self.estimate(host, log_ratio)
        if self.ratio != "none":
            slope = slope * np.exp(log_prob - inputs["old_log_prob"])
        return {"log_prob": self.coefficient * slope}


@dataclass(frozen=True)
class K1(SampledKL):
    """k1 = l, unbiased for KL(pi, pi_ref); its expected derivative is 0. See `SampledKL`.

    Its derivative times the ratio, r (l + 1), and its place in the reward give the gradient of the
    KL divergence.
    """

    gradients: ClassVar = {"differentiated": "reverse_kl", "reward": "reverse_kl"}
    name = "k1"

    def estimate(self, xp: ArrayNamespace, log_ratio: Native) -> Native:
        """See `SampledKL.estimate`."""
        return log_ratio

    def estimate_slope(self, log_ratio: Array) -> Array:
        """See `SampledKL.estimate_slope`."""
        return np.full_like(log_ratio, 1.0)


@dataclass(frozen=True)
class K2(SampledKL):
    """k2 = l^2 / 2, whose expected derivative is that of KL(pi, pi_ref). See `SampledKL`."""

    gradients: ClassVar = {"none": "reverse_kl", "constant": "reverse_kl"}
    name = "k2"

    def estimate(self, xp: ArrayNamespace, log_ratio: Native) -> Native:
        """See `SampledKL.estimate`."""
        return 0.5 * log_ratio * log_ratio

    def estimate_slope(self, log_ratio: Array) -> Array:
        """See `SampledKL.estimate_slope`."""
        return log_ratio


@dataclass(frozen=True)
class K3(SampledKL):
    """k3 = q - log q - 1 with q = exp(-l), never negative. See `SampledKL`.

    Its expected derivative is that of KL(pi_ref, pi), the other direction, unless the ratio is
    differentiated with it.
    """

    gradients: ClassVar = {"none": "kl", "constant": "kl", "differentiated": "reverse_kl"}
    name = "k3"

    def estimate(self, xp: ArrayNamespace, log_ratio: Native) -> Native:
        """See `SampledKL.estimate`."""
        return xp.exp(-log_ratio) + log_ratio - 1.0

    def estimate_slope(self, log_ratio: Array) -> Array:
        """See `SampledKL.estimate_slope`: 1 - q; expm1 keeps its digits near the reference."""
        return -np.expm1(-log_ratio)


@dataclass(frozen=True)
class StraightK3(K3):
    """The value of k3 with the derivative l of k2. See `SampledKL`."""

    gradients = K2.gradients
    name = "k3_straight"
    sources = ("Liu et al. 2025, arXiv:2510.01555 (derivatives of penalties)",)

    def estimate(self, xp: ArrayNamespace, log_ratio: Native) -> Native:
        """See `SampledKL.estimate`."""
        square = 0.5 * log_ratio * log_ratio
        return square + xp.stop_gradient(super().estimate(xp, log_ratio) - square)

    def estimate_slope(self, log_ratio: Array) -> Array:
        """See `SampledKL.estimate_slope`."""
        return log_ratio


@dataclass(frozen=True)
class AbsoluteK1(SampledKL):
    """|k1| = |l|, with derivative 0 at l = 0. See `SampledKL`.

    Its expected derivative is that of sum_a |pi - pi_ref|, twice the total variation.
    """

    name = "abs_k1"

    def estimate(self, xp: ArrayNamespace, log_ratio: Native) -> Native:
        """See `SampledKL.estimate`."""
        return xp.abs(log_ratio)

    def estimate_slope(self, log_ratio: Array) -> Array:
        """See `SampledKL.estimate_slope`."""
        return np.sign(log_ratio)


def KL(form: str, coefficient: float, **options: Any) -> Penalty:  # noqa: N802 - reads as a part
    """Return a KL penalty by its registered name, such as `pgcore.KL("k3", 0.04)`.

    Args:
        form: "k1", "k2", "k3", "k3_straight", "abs_k1", "exact" or a third party's.
        coefficient: Its factor.
        options: The penalty's further fields, such as `ratio` and `place`; see `SampledKL`.

    Raises:
        UnknownNameError: there is no such form, or it has no such option.
        EstimatorError: an option has a value it cannot take.

    Example:
        >>> penalty = pg.KL("k3", 0.04)
        >>> pg.estimator("policy_gradient", advantage="group_relative", penalty=penalty).keywords
        ('log_prob', 'advantage', 'old_log_prob', 'reference_log_prob')
    """
    return part_of(Penalty)("KL", {"name": form, "coefficient": coefficient, **options})
