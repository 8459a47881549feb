"""Episodes of different lengths in flat arrays, validated once and immutable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data import files
from pgcore.data.held import Held
from pgcore.data.layout import Layout, saved_layout
from pgcore.errors import BatchError, FileError
from pgcore.validation.arrays import Array, PutOff, numbers_at, read_only, rows_at
from pgcore.validation.batch_fields import LOSS_MASK, OPTIONAL_REALS
from pgcore.validation.fields import count, ensure_rng, instance_check
from pgcore.validation.observations import by_name
from pgcore.wording import shown

__all__ = ["BESIDE", "GROUP", "Episodes", "Index", "ensure_episodes", "saved_arrays"]

Index = slice | range | list[int] | Array  # NumPy's indices of one axis
MUTABLE = (list, np.ndarray)  # the kinds of index that a caller may change later
BESIDE = "beside."  # begins the names of a file's arrays that are not the episodes'
GROUP = "group"  # the extra that numbers groups of episodes; see `pgcore.returns.groups`


class _OfBatches:
    """An attribute that only a batch has: of episodes it is an error that says so.

    It has no `__set__`, so that a batch's own arrays hide it. A part of a batch gathers them.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        """Keep the name."""
        self.name = name

    def __get__(self, episodes: object, owner: type) -> Any:
        """Refuse."""
        if episodes is None:
            return self
        # `Episodes.__getattr__` then gathers the field of a batch's part.
        if isinstance(episodes, Episodes) and self.name in episodes.per_step:
            raise AttributeError(f"{type(episodes).__name__!r} object has no {self.name!r} yet")
        raise BatchError(
            f"Episodes.{self.name}: expected a batch, got episodes without observations and actions; "
            "pass a pgcore.Batch, or what a policy would compute: values and log_probs"
        )


