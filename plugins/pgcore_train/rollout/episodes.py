"""The episodes that environments are in, as seeds and actions that play them again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from pgcore.validation.arrays import Array

__all__ = ["REPLAY", "EpisodeLog", "Replayed", "as_bytes"]

# Steps of each environment that are kept, our choice: 8 environments with one action of 8 bytes
# have 6 MB in a checkpoint. A longer episode cannot be played again.
LONGEST = 100_000

# The key of an environment's `reset` options and of the information that it returns.
REPLAY = "pgcore_replay"


class EpisodeLog:
    """The seeds of N environments, and their actions since the current episodes began.

    Every episode has a seed of its own, so that it can be played again without those before it.
    """

    def __init__(self, count: int, entropy: Sequence[int]) -> None:
        """Start before the first episode.

        Args:
            count: N.
            entropy: Numbers that the seeds are drawn from, with those of environment and episode.
        """
        self._entropy = tuple(entropy)
        # Of the current episode by environment: its number, seed and first step among `_actions`.
        self._episodes = np.full(count, -1, np.int64)
        self._seeds = np.zeros(count, np.int64)
        self._begun = np.zeros(count, np.int64)
        self._returns = np.zeros(count)
        self._actions: list[Array] = []

    def begin(self, which: Array) -> list[int | None]:
        """Note new episodes; return N seeds, None for environments whose episode goes on.

        Args:
            which: [N] bool.
        """
        for environment in np.flatnonzero(which).tolist():
            self._episodes[environment] += 1
            numbers = [*self._entropy, environment, int(self._episodes[environment])]
            self._seeds[environment] = np.random.SeedSequence(numbers).generate_state(1)[0]
        self._begun[which], self._returns[which] = len(self._actions), 0.0
        return [
            seed if new else None
            for seed, new in zip(self._seeds.tolist(), which.tolist(), strict=True)
        ]

    def step(self, actions: Array, rewards: Array) -> None:
        """Note [N, ...] actions as the environments took them, and [N] rewards."""
        self._actions.append(actions)
        self._returns += rewards
        # An evaluation asks for no moment.
        if len(self._actions) > 2 * LONGEST:
            self._forget()

    def moment(self, observations: Array) -> Callable[[], dict[str, Array]]:
        """Return a function that gives the state of now, also after further steps.

        Args:
            observations: [N, ...], the current ones; they are copied.
        """
        self._forget()
        now = {
            "episodes": self._episodes.copy(),
            "seeds": self._seeds.copy(),
            "begun": self._begun.copy(),
            "returns": self._returns.copy(),
            "observations": as_bytes(observations).copy(),
        }
        # Later steps are added to this very list, or to a shorter one in its place.
        actions, length = self._actions, len(self._actions)

        def state() -> dict[str, Array]:
            kept = {"actions": np.stack(actions[:length])} if length else {}
            return now | {"length": np.array([length])} | kept

        return state

    def replays(self, state: Mapping[str, Array]) -> list[tuple[int, Array]]:
        """Take over a state; return seed and actions of each environment's episode.

        A state of another number of environments gives none, and the number of the last episode.
        """
        if len(state["seeds"]) != len(self._seeds):
            self._episodes[:] = state["episodes"].max()
            return []
        self._episodes[:], self._seeds[:] = state["episodes"], state["seeds"]
        self._begun[:], self._returns[:] = state["begun"], state["returns"]
        self._actions = [*state["actions"]] if "actions" in state else []
        actions = state.get("actions", np.empty((0, len(self._seeds))))
        return [
            (seed, actions[max(begun, 0) :, environment])
            for environment, (seed, begun) in enumerate(
                zip(self._seeds.tolist(), self._begun.tolist(), strict=True)
            )
        ]

    def _forget(self) -> None:
        """Drop the actions of episodes that are over, and those beyond the longest that is kept."""
        first = max(int(self._begun.min()), len(self._actions) - LONGEST)
        if first > 0:
            self._actions = self._actions[first:]
            # Below 0 for an episode whose beginning is dropped.
            self._begun -= first


def as_bytes(observations: Array) -> Array:
    """Return [N, k] bytes of [N, ...] observations, whatever their dtype."""
    return np.ascontiguousarray(observations).view(np.uint8).reshape(len(observations), -1)


class Replayed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose `reset` can play an episode again up to its last step."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and take the steps that `options` has for its seed.

        The information then has the return of those steps, environment units; NaN if one failed.
        """
        if not options or REPLAY not in options:
            return self.env.reset(seed=seed, options=options)
        actions: Array = options[REPLAY][seed]
        observation, information = self.env.reset(seed=seed)
        total = 0.0
        try:
            for action in actions:
                observation, reward, _, _, information = self.env.step(action)
                total += float(reward)
        # An environment that chance moves too may refuse the step, each in a way of its own.
        except Exception:  # noqa: BLE001
            observation, information = self.env.reset(seed=seed)
            total = math.nan
        return observation, {**information, REPLAY: total}
