"""Batches: episodes of different lengths in flat arrays, validated once and immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data import files
from pgcore.errors import BatchError, FileError, ShapeError
from pgcore.validation.arrays import Array, read_only
from pgcore.validation.batch_fields import LOSS_MASK, OPTIONAL_REALS, validated

__all__ = ["Batch", "Index"]

Index = slice | range | list[int] | Array  # NumPy's indices of one axis
# Fields with a row for each step, and those with a row for each episode.
PER_STEP = ("observations", "actions", "rewards", "action_mask", *OPTIONAL_REALS)
PER_EPISODE = ("episode_lengths", "terminated", "final_observations", "final_values")
ARRAYS = (*PER_STEP, *PER_EPISODE)
GROUP = "group"  # the extra that numbers groups of episodes; see `pgcore.returns.groups`
FORMAT = "pgcore.batch"  # the mark of saved files; other releases read it


class Batch:
    """Steps of whole or truncated episodes, one episode after the other.

    `B` steps in all, `E` episodes. Arrays are read-only: writable ones are copied, others shared.
    One-step episodes, as `steps` makes them, are a replay batch: `next_observations` is s_{t+1}.

    Attributes:
        observations: [B, ...] number. The policy's inputs; [B] integers for a `Table`.
        actions: [B] integer or [B, n] float64.
        rewards: [B] float64, environment units.
        episode_lengths: [E] integer. Steps of each episode, at least 1, summing to B.
        terminated: [E] bool. Whether the episode reached a terminal state, and was not truncated.
        final_observations: [E, ...] number or None. The observation after each episode's last
            step, which truncated episodes bootstrap from; other rows are not read.
        log_probs: [B] float64 or None. log pi of the actions under the behaviour policy, nats.
        values: [B] float64 or None. V(s_t) of the critic at the time, reward units. Signals read
            them in place of the current critic's; see `pgcore.interfaces.recorded`.
        final_values: [E] float64 or None. V of the state after each episode's last step, 0 for
            terminated episodes. Signals bootstrap from them without final observations.
        action_mask: [B, A] bool or None. True for possible actions.
        step_weights: [B] float64 or None. 0 for padding, 1 elsewhere; None means 1 everywhere.
        discount: [B] float64 in [0, 1] or None. The factor on an estimator's gamma from each step
            to the next, the bootstrap after an episode's last step included; None means 1.
        extras: Further [B, ...] arrays by name, for an estimator's signals: `reference`, the
            [B, width] distribution parameters that `kl` measures from; `next_action_mask`, [B, A]
            possible actions after each step; `group`, [B] integers, equal for the episodes that
            group-relative estimators compare (see `pgcore.returns.groups`); and
            `reference_log_probs`, [B] log-probabilities under the reference policy of a KL penalty;
            `rollout_log_probs`, those under the policy that sampled, where it is not the old one; and
            `loss_mask`, [B] bool, for the mask "loss". Where that is False, `log_probs`, `values` and
            extras may be NaN or infinite.
            An estimator declares those that it reads; see `pgcore.Extra`.
    """

    observations: Array
    actions: Array
    rewards: Array
    log_probs: Array | None
    values: Array | None
    action_mask: Array | None
    step_weights: Array | None
    discount: Array | None
    extras: Mapping[str, Array]
    _source: tuple[Batch, Index]  # of a batch that `steps` made: its parent and its index
    layout: Any = None
    like: Any = None
    _fits: object = None  # the spec that the batch was last found to fit

    def __init__(
        self,
        *,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        episode_lengths: ArrayLike,
        terminated: ArrayLike,
        final_observations: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        final_values: ArrayLike | None = None,
        action_mask: ArrayLike | None = None,
        step_weights: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Validate and freeze the arrays.

        Raises:
            ShapeError: lengths disagree, or an array has the wrong number of dimensions.
            BatchError: no steps, an empty episode, NaN or infinity, a negative action, a discount
                outside [0, 1], or a step with every action or its own masked. It names the array and the first such row.
        """
        arguments: dict[str, Any] = {"observations": observations, "actions": actions}
        arguments |= {"rewards": rewards, "action_mask": action_mask, "log_probs": log_probs}
        arguments |= {"values": values, "step_weights": step_weights, "terminated": terminated}
        arguments |= {"episode_lengths": episode_lengths, "final_values": final_values}
        arguments |= {"final_observations": final_observations, "extras": extras}
        arguments["discount"] = discount
        self.__dict__.update(validated(arguments))

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse every change."""
        raise AttributeError(
            f"Batch.{name}: expected no assignment, got one; batches are frozen, so make a new one"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Freeze the arrays again, which `pickle` and `copy` return writable."""
        self.__dict__.update(_frozen(state).__dict__)

    def __repr__(self) -> str:
        """Return the sizes."""
        shape = list(self.observations.shape)
        return f"Batch({self.num_steps} steps, {self.num_episodes} episodes, observations {shape})"

    @property
    def num_steps(self) -> int:
        """B, padding included."""
        return len(self.observations)

    @property
    def num_episodes(self) -> int:
        """E, padding included."""
        return len(self.episode_lengths)

    # `__init__` sets the next four itself. A batch that `steps` made computes them on demand:
    # PPO's inner loop never needs them.

    @cached_property
    def episode_lengths(self) -> Array:
        """[E] integer. See `Batch`."""
        return read_only(np.ones(self.num_steps, np.intp))

    @cached_property
    def terminated(self) -> Array:
        """[E] bool. See `Batch`."""
        parent, index = self._source
        # A step terminates if it is the last one of a terminated episode.
        ends = np.zeros(parent.num_steps, np.bool_)
        ends[parent.episode_ends] = parent.terminated
        return read_only(ends[index])

    @cached_property
    def final_observations(self) -> Array | None:
        """[E, ...] number or None. See `Batch`."""
        parent, index = self._source
        if parent.final_observations is None and not parent.terminated.all():
            return None
        return read_only(parent.next_observations[index])

    @cached_property
    def final_values(self) -> Array | None:
        """[E] float64 or None. See `Batch`; inside an episode, the next step's recorded value."""
        parent, index = self._source
        if parent.values is None or (parent.final_values is None and not parent.terminated.all()):
            return None
        # A step inside an episode is followed by the next step, whose value was recorded.
        following = np.empty(parent.num_steps)
        following[:-1] = parent.values[1:]
        following[parent.episode_ends] = 0.0 if parent.final_values is None else parent.final_values
        return read_only(following[index])

    @cached_property
    def episode_starts(self) -> Array:
        """[E] integer. Index of each episode's first step."""
        return read_only(self.episode_lengths.cumsum() - self.episode_lengths)

    @cached_property
    def episode_ends(self) -> Array:
        """[E] integer. Index of each episode's last step."""
        return read_only(self.episode_lengths.cumsum() - 1)

    @cached_property
    def episode_of_step(self) -> Array:
        """[B] integer. The number of each step's episode."""
        return read_only(np.repeat(np.arange(self.num_episodes), self.episode_lengths))

    @cached_property
    def step_in_episode(self) -> Array:
        """[B] integer. t, counted from 0 in each episode."""
        return read_only(np.arange(self.num_steps) - self.episode_starts[self.episode_of_step])

    @cached_property
    def episode_weights(self) -> Array:
        """[E] float64. 0 for episodes that are padding, 1 for the others."""
        if self.step_weights is None:
            return read_only(np.ones(self.num_episodes))
        return read_only(self.step_weights[self.episode_starts])

    @cached_property
    def next_observations(self) -> Array:
        """[B, ...] number. The observation after each step.

        After a terminal step it is the step's own, which must not be read.

        Raises:
            BatchError: an episode was truncated and there are no final observations.
        """
        self.check_bootstrap()
        last = self.observations[self.episode_ends]
        final = last if self.final_observations is None else self.final_observations
        following = np.empty(self.observations.shape, np.result_type(self.observations, final))
        following[:-1] = self.observations[1:]
        following[self.episode_ends] = final
        # The final rows of terminated episodes may hold anything; the last step's are finite.
        following[self.episode_ends[self.terminated]] = last[self.terminated]
        return read_only(following)

    @cached_property
    def next_action_mask(self) -> Array | None:
        """[B, A] bool or None. Possible actions after each step: the extra, else the next mask.

        Without the extra every action is possible after an episode's last step.
        """
        extra = self.extras.get("next_action_mask")
        if extra is not None:
            return read_only(extra != 0)
        if self.action_mask is None:
            return None
        # A part of a batch asks the whole one, which has the steps after its own.
        if "_source" in self.__dict__:
            parent, index = self._source
            return read_only(cast("Array", parent.next_action_mask)[index])
        following = np.ones_like(self.action_mask)
        following[:-1] = self.action_mask[1:]
        following[self.episode_ends] = True
        return read_only(following)

    def step_discounts(self, gamma: float) -> float | Array:
        """Return gamma, or with `discount` [B] float64 gamma times each step's.

        Args:
            gamma: In [0, 1].
        """
        return gamma if self.discount is None else gamma * self.discount

    @property
    def loss_mask(self) -> Array | None:
        """[B] bool or None. The extra `loss_mask`: False where only a mask may read the step."""
        return self.extras.get(LOSS_MASK)

    def check_bootstrap(self) -> None:
        """Raise BatchError unless every truncated episode has a final observation."""
        if self.final_observations is None and not self.terminated.all():
            episode = int(np.argmin(self.terminated))
            raise BatchError(
                "Batch.final_observations: expected one for every truncated episode, got none and "
                f"episode {episode} did not terminate; pass the observation after its last step"
            )

    def fits(self, spec: object) -> bool:
        """Whether this batch, or its parent, was found to fit this very spec object."""
        return self._fits is spec

    def remember_fit(self, spec: object) -> None:
        """Remember that this batch fits a spec; every part of it does too."""
        self.__dict__["_fits"] = spec

    @staticmethod
    def trusted(fields: Mapping[str, Any]) -> Batch:
        """Return a batch of valid and read-only fields and cached properties, unchecked."""
        batch = object.__new__(Batch)
        batch.__dict__.update(fields)
        return batch

    def steps(self, index: Index) -> Batch:
        """Return steps as one-step episodes, without validating them again.

        Args:
            index: Step numbers in [0, B), a slice, or a [B] bool mask.

        Raises:
            BatchError: the index is out of range, selects no step or is not one-dimensional.
        """
        try:
            fields = self._step_fields(index)
        except IndexError as error:
            raise _index_error("step", self.num_steps, error) from error
        rewards = fields["rewards"]
        if rewards.ndim != 1 or len(rewards) == 0:
            raise _index_error("step", self.num_steps, rewards.shape)
        fields["_source"] = (self, index)
        return _frozen(fields)

    def episodes(self, index: Index) -> Batch:
        """Return episodes, in the order of the index.

        Args:
            index: Episode numbers in [0, E), a slice, or a [E] bool mask.

        Raises:
            BatchError: the index is out of range, selects no episode or is not one-dimensional.
        """
        numbers, steps = self.episode_steps(index)
        fields = self._step_fields(steps)
        for name in PER_EPISODE:
            value: Array | None = getattr(self, name)
            fields[name] = None if value is None else value[numbers]
        return _frozen(fields)

    def episode_steps(self, index: Index) -> tuple[Array, Array]:
        """Return the numbers of some episodes, and those of all their steps; see `episodes`."""
        try:
            numbers = np.arange(self.num_episodes)[index]
        except IndexError as error:
            raise _index_error("episode", self.num_episodes, error) from error
        if numbers.ndim != 1 or len(numbers) == 0:
            raise _index_error("episode", self.num_episodes, numbers.shape)
        # Each episode's run of step numbers, without a loop over episodes.
        lengths = self.episode_lengths[numbers]
        starts = np.repeat(self.episode_starts[numbers] - (lengths.cumsum() - lengths), lengths)
        return numbers, starts + np.arange(len(starts))

    def _step_fields(self, index: Index) -> dict[str, Any]:
        """Return the fields with a row for each step, at an index."""
        fields: dict[str, Any] = {"_fits": self._fits, "extras": self.extras}
        for name in PER_STEP:
            value = self.__dict__[name]
            fields[name] = None if value is None else value[index]
        if self.extras:
            fields["extras"] = {name: value[index] for name, value in self.extras.items()}
        return fields

    def minibatches(self, size: int, rng: np.random.Generator) -> Iterator[Array]:
        """Yield the step numbers of each minibatch of one pass over the batch, in random order.

        Args:
            size: Steps of a minibatch; the last one may be smaller.
            rng: The order's source.

        Raises:
            BatchError: size below 1.
        """
        if size < 1:
            raise BatchError(
                f"Batch.minibatches: expected a size of at least 1, got {size}; choose a larger one"
            )
        # One permutation a pass, so that every step is drawn exactly once.
        order = rng.permutation(self.num_steps)
        yield from (order[start : start + size] for start in range(0, self.num_steps, size))

    def pad(self, num_steps: int) -> Batch:
        """Return the batch with steps of weight 0 added up to `num_steps`; gradients stay the same.

        Each repeats the last step with reward 0, as a terminated episode of one step: in a longer
        one a product of ratios could overflow.

        Raises:
            BatchError: num_steps is below the batch's own number.
        """
        extra = num_steps - self.num_steps
        if extra < 0:
            raise BatchError(
                f"Batch.pad: expected at least {self.num_steps} steps, got {num_steps}; "
                "slice the batch instead"
            )
        if extra == 0:
            return self
        fields = self._step_fields(np.minimum(np.arange(num_steps), self.num_steps - 1))
        fields["rewards"][self.num_steps :] = 0.0
        weights = np.ones(self.num_steps) if self.step_weights is None else self.step_weights
        fields["step_weights"] = np.append(weights, np.zeros(extra))
        # Rows of terminated episodes are never read, so 0 will do.
        fields["episode_lengths"] = np.append(self.episode_lengths, np.ones(extra, np.intp))
        fields["terminated"] = np.append(self.terminated, np.ones(extra, np.bool_))
        for name in ("final_observations", "final_values"):
            final: Array | None = getattr(self, name)
            if final is not None:
                final = np.concatenate([final, np.zeros((extra, *final.shape[1:]), final.dtype)])
            fields[name] = final
        return _frozen(fields)

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """Return one batch of all the episodes, in order.

        Groups stay apart: the extra `group` is numbered anew, from 0, and one number in two batches
        becomes two groups. So the answers to one prompt belong in one batch.

        Raises:
            BatchError: no batches, or they do not all carry the same optional arrays.
            ShapeError: their observations or actions have different shapes.
        """
        if not batches:
            raise BatchError(
                "Batch.concatenate: expected at least 1 batch, got none; collect some first"
            )
        fields: dict[str, Any] = {}
        for name in ARRAYS:
            fields[name] = _joined(name, [getattr(batch, name) for batch in batches])
        names = {frozenset(batch.extras) for batch in batches}
        if len(names) > 1:
            raise BatchError(
                "Batch.concatenate: expected the same extras in all, got "
                f"{sorted(map(sorted, names))}; add the missing ones"
            )
        fields["extras"] = {
            name: _joined(f"extras[{name!r}]", [batch.extras[name] for batch in batches])
            for name in batches[0].extras
        }
        # `pgcore.returns.groups` refuses groups that are no [B] integers, so they stay as they are.
        groups = [batch.extras[GROUP] for batch in batches if GROUP in batch.extras]
        if groups and all(group.dtype.kind in "iu" and group.ndim == 1 for group in groups):
            fields["extras"][GROUP] = _numbered_apart(groups)
        return _frozen(fields)

    def record(self, values: ArrayLike, final_values: ArrayLike | None = None) -> Batch:
        """Return the batch with the critic's values of this moment.

        Args:
            values: [B] float. V(s_t), reward units; see `Batch`.
            final_values: [E] float or None. V after each episode's last step.

        Raises:
            ShapeError: there is not one value for each step, or for each episode.
            BatchError: a value is NaN or infinite.
        """
        fields = {name: getattr(self, name) for name in ARRAYS}
        fields |= {"values": values, "final_values": final_values}
        return Batch(**fields, extras=self.extras)

    def with_extras(self, **extras: ArrayLike) -> Batch:
        """Return the batch with further extras, [B, ...] each, in place of those of the same names.

        Raises:
            ShapeError: there is not one row for each step.
            BatchError: an extra is no array of real numbers, or holds NaN.
        """
        fields = {name: getattr(self, name) for name in ARRAYS}
        return Batch(**fields, extras={**self.extras, **extras})

    def save(self, path: str | Path) -> None:
        """Write the batch to a safetensors file, whole or not at all.

        Raises:
            FileError: the file cannot be written.
        """
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        arrays |= {f"extras.{name}": value for name, value in self.extras.items()}
        # An absent array has no entry, so that `load` leaves it at its default.
        present = {name: value for name, value in arrays.items() if value is not None}
        files.write(path, FORMAT, present, {})

    @staticmethod
    def load(path: str | Path) -> Batch:
        """Read a batch that `save` wrote, and validate it.

        Raises:
            FileError: the file cannot be read, or is not a batch.
            BatchError: its arrays are not a valid batch.
        """
        arrays, _ = files.read(path, FORMAT)
        names = [name for name in arrays if name.startswith("extras.")]
        extras = {name.removeprefix("extras."): arrays.pop(name) for name in names}
        try:
            return Batch(**arrays, extras=extras)
        except TypeError as error:
            raise FileError(
                f"{path}: expected the arrays of a batch, got {sorted(arrays)}; "
                f"save it again ({error})"
            ) from error


