"""Rollouts: a policy's steps in the environments, as batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array, read_only
from pgcore_train.rollout.environments import Environments
from pgcore_train.rollout.exploration import Actor
from pgcore_train.rollout.normalisers import ObservationNormaliser, RewardNormaliser

__all__ = ["EPISODE_EXTRAS", "Rollout", "Rollouts"]

# The extras of a rollout of whole episodes.
EPISODE_EXTRAS = ("group",)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One batch, with the `F` episodes that finished in it.

    Attributes:
        fields: The arguments of `batch`, which may hold numbers that a batch refuses.
        steps: Environment steps, the discarded ones of whole-episode rollouts included.
        returns: [F] float64. Undiscounted returns of the finished episodes in the order of time,
            environment units.
        finished_at: [F] integer. Environment steps of the rollout at each one's end.
    """

    fields: Mapping[str, Any]
    steps: int
    returns: Array
    finished_at: Array

    @property
    def batch(self) -> Batch:
        """Each environment's steps in the order of time, one environment after the other.

        Episodes at the rollout's end are truncated there, and continue in the next rollout.

        Raises:
            BatchError: a reward or an observation is NaN or infinite; names it and the step.
        """
        return Batch(**self.fields)


class Rollouts:
    """Plays a policy in environments that continue from one rollout to the next.

    Attributes:
        observations: Normalises observations, or None.
        rewards: Normalises rewards, or None.
        lost: [N] bool. Whether the environment's episode in the state of the beginning could not be
            played again, so that another one started.
    """

    def __init__(
        self,
        environments: Environments,
        policy: Actor,
        rng: np.random.Generator,
        *,
        observations: ObservationNormaliser | None = None,
        rewards: RewardNormaliser | None = None,
        state: Mapping[str, Array] | None = None,
    ) -> None:
        """Start an episode in every environment, or go on with those of a state.

        Args:
            environments: `N` of them.
            policy: Chooses the actions with its current parameters.
            rng: Source of the actions.
            observations: Normalises observations.
            rewards: Normalises rewards.
            state: From a function that `moment` returned.
        """
        self.observations, self.rewards = observations, rewards
        self._environments, self._policy, self._rng = environments, policy, rng
        # Undiscounted returns so far of the episodes that the last rollout truncated.
        self._carried = np.zeros(environments.count)
        self.lost = np.zeros(environments.count, np.bool_)
        self._fresh = True
        if state is None:
            self._current = environments.reset()
            return
        self._current, self.lost = environments.load(state)
        if not self.lost.all():
            self._carried[~self.lost] = state["carried"][~self.lost]
            self._fresh = bool(state["fresh"][0])
        if self.rewards is not None:
            self.rewards.restart(self.lost)

    def steps(self, length: int) -> Rollout:
        """Return the next `length` steps of every environment, the last episodes truncated."""
        trace = _Trace(self._environments.count)
        for _ in range(length):
            self._step(trace)
        return self._rollout(trace, np.full(self._environments.count, length))

    def episodes(self, number: int, limit: int) -> Rollout:
        """Return `number` whole episodes of every environment, all started anew, as one group.

        The same number from each, so that short episodes are no likelier than long ones. Steps of
        an environment beyond its last episode, while others finish, are discarded.

        Args:
            number: At least 1.
            limit: Largest number of environment steps, all environments together.

        Raises:
            UnsupportedEnvironmentError: the limit was reached.
        """
        count = self._environments.count
        if not self._fresh:
            self._restart()
        trace = _Trace(count)
        lengths, finished = np.zeros(count, np.intp), np.zeros(count, np.intp)
        while not lengths.all():
            if trace.steps >= limit:
                raise UnsupportedEnvironmentError(
                    f"whole episodes: expected {number} from each of {count} environments within "
                    f"{limit} steps, got {int(finished.min())} from one; give the environment a "
                    "time limit, or choose an estimator that takes truncated episodes"
                )
            ended = self._step(trace)
            finished += ended
            lengths[ended & (finished == number)] = len(trace.rewards)
        # All start alike, so any two of them may be compared.
        return self._rollout(trace, lengths, group=np.zeros(lengths.sum(), np.intp))

    def moment(self) -> Callable[[], dict[str, Array]]:
        """Return a function that gives the state of now, also after further rollouts."""
        environments = self._environments.moment(self._current)
        now = {"carried": self._carried.copy(), "fresh": np.array([self._fresh])}
        return lambda: environments() | now

    def _restart(self) -> None:
        """Start an episode in every environment and forget the unfinished ones."""
        self._current = self._environments.reset()
        self._carried[:] = 0.0
        if self.rewards is not None:
            self.rewards.restart()

    def _step(self, trace: _Trace) -> Array:
        """Take one step in every environment; return [N] whether its episode ended."""
        self._fresh = False
        seen = self._current if self.observations is None else self.observations(self._current)
        mask = self._environments.action_mask
        actions, log_probs = self._policy.act(seen, self._rng, mask)
        trace.before(self._current, seen, actions, log_probs, mask)

        # The batch has the head's own actions, the environment those of its space.
        head = self._policy.spec.head
        following, rewards, terminated, truncated = self._environments.step(
            head.environment_actions(actions), bounded=head.bounded
        )
        ended = terminated | truncated
        trace.after(rewards, terminated, ended)
        if ended.any():
            # The next observation is overwritten by the restart, and is needed to bootstrap.
            for environment in np.flatnonzero(ended):
                trace.finals[environment].append(following[environment].copy())
                if (mask := self._environments.action_mask) is not None:
                    trace.final_masks[environment].append(mask[environment])
            following = self._environments.restart(ended)
        self._current = following
        return ended

    def _rollout(self, trace: _Trace, lengths: Array, **extras: Array) -> Rollout:
        """Return the rollout of each environment's first steps.

        Args:
            trace: T steps of N environments.
            lengths: [N] integer in [1, T].
            extras: [B] values of those steps.
        """
        select = _Selection(lengths, len(trace.rewards))
        rewards, ended = np.stack(trace.rewards, axis=1), np.stack(trace.ended, axis=1)
        # A reward that is not finite would stay in the running statistics for good.
        normalise = self.rewards if np.isfinite(rewards).all() else None
        scaled = rewards if normalise is None else normalise(rewards, ended)

        # An episode ends where the environment says so, and at each environment's last step.
        ended = select(ended)
        last = lengths.cumsum() - 1
        boundary = ended.copy()
        boundary[last] = True
        ends = np.flatnonzero(boundary)
        final = self._finals(trace.finals, self._current, lengths, ended, last)
        mask = None
        if trace.masks:
            mask = select(np.stack(trace.masks, axis=1))
            # The observation after an episode's last step is in no row, and neither is its mask.
            following = np.concatenate((mask[1:], mask[:1]))
            current = self._environments.action_mask
            assert current is not None
            following[ends] = self._finals(trace.final_masks, current, lengths, ended, last)
            extras = {**extras, "next_action_mask": following}
        fields = {
            "observations": select(np.stack(trace.seen, axis=1)),
            "actions": select(np.stack(trace.actions, axis=1)),
            "rewards": select(scaled),
            "episode_lengths": np.diff(ends, prepend=-1),
            "terminated": select(np.stack(trace.terminated, axis=1))[ends],
            "final_observations": final if self.observations is None else self.observations(final),
            "log_probs": select(np.stack(trace.log_probs, axis=1)),
            "action_mask": mask,
            "extras": extras,
        }
        # After the batch, so that its last observations are normalised as its first ones.
        if self.observations is not None:
            self.observations.update(select(np.stack(trace.raw, axis=1)))

        # Episodes are reported in the order of time, not environment by environment.
        returns = self._returns(select(rewards), ends, last, ended)
        whole = ended[ends]
        per_environment = np.diff(np.searchsorted(ends, last), prepend=-1)
        at = (ends - np.repeat(last - lengths + 1, per_environment))[whole]
        order = np.argsort(at, kind="stable")
        finished_at = (at[order] + 1) * self._environments.count
        return Rollout(fields, trace.steps, returns[whole][order], finished_at)

    def _finals(
        self,
        by_environment: list[list[Array]],
        current: Array,
        lengths: Array,
        ended: Array,
        last: Array,
    ) -> Array:
        """Return [E, ...] raw observations, or masks, after each episode's last step.

        Args:
            by_environment: Those after each environment's episodes that ended.
            current: [N, ...] those of now, after the last step.
            lengths: [N] integer, steps of each environment.
            ended: [B] bool, of those steps.
            last: [N] integer, index in [0, B) of each environment's last step.
        """
        finals: list[Array] = []
        for environment, rows in enumerate(by_environment):
            end = last[environment]
            episodes = np.count_nonzero(ended[end - lengths[environment] + 1 : end + 1])
            # Later ones belong to discarded steps.
            finals += rows[: int(episodes)]
            if not ended[end]:
                finals.append(current[environment].copy())
        return np.stack(finals)

    def _returns(self, rewards: Array, ends: Array, last: Array, ended: Array) -> Array:
        """Return [E] returns, earlier rollouts' part included; carry on those of open episodes."""
        returns = np.add.reduceat(rewards, np.append(0, ends[:-1] + 1))
        # Each environment's last episode; the one after it is the next environment's first.
        final = np.searchsorted(ends, last)
        returns[np.append(0, final[:-1] + 1)] += self._carried
        self._carried = np.where(ended[last], 0.0, returns[final])
        return returns


