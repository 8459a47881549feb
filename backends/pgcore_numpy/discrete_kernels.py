"""Closed forms of the discrete heads.

Arrays are action-major, [actions, n] for a block of n steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from pgcore.heads import Bernoulli, Categorical, EpsilonGreedy, Head, MultiCategorical
from pgcore.validation.arrays import Array
from pgcore_numpy.kernel import Kernel, Weights
from pgcore_numpy.xp import xp

__all__ = [
    "KERNELS",
    "BernoulliKernel",
    "CategoricalKernel",
    "EpsilonGreedyKernel",
    "MultiCategoricalKernel",
]

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
        # The largest logit becomes 0, so that no exponential overflows.
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
        mask, steps = self.mask, len(actions)
        # Of the actions taken, in [A, n] as one row: NumPy finds entries by one index sooner.
        self.taken: Array = actions * np.intp(steps) + np.arange(steps)
        quantities: dict[str, Array] = {}
        if "log_prob" in names:
            quantities["log_prob"] = self.log_pi.take(self.taken)
        if not SAFE.isdisjoint(names):
            # 0 log 0 = 0: the logarithm is replaced before it is multiplied by a probability of 0.
            self.safe_log_pi = self.log_pi if mask is None else np.where(mask.T, self.log_pi, 0.0)
        if "entropy" in names:
            self.entropy = quantities["entropy"] = -np.add.reduce(self.pi * self.safe_log_pi)
        # Each divergence leaves out the actions that its first distribution never takes.
        if "kl" in names:
            assert reference is not None
            self.pi_reference = np.exp(reference.T)
            possible = self.pi_reference > 0
            difference = np.where(possible, reference.T, 0.0) - np.where(possible, self.log_pi, 0.0)
            quantities["kl"] = np.add.reduce(self.pi_reference * difference)
        if "reverse_kl" in names:
            assert reference is not None
            possible = self.pi > 0
            self.excess = np.where(possible, self.safe_log_pi, 0.0) - np.where(
                possible, reference.T, 0.0
            )
            self.reverse_kl = quantities["reverse_kl"] = np.add.reduce(self.pi * self.excess)
        if "log_probs" in names:
            quantities["log_probs"] = self.log_pi.T.copy()
        return quantities

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d: Array | None = None
        if "log_prob" in cotangents:
            # e_a - pi, with 1 - pi_a as the sum over the other actions: near saturation the
            # subtraction would lose all its digits.
            d = np.negative(self.pi, order="C")
            entries = d.reshape(-1)
            entries[self.taken] = 0.0
            entries[self.taken] = -np.add.reduce(d)
            d *= cotangents["log_prob"]
        # dH/dw_i = -pi_i (log pi_i + H), in place where a derivative is there already.
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
            d_log_pi = cotangents["log_probs"].T
            part = d_log_pi - self.pi * np.add.reduce(d_log_pi)
            d = part if d is None else np.add(d, part, out=d)
        if d is None:
            return np.zeros_like(self.pi)
        # The derivatives so far are in the logits w / tau.
        if self.temperature != 1.0:
            d /= self.temperature
        return d

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: (diag pi - pi pi^T) / tau^2."""
        # pi (v - E v) cancels less than pi v - pi (pi^T v).
        centred = tangent - np.add.reduce(self.pi * tangent)
        return self.pi * centred * (weights / self.temperature**2)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: a softmax has no parameters of its own."""


class MultiCategoricalKernel(Kernel):
    """One softmax a choice; quantities are sums over the choices."""

    def __init__(self, head: MultiCategorical) -> None:
        """Make a kernel for each choice."""
        self.choices = head.choices
        self.kernels = [CategoricalKernel(Categorical(n, head.temperature)) for n in head.n]

    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """See `Kernel.forward`."""
        for choice, kernel in zip(self.choices, self.kernels, strict=True):
            kernel.forward(outputs[choice], parameters, None if mask is None else mask[:, choice])

    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """See `Kernel.quantities`."""
        total: dict[str, Array] = {}
        # Choices are independent, so that every quantity is additive.
        for k, choice in enumerate(self.choices):
            alternatives = None if reference is None else reference[:, choice]
            part = self.kernels[k].quantities(names, actions[:, k], alternatives)
            total = {name: total[name] + part[name] for name in part} if total else part
        return total

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        return np.concatenate([kernel.backward(cotangents) for kernel in self.kernels])

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: choices are independent."""
        parts: list[Array] = []
        for choice, kernel in zip(self.choices, self.kernels, strict=True):
            parts.append(kernel.fisher(tangent[choice], weights, direction))
        return np.concatenate(parts)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: there are no parameters of its own."""


class BernoulliKernel(Kernel):
    """A softmax over the logits 0 and w of each binary action.

    All binary actions of all steps are columns of one block, [2, actions * n], action by action.
    """

    def __init__(self, head: Bernoulli) -> None:
        """Make the kernel of one binary action."""
        self.binary_actions = head.n
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
        rows = None if reference is None else self._rows(reference)
        quantities = self.kernel.quantities(names, actions.T.ravel(), rows)
        # Binary actions are independent, so that every quantity of a step is a sum over them.
        return {
            name: np.add.reduce(value.reshape(self.binary_actions, -1))
            for name, value in quantities.items()
        }

    def backward(self, cotangents: Weights) -> Array:
        """See `Kernel.backward`."""
        d = self.kernel.backward(
            {name: np.tile(value, self.binary_actions) for name, value in cotangents.items()}
        )
        # The first logit is the constant 0.
        return d[1].reshape(self.binary_actions, -1)

    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """See `Kernel.fisher`: binary actions are independent."""
        repeated = np.tile(weights, self.binary_actions)
        product = self.kernel.fisher(self._pairs(tangent), repeated, direction)
        return product[1].reshape(self.binary_actions, -1)

    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """See `Kernel.collect`: there are no parameters of its own."""

    def _pairs(self, logits: Array) -> Array:
        """Return [2, actions * n], zeros and then the logits, from [actions, n]."""
        pairs = np.zeros((2, logits.size), logits.dtype)
        pairs[1] = logits.ravel()
        return pairs

    def _rows(self, columns: Array) -> Array:
        """Return [actions * n, 2] from [n, 2 * actions], whose first half is for action 0."""
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
        head, quantities = self.head, dict[str, Array]()
        if "action_value" in names:
            quantities["action_value"] = self.q[actions, self.steps]
        if "action_values" in names:
            quantities["action_values"] = self.q.T.copy()
        if not set(names) - quantities.keys():
            return quantities
        # Probabilities have derivative 0, so that the head's formulas serve as they are.
        log_pi = head.distribution(xp, self.q.T, {}, self.mask)
        if "log_prob" in names:
            quantities["log_prob"] = head.log_prob(xp, log_pi, actions)
        if "entropy" in names:
            quantities["entropy"] = head.entropy(xp, log_pi)
        if "kl" in names:
            assert reference is not None
            quantities["kl"] = head.kl(xp, reference, log_pi)
        if "reverse_kl" in names:
            assert reference is not None
            quantities["reverse_kl"] = head.kl(xp, log_pi, reference)
        if "log_probs" in names:
            quantities["log_probs"] = log_pi
        return quantities

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


# By head, for `pgcore_numpy.heads`.
KERNELS: dict[type[Head], Callable[..., Kernel]] = {
    Bernoulli: BernoulliKernel,
    Categorical: CategoricalKernel,
    EpsilonGreedy: EpsilonGreedyKernel,
    MultiCategorical: MultiCategoricalKernel,
}
