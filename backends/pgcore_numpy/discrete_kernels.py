"""Closed forms of the heads over finitely many actions; arrays are action-major, [actions, n] for a block of n steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from pgcore.heads import Bernoulli, Categorical, EpsilonGreedy, MultiCategorical
from pgcore.validation.arrays import Array
from pgcore_numpy.kernel import Kernel, Weights
from pgcore_numpy.xp import xp

__all__ = ["BernoulliKernel", "CategoricalKernel", "EpsilonGreedyKernel", "MultiCategoricalKernel"]

# Quantities of a softmax that multiply probabilities of 0 by their logarithms.
SAFE = frozenset(("entropy", "kl", "reverse_kl"))


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

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
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
            self.excess = np.where(possible, self.safe_log_pi, 0.0) - np.where(
                possible, reference.T, 0.0
            )
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


class MultiCategoricalKernel(Kernel):
    """One softmax a choice; what the choices add up to."""

    def __init__(self, head: MultiCategorical) -> None:
        """Make a kernel for each choice."""
        self.choices = head.choices
        self.kernels = [CategoricalKernel(Categorical(n, head.temperature)) for n in head.n]

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        for own, kernel in zip(self.choices, self.kernels, strict=True):
            kernel.forward(outputs[own], parameters, None if mask is None else mask[:, own])

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        parts = [
            kernel.quantities(
                names, actions[:, k], None if reference is None else reference[:, own]
            )
            for k, (own, kernel) in enumerate(zip(self.choices, self.kernels, strict=True))
        ]
        return {name: np.add.reduce([part[name] for part in parts]) for name in parts[0]}

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        return np.concatenate([kernel.backward(cotangents) for kernel in self.kernels])

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: choices are independent."""
        own = zip(self.choices, self.kernels, strict=True)
        return np.concatenate(
            [kernel.fisher(tangent[choice], weights, direction) for choice, kernel in own]
        )

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: there are no parameters of its own."""


class BernoulliKernel(Kernel):
    """A softmax over the logits 0 and w for each switch of each step, [2, switches * n], switch after switch."""

    def __init__(self, head: Bernoulli) -> None:
        """Make the kernel of one switch."""
        self.switches = head.n
        self.kernel = CategoricalKernel(Categorical(2, head.temperature))

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        self.kernel.forward(
            self._pairs(outputs), parameters, None if mask is None else self._rows(mask)
        )

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        given = None if reference is None else self._rows(reference)
        found = self.kernel.quantities(names, actions.T.ravel(), given)
        return {
            name: np.add.reduce(value.reshape(self.switches, -1)) for name, value in found.items()
        }

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d = self.kernel.backward(
            {name: np.tile(value, self.switches) for name, value in cotangents.items()}
        )
        return d[1].reshape(self.switches, -1)

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: switches are independent."""
        moved = self.kernel.fisher(self._pairs(tangent), np.tile(weights, self.switches), direction)
        return moved[1].reshape(self.switches, -1)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: there are no parameters of its own."""

    def _pairs(self, on: Array) -> Array:
        """Return [2, switches * n] from [switches, n]: 0, and what is given."""
        pairs = np.zeros((2, on.size), on.dtype)
        pairs[1] = on.ravel()
        return pairs

    def _rows(self, columns: Array) -> Array:
        """Return [switches * n, 2] from [n, 2 * switches], all that are off first."""
        return columns.T.reshape(2, -1).T


class EpsilonGreedyKernel(Kernel):
    """Probabilities that are piecewise constant in the outputs, which are action values."""

    def __init__(self, head: EpsilonGreedy) -> None:
        """Keep the head."""
        self.head = head

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        self.q: Array = outputs
        self.mask = mask

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
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
