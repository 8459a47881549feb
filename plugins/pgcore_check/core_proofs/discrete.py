"""Reference implementations of the heads over finitely many actions, and their proofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pgcore.data.spec import PolicySpec, Table
from pgcore.heads import Bernoulli, Categorical, EpsilonGreedy, MultiCategorical
from pgcore.validation.arrays import Array
from pgcore_check.core_proofs.kinks import CATEGORICAL_KINKS
from pgcore_check.proof import Process, Proof
from pgcore_check.reference.estimator_form import where
from pgcore_check.reference.head_form import HeadForm

__all__ = ["BERNOULLI", "CATEGORICAL", "EPSILON_GREEDY", "MULTI_CATEGORICAL", "CategoricalForm"]

Number = Any  # an array of whichever number system `lift` lifts into


class CategoricalForm(HeadForm):
    """Softmax with temperature; masked actions have probability 0."""

    def __init__(
        self, head: Categorical, outputs: Number, actions: Array, mask: Array | None
    ) -> None:
        """Compute probabilities and their logarithms."""
        self.temperature, self.actions = head.temperature, actions
        self.rows = np.arange(len(actions))
        self.own: dict[str, Number] = {}
        shape: tuple[int, ...] = outputs.shape
        self.mask: Array = np.ones(shape, np.bool_) if mask is None else mask
        self.columns = np.arange(shape[1])
        z = outputs / self.temperature
        values: Array = np.where(self.mask, getattr(z, "value", z), -np.inf)
        # Shifted by the largest possible logit, so that no exponential overflows.
        peak = z[self.rows, values.argmax(axis=1)].reshape(-1, 1)
        shifted = np.where(self.mask, z - peak, 0)
        exponential = np.where(self.mask, np.exp(shifted), 0)
        total = exponential.sum(axis=1).reshape(-1, 1)
        self.pi: Number = exponential / total
        # 0 where masked, and never used there.
        self.log_pi = np.where(self.mask, shifted - np.log(total), 0)

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
        # An action that the reference cannot choose adds 0, whatever its log-probability here.
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
            # Where pi_a is nearly 1, the other probabilities' sum is more exact than 1 - pi_a, and
            # its bound stricter than backends promise.
            one_hot = np.equal(self.columns, self.actions[:, None])
            d = d + (one_hot - self.pi) * cotangents["log_prob"].reshape(-1, 1)
        if "entropy" in cotangents:
            column = cotangents["entropy"].reshape(-1, 1)
            d = d - self.pi * (self.log_pi + self.entropy().reshape(-1, 1)) * column
        if "log_probs" in cotangents:
            d_log_probs = cotangents["log_probs"]
            d = d + (d_log_probs - self.pi * d_log_probs.sum(axis=1).reshape(-1, 1))
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
    """1 - epsilon for the first action of the largest value, epsilon for all others together.

    Only the action values have derivatives.
    """

    def __init__(
        self, head: EpsilonGreedy, outputs: Number, actions: Array, mask: Array | None
    ) -> None:
        """Compute probabilities and their logarithms."""
        self.outputs, self.actions, self.rows = outputs, actions, np.arange(len(actions))
        self.own: dict[str, Number] = {}
        shape: tuple[int, ...] = outputs.shape
        self.mask: Array = np.ones(shape, np.bool_) if mask is None else mask
        self.columns = np.arange(shape[1])
        values: Array = np.where(self.mask, getattr(outputs, "value", outputs), -np.inf)
        greedy = np.equal(self.columns, values.argmax(axis=1)[:, None])
        # Of k possible actions the greedy one is never less likely than the others.
        k = self.mask.sum(axis=1)[:, None]
        most: Number = (outputs * 0 + (k - 1)) / k
        explore = where(most < head.epsilon, most, outputs * 0 + head.epsilon)
        share = where(k > 1, explore / np.maximum(k - 1, 1), 1)
        self.log_pi = where(self.mask, where(greedy, np.log(1 - explore), np.log(share)), 0)
        self.pi = where(self.mask, np.exp(self.log_pi), 0)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        d: Number = self.outputs * 0
        if "action_value" in cotangents:
            one_hot = np.equal(self.columns, self.actions[:, None])
            d = d + one_hot * cotangents["action_value"].reshape(-1, 1)
        return d + cotangents["action_values"] if "action_values" in cotangents else d

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: 0."""
        return self.outputs * 0


