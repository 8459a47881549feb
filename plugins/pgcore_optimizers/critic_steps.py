"""First-order steps of the critic's parameters, beside a trust region of the policy's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import Adopted
from pgcore.errors import OptimizerError
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate
from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec, check_step
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.quantities import VALUES
from pgcore.interfaces.signals import Signals
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["CriticOptimizer", "MeanValue", "critic_names"]


class CriticOptimizer(BoundOptimizer):
    """A first-order formula for the critic's parameters alone, in NumPy and the policy's dtype.

    Attributes:
        policy: The policy with the critic.
    """

    def __init__(self, formula: OptimizerSpec, policy: Policy) -> None:
        """Set the slots to 0.

        Args:
            formula: The update of one parameter.
            policy: The policy with the critic.
        """
        self.policy = policy
        self._formula = formula
        shapes, names = policy.spec.parameter_shapes, critic_names(policy)
        self._slots = {
            slot: {name: np.zeros(shapes[name], policy.dtype) for name in names}
            for slot in formula.slots
        }
        # Of a built-in network the names are right by construction; an adopted one has its own.
        self._names_hold = (
            not isinstance(policy.spec.network, Adopted) or policy.spec.critic == "none"
        )

    def check(self, batch: Batch) -> None:
        """Check that an adopted critic depends on the parameters named critic., the policy on none.

        At every step: a value whose last layer starts from zeros depends on shared hidden layers
        from the second step on.

        Args:
            batch: The episodes whose observations the dependence is measured on.

        Raises:
            OptimizerError: the value depends on other parameters as well, or the policy on these.
        """
        if self._names_hold:
            return
        # The derivative of the mean value is 0 in every parameter that the critic does not have.
        weights = np.full(batch.num_steps, 1.0 / batch.num_steps, self.policy.dtype)
        estimator = MeanValue(self.policy.spec.critic_values)
        mean_value = Surrogate(
            self.policy.spec, estimator, batch, Signals({}, weights, padded=False)
        )
        critic, derivatives = critic_names(self.policy), self.policy.gradient(mean_value).numpy()
        shared = [name for name, value in derivatives.items() if name not in critic and value.any()]
        # The Fisher matrix times the critic's directions is 0 unless the policy depends on them.
        direction = np.concatenate(
            [np.full(value.size, float(name in critic)) for name, value in derivatives.items()]
        )
        if shared or not critic or self.policy.fisher_vector_product(batch, direction).any():
            dependence = (
                f"a value that depends on {shared[0]}"
                if shared
                else "a policy that depends on some of these"
            )
            raise OptimizerError(
                f"trust region on {self.policy.spec.network}: expected a critic whose parameters "
                f"are those named critic. and no others, got {dependence}; adopt two networks that "
                "share nothing, and name no attribute of the policy's critic"
            )

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`; the policy's own parameters stay as they are."""
        derivatives, parameters = gradient.numpy(), self.policy.parameters()
        updated: dict[str, dict[str, Array]] = {slot: {} for slot in self._slots}
        for name in critic_names(self.policy):
            slots = {slot: values[name] for slot, values in self._slots.items()}
            # NumPy's warnings are off: an overflow is reported below.
            with np.errstate(all="ignore"):
                parameters[name], new_slots = self._formula.updated(
                    host, parameters[name], derivatives[name], slots, *scalars
                )
            for slot, value in new_slots.items():
                updated[slot][name] = value
        check_step(parameters, updated)
        # The slots follow the parameters: an error in loading leaves both as they were.
        self.policy.load(parameters)
        self._slots = updated

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        return {
            slot: {name: value.copy() for name, value in values.items()}
            for slot, values in self._slots.items()
        }

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        dtype = self.policy.dtype
        self._slots = {
            slot: {name: np.array(slots[slot][name], dtype) for name in values}
            for slot, values in self._slots.items()
        }


@dataclass(frozen=True)
class MeanValue(Estimator):
    """The mean value, whose derivative is 0 in all but the critic's parameters.

    Attributes:
        critic_values: The spec's; of values of actions the mean over states is of their sum.
    """

    critic_values: str = "state"
    name: ClassVar[str] = "mean_value"

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        listed = self.critic_values != "state"
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=listed)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: none."""
        return {}

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return name in VALUES[self.critic_values]

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        value: Native = None,
        action_values: Native = None,
        twin_action_values: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`."""
        if action_values is None:
            return value
        total = xp.sum(action_values, 1)
        return total if twin_action_values is None else total + xp.sum(twin_action_values, 1)

    def cotangents(self, **quantities: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {name: np.ones_like(value) for name, value in quantities.items()}


def critic_names(policy: Policy) -> tuple[str, ...]:
    """Return the names of the critic's parameters.

    Raises:
        OptimizerError: the critic shares the policy's hidden layers.
    """
    spec = policy.spec
    if spec.critic == "none":
        return ()
    if spec.critic == "shared":
        raise OptimizerError(
            "trust region: expected a critic with parameters of its own, or none, got "
            "critic='shared', whose loss would move the policy out of the region; give the spec "
            "critic='separate'"
        )
    return tuple(name for name in spec.parameter_shapes if name.startswith("critic."))
