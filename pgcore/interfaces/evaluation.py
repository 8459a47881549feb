"""The current policy on the batch at hand, forward only: the source of an estimator's signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import check_all_finite
from pgcore.validation.arrays import Array, row_not_finite

__all__ = ["Evaluation"]

# Evaluations that hold -inf for masked actions.
UNBOUNDED = frozenset(("distribution", "log_probs", "final_log_probs"))


class Evaluation(NamedTuple):
    """The current policy on a batch; see `pgcore.interfaces.estimator.Evaluate`."""

    policy: Policy
    batch: Batch
    target_policy: Policy | None = None  # gives bootstrapped action values; None is `policy`

    @property
    def target(self) -> Evaluation:
        """See `Evaluate.target`."""
        if self.target_policy is None:
            return self
        head, target = self.policy.spec.head, self.target_policy.spec.head
        if target.width != head.width:
            raise EstimatorError(
                f"signals target: expected a policy of as many actions as {head}, got {target}; "
                "pass a copy of the policy"
            )
        return Evaluation(self.target_policy, self.batch)

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """See `Evaluate.__call__`; raise NonFiniteError, naming parameter or step, unless finite."""
        # An overflow is reported below, by name and step.
        with np.errstate(all="ignore"):
            evaluated = self.policy.evaluate(self.batch, names)
        for name, value in evaluated.items():
            if name not in UNBOUNDED and row_not_finite(value) is not None:
                # A parameter that is not finite explains every step.
                self.policy.check_finite(name)
                check_all_finite(name, value, "episode" if name.startswith("final_") else "step")
        return evaluated

    def scores(self, step_weights: Array | None = None) -> Array:
        """See `Evaluate.scores`."""
        return self.policy.episode_scores(self.batch, step_weights).astype(np.float64)