class MultiCategoricalForm(HeadForm):
    """One softmax for each choice; log-probabilities, entropies and KLs are summed."""

    def __init__(
        self, head: MultiCategorical, outputs: Number, actions: Array, mask: Array | None
    ) -> None:
        """Make a categorical implementation for each choice."""
        self.own: dict[str, Number] = {}
        self.parts: list[tuple[slice, CategoricalForm]] = []
        for k, columns in enumerate(head.choices):
            part_mask = None if mask is None else mask[:, columns]
            categorical = Categorical(head.n[k], head.temperature)
            part = CategoricalForm(categorical, outputs[:, columns], actions[:, k], part_mask)
            self.parts.append((columns, part))

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return total_of([part.log_prob() for _, part in self.parts])

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return total_of([part.entropy() for _, part in self.parts])

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        return total_of([part.kl(reference[:, columns]) for columns, part in self.parts])

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        return total_of([part.reverse_kl(reference[:, columns]) for columns, part in self.parts])

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        return np.concatenate([part.backward(cotangents) for _, part in self.parts], axis=1)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: choices are independent."""
        products = [
            part.fisher(tangent[:, columns], direction, weights) for columns, part in self.parts
        ]
        return np.concatenate(products, axis=1)


class BernoulliForm(HeadForm):
    """A softmax over the logits 0 and w: a row for each binary action of each step."""

    def __init__(
        self, head: Bernoulli, outputs: Number, actions: Array, mask: Array | None
    ) -> None:
        """Make one categorical implementation of all binary actions."""
        self.own: dict[str, Number] = {}
        self.shape: tuple[int, ...] = outputs.shape
        self.step_of_row = np.repeat(np.arange(len(actions)), head.n)
        # [B, 2n] masks hold all zeros' columns, then all ones'; a row pairs the two of one action.
        allowed = np.ones((len(actions), head.width), np.bool_) if mask is None else mask
        rows = np.stack([allowed[:, : head.n], allowed[:, head.n :]], axis=2).reshape(-1, 2)
        self.rows = CategoricalForm(
            Categorical(2, head.temperature), self._pairs(outputs), actions.reshape(-1), rows
        )

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return self._sums(self.rows.log_prob())

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return self._sums(self.rows.entropy())

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        return self._sums(self.rows.kl(self._reference_pairs(reference)))

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        return self._sums(self.rows.reverse_kl(self._reference_pairs(reference)))

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        d = self.rows.backward(
            {name: value[self.step_of_row] for name, value in cotangents.items()}
        )
        return d[:, 1].reshape(*self.shape)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: binary actions are independent."""
        moved = self.rows.fisher(self._pairs(tangent), direction, weights[self.step_of_row])
        return moved[:, 1].reshape(*self.shape)

    def _pairs(self, logits: Number) -> Number:
        """Return [B n, 2] logits from [B, n]: 0 for the action 0, w for the action 1."""
        column = logits.reshape(-1, 1)
        return np.concatenate((column * 0, column), axis=1)

    def _reference_pairs(self, reference: Number) -> Number:
        """Return [B n, 2] log-probabilities from [B, 2n]."""
        n = self.shape[1]
        zeros, ones = reference[:, :n].reshape(-1, 1), reference[:, n:].reshape(-1, 1)
        return np.concatenate((zeros, ones), axis=1)

    def _sums(self, rows: Number) -> Number:
        """Return [B] sums over the binary actions."""
        return rows.reshape(*self.shape).sum(axis=1)


def total_of(parts: list[Number]) -> Number:
    """Return the sum of one or more arrays."""
    return sum(parts[1:], parts[0])


# The temperature of audited heads: 1 would hide a temperature that was forgotten.
AUDITED = 0.8


def table_policy(critic: str, critic_values: str = "state") -> Callable[[Process], PolicySpec]:
    """Return a function from a process to the spec of a categorical table policy."""

    def spec(process: Process) -> PolicySpec:
        head = Categorical(process.actions, AUDITED)
        return PolicySpec(Table(process.states), head, critic, critic_values)

    return spec


CATEGORICAL = Proof(
    Categorical,
    {"categorical": {"n": 3, "temperature": 0.7}, "hot": {"n": 4, "temperature": 2.5}},
    CategoricalForm,
    CATEGORICAL_KINKS,
    policies={
        "no critic": table_policy("none"),
        "critic": table_policy("separate"),
        "action-value critic": table_policy("separate", "action"),
        "twin critics": table_policy("separate", "twin"),
    },
)
EPSILON_GREEDY = Proof(
    EpsilonGreedy,
    {"epsilon greedy": {"n": 3, "epsilon": 0.2}},
    EpsilonGreedyForm,
    policies={
        "action values": lambda mdp: PolicySpec(Table(mdp.states), EpsilonGreedy(mdp.actions, 0.3))
    },
)
MULTI_CATEGORICAL = Proof(
    MultiCategorical, {"multi": {"n": (3, 2), "temperature": 2.0}}, MultiCategoricalForm
)
BERNOULLI = Proof(Bernoulli, {"bernoulli": {"n": 2, "temperature": 1.6}}, BernoulliForm)
