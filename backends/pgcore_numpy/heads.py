"""Closed forms of the heads: a block's quantities, and their derivatives carried back to the network's outputs.

Arrays are action-major here, [actions, n] for a block of n steps. A head that another distribution provides joins with
`@make_kernel.register(TheirHead)` on a function that returns their `Kernel`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from functools import singledispatch

import numpy as np

from pgcore.arrays import Array
from pgcore.epsilon_greedy import EpsilonGreedy
from pgcore.errors import SpecError
from pgcore.heads import HALF_LOG_2PI, Categorical, DiagonalGaussian, Head
from pgcore_numpy.xp import xp

__all__ = ["CategoricalKernel", "EpsilonGreedyKernel", "GaussianKernel", "Kernel", "make_kernel"]

Weights = Mapping[str, Array]

# Quantities of a softmax that multiply probabilities of 0 by their logarithms.
SAFE = frozenset(("entropy", "kl", "reverse_kl"))


class Kernel(ABC):
    """One head's arithmetic on one block of steps; `forward` first, then any of the others."""

    @abstractmethod
    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """Take [outputs, n] network outputs, which it may overwrite, and an [n, A] bool mask or None."""

    @abstractmethod
    def quantities(self, names: Collection[str], actions: Array, reference: Array | None) -> dict[str, Array]:
        """Return the head's quantities that are named, and the outputs where they are action values, as fresh arrays."""

    @abstractmethod
    def backward(self, cotangents: Weights) -> Array:
        """Return [outputs, n] derivatives of the loss.

        Args:
            cotangents: d loss / d quantity, [n] by name, [n, A] for log_probs and action_values; the reduction's weights are in.
        """

    @abstractmethod
    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """Return [outputs, n] w_t F_t v_t, where F_t is the Fisher information of the network's outputs at step t.

        Args:
            tangent: [outputs, n] v, the outputs' derivative along a direction in parameter space.
            weights: [n] w.
            direction: The direction in the head's own parameters, by name.
        """

    @abstractmethod
    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """Write the sums over some steps of what `backward` or `fisher` found for the head's own parameters, by name."""


@singledispatch
def make_kernel(head: Head) -> Kernel:
    """Return a head's kernel.

    Raises:
        SpecError: no closed form is registered for this kind of head.
    """
    raise SpecError(
        f"numpy backend: expected a head with a closed form, got {head}; register one with pgcore_numpy.heads.make_kernel, "
        "or choose a backend that differentiates by itself"
    )