class Episodes(Held):
    """Steps of whole or truncated episodes, one episode after the other: all that signals need.

    `B` steps in all, `E` episodes. Arrays are read-only: writable ones are copied, others shared.
    A `pgcore.Batch` has observations and actions too.

    Attributes:
        rewards: [B] float64, environment units.
        episode_lengths: [E] integer. Steps of each episode, at least 1, summing to B.
        terminated: [E] bool. Whether the episode reached a terminal state, and was not truncated.
        log_probs: [B] float64 or None. log pi of the actions under the behaviour policy, nats.
        values: [B] float64 or None. V(s_t) of the critic at the time, reward units. Signals read
            them in place of the current critic's; see `pgcore.interfaces.recorded`.
        final_values: [E] float64 or None. V of the state after each episode's last step, 0 for
            terminated episodes. Signals bootstrap from them without final observations.
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
        layout: The place of each step in the arrays that a constructor such as `from_padded` read;
            None for flat arrays, and for parts of laid-out episodes.
        like: The first array that was a framework's, without its entries, which shows framework and
            device; None for NumPy's arrays and lists. Files do not have it.

    Floats on an accelerator stay there, in the dtype of `device`. Their attributes are copied to the
    host, and their numbers checked, where somebody reads them.

    Example:
        >>> episodes = pg.Episodes(rewards=[1.0, 2.0, 3.0], episode_lengths=[2, 1], terminated=[True, True])
        >>> episodes
        Episodes(3 steps, 2 episodes)
        >>> episodes.step_in_episode.tolist()
        [0, 1, 0]
    """

    # Fields with a row for each step, and those with a row for each episode.
    per_step: ClassVar[tuple[str, ...]] = ("rewards", *OPTIONAL_REALS)
    per_episode: ClassVar[tuple[str, ...]] = ("episode_lengths", "terminated", "final_values")
    file_format: ClassVar[str] = "pgcore.episodes"  # the mark of saved files

    rewards: Array
    log_probs: Array | None
    values: Array | None
    step_weights: Array | None
    discount: Array | None
    extras: Mapping[str, Array]
    layout: Layout | None = None
    _source: tuple[Any, Index]  # of episodes that `steps` made: their parent and its index
    _rows: tuple[Any, Index]  # of a part that a device may gather: parent and index of steps
    _fits: object = None  # the spec that a batch was last found to fit
    checks: Sequence[PutOff] = ()  # see `remember_fit`
    _on_device: bool = False  # whether a policy gathers parts on its device; see `remember_device`

    def __init__(
        self,
        *,
        rewards: ArrayLike,
        episode_lengths: ArrayLike,
        terminated: ArrayLike,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        final_values: ArrayLike | None = None,
        step_weights: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Validate and freeze the arrays.

        Raises:
            ShapeError: lengths disagree, or an array has the wrong number of dimensions.
            BatchError: no steps, an empty episode, NaN or infinity, or a discount outside [0, 1].
                It names the array and the first such row.
        """
        arguments: dict[str, Any] = {"rewards": rewards, "log_probs": log_probs}
        arguments |= {"values": values, "step_weights": step_weights, "terminated": terminated}
        arguments |= {"episode_lengths": episode_lengths, "final_values": final_values}
        arguments |= {"discount": discount, "extras": extras}
        self._hold(arguments)

    if not TYPE_CHECKING:  # a checker then knows that only a batch has them
        observations, actions, action_mask = _OfBatches(), _OfBatches(), _OfBatches()
        final_observations, next_observations = _OfBatches(), _OfBatches()

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse every change."""
        kind = type(self).__name__
        raise AttributeError(
            f"{kind}.{name}: expected no assignment, got one; batches are frozen, so make a new one"
        )

    def __getattr__(self, name: str) -> Any:
        """Return a field at its first use: a part's, gathered, or one that is copied from a device."""
        if name in self._resident or (name == "extras" and self._resident):
            self.__dict__[name] = value = self._copied_field(name)
            return value
        if name not in (*self.per_step, "extras") or "_rows" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        whole, index = self._rows
        if name == "extras":
            value: Any = {key: read_only(rows_at(x, index)) for key, x in whole.extras.items()}
        else:
            rows: Array | None = getattr(whole, name)
            value = None if rows is None else read_only(rows_at(rows, index))
        self.__dict__[name] = value
        return value

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields; a copy knows no device, and of a part no rows of another batch."""
        names = (*self.per_step, "extras", *self._resident.keys() & {*self.per_episode})
        gathered = {name: getattr(self, name) for name in names}
        left_out = ("_rows", "_count", "_on_device", "_resident", "_arguments", "_extras")
        left_out += ("place", "checks", *(("_fits",) if self.checks else ()))
        return {
            name: value for name, value in vars(self).items() if name not in left_out
        } | gathered

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Freeze the arrays again, which `pickle` and `copy` return writable."""
        self.__dict__.update(self._frozen(state).__dict__)

    def __repr__(self) -> str:
        """Return the sizes."""
        return f"{type(self).__name__}({self.num_steps} steps, {self.num_episodes} episodes)"

    @property
    def num_steps(self) -> int:
        """B, padding included."""
        fields = self.__dict__
        if "rewards" in fields:
            return len(fields["rewards"])
        if "rewards" in self._resident:
            return len(self._resident["rewards"])
        return fields["_count"] if "_count" in fields else len(self.rewards)

    @property
    def num_episodes(self) -> int:
        """E, padding included."""
        return len(self.episode_lengths)

    # `__init__` sets the next ones itself. Episodes that `steps` made compute them on demand:
    # PPO's inner loop never needs them.

    @cached_property
    def episode_lengths(self) -> Array:
        """[E] integer. See `Episodes`."""
        return read_only(np.ones(self.num_steps, np.intp))

    @cached_property
    def terminated(self) -> Array:
        """[E] bool. See `Episodes`."""
        parent, index = self._source
        # A step terminates if it is the last one of a terminated episode.
        ends = np.zeros(parent.num_steps, np.bool_)
        ends[parent.episode_ends] = parent.terminated
        return read_only(ends[index])

    @cached_property
    def final_values(self) -> Array | None:
        """[E] float64 or None. See `Episodes`; inside an episode, the next step's recorded value."""
        parent, index = self._source
        if parent.values is None or (parent.final_values is None and not parent.terminated.all()):
            return None
        # A step inside an episode is followed by the next step, whose value was recorded.
        following = np.empty(parent.num_steps)
        following[:-1] = parent.values[1:]
        following[parent.episode_ends] = 0.0 if parent.final_values is None else parent.final_values
        return read_only(following[index])

    @cached_property
    def like(self) -> Any:
        """A framework's array without entries, or None. See `Episodes`."""
        return self._source[0].like if "_source" in self.__dict__ else None

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
    def next_action_mask(self) -> Array | None:
        """[B, A] bool or None. Possible actions after each step: the extra."""
        extra = self.extras.get("next_action_mask")
        return None if extra is None else read_only(extra != 0)

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

    def fits(self, spec: object) -> bool:
        """Whether this batch, or its parent, was found to fit this very spec object."""
        return self._fits is spec

    def remember_fit(self, spec: object, checks: list[PutOff]) -> None:
        """Remember that this batch fits a spec; every part of it does too.

        Args:
            spec: The very object.
            checks: Those that read numbers on a device, for the policy to run.
        """
        self.__dict__.update(_fits=spec, checks=checks)

    def run_checks(self) -> None:
        """Run the checks that read numbers on a device, each until it has passed."""
        for check in self.checks:
            check.run()

    @property
    def root(self) -> Self:
        """The batch that this is a part of, of any depth; itself without one."""
        batch = self
        while "_rows" in batch.__dict__:
            batch = cast("Self", batch._rows[0])
        return batch

    def whole(self) -> tuple[Self, Array | None]:
        """Return the batch that this is a part of, and the numbers of its steps there; itself and None."""
        batch, rows = self, None
        while "_rows" in batch.__dict__:
            batch, index = cast("tuple[Self, Index]", batch._rows)
            above = numbers_at(batch.num_steps, index)
            rows = above if rows is None else above[rows]
        return batch, rows

    def remember_device(self) -> None:
        """Let parts gather fields at their first use, since a policy gathers them on its device."""
        self.__dict__["_on_device"] = True

    @classmethod
    def trusted(cls, fields: Mapping[str, Any]) -> Self:
        """Return episodes of valid and read-only fields and cached properties, unchecked."""
        episodes = object.__new__(cls)
        episodes.__dict__.update(fields)
        return episodes

    @classmethod
    def _frozen(cls, fields: dict[str, Any]) -> Self:
        """Return episodes of fields that come from valid ones, read-only and not validated again."""
        for value in fields.values():
            # An index array makes writable copies; a slice makes read-only views.
            if type(value) is np.ndarray:
                value.setflags(write=False)  # in half the time of `flags`
        for value in fields.get("extras", {}).values():
            value.setflags(write=False)
        return cls.trusted(fields)

    def steps(self, index: Index) -> Self:
        """Return steps as one-step episodes, without validating them again.

        Args:
            index: Step numbers in [0, B), a slice, or a [B] bool mask.

        Raises:
            BatchError: the index is out of range, selects no step or is not one-dimensional.
        """
        try:
            fields, shape = self._part_fields(index)
        except (IndexError, ValueError) as error:  # ValueError for rows of several lengths
            raise self._index_error("step", self.num_steps, error) from error
        if len(shape) != 1 or shape == (0,):
            raise self._index_error("step", self.num_steps, shape)
        if "_rows" not in fields:
            # The caller may change its index later.
            fields["_rows"] = (self, index.copy() if isinstance(index, MUTABLE) else index)
        fields["_source"] = fields["_rows"]
        return self._frozen(fields)

    def episodes(self, index: Index) -> Self:
        """Return episodes, in the order of the index.

        Args:
            index: Episode numbers in [0, E), a slice, or a [E] bool mask.

        Raises:
            BatchError: the index is out of range, selects no episode or is not one-dimensional.
        """
        numbers, steps = self.episode_steps(index)
        fields, _ = self._part_fields(steps)
        fields["like"] = self.like
        for name in self.per_episode:
            value: Array | None = getattr(self, name)
            fields[name] = None if value is None else value[numbers]
        return self._frozen(fields)

    def episode_steps(self, index: Index) -> tuple[Array, Array]:
        """Return the numbers of some episodes, and those of all their steps; see `episodes`."""
        try:
            numbers = np.arange(self.num_episodes)[index]
        except (IndexError, ValueError) as error:
            raise self._index_error("episode", self.num_episodes, error) from error
        if numbers.ndim != 1 or len(numbers) == 0:
            raise self._index_error("episode", self.num_episodes, numbers.shape)
        # Each episode's run of step numbers, without a loop over episodes.
        lengths = self.episode_lengths[numbers]
        starts = np.repeat(self.episode_starts[numbers] - (lengths.cumsum() - lengths), lengths)
        return numbers, starts + np.arange(len(starts))

    def _part_fields(self, index: Index) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return the fields of the steps at an index, and its shape; on a device some come later."""
        if not self._on_device and not self._resident:
            fields = self._step_fields(index)
            return fields, fields["rewards"].shape
        rows = numbers_at(self.num_steps, index)
        fields = {"_rows": (self, rows), "_on_device": True, "_fits": self._fits}
        fields |= {"checks": self.checks, "_count": rows.size}
        return fields, rows.shape

    def _step_fields(self, index: Index) -> dict[str, Any]:
        """Return the fields with a row for each step, at an index."""
        later = self._on_device or self._resident
        arrays = self.__getstate__() if later else self.__dict__
        extras: Mapping[str, Array] = arrays["extras"]
        # Copies of arrays on a device are checked anew.
        fits = None if self.checks else self._fits
        fields: dict[str, Any] = {"_fits": fits, "extras": extras}
        for name in self.per_step:
            value = arrays[name]
            fields[name] = None if value is None else rows_at(value, index)
        if extras:
            fields["extras"] = {name: rows_at(value, index) for name, value in extras.items()}
        return fields

    def minibatches(self, size: int, rng: np.random.Generator) -> Iterator[Array]:
        """Yield the step numbers of each minibatch of one pass over the batch, in random order.

        Args:
            size: Steps of a minibatch; the last one may be smaller.
            rng: The order's source.

        Raises:
            BatchError: size below 1.
        """
        count(f"{type(self).__name__}.minibatches size", size, BatchError)
        ensure_rng(f"{type(self).__name__}.minibatches rng", rng)
        # One permutation a pass, so that every step is drawn exactly once.
        order = rng.permutation(self.num_steps)
        yield from (order[start : start + size] for start in range(0, self.num_steps, size))

    def pad(self, num_steps: int) -> Self:
        """Return the batch with steps of weight 0 added up to `num_steps`; gradients stay the same.

        Each repeats the last step with reward 0, as a terminated episode of one step: in a longer
        one a product of ratios could overflow.

        Raises:
            BatchError: num_steps is below the batch's own number.
        """
        extra = count(f"{type(self).__name__}.pad", num_steps, BatchError) - self.num_steps
        if extra < 0:
            raise BatchError(
                f"{type(self).__name__}.pad: expected at least {self.num_steps} steps, got {num_steps}; "
                "slice the batch instead"
            )
        if extra == 0:
            return self
        try:
            fields = self._step_fields(np.minimum(np.arange(num_steps), self.num_steps - 1))
        except (MemoryError, ValueError) as error:
            raise BatchError(
                f"{type(self).__name__}.pad: expected a number of steps that fits into memory, got "
                f"{shown(num_steps)}; pad to fewer"
            ) from error
        fields["like"] = self.like
        fields["rewards"][self.num_steps :] = 0.0
        weights = np.ones(self.num_steps) if self.step_weights is None else self.step_weights
        fields["step_weights"] = np.append(weights, np.zeros(extra))
        fields["episode_lengths"] = np.append(self.episode_lengths, np.ones(extra, np.intp))
        fields["terminated"] = np.append(self.terminated, np.ones(extra, np.bool_))
        # Final rows of terminated episodes are never read, so 0 will do.
        for name in set(self.per_episode) - {"episode_lengths", "terminated"}:
            final: Array | None = getattr(self, name)
            if final is not None:
                final = np.concatenate([final, np.zeros((extra, *final.shape[1:]), final.dtype)])
            fields[name] = final
        return self._frozen(fields)

    @classmethod
    def concatenate(cls, batches: Sequence[Episodes]) -> Self:
        """Return all the episodes, in order.

        Groups stay apart: the extra `group` is numbered anew, from 0, and one number in two batches
        becomes two groups. So the answers to one prompt belong in one batch.

        Raises:
            BatchError: no batches, or they do not all carry the same optional arrays.
            ShapeError: their observations or actions have different shapes.
        """
        from pgcore.data.joining import joined, numbered_apart

        where = f"{cls.__name__}.concatenate"
        if not isinstance(batches, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BatchError(f"{where}: expected several, got {shown(batches)}; pass a list")
        batches = [*batches]
        if not batches:
            raise BatchError(f"{where}: expected at least 1 batch, got none; collect some first")
        for number, batch in enumerate(batches):
            ensure_episodes(f"{where}[{number}]", batch)
        fields: dict[str, Any] = {}
        for name in (*cls.per_step, *cls.per_episode):
            fields[name] = joined(where, name, [getattr(batch, name) for batch in batches])
        names = {frozenset(batch.extras) for batch in batches}
        if len(names) > 1:
            raise BatchError(
                f"{where}: expected the same extras in all, got "
                f"{sorted(map(sorted, names))}; add the missing ones"
            )
        fields["extras"] = {
            name: joined(where, f"extras[{name!r}]", [batch.extras[name] for batch in batches])
            for name in batches[0].extras
        }
        # `pgcore.returns.groups` refuses groups that are no [B] integers, so they stay as they are.
        groups = [batch.extras[GROUP] for batch in batches if GROUP in batch.extras]
        if groups and all(group.dtype.kind in "iu" and group.ndim == 1 for group in groups):
            fields["extras"][GROUP] = numbered_apart(groups)
        fields["like"] = batches[0].like
        return cls._frozen(fields)

    def record(self, values: ArrayLike, final_values: ArrayLike | None = None) -> Self:
        """Return the episodes with the critic's values of this moment.

        Args:
            values: [B] float. V(s_t), reward units; see `Episodes`.
            final_values: [E] float or None. V after each episode's last step.

        Raises:
            ShapeError: there is not one value for each step, or for each episode.
            BatchError: a value is NaN or infinite.
        """
        return self._replaced(values=values, final_values=final_values)

    def with_extras(self, **extras: ArrayLike) -> Self:
        """Return the episodes with further extras, [B, ...] each, in place of those of the same names.

        Raises:
            ShapeError: there is not one row for each step.
            BatchError: an extra is no array of real numbers, or holds NaN.
        """
        return self._replaced(extras={**self.held("extras"), **extras})

    def _replaced(self, **fields: Any) -> Self:
        """Return the same steps with some fields replaced, validated again."""
        names = (*self.per_step, *self.per_episode)
        present = {name: self.held(name) for name in (*names, "extras")}
        result = type(self)(**(present | fields))
        like = result.like if self.like is None else self.like
        result.__dict__.update(layout=self.layout, like=like)
        return result

    def save(
        self,
        path: str | Path,
        *,
        beside: Mapping[str, Array] = MappingProxyType({}),
        texts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Write arrays and layout to a safetensors file, whole or not at all; `load` gives every bit back.

        Args:
            path: The file.
            beside: Further arrays by name, such as signals, which `load` leaves out.
            texts: Further strings by name, which `load` leaves out.

        Raises:
            FileError: the file cannot be written.

        Example:
            >>> import tempfile
            >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
            ...                  episode_lengths=[2], terminated=[True])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     batch.save(f"{folder}/batch.safetensors")
            ...     pg.Batch.load(f"{folder}/batch.safetensors").rewards.tolist()
            [1.0, 2.0]
        """
        names = (*self.per_step, *self.per_episode)
        fields = {name: getattr(self, name) for name in names}
        arrays = saved_arrays({**fields, "extras": self.extras})
        if self.layout is not None:
            arrays["layout.shape"] = np.array(self.layout.shape, np.int64)
            arrays["layout.positions"] = self.layout.positions
        arrays |= {f"{BESIDE}{name}": value for name, value in beside.items()}
        files.write(path, self.file_format, arrays, texts)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the episodes that `save` wrote, validated.

        Raises:
            FileError: the file cannot be read, is of another kind, or has an impossible layout.
            BatchError: its arrays are not valid.
        """
        arrays, _ = files.read(path, cls.file_format)
        arrays = {name: x for name, x in arrays.items() if not name.startswith(BESIDE)}
        shape, positions = arrays.pop("layout.shape", None), arrays.pop("layout.positions", None)
        arguments: dict[str, Any] = {}
        for name, value in arrays.items():
            field, dot, part = name.partition(".")
            if dot:
                arguments.setdefault(field, {})[part] = value
        plain = {name: value for name, value in arrays.items() if "." not in name}
        if both := sorted(plain.keys() & arguments.keys()):
            raise FileError(
                f"{path}: expected one array of {both[0]} or several by name, got both; save it again"
            )
        arguments = {"extras": {}, **arguments, **plain}
        try:
            result = cls(**arguments)
        except TypeError as error:
            raise FileError(
                f"{path}: expected the arrays of a {cls.file_format} file, got {sorted(arrays)}; "
                f"save it again ({error})"
            ) from error
        result.__dict__["layout"] = saved_layout(path, shape, positions, result.num_steps)
        return result

    def _index_error(
        self, noun: str, count: int, reason: Exception | tuple[int, ...]
    ) -> BatchError:
        """Return the error for an index of steps or episodes: NumPy refuses it, or selects a shape."""
        advice = "check the index"
        if isinstance(reason, Exception):
            rule, got = f"{noun} numbers in [0, {count})", f"others ({reason})"
        elif reason == (0,):
            rule, got = f"at least 1 {noun}", "an index that chooses none"
        else:
            rule, got = "a one-dimensional index", f"one that chooses shape {list(reason)}"
            advice = f"pass a list of {noun} numbers"
        return BatchError(f"{type(self).__name__}.{noun}s: expected {rule}, got {got}; {advice}")


ensure_episodes = instance_check(Episodes, "pgcore.Batch(...)", BatchError)


def saved_arrays(fields: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays of a file of episodes, by name.

    Args:
        fields: Arrays by field, those of `extras` by name, and None for absent ones.
    """
    extras: Mapping[str, Any] = fields.get("extras") or {}
    flat = {name: value for name, value in fields.items() if name != "extras"}
    flat |= {f"extras.{name}": value for name, value in extras.items()}
    # An absent array has no entry, so that `load` leaves it at its default.
    arrays: dict[str, Array] = {}
    for name, value in flat.items():
        for part, array in ({} if value is None else by_name(value)).items():
            arrays[f"{name}.{part}" if part else name] = array
    return arrays