def _frozen(fields: dict[str, Any]) -> Batch:
    """Return a batch of fields that come from valid ones, read-only and not validated again."""
    for value in fields.values():
        # An index array makes writable copies; a slice makes read-only views.
        if type(value) is np.ndarray:
            value.flags.writeable = False
    for value in fields["extras"].values():
        value.flags.writeable = False
    return Batch.trusted(fields)


def _index_error(noun: str, count: int, reason: IndexError | tuple[int, ...]) -> BatchError:
    """Return the error for an index of steps or episodes: NumPy refuses it, or selects a shape."""
    advice = "check the index"
    if isinstance(reason, IndexError):
        rule, got = f"{noun} numbers in [0, {count})", f"others ({reason})"
    elif reason == (0,):
        rule, got = f"at least 1 {noun}", "an index that chooses none"
    else:
        rule, got = "a one-dimensional index", f"one that chooses shape {list(reason)}"
        advice = f"pass a list of {noun} numbers"
    return BatchError(f"Batch.{noun}s: expected {rule}, got {got}; {advice}")


def _numbered_apart(groups: Sequence[Array]) -> Array:
    """Return [B] integers of all batches' groups, no number in two batches."""
    numbers, first = list[Array](), 0
    for group in groups:
        # Any integers may number groups, so they are ranked before they are shifted.
        distinct, number = np.unique(group, return_inverse=True)
        numbers.append(first + number)
        first += len(distinct)
    return np.concatenate(numbers)


def _joined(name: str, values: list[Array | None]) -> Array | None:
    """Return one field of all batches, or raise unless all of them or none have it."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if len(present) < len(values):
        raise BatchError(
            f"Batch.concatenate: expected {name} in all batches or in none, got it in "
            f"{len(present)} of {len(values)}; add or drop it"
        )
    shapes = sorted({str(list(value.shape[1:])) for value in present})
    if len(shapes) > 1:
        raise ShapeError(
            f"Batch.concatenate: expected the same shape of {name} in all, got "
            f"{' and '.join(shapes)}; these do not belong together"
        )
    return np.concatenate(present)
