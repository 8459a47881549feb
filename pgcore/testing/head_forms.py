"""The closed forms of the core's heads, for the reference: quantities, their derivatives and Fisher information, row by row.

A form is made from one pass's network outputs, [B, outputs] in whichever number system; see `pgcore.testing.reference`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.epsilon_greedy import EpsilonGreedy
from pgcore.errors import SpecError
from pgcore.heads import Categorical, DiagonalGaussian
from pgcore.spec import PolicySpec
from pgcore.testing.estimator_form import where

__all__ = ["CategoricalForm", "EpsilonGreedyForm", "GaussianForm", "HeadForm", "head_form"]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]

# NumPy's own pi is rounded to float64.
HALF_LOG_2PI = np.log(2 * np.longdouble("3.14159265358979323846264338328")) / 2


class HeadForm(ABC):
    """One head's closed forms at a batch's steps.

    Attributes:
        own: Derivatives of the head's own parameters by name, after `backward` or `fisher`.
    """

    own: dict[str, Number]

    @abstractmethod
    def log_prob(self) -> Number:
        """Return [B] log pi(a_t given s_t)."""

    @abstractmethod
    def entropy(self) -> Number:
        """Return [B] entropies."""

    @abstractmethod
    def kl(self, reference: Number) -> Number:
        """Return [B] KL(reference, current) for a [B, width] description of the reference."""

    @abstractmethod
    def reverse_kl(self, reference: Number) -> Number:
        """Return [B] KL(current, reference)."""

    @abstractmethod
    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """Return [B, outputs] derivatives of a loss from its derivatives in the quantities, which were computed before."""

    @abstractmethod
    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """Return [B, outputs] w_t F_t v_t, F_t the Fisher information of step t's outputs.

        Args:
            tangent: [B, outputs] v, the outputs' derivative along a direction in parameter space.
            direction: That direction, by canonical parameter name.
            weights: [B] w.
        """


def head_form(
    spec: PolicySpec, outputs: Number, parameters: Mapping[str, Number], batch: Batch, dtype: np.dtype[Any], lift: Lift
) -> Any:
    """Return the form of a spec's head.

    Raises:
        SpecError: the head is not one of the core's.
    """
    head = spec.head
    if isinstance(head, Categorical):
        return CategoricalForm(head, outputs, batch.actions, batch.action_mask)
    if isinstance(head, EpsilonGreedy):
        return EpsilonGreedyForm(head, outputs, batch.actions, batch.action_mask)
    if isinstance(head, DiagonalGaussian):
        return GaussianForm(head, outputs, parameters, lift(batch.actions.astype(dtype)))
    raise SpecError(f"reference: expected one of the core's heads, got {head}; write its closed form here")


class CategoricalForm(HeadForm):
    """Softmax with temperature; masked actions have probability 0."""

    def __init__(self, head: Categorical, outputs: Number, actions: Array, mask: Array | None) -> None:
        """Compute probabilities and their logarithms."""
        self.temperature, self.actions, self.rows = head.temperature, actions, np.arange(len(actions))
        self.own: dict[str, Number] = {}
        shape: tuple[int, ...] = outputs.shape
        self.mask: Array = np.ones(shape, np.bool_) if mask is None else mask
        self.columns = np.arange(shape[1])
        z = outputs / self.temperature
        values: Array = np.where(self.mask, getattr(z, "value", z), -np.inf)
        peak = z[self.rows, values.argmax(axis=1)].reshape(-1, 1)
        shifted = np.where(self.mask, z - peak, 0)
        exponential = np.where(self.mask, np.exp(shifted), 0)
        total = exponential.sum(axis=1).reshape(-1, 1)
        self.pi: Number = exponential / total
        self.log_pi = np.where(self.mask, shifted - np.log(total), 0)  # 0 where masked, and never used there

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return self.log_pi[self.rows, self.actions]

    def log_probs(self) -> Number:
        """Return [B, A] log pi of every action, -inf where masked."""
        return np.where(self.mask, self.log_pi, -np.inf)

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return -(self.pi * self.log_pi).sum(axis=1)

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        possible = reference > -np.inf
        finite = np.where(possible, reference, 0)
        self.pi_reference = np.where(possible, np.exp(finite), 0)
        return (self.pi_reference * (finite - np.where(possible, self.log_probs(), 0))).sum(axis=1)

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        self.excess = self.log_pi - np.where(self.mask, reference, 0)
        return (self.pi * self.excess).sum(axis=1)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        d: Number = self.pi * 0
        if "log_prob" in cotangents:
            # Where pi_a is nearly 1 the sum of the others would be more exact, and a bound taken from it more than is promised.
            chosen = np.equal(self.columns, self.actions[:, None])
            d = d + (chosen - self.pi) * cotangents["log_prob"].reshape(-1, 1)
        if "entropy" in cotangents:
            d = d - self.pi * (self.log_pi + self.entropy().reshape(-1, 1)) * cotangents["entropy"].reshape(-1, 1)
        if "log_probs" in cotangents:
            given = cotangents["log_probs"]
            d = d + (given - self.pi * given.sum(axis=1).reshape(-1, 1))
        if "kl" in cotangents:
            d = d + (self.pi - self.pi_reference) * cotangents["kl"].reshape(-1, 1)
        if "reverse_kl" in cotangents:
            mean = (self.pi * self.excess).sum(axis=1).reshape(-1, 1)
            d = d + self.pi * (self.excess - mean) * cotangents["reverse_kl"].reshape(-1, 1)
        return d / self.temperature

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: (diag pi - pi pi^T) / tau^2."""
        centred = tangent - (self.pi * tangent).sum(axis=1).reshape(-1, 1)
        return self.pi * centred * weights.reshape(-1, 1) / self.temperature / self.temperature


