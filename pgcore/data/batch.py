"""Batches: episodes with the observations and actions that a policy needs."""

# Constructors of a batch need more arguments than those of episodes.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.episodes import GROUP, Episodes, Index
from pgcore.errors import BatchError
from pgcore.validation.arrays import Array, read_only
from pgcore.validation.observations import ObservationsLike

__all__ = ["GROUP", "Batch", "Index"]


class Batch(Episodes):
    """Steps of whole or truncated episodes, one episode after the other.

    `B` steps in all, `E` episodes. Arrays are read-only: writable ones are copied, others shared.
    One-step episodes, as `steps` makes them, are a replay batch: `next_observations` is s_{t+1}.

    Attributes:
        observations: [B, ...] number. The policy's inputs; [B] integers for a `Table`. Of a dict of
            such arrays a structured array: `observations["camera"]` is one of them, and an adopted
            network gets them as a dict.
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
        layout, like: See `Episodes`.
    """

    per_step: ClassVar[tuple[str, ...]] = (
        "observations",
        "actions",
        "action_mask",
        *Episodes.per_step,
    )
    per_episode: ClassVar[tuple[str, ...]] = (*Episodes.per_episode, "final_observations")
    file_format: ClassVar[str] = "pgcore.batch"  # other releases read it

    observations: Array
    actions: Array
    action_mask: Array | None

    def __init__(
        self,
        *,
        observations: ObservationsLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        episode_lengths: ArrayLike,
        terminated: ArrayLike,
        final_observations: ObservationsLike | None = None,
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
        self._hold(arguments)

    @classmethod
    def from_steps(
        cls,
        *,
        observations: ObservationsLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike | None = None,
        episode: ArrayLike | None = None,
        next_observations: ObservationsLike | None = None,
        final_observations: ObservationsLike | None = None,
        action_mask: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        final_values: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """See `Episodes.from_steps`; [B, ...] observations and actions, one row for each step.

        Args:
            observations: [B, ...] number.
            actions: [B] or [B, n].
            rewards: See `Episodes.from_steps`, also for all that follow and are not below.
            terminated: [B] bool.
            truncated: [B] bool.
            episode: [B] integer or string.
            next_observations: [B, ...] number. The observation after each step. Inside an episode it
                is the next row's; after the last row it is the final observation.
            final_observations: [E, ...] number, in place of `next_observations`.
            action_mask: [B, A] bool.
            log_probs: [B] number.
            values: [B] number.
            final_values: [E] number.
            discount: [B] number.
            extras: [B, ...] by name.

        Raises:
            ShapeError: an array has not one row for each step.
            BatchError: next observations that are not those of the next row, or see
                `Episodes.from_steps`.

        Example:
            >>> batch = pg.Batch.from_steps(
            ...     observations=[[0.0], [1.0], [5.0]], actions=[0, 1, 0], rewards=[1.0, 2.0, 3.0],
            ...     terminated=[0, 0, 1], truncated=[0, 1, 0], next_observations=[[1.0], [2.0], [6.0]])
            >>> batch.final_observations.tolist()
            [[2.0], [6.0]]
        """
        return cls._read("from_steps", locals())

    @classmethod
    def from_rollout(
        cls,
        *,
        observations: ObservationsLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
        final_observations: ObservationsLike | Sequence[Any] | None = None,
        last_observations: ObservationsLike | None = None,
        action_mask: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        final_values: ArrayLike | Sequence[Any] | None = None,
        last_values: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
        previous_done: ArrayLike | None = None,
        order: str = "time",
        autoreset: str = "next_step",
    ) -> Self:
        """See `Episodes.from_rollout`; observations and actions are laid out as the rewards are.

        A truncated episode needs the observation that followed it, or its value.

        Args:
            observations: [T, N, ...] number. The observation before each step.
            actions: [T, N] or [T, N, n].
            rewards: See `Episodes.from_rollout`, also for all that follow and are not below.
            terminated: [T, N] bool.
            truncated: [T, N] bool.
            final_observations: [T, N, ...] number, read where an episode was truncated: the
                observation of that step, before any reset. Lists may hold None elsewhere, as those of
                `info["final_obs"]` do under "same_step". Under "next_step" it is the next row's.
            last_observations: [N, ...] number. The observations after the last row.
            action_mask: [T, N, A] bool.
            log_probs: [T, N] number.
            values: [T, N] number.
            final_values: [T, N] number.
            last_values: [N] number.
            discount: [T, N] number.
            extras: [T, N, ...] by name.
            previous_done: [N] bool.
            order: "time" or "env".
            autoreset: "next_step", "same_step" or "disabled".

        Raises:
            ShapeError: an array is not laid out as the rewards are.
            BatchError: a final observation that is not the next row's under "next_step", or see
                `Episodes.from_rollout`.

        Example:
            >>> batch = pg.Batch.from_rollout(  # the third row is the reset, of the final observation
            ...     observations=[[[0.0]], [[1.0]], [[2.0]], [[7.0]]], actions=[[0], [1], [0], [1]],
            ...     rewards=[[1.0], [2.0], [0.0], [3.0]], terminated=[[0], [0], [0], [0]],
            ...     truncated=[[0], [1], [0], [0]], last_observations=[[8.0]])
            >>> batch.observations.ravel().tolist(), batch.final_observations.ravel().tolist()
            ([0.0, 1.0, 7.0], [2.0, 8.0])
        """
        return cls._read("from_rollout", locals())

    @classmethod
    def from_padded(
        cls,
        *,
        observations: ObservationsLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        mask: ArrayLike,
        truncated: ArrayLike | None = None,
        final_observations: ObservationsLike | None = None,
        action_mask: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        rollout_log_probs: ArrayLike | None = None,
        reference_log_probs: ArrayLike | None = None,
        loss_mask: ArrayLike | None = None,
        group: ArrayLike | None = None,
        values: ArrayLike | None = None,
        final_values: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """See `Episodes.from_padded`; observations and actions are laid out as the mask is.

        Args:
            observations: [E, T, ...] number.
            actions: [E, T] or [E, T, n].
            rewards: See `Episodes.from_padded`, also for all that follow and are not below.
            mask: [E, T] bool.
            truncated: [E] bool.
            final_observations: [E, ...] number.
            action_mask: [E, T, A] bool.
            log_probs: [E, T] number.
            rollout_log_probs: [E, T] number.
            reference_log_probs: [E, T] number.
            loss_mask: [E, T] bool.
            group: [E] integer.
            values: [E, T] number.
            final_values: [E] number.
            discount: [E, T] number.
            extras: [E, T, ...] by name.

        Raises:
            ShapeError, BatchError: see `Episodes.from_padded`.

        Example:
            >>> batch = pg.Batch.from_padded(
            ...     observations=[[3, 4, 0], [5, 0, 0]], actions=[[4, 1, 0], [1, 0, 0]],
            ...     rewards=[1.0, -1.0], mask=[[1, 1, 0], [1, 0, 0]])
            >>> batch.observations.tolist(), batch.actions.tolist(), batch.rewards.tolist()
            ([3, 4, 5], [4, 1, 1], [0.0, 1.0, -1.0])
        """
        return cls._read("from_padded", locals())

    @classmethod
    def from_replay(
        cls,
        *,
        observations: ObservationsLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminated: ArrayLike,
        next_observations: ObservationsLike | None = None,
        action_mask: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        next_values: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """See `Episodes.from_replay`; with an observation and an action for each transition.

        Args:
            observations: [B, ...] number.
            actions: [B] or [B, n].
            rewards: See `Episodes.from_replay`, also for all that follow and are not below.
            terminated: [B] bool.
            next_observations: [B, ...] number, not read after a terminal step.
            action_mask: [B, A] bool. The extra `next_action_mask` has that of the next state.
            log_probs: [B] number.
            values: [B] number.
            next_values: [B] number.
            discount: [B] number.
            weights: [B] number.
            extras: [B, ...] by name.

        Raises:
            ShapeError, BatchError: see `Episodes.from_replay`.

        Example:
            >>> batch = pg.Batch.from_replay(
            ...     observations=[[0.0], [4.0]], actions=[1, 0], rewards=[1.0, 2.0],
            ...     terminated=[False, True], next_observations=[[1.0], [0.0]], weights=[0.5, 1.0])
            >>> batch.next_observations.tolist(), batch.extras["weights"].tolist()
            ([[1.0], [4.0]], [0.5, 1.0])
        """
        return cls._read("from_replay", locals())

    def __repr__(self) -> str:
        """Return the sizes."""
        observations = self.held("observations")
        names, shape = observations.dtype.names, list(observations.shape)
        return f"{super().__repr__()[:-1]}, observations {shape if names is None else ', '.join(names)})"

    @cached_property
    def final_observations(self) -> Array | None:
        """[E, ...] number or None. See `Batch`."""
        parent, index = cast("tuple[Batch, Index]", self._source)
        if parent.final_observations is None and not parent.terminated.all():
            return None
        return read_only(parent.next_observations[index])

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
        extra = super().next_action_mask
        if extra is not None or self.action_mask is None:
            return extra
        # A part of a batch asks the whole one, which has the steps after its own.
        if "_source" in self.__dict__:
            parent, index = cast("tuple[Batch, Index]", self._source)
            return read_only(cast("Array", parent.next_action_mask)[index])
        following = np.ones_like(self.action_mask)
        following[:-1] = self.action_mask[1:]
        following[self.episode_ends] = True
        return read_only(following)

    def check_bootstrap(self) -> None:
        """Raise BatchError unless every truncated episode has a final observation."""
        if self.final_observations is None and not self.terminated.all():
            episode = int(np.argmin(self.terminated))
            raise BatchError(
                "Batch.final_observations: expected one for every truncated episode, got none and "
                f"episode {episode} did not terminate; pass the observation after its last step"
            )
