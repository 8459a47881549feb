"""Reductions: the weights that make one loss of the terms of single steps, and totals of a whole."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import numpy as np

from pgcore.data.batch import GROUP, Batch
from pgcore.data.device_array import as_array
from pgcore.errors import BatchError, EstimatorError, PgcoreError, UnknownNameError
from pgcore.interfaces.extras import Extra, declared_extras, used_extras
from pgcore.registry.registry import load_class, registry
from pgcore.validation.arrays import Array, first_row, is_host
from pgcore.validation.fields import Checked, Count, choice

__all__ = [
    "AnyReduction",
    "EpisodeMean",
    "EpisodeSum",
    "Reduction",
    "StepMean",
    "Totals",
    "checked_weights",
    "real_steps",
]


@dataclass(frozen=True)
class Totals(Checked):
    """Numbers of the whole that a batch is a part of: the denominators of its reduction's weights.

    Gradients of parts with one whole's totals add up to the whole's; see `Gradient.plus`. Without
    any number the batch at hand is the whole.

    Attributes:
        steps: Of the whole, without padding and without steps that masks leave out
            (`estimator.counted(batch).sum()`), as the next two.
        episodes: See `steps`.
        groups: See `steps`; the distinct numbers of the extra `group`.

    Raises:
        BatchError: a number is no integer of at least 1.

    Example:
        >>> pg.Totals(steps=4096, episodes=16).steps
        4096
    """

    steps: Count | None = None
    episodes: Count | None = None
    groups: Count | None = None
    field_error = BatchError

    def whole(self, noun: str, part: int) -> int:
        """Return the whole's number of `noun`: the one given, or the part's own without any.

        Args:
            noun: "steps", "episodes" or "groups".
            part: The number of them in the batch at hand.

        Raises:
            BatchError: other totals were given and this one was not, or it is below the part's.
        """
        # Padding alone has nothing to divide.
        if self == THE_BATCH:
            return max(part, 1)
        total: int | None = getattr(self, noun)
        if total is None:
            raise BatchError(
                f"Totals.{noun}: expected the number of {noun} of the whole, which the reduction "
                f"divides by, got None; pass Totals({noun}=...)"
            )
        if total < part:
            raise BatchError(
                f"Totals.{noun}: expected at least the {part} {noun} of the batch, its part, got "
                f"{total}; count those of all parts together"
            )
        return total

    def check(self, batch: Batch) -> None:
        """Raise BatchError where a number is below the batch's own."""
        if self.steps is not None:
            self.whole("steps", int(real_steps(batch).sum()))
        if self.episodes is not None:
            self.whole("episodes", int(batch.episode_weights.sum()))
        if self.groups is not None and GROUP in batch.extras:
            numbers = batch.extras[GROUP][real_steps(batch) > 0]
            self.whole("groups", len(np.unique(numbers)))


# The totals of a batch that is the whole itself.
THE_BATCH = Totals()


