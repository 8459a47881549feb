"""The reference as the policy that an estimator's plain form asks, in any number system."""

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
            return self._quantity(
                name.removeprefix("final_"),
                final_steps(self.batch, masked=name == "final_log_probs"),
            )
        if name == "distribution":
            assert (
                self.spec.head.enumerable
            )  # such heads describe their distributions by log-probabilities
            name = "log_probs"
        return self._quantity(name, self.batch)

    @property
    def target(self) -> Lifted:
        """See `LiftedEvaluate.target`."""
        return self

    def scores(self, step_weights: Number) -> Number:
        """See `LiftedEvaluate.scores`: single steps' scores, weighed in the number system at hand."""
        weighed = self.single_scores() * rounded(step_weights).reshape(-1, 1)
        rows = [
            np.flatnonzero(self.batch.episode_of_step == episode)
            for episode in range(self.batch.num_episodes)
        ]
        return np.concatenate([weighed[row].sum(axis=0).reshape(1, -1) for row in rows])

    def single_scores(self) -> Number:
        """Return [B, D] scores of single steps."""
        return reference.episode_scores(
            self.spec, self.parameters, self.batch.steps(slice(None)), lift=self.lift
        )

    def _quantity(self, name: str, batch: Batch) -> Number:
        return reference.quantities(self.spec, self.parameters, batch, (name,), lift=self.lift)[
            name
        ]


def final_steps(batch: Batch, *, masked: bool) -> Batch:
    """Return a batch of one-step episodes whose observations are the final ones, with what is possible there where that matters."""
    assert batch.final_observations is not None
    episodes = batch.num_episodes
    following = batch.next_action_mask if masked else None
    mask = None if following is None else following[batch.episode_ends]
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