class _Selection:
    """Each environment's first steps of a trace, one environment after the other."""

    def __init__(self, lengths: Array, length: int) -> None:
        """Select the first `lengths`, [N], of `length` steps."""
        # Without a mask no copy is needed, as in every rollout that is not of whole episodes.
        whole = (lengths == length).all()
        self._mask = None if whole else np.arange(length) < lengths[:, None]

    def __call__(self, array: Array) -> Array:
        """Return [B, ...], read-only, of [N, T, ...]; the array is given up."""
        if self._mask is not None:
            return read_only(array[self._mask])
        return read_only(array).reshape(-1, *array.shape[2:])


class _Trace:
    """The steps of a rollout: lists over time of [N, ...] arrays."""

    def __init__(self, envs: int) -> None:
        """Start without steps."""
        # Raw observations are noted only if the policy sees others.
        self.raw: list[Array] = []
        self.seen: list[Array] = []
        self.actions: list[Array] = []
        self.log_probs: list[Array] = []
        self.rewards: list[Array] = []
        self.terminated: list[Array] = []
        self.ended: list[Array] = []
        # By environment: the observation after each of its episodes.
        self.finals: list[list[Array]] = [[] for _ in range(envs)]
        # Where environments mask actions: the masks of each step, and those beside the finals.
        self.masks: list[Array] = []
        self.final_masks: list[list[Array]] = [[] for _ in range(envs)]

    @property
    def steps(self) -> int:
        """Environment steps in it."""
        return len(self.rewards) * len(self.finals)

    def before(
        self, raw: Array, seen: Array, actions: Array, log_probs: Array, mask: Array | None
    ) -> None:
        """Note observations and actions; `raw` is a view that is about to be overwritten."""
        if mask is not None:
            self.masks.append(mask)
        if seen is raw:
            seen = raw.copy()
        else:
            self.raw.append(raw.copy())
        self.seen.append(seen)
        self.actions.append(actions)
        self.log_probs.append(log_probs)

    def after(self, rewards: Array, terminated: Array, ended: Array) -> None:
        """Note the outcome, [N] each."""
        self.rewards.append(rewards)
        self.terminated.append(terminated)
        self.ended.append(ended)
