"""The closed forms of heads over finitely many actions, plainly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.spec import PolicySpec, Table
from pgcore.heads import Bernoulli, Categorical, EpsilonGreedy, MultiCategorical
from pgcore.validation.arrays import Array
from pgcore_check.core_proofs.kinks import CATEGORICAL_KINKS
from pgcore_check.proof import Proof
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
        self.temperature, self.actions, self.rows = (
            head.temperature,
            actions,
            np.arange(len(actions)),
        )
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
        self.log_pi = np.where(
            self.mask, shifted - np.log(total), 0
        )  # 0 where masked, and never used there

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
            d = d - self.pi * (self.log_pi + self.entropy().reshape(-1, 1)) * cotangents[
                "entropy"
            ].reshape(-1, 1)
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


class MultiCategoricalForm(HeadForm):
    """One softmax a choice, added up."""

    def __init__(
        self, head: MultiCategorical, outputs: Number, actions: Array, mask: Array | None
    ) -> None:
        """Make a form for each choice."""
        self.own: dict[str, Number] = {}
        self.choices = head.choices
        self.parts = [
            CategoricalForm(
                Categorical(n, head.temperature),
                outputs[:, own],
                actions[:, k],
                None if mask is None else mask[:, own],
            )
            for k, (n, own) in enumerate(zip(head.n, self.choices, strict=True))
        ]

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return added([part.log_prob() for part in self.parts])

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return added([part.entropy() for part in self.parts])

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        return added(
            [part.kl(reference[:, own]) for own, part in zip(self.choices, self.parts, strict=True)]
        )

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        return added(
            [
                part.reverse_kl(reference[:, own])
                for own, part in zip(self.choices, self.parts, strict=True)
            ]
        )

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        return np.concatenate([part.backward(cotangents) for part in self.parts], axis=1)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: choices are independent."""
        own = zip(self.choices, self.parts, strict=True)
        return np.concatenate(
            [part.fisher(tangent[:, choice], direction, weights) for choice, part in own], axis=1
        )


class BernoulliForm(HeadForm):
    """A softmax over the logits 0 and w for each switch of each step, a row each."""

    def __init__(
        self, head: Bernoulli, outputs: Number, actions: Array, mask: Array | None
    ) -> None:
        """Make the form of all switches."""
        self.own: dict[str, Number] = {}
        self.shape: tuple[int, ...] = outputs.shape
        self.step_of_row = np.repeat(np.arange(len(actions)), head.n)
        allowed = np.ones((len(actions), head.width), np.bool_) if mask is None else mask
        rows = np.stack([allowed[:, : head.n], allowed[:, head.n :]], axis=2).reshape(-1, 2)
        self.rows = CategoricalForm(
            Categorical(2, head.temperature), self._pairs(outputs), actions.reshape(-1), rows
        )

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        return self._added(self.rows.log_prob())

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return self._added(self.rows.entropy())

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        return self._added(self.rows.kl(self._described(reference)))

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        return self._added(self.rows.reverse_kl(self._described(reference)))

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        d = self.rows.backward(
            {name: value[self.step_of_row] for name, value in cotangents.items()}
        )
        return d[:, 1].reshape(*self.shape)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: switches are independent."""
        moved = self.rows.fisher(self._pairs(tangent), direction, weights[self.step_of_row])
        return moved[:, 1].reshape(*self.shape)

    def _pairs(self, on: Number) -> Number:
        """Return [B n, 2] from [B, n]: 0, and what is given."""
        column = on.reshape(-1, 1)
        return np.concatenate((column * 0, column), axis=1)

    def _described(self, reference: Number) -> Number:
        """Return [B n, 2] from a [B, 2n] description."""
        n = self.shape[1]
        return np.concatenate(
            (reference[:, :n].reshape(-1, 1), reference[:, n:].reshape(-1, 1)), axis=1
        )

    def _added(self, rows: Number) -> Number:
        """Return [B] sums over the switches."""
        return rows.reshape(*self.shape).sum(axis=1)


def added(parts: list[Number]) -> Number:
    """Return the sum of one or more arrays."""
    return sum(parts[1:], parts[0])


# Of audits: a temperature of 1 would hide one that was lost.
AUDITED = 0.8

CATEGORICAL = Proof(
    Categorical,
    {"categorical": {"n": 3, "temperature": 0.7}, "hot": {"n": 4, "temperature": 2.5}},
    CategoricalForm,
    CATEGORICAL_KINKS,
    policies={
        "no critic": lambda mdp: PolicySpec(Table(mdp.states), Categorical(mdp.actions, AUDITED)),
        "critic": lambda mdp: PolicySpec(
            Table(mdp.states), Categorical(mdp.actions, AUDITED), "separate"
        ),
        "critic of actions": lambda mdp: PolicySpec(
            Table(mdp.states), Categorical(mdp.actions, AUDITED), "separate", "action"
        ),
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
BERNOULLI = Proof(Bernoulli, {"switches": {"n": 2, "temperature": 1.6}}, BernoulliForm)
