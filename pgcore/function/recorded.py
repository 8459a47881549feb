"""Recorded values, log-probabilities and evaluations in place of a policy, for signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from pgcore.data.device_array import as_array
from pgcore.data.episodes import Episodes
from pgcore.errors import BatchError, EstimatorError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.quantities import PER_ACTION
from pgcore.validation.arrays import Array

__all__ = ["FINAL", "TARGET", "Recorded"]

# What episodes hold under another name than the evaluation's.
FIELDS = {"value": "values", "final_value": "final_values", "log_prob": "log_probs"}
# These begin the names of evaluations of another policy, and of final observations.
TARGET, FINAL = "target_", "final_"


class Recorded:
    """What a policy would say at the steps of some episodes; see `pgcore.interfaces.estimator.Evaluate`.

    Attributes:
        read: The names that were asked for, those of a target with `target_`.
    """

    def __init__(self, batch: Episodes, given: Mapping[str, Array], prefix: str = "") -> None:
        """Keep the arguments.

        Args:
            batch: The episodes.
            given: Evaluations beside them, [B, ...] or [E, ...] by name.
            prefix: Begins the names among `given` of what this policy says.
        """
        self.batch = batch
        self.given = given
        self.prefix = prefix
        self.read = set[str]()

    def __call__(self, *names: str) -> dict[str, Array]:
        """Return float64 arrays by name: those given, else those that the episodes hold.

        Raises:
            BatchError: one is neither given nor recorded.
        """
        self.read |= {self.prefix + name for name in names}
        return {name: self._of(name) for name in names}

    @property
    def target(self) -> Recorded:
        """The evaluations whose names begin with `target_`; without any the same ones."""
        if self.prefix or not any(name.startswith(TARGET) for name in self.given):
            return self
        target = Recorded(self.batch, self.given, TARGET)
        target.read = self.read
        return target

    def check_given(self, estimator: Estimator) -> None:
        """Raise EstimatorError if the estimator did not ask for an evaluation that was given.

        What it asks for may depend on the episodes' ends: values of next steps are those of final
        observations where each episode has one step, and these are not read where all terminated.
        """
        for name in self.given:
            if name in self.read:
                continue
            prefix = TARGET if name.startswith(TARGET) else ""
            plain = name.removeprefix(prefix)
            field = FIELDS.get(plain)
            held = field and getattr(self.batch, field) is not None
            if plain.startswith(FINAL) or (f"{prefix}{FINAL}{plain}" in self.read and not held):
                continue
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
        found, terminated = self._held(name), self.batch.terminated
        if found is None and name.startswith(FINAL) and terminated.all():
            # Nothing follows a terminal state; each step shows the number of actions.
            plain = name.removeprefix(FINAL)
            like = self._held(plain)
            if plain not in PER_ACTION or like is not None:
                found = np.zeros((len(terminated), *(() if like is None else like.shape[1:])))
        if found is None:
            field = FIELDS.get(name)
            recorded = f"record `{field}` in the episodes, or " if field else ""
            raise BatchError(
                f"signals: expected {self.prefix + name!r}, which the estimator's constants need, got "
                f"episodes without it; {recorded}pass signals(estimator, episodes, "
                f"{self.prefix + name}=...)"
            )
        found = as_array(found, np.float64)
        if name.startswith(FINAL) and terminated.any():
            # The value of a terminal state is 0, whatever a network says of what it saw there.
            found = np.where(terminated.reshape(-1, *[1] * (found.ndim - 1)), 0.0, found)
        return found

    def _held(self, name: str) -> Any:
        """Return an evaluation that was given, else recorded; None without one."""
        given = self.given.get(self.prefix + name)
        return getattr(self.batch, FIELDS[name]) if given is None and name in FIELDS else given