class EpsilonGreedyForm(CategoricalForm):
    """1 - epsilon on the first action of the largest value, the rest shared by the others; no derivative but the values' own."""

    def __init__(self, head: EpsilonGreedy, outputs: Number, actions: Array, mask: Array | None) -> None:
        """Compute probabilities and their logarithms."""
        self.outputs, self.actions, self.rows = outputs, actions, np.arange(len(actions))
        self.own: dict[str, Number] = {}
        shape: tuple[int, ...] = outputs.shape
        self.mask: Array = np.ones(shape, np.bool_) if mask is None else mask
        self.columns = np.arange(shape[1])
        values: Array = np.where(self.mask, getattr(outputs, "value", outputs), -np.inf)
        greedy = np.equal(self.columns, values.argmax(axis=1)[:, None])
        k = self.mask.sum(axis=1)[:, None]
        most: Number = (outputs * 0 + (k - 1)) / k
        explore = where(most < head.epsilon, most, outputs * 0 + head.epsilon)
        each = where(k > 1, explore / np.maximum(k - 1, 1), 1)
        self.log_pi = where(self.mask, where(greedy, np.log(1 - explore), np.log(each)), 0)
        self.pi = where(self.mask, np.exp(self.log_pi), 0)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        d: Number = self.outputs * 0
        if "action_value" in cotangents:
            chosen = np.equal(self.columns, self.actions[:, None])
            d = d + chosen * cotangents["action_value"].reshape(-1, 1)
        return d + cotangents["action_values"] if "action_values" in cotangents else d

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: 0."""
        return self.outputs * 0


class GaussianForm(HeadForm):
    """Independent normals, in z = (a - mean) / std."""

    def __init__(
        self, head: DiagonalGaussian, outputs: Number, parameters: Mapping[str, Number], actions: Number
    ) -> None:
        """Compute means, standard deviations and z."""
        self.head, n = head, head.n
        self.own: dict[str, Number] = {}
        self.mean = outputs[:, :n]
        start = np.log(np.longdouble(head.std))
        if head.log_std == "per-state":
            self.log_std = outputs[:, n:] + start
        else:
            self.log_std = self.mean * 0 + (parameters["head.log_std"] if head.log_std == "shared" else start)
        self.std = np.exp(self.log_std)
        self.z = (actions - self.mean) / self.std

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return -(self.z * self.z / 2 + self.log_std).sum(axis=1) - self.head.n * HALF_LOG_2PI

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return self.log_std.sum(axis=1) + self.head.n * (HALF_LOG_2PI + 0.5)

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        n = self.head.n
        mean0, log_std0 = reference[:, :n], reference[:, n:]
        self.shift = (self.mean - mean0) / self.std
        self.ratio = np.exp(log_std0 - self.log_std)
        return (self.log_std - log_std0 + (self.ratio * self.ratio + self.shift * self.shift - 1) / 2).sum(axis=1)

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        mean0, log_std0 = reference[:, : self.head.n], reference[:, self.head.n :]
        self.std0 = np.exp(log_std0)
        self.shift0 = (self.mean - mean0) / self.std0
        self.ratio0 = np.exp(self.log_std - log_std0)
        return (log_std0 - self.log_std + (self.ratio0 * self.ratio0 + self.shift0 * self.shift0 - 1) / 2).sum(axis=1)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        d_mean, d_log_std = self.mean * 0, self.mean * 0
        if "log_prob" in cotangents:
            column = cotangents["log_prob"].reshape(-1, 1)
            d_mean = d_mean + column * (self.z / self.std)
            d_log_std = d_log_std + column * (self.z * self.z - 1)
        if "entropy" in cotangents:
            d_log_std = d_log_std + cotangents["entropy"].reshape(-1, 1)
        if "kl" in cotangents:
            column = cotangents["kl"].reshape(-1, 1)
            d_mean = d_mean + column * (self.shift / self.std)
            d_log_std = d_log_std + column * (1 - (self.ratio * self.ratio + self.shift * self.shift))
        if "reverse_kl" in cotangents:
            column = cotangents["reverse_kl"].reshape(-1, 1)
            d_mean = d_mean + column * (self.shift0 / self.std0)
            d_log_std = d_log_std + column * (self.ratio0 * self.ratio0 - 1)
        return self._outputs(d_mean, d_log_std)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: diag(1 / std^2, 2) in (mean, log std)."""
        n, column = self.head.n, weights.reshape(-1, 1)
        moved = self.mean * 0 + direction["head.log_std"] if self.head.log_std == "shared" else tangent[:, n:]
        return self._outputs(column * (tangent[:, :n] / self.std / self.std), column * (moved * 2))

    def _outputs(self, d_mean: Number, d_log_std: Number) -> Number:
        if self.head.log_std == "per-state":
            return np.concatenate((d_mean, d_log_std), axis=1)
        if self.head.log_std == "shared":
            self.own = {"log_std": d_log_std.sum(axis=0)}
        return d_mean