class CategoricalKernel(Kernel):
    """Softmax with temperature: pi = softmax(w / tau)."""

    def __init__(self, head: Categorical) -> None:
        """Keep the temperature."""
        self.temperature = head.temperature

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`: log-softmax and softmax together."""
        log_pi = outputs
        if self.temperature != 1.0:
            log_pi /= self.temperature
        if mask is not None:
            np.copyto(log_pi, -math.inf, where=~mask.T)
        log_pi -= np.maximum.reduce(log_pi)
        pi = np.exp(log_pi)
        total = np.add.reduce(pi)
        pi /= total
        log_pi -= np.log(total)
        self.log_pi: Array = log_pi
        self.pi: Array = pi
        self.mask = mask

    def quantities(self, names: Collection[str], actions: Array, reference: Array | None) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        self.actions, self.steps, mask = actions, np.arange(len(actions)), self.mask
        found: dict[str, Array] = {}
        if "log_prob" in names:
            found["log_prob"] = self.log_pi[actions, self.steps]
        if not SAFE.isdisjoint(names):
            # 0 log 0 = 0: the logarithm is replaced before it is multiplied by a probability of 0.
            self.safe_log_pi = self.log_pi if mask is None else np.where(mask.T, self.log_pi, 0.0)
        if "entropy" in names:
            self.entropy = found["entropy"] = -np.add.reduce(self.pi * self.safe_log_pi)
        if "kl" in names:
            assert reference is not None
            self.pi_reference = np.exp(reference.T)
            possible = self.pi_reference > 0
            difference = np.where(possible, reference.T, 0.0) - np.where(possible, self.log_pi, 0.0)
            found["kl"] = np.add.reduce(self.pi_reference * difference)
        if "reverse_kl" in names:
            assert reference is not None
            possible = self.pi > 0
            self.excess = np.where(possible, self.safe_log_pi, 0.0) - np.where(possible, reference.T, 0.0)
            self.reverse_kl = found["reverse_kl"] = np.add.reduce(self.pi * self.excess)
        if "log_probs" in names:
            found["log_probs"] = self.log_pi.T.copy()
        return found

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d: Array | None = None
        if "log_prob" in cotangents:
            # e_a - pi, with 1 - pi_a as the sum over the other actions: near saturation the subtraction would lose everything.
            d = -self.pi
            d[self.actions, self.steps] = 0.0
            d[self.actions, self.steps] = -np.add.reduce(d)
            d *= cotangents["log_prob"]
        if "entropy" in cotangents:
            part = self.safe_log_pi + self.entropy
            part *= self.pi
            part *= cotangents["entropy"]
            d = -part if d is None else np.subtract(d, part, out=d)
        if "kl" in cotangents:
            part = (self.pi - self.pi_reference) * cotangents["kl"]
            d = part if d is None else np.add(d, part, out=d)
        if "reverse_kl" in cotangents:
            part = self.pi * (self.excess - self.reverse_kl) * cotangents["reverse_kl"]
            d = part if d is None else np.add(d, part, out=d)
        if "log_probs" in cotangents:
            given = cotangents["log_probs"].T
            part = given - self.pi * np.add.reduce(given)
            d = part if d is None else np.add(d, part, out=d)
        if d is None:
            return np.zeros_like(self.pi)
        if self.temperature != 1.0:
            d /= self.temperature
        return d

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: (diag pi - pi pi^T) / tau^2."""
        centred = tangent - np.add.reduce(self.pi * tangent)
        return self.pi * centred * (weights / self.temperature**2)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: a softmax has no parameters of its own."""


class GaussianKernel(Kernel):
    """Independent normals, in z = (a - mean) / std; std is divided by twice and never squared."""

    def __init__(self, head: DiagonalGaussian) -> None:
        """Keep the head."""
        self.head = head
        self.start = math.log(head.std)

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        n = self.head.n
        self.mean = outputs[:n]
        if self.head.log_std == "per-state":
            self.log_std = outputs[n:] + self.start
        elif self.head.log_std == "shared":
            self.log_std = np.broadcast_to(parameters["log_std"][:, None], self.mean.shape)
        else:
            self.log_std = np.full_like(self.mean, self.start)
        self.std = np.exp(self.log_std)

    def quantities(self, names: Collection[str], actions: Array, reference: Array | None) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        n = self.head.n
        found: dict[str, Array] = {}
        if "log_prob" in names:
            self.z = (actions.T.astype(self.mean.dtype) - self.mean) / self.std
            found["log_prob"] = -np.add.reduce(0.5 * self.z * self.z + self.log_std) - n * HALF_LOG_2PI
        if "entropy" in names:
            found["entropy"] = np.add.reduce(self.log_std) + n * (0.5 + HALF_LOG_2PI)
        if "kl" in names:
            assert reference is not None
            mean0, log_std0 = reference.T[:n], reference.T[n:]
            self.shift = (self.mean - mean0) / self.std
            self.ratio = np.exp(log_std0 - self.log_std)
            half = 0.5 * (self.ratio * self.ratio + self.shift * self.shift - 1.0)
            found["kl"] = np.add.reduce(self.log_std - log_std0 + half)
        if "reverse_kl" in names:
            assert reference is not None
            mean0, log_std0 = reference.T[:n], reference.T[n:]
            self.std0 = np.exp(log_std0)
            self.shift0 = (self.mean - mean0) / self.std0
            self.ratio0 = np.exp(self.log_std - log_std0)
            half = 0.5 * (self.ratio0 * self.ratio0 + self.shift0 * self.shift0 - 1.0)
            found["reverse_kl"] = np.add.reduce(log_std0 - self.log_std + half)
        return found

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d_mean, d_log_std = np.zeros_like(self.mean), np.zeros_like(self.mean)
        if "log_prob" in cotangents:
            d_mean += cotangents["log_prob"] * (self.z / self.std)
            d_log_std += cotangents["log_prob"] * (self.z * self.z - 1.0)
        if "entropy" in cotangents:
            d_log_std += cotangents["entropy"]
        if "kl" in cotangents:
            d_mean += cotangents["kl"] * (self.shift / self.std)
            d_log_std += cotangents["kl"] * (1.0 - (self.ratio * self.ratio + self.shift * self.shift))
        if "reverse_kl" in cotangents:
            d_mean += cotangents["reverse_kl"] * (self.shift0 / self.std0)
            d_log_std += cotangents["reverse_kl"] * (self.ratio0 * self.ratio0 - 1.0)
        return self._outputs(d_mean, d_log_std)

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: diag(1 / std^2, 2) in (mean, log std)."""
        n = self.head.n
        if self.head.log_std == "shared":
            moved = np.broadcast_to(direction["log_std"][:, None], self.mean.shape)
        else:
            moved = tangent[n:] if self.head.log_std == "per-state" else np.zeros_like(self.mean)
        return self._outputs(weights * (tangent[:n] / self.std / self.std), weights * (2.0 * moved))

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`."""
        if self.head.log_std == "shared":
            np.add.reduce(self.d_log_std[:, steps], axis=1, out=gradient["log_std"])

    def _outputs(self, d_mean: Array, d_log_std: Array) -> Array:
        self.d_log_std = d_log_std
        return np.concatenate((d_mean, d_log_std)) if self.head.log_std == "per-state" else d_mean


class EpsilonGreedyKernel(Kernel):
    """Probabilities that are piecewise constant in the outputs, which are action values."""

    def __init__(self, head: EpsilonGreedy) -> None:
        """Keep the head."""
        self.head = head

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        self.q: Array = outputs
        self.mask = mask

    def quantities(self, names: Collection[str], actions: Array, reference: Array | None) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        self.actions, self.steps = actions, np.arange(self.q.shape[1])
        head, found = self.head, dict[str, Array]()
        if "action_value" in names:
            found["action_value"] = self.q[actions, self.steps]
        if "action_values" in names:
            found["action_values"] = self.q.T.copy()
        if not set(names) - found.keys():
            return found
        log_pi = head.distribution(xp, self.q.T, {}, self.mask)
        if "log_prob" in names:
            found["log_prob"] = head.log_prob(xp, log_pi, actions)
        if "entropy" in names:
            found["entropy"] = head.entropy(xp, log_pi)
        if "kl" in names:
            assert reference is not None
            found["kl"] = head.kl(xp, reference, log_pi)
        if "reverse_kl" in names:
            assert reference is not None
            found["reverse_kl"] = head.kl(xp, log_pi, reference)
        if "log_probs" in names:
            found["log_probs"] = log_pi
        return found

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`: only the values have a derivative."""
        d = np.zeros_like(self.q)
        if "action_values" in cotangents:
            d += cotangents["action_values"].T
        if "action_value" in cotangents:
            d[self.actions, self.steps] += cotangents["action_value"]
        return d

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: 0."""
        return np.zeros_like(self.q)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: there are no parameters of its own."""


@make_kernel.register
def _(head: EpsilonGreedy) -> Kernel:
    return EpsilonGreedyKernel(head)


@make_kernel.register
def _(head: Categorical) -> Kernel:
    return CategoricalKernel(head)


@make_kernel.register
def _(head: DiagonalGaussian) -> Kernel:
    return GaussianKernel(head)