class Reduction(Checked, ABC):
    """The rule that makes one loss of the terms of single steps: loss = sum_t w_t * term_t.

    A subclass is a frozen dataclass whose fields declare their checks; see
    `pgcore.validation.fields`. The hook `pgcore_reductions` registers it under `name`.

    Attributes:
        name: Its registered name.
        extras: The extras of a batch that it reads, by name, beside those of its base classes.

    Example:
        >>> batch = pg.Batch(observations=np.eye(3), actions=[0, 1, 0], rewards=[1.0, 0.0, 2.0],
        ...                  episode_lengths=[1, 2], terminated=[True, True])
        >>> pg.Reduction.EPISODE_STEP.weights(batch).tolist()
        [0.5, 0.25, 0.25]
    """

    registered_as = "reductions"  # the kind
    name: ClassVar[str]
    extras: ClassVar[Mapping[str, Extra]] = {}
    field_error: ClassVar[type[PgcoreError]] = EstimatorError
    # The core's own, without options.
    STEP: ClassVar[Reduction]
    EPISODE_STEP: ClassVar[Reduction]
    TRAJECTORY: ClassVar[Reduction]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the extras."""
        super().__init_subclass__(**kwargs)
        cls.extras = declared_extras(cls)

    @abstractmethod
    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """Return [B] float64 weights w_t, at least 0; padding weighs 0.

        Args:
            batch: The steps: whole episodes, and whole groups where the weights depend on groups.
            totals: Of the whole that the batch is a part of; `Totals.whole` gives a denominator.

        Raises:
            BatchError: the batch lacks an extra, or the totals a number that the weights need.
        """

    @property
    def used_extras(self) -> dict[str, Extra]:
        """The declared extras that it reads under these options."""
        return used_extras(self)

    @staticmethod
    def of(where: str, value: object, error: type[PgcoreError] = EstimatorError) -> Reduction:
        """See `pgcore.validation.fields`: the reduction, or that of a name or of name and options.

        Raises:
            UnknownNameError: the reduction has no option of a name.
            PgcoreError: of class `error` where nothing is registered under the name.
        """
        if isinstance(value, Reduction):
            return value
        options = dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
        name = options.pop("name", None) if isinstance(value, Mapping) else value
        name = choice(*registry().names("reductions"))(where, name, error)
        cls: Any = load_class("reductions", name, Reduction)
        names = [field.name for field in dataclasses.fields(cls) if field.init]
        for option in options:
            if option not in names:
                raise UnknownNameError(f"{where} {name} option", str(option), names)
        try:
            return cls(**options)
        except TypeError as problem:
            raise error(
                f"{where}: expected {name} with values for {', '.join(names)}, got "
                f"{sorted(options)} ({problem}); write {{'name': {name!r}, ...}} with the missing ones"
            ) from problem


# The type of a field `reduction`: a Reduction, its registered name, or a mapping of `name` and options,
# which the estimator then replaces by the reduction.
AnyReduction = Annotated[Reduction, Reduction.of]


@dataclass(frozen=True)
class StepMean(Reduction):
    """The mean over all steps, of language models' tokens too."""

    name: ClassVar[str] = "step"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`."""
        real = real_steps(batch)
        return real / totals.whole("steps", int(real.sum()))


@dataclass(frozen=True)
class EpisodeSum(Reduction):
    """The sum over an episode's steps, then the mean over episodes."""

    name: ClassVar[str] = "trajectory"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`."""
        # Padding counts neither as a step nor as an episode.
        return real_steps(batch) / totals.whole("episodes", int(batch.episode_weights.sum()))


@dataclass(frozen=True)
class EpisodeMean(EpisodeSum):
    """The mean over an episode's steps, then over episodes."""

    name: ClassVar[str] = "episode_step"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`."""
        return super().weights(batch, totals) / batch.episode_lengths[batch.episode_of_step]


Reduction.STEP, Reduction.EPISODE_STEP = StepMean(), EpisodeMean()
Reduction.TRAJECTORY = EpisodeSum()


def real_steps(batch: Batch) -> Array:
    """Return [B] float64: 1 for steps, 0 for padding."""
    return np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights


def checked_weights(reduction: Reduction, batch: Batch, totals: Totals = THE_BATCH) -> Array:
    """Return a reduction's weights for a batch.

    Args:
        reduction: Anybody's.
        batch: See `Reduction.weights`.
        totals: See `Reduction.weights`.

    Raises:
        EstimatorError: they are not [B] floats, negative, not finite, or not 0 at padding.
        BatchError: totals are smaller than the batch; see `Reduction.weights` for others.
    """
    totals.check(batch)
    where, weights = f"{reduction.name}.weights", as_array(reduction.weights(batch, totals))
    if weights.shape != (batch.num_steps,) or weights.dtype.kind != "f":
        raise EstimatorError(
            f"{where}: expected [{batch.num_steps}] floats, one for each step, got "
            f"{list(weights.shape)} {weights.dtype}; return the weight of each step's term"
        )
    # Numbers on a device are not read.
    if not is_host(weights):
        return weights
    rules = {"finite numbers of at least 0": (weights >= 0) & (weights < np.inf)}
    if batch.step_weights is not None:
        rules["0 at padding"] = (weights == 0) | (batch.step_weights != 0)
    for rule, holds in rules.items():
        if not holds.all():
            step = first_row(~holds)
            raise EstimatorError(
                f"{where}: expected {rule}, got {weights[step]} at step {step}; correct the weights"
            )
    return weights
