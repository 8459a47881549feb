"""Rollouts: what a policy does in the environments, as batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array, read_only
from pgcore_train.rollout.environments import Environments
from pgcore_train.rollout.exploration import Actor
from pgcore_train.rollout.normalisers import ObservationNormaliser, RewardNormaliser

__all__ = ["Rollout", "Rollouts"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One batch and what is worth reporting of it; `F` episodes finished.

    Attributes:
        batch: Each environment's steps in the order of time, one environment after the other. Episodes that the rollout's
            end cut off are not terminated, and go on in the next rollout.
        steps: Environment steps taken, the discarded ones of whole-episode rollouts included.
        returns: [F] float64. Undiscounted returns of the episodes that finished, in the order of time, environment units.
        finished_at: [F] integer. Environment steps taken when each of them had finished.
    """

    batch: Batch
    steps: int
    returns: Array
    finished_at: Array


class Rollouts:
    """Plays a policy in environments that go on from one rollout to the next.

    Attributes:
        observations: Normalises observations, or None.
        rewards: Normalises rewards, or None.
    """

    def __init__(
        self,
        environments: Environments,
        policy: Actor,
        rng: np.random.Generator,
        *,
        seeds: list[int],
        observations: ObservationNormaliser | None = None,
        rewards: RewardNormaliser | None = None,
    ) -> None:
        """Start an episode in every environment, each with its own seed.

        Args:
            environments: `N` of them.
            policy: Chooses the actions with its current parameters.
            rng: Where actions come from.
            seeds: One for each environment.
            observations: Normalises observations.
            rewards: Normalises rewards.
        """
        self.observations, self.rewards = observations, rewards
        self._environments, self._policy, self._rng = environments, policy, rng
        self._current = environments.reset(seeds)
        self._fresh = True
        self._carried = np.zeros(environments.count)

    def steps(self, length: int) -> Rollout:
        """Return the next `length` steps of every environment, episodes cut where the rollout ends."""
        trace = _Trace(self._environments.count)
        for _ in range(length):
            self._step(trace)
        return self._rollout(trace, np.full(self._environments.count, length))

    def episodes(self, number: int, limit: int) -> Rollout:
        """Return `number` whole episodes of every environment, all started anew; they are one group.

        The same number from each, so that short episodes are no likelier to be in than long ones; what an environment plays
        on while others finish is left out.

        Args:
            number: At least 1.
            limit: Environment steps to take at most, all environments together.

        Raises:
            UnsupportedEnvironmentError: the limit was reached.
        """
        if not self._fresh:
            self._current = self._environments.reset()
            self._carried[:] = 0.0
            if self.rewards is not None:
                self.rewards.restart()
        trace = _Trace(self._environments.count)
        kept, finished = (
            np.zeros(self._environments.count, np.intp),
            np.zeros(self._environments.count, np.intp),
        )
        while not kept.all():
            if trace.steps >= limit:
                raise UnsupportedEnvironmentError(
                    f"whole episodes: expected {number} from each of {self._environments.count} environments within {limit} steps, got "
                    f"{int(finished.min())} from one; give the environment a time limit, or choose an estimator that takes cut episodes"
                )
            ended = self._step(trace)
            finished += ended
            kept[ended & (finished == number)] = len(trace.rewards)
        # All start alike, so that every one of them may be compared with every other.
        return self._rollout(trace, kept, group=np.zeros(kept.sum(), np.intp))

    def _step(self, trace: _Trace) -> Array:
        """Take one step in every environment; return [N] whether its episode ended."""
        self._fresh = False
        seen = self._current if self.observations is None else self.observations(self._current)
        actions, log_probs = self._policy.act(seen, self._rng)
        trace.before(self._current, seen, actions, log_probs)
        head = self._policy.spec.head
        given = head.environment_actions(actions)
        following, rewards, terminated, truncated = self._environments.step(
            given, bounded=head.bounded
        )
        ended = terminated | truncated
        trace.after(rewards, terminated, ended)
        if ended.any():
            for environment in np.flatnonzero(ended):
                trace.finals[environment].append(following[environment].copy())
            following = self._environments.restart(ended)
        self._current = following
        return ended

    def _rollout(self, trace: _Trace, kept: Array, **extras: Array) -> Rollout:
        """Return the batch of each environment's first `kept` steps, at least 1, with extras of these."""
        taken = _Selection(kept, len(trace.rewards))
        rewards, ended = np.stack(trace.rewards, axis=1), np.stack(trace.ended, axis=1)
        scaled = rewards if self.rewards is None else self.rewards(rewards, ended)
        ended = taken(ended)
        last = kept.cumsum() - 1
        boundary = ended.copy()
        boundary[last] = True
        ends = np.flatnonzero(boundary)
        final = self._finals(trace, taken, ended, last)
        batch = Batch(
            observations=taken(np.stack(trace.seen, axis=1)),
            actions=taken(np.stack(trace.actions, axis=1)),
            rewards=taken(scaled),
            episode_lengths=np.diff(ends, prepend=-1),
            terminated=taken(np.stack(trace.terminated, axis=1))[ends],
            final_observations=final if self.observations is None else self.observations(final),
            log_probs=taken(np.stack(trace.log_probs, axis=1)),
            extras=extras,
        )
        if self.observations is not None:
            self.observations.update(taken(np.stack(trace.raw, axis=1)))
        returns = self._returns(taken(rewards), ends, last, ended)
        whole = ended[ends]
        at = (ends - np.repeat(last - kept + 1, np.diff(np.searchsorted(ends, last), prepend=-1)))[
            whole
        ]
        order = np.argsort(at, kind="stable")
        return Rollout(
            batch, trace.steps, returns[whole][order], (at[order] + 1) * self._environments.count
        )

    def _finals(self, trace: _Trace, taken: _Selection, ended: Array, last: Array) -> Array:
        """Return [E, ...] raw observations: what followed each episode's last step, environment by environment."""
        finals: list[Array] = []
        for environment, own in enumerate(trace.finals):
            finals += own[
                : int(
                    np.count_nonzero(
                        ended[
                            last[environment] - taken.kept[environment] + 1 : last[environment] + 1
                        ]
                    )
                )
            ]
            if not ended[last[environment]]:
                finals.append(self._current[environment].copy())
        return np.stack(finals)

    def _returns(self, rewards: Array, ends: Array, last: Array, ended: Array) -> Array:
        """Return [E] sums of rewards, with what earlier rollouts carried over; carry on what did not end."""
        returns = np.add.reduceat(rewards, np.append(0, ends[:-1] + 1))
        final = np.searchsorted(
            ends, last
        )  # each environment's last episode; the next one is the next environment's first
        returns[np.append(0, final[:-1] + 1)] += self._carried
        self._carried = np.where(ended[last], 0.0, returns[final])
        return returns


