"""The reference in the role of a policy, for estimators' reference implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.validation.arrays import Array
from pgcore_check.reference import reference

__all__ = ["Lifted", "rounded"]

Number = Any


class Lifted:
    """See `pgcore_check.reference.estimator_form.LiftedEvaluate`."""

    def __init__(
        self,
        spec: PolicySpec,
        parameters: Mapping[str, Array],
        batch: Batch,
        lift: Callable[[Array], Number],
    ) -> None:
        """Keep all."""
        self.spec, self.parameters, self.batch, self.lift = spec, parameters, batch, lift

    def __call__(self, name: str) -> Number:
        """See `LiftedEvaluate.__call__`."""
        if name.startswith("final_"):
            batch = final_steps(self.batch, masked=name == "final_log_probs")
            return self._quantity(name.removeprefix("final_"), batch)
        if name == "distribution":
            # The distribution parameters of such heads are their log-probabilities.
            assert self.spec.head.enumerable
            name = "log_probs"
        return self._quantity(name, self.batch)

    @property
    def target(self) -> Lifted:
        """See `LiftedEvaluate.target`."""
        return self

    def scores(self, step_weights: Number) -> Number:
        """See `LiftedEvaluate.scores`; single steps' scores are weighed in the number system."""
        weighed = self.single_scores() * rounded(step_weights).reshape(-1, 1)
        sums: list[Number] = []
        for episode in range(self.batch.num_episodes):
            rows = np.flatnonzero(self.batch.episode_of_step == episode)
            sums.append(weighed[rows].sum(axis=0).reshape(1, -1))
        return np.concatenate(sums)

    def single_scores(self) -> Number:
        """Return [B, D] scores of single steps."""
        return reference.episode_scores(
            self.spec, self.parameters, self.batch.steps(slice(None)), lift=self.lift
        )

    def _quantity(self, name: str, batch: Batch) -> Number:
        inputs = (self.spec, self.parameters, batch, (name,))
        return reference.quantities(*inputs, lift=self.lift)[name]


def final_steps(batch: Batch, *, masked: bool) -> Batch:
    """Return a batch of one-step episodes with the final observations.

    Args:
        batch: The episodes, with final observations.
        masked: Whether the action mask after each episode matters.
    """
    assert batch.final_observations is not None
    episodes = batch.num_episodes
    following = batch.next_action_mask if masked else None
    mask = None if following is None else following[batch.episode_ends]
    # Any possible action will do: quantities of final steps do not depend on it.
    return Batch(
        observations=batch.final_observations,
        actions=batch.actions[:episodes] if mask is None else mask.argmax(axis=1),
        action_mask=mask,
        rewards=np.zeros(episodes),
        episode_lengths=np.ones(episodes, int),
        terminated=np.ones(episodes, bool),
    )


def rounded(number: Number) -> Number:
    """Count one more rounding: a number that is cast to the policy's dtype."""
    return number + 0
