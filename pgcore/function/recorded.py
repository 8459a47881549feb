"""Recorded values, log-probabilities and evaluations in place of a policy, for signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from pgcore.data.device_array import as_array
from pgcore.data.episodes import Episodes
from pgcore.errors import BatchError, EstimatorError
from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array

__all__ = ["Recorded"]

# What episodes hold under another name than the evaluation's.
FIELDS = {"value": "values", "final_value": "final_values", "log_prob": "log_probs"}


class Recorded:
    """What a policy would say at the steps of some episodes; see `pgcore.interfaces.estimator.Evaluate`.

    Attributes:
        read: The names that were asked for.
    """

    def __init__(self, batch: Episodes, given: Mapping[str, Array]) -> None:
        """Keep the episodes, and evaluations given beside them, [B, ...] or [E, ...] by name."""
        self.batch = batch
        self.given = given
        self.read = set[str]()

    def __call__(self, *names: str) -> dict[str, Array]:
        """Return float64 arrays by name: those given, else those that the episodes hold.

        Raises:
            BatchError: one is neither given nor recorded.
        """
        self.read |= {*names}
        return {name: self._of(name) for name in names}

    @property
    def target(self) -> Recorded:
        """The evaluations whose names begin with `target_`, else the same ones."""
        prefix = "target_"
        given = {
            name.removeprefix(prefix): value
            for name, value in self.given.items()
            if name.startswith(prefix)
        }
        if not given:
            return self
        target = Recorded(self.batch, {**self.given, **given})
        target.read = self.read
        return target

    def check_given(self, estimator: Estimator) -> None:
        """Raise EstimatorError if the estimator did not ask for an evaluation that was given.

        Those of final observations may be unread, as where all episodes terminated.
        """
        for name in self.given:
            plain = name.removeprefix("target_")
            if plain in self.read or plain.startswith("final_"):
                continue
            field = FIELDS.get(plain)
            held = field and getattr(self.batch, field) is not None
            instead = f"; `{field}` of the episodes stand for it" if held else ""
            raise EstimatorError(
                f"signals: expected evaluations that the constants of {estimator.name} are computed "
                f"from ({', '.join(sorted(self.read)) or 'none'}), got {name} as well{instead}; leave "
                "it out"
            )

    def scores(self, step_weights: Any = None) -> NoReturn:
        """Refuse: scores are derivatives of a policy.

        Raises:
            BatchError: always.
        """
        raise BatchError(
            "signals: expected a policy, whose scores the estimator weighs, got episodes alone; "
            "pass the policy: pgcore.signals(policy, estimator, batch)"
        )

    def _of(self, name: str) -> Array:
        """Return one evaluation."""
        found = self.given.get(name)
        if found is None and name in FIELDS:
            found = getattr(self.batch, FIELDS[name])
        if found is None and name.startswith("final_") and self.batch.terminated.all():
            # Nothing follows a terminal state.
            like = self._of(name.removeprefix("final_"))
            found = np.zeros((self.batch.num_episodes, *like.shape[1:]))
        if found is None:
            field = FIELDS.get(name)
            recorded = f"record `{field}` in the episodes, or " if field else ""
            raise BatchError(
                f"signals: expected {name!r}, which the estimator's constants need, got episodes "
                f"without it; {recorded}pass signals(estimator, episodes, {name}=...)"
            )
        found = as_array(found, np.float64)
        terminated = self.batch.terminated
        if name.startswith("final_") and terminated.any():
            # The value of a terminal state is 0, whatever a network says of what it saw there.
            found = np.where(terminated.reshape(-1, *[1] * (found.ndim - 1)), 0.0, found)
        return found