class _Selection:
    """Each environment's first steps of a trace, one environment after the other."""

    def __init__(self, kept: Array, length: int) -> None:
        """Keep how many of the `length` steps each environment is to have, [N]."""
        self.kept = kept
        self._mask = None if (kept == length).all() else np.arange(length) < kept[:, None]

    def __call__(self, array: Array) -> Array:
        """Return [B, ...], read-only, of [N, T, ...]; the array is given up."""
        if self._mask is not None:
            return read_only(array[self._mask])
        return read_only(array).reshape(-1, *array.shape[2:])


class _Trace:
    """What happened, step by step: lists over time of [N, ...] arrays."""

    def __init__(self, envs: int) -> None:
        """Start with nothing."""
        self.raw: list[Array] = []
        self.seen: list[Array] = []
        self.actions: list[Array] = []
        self.log_probs: list[Array] = []
        self.rewards: list[Array] = []
        self.terminated: list[Array] = []
        self.ended: list[Array] = []
        self.finals: list[list[Array]] = [[] for _ in range(envs)]

    @property
    def steps(self) -> int:
        """Environment steps taken."""
        return len(self.rewards) * len(self.finals)

    def before(self, raw: Array, seen: Array, actions: Array, log_probs: Array) -> None:
        """Note what was observed and done; `raw` is a view that is about to be overwritten."""
        if seen is raw:
            seen = raw.copy()
        else:
            self.raw.append(raw.copy())
        self.seen.append(seen)
        self.actions.append(actions)
        self.log_probs.append(log_probs)

    def after(self, rewards: Array, terminated: Array, ended: Array) -> None:
        """Note what came of it."""
        self.rewards.append(rewards)
        self.terminated.append(terminated)
        self.ended.append(ended)
