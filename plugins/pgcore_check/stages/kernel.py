"""The derivatives of a head's quantities on a backend with closed forms, beside the head's formulas.

A table holds the distribution's outputs, a row for each step, so that no network takes part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pgcore import api
from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec, Table
from pgcore.interfaces.estimator import KLS, Claims, Estimator, Evaluate
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_check.reference.definition import head_definition

__all__ = ["HeadCase"]

Number = Any  # an array of any number system of the kit

# The head's quantities that are differentiated; action values are the outputs themselves.
DIFFERENTIATED = ("log_prob", "entropy", "kl", "reverse_kl", "log_probs")


@dataclass(frozen=True)
class Weighed(Estimator):
    """One quantity of each step, weighed: its cotangents are the weights.

    Attributes:
        quantity: One of `DIFFERENTIATED`.
    """

    quantity: str
    name: ClassVar[str] = "weighed"

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        listed = self.quantity == "log_probs"
        return Claims(
            unbiased=False, off_policy="limited", needs_critic=False, discrete_only=listed
        )

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return name == self.quantity

    def signals(self, batch: Batch, evaluate: Evaluate) -> dict[str, Array]:
        """See `Estimator.signals`: given, never computed."""
        raise NotImplementedError

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        weight: Native,
        log_prob: Native = None,
        entropy: Native = None,
        kl: Native = None,
        reverse_kl: Native = None,
        log_probs: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`."""
        if self.quantity == "log_probs":
            return xp.sum(weight * xp.where(log_probs > -np.inf, log_probs, 0.0), 1)
        quantities = {"log_prob": log_prob, "entropy": entropy, "kl": kl, "reverse_kl": reverse_kl}
        return weight * quantities[self.quantity]

    def cotangents(self, *, weight: Array, **quantities: Array) -> dict[str, Array]:
        """See `Estimator.cotangents`."""
        return {self.quantity: weight}


class HeadCase:
    """A batch whose steps have outputs of their own, and the derivatives of the head there.

    Attributes:
        spec: A table with a row for each step.
        parameters: The outputs, and the head's own parameters.
        names: The quantities that are differentiated.
    """

    def __init__(
        self,
        spec: PolicySpec,
        estimator: Estimator,
        batch: Batch,
        parameters: Mapping[str, Array],
        outputs: Array,
        reference: Array | None,
    ) -> None:
        """Keep all.

        Args:
            spec: The policy's.
            estimator: The one whose quantities are differentiated.
            batch: The steps.
            parameters: The policy's, by canonical name.
            outputs: [B, outputs] of the network, in the policy's dtype.
            reference: [B, width] distribution parameters from which KLs are measured, or None.
        """
        self.spec = PolicySpec(Table(batch.num_steps), spec.head)
        own = {name: value for name, value in parameters.items() if name.startswith("head.")}
        self.parameters = {"network.table": outputs, **own}
        self.reference, self.dtype = reference, outputs.dtype
        self.names = [
            name
            for name in DIFFERENTIATED
            if name in estimator.quantities and not spec.head.action_values
        ]
        self.batch = Batch(
            observations=np.arange(batch.num_steps),
            actions=batch.actions,
            action_mask=batch.action_mask,
            rewards=np.zeros(batch.num_steps),
            episode_lengths=[batch.num_steps],
            terminated=[True],
        )
        rng, steps = np.random.default_rng(3), batch.num_steps
        self.weights: dict[str, Array] = {}
        for name in self.names:
            weight = rng.standard_normal((steps, spec.head.width) if name == "log_probs" else steps)
            # The term leaves masked actions out, whose log-probabilities are -inf.
            if name == "log_probs" and batch.action_mask is not None:
                weight *= batch.action_mask
            self.weights[name] = weight.astype(self.dtype)

    def expected(self, lift: Any) -> dict[str, Number]:
        """Return the derivatives by quantity and parameter, in the number system of `lift`."""
        lifted = {name: lift(value) for name, value in self.parameters.items()}
        outputs = lifted["network.table"]
        derivatives: dict[str, Number] = {}
        for name in self.names:
            head = head_definition(self.spec.head, outputs, lifted, self.batch, self.dtype, lift)
            arguments = (lift(self.reference),) if name in KLS else ()
            getattr(head, name)(*arguments)
            rows = head.backward({name: lift(self.weights[name])})
            derivatives[f"{name}: outputs"] = rows
            derivatives |= {f"{name}: head.{own}": value for own, value in head.own.items()}
        return derivatives

    def actual(self, backend: str) -> Iterator[tuple[str, Array]]:
        """Yield the derivatives of a backend, by the same names."""
        policy: Policy = api.policy(self.spec, backend=backend, dtype=self.dtype.name)
        policy.load(self.parameters)
        ones = np.ones(self.batch.num_steps, policy.dtype)
        for name in self.names:
            values = {"weight": self.weights[name]}
            if name in KLS:
                assert self.reference is not None
                values["reference"] = self.reference
            signals = Signals(values, ones, padded=False)
            gradient = api.gradient(policy, Weighed(name), self.batch, signals=signals).numpy()
            yield f"{name}: outputs", gradient.pop("network.table")
            for parameter, value in gradient.items():
                yield f"{name}: {parameter}", value
