"""Gymnasium environments side by side, with checked spaces."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array
from pgcore_train.rollout.episodes import REPLAY, EpisodeLog, Replayed

__all__ = ["Actions", "Environments", "make_environments"]

Step = tuple[Array, Array, Array, Array]
# The spaces of actions that the built-in heads cover.
Actions = Box | Discrete | MultiBinary | MultiDiscrete


class Environments:
    """`N` environments that step together and are reset by the caller alone.

    Gymnasium's autoreset is off. NEXT_STEP makes the step after an end a reset, which is no data.
    SAME_STEP hands out the last observation by reference after the reset, and an environment that
    reuses its buffer has overwritten it by then.

    Discrete observations and actions count from 0 here, whatever the space's first number.
    Continuous actions are clipped to their space on the way in, or scaled to it from (-1, 1).
    Observations are views of a buffer that the next call overwrites.

    Attributes:
        count: N.
        observations: Space of one environment's observations, `Discrete` or `Box` of one dimension.
        actions: Space of one environment's actions: `Discrete`, or a `Box`, `MultiDiscrete` or
            `MultiBinary` of one dimension.
    """

    def __init__(self, vector: SyncVectorEnv, entropy: Sequence[int] = (0,)) -> None:
        """Take over a vector of environments with `AutoresetMode.DISABLED`.

        Args:
            vector: Of environments that `Replayed` wraps, for `load`.
            entropy: Numbers at least 0 that the seeds of all episodes are drawn from.

        Raises:
            UnsupportedEnvironmentError: the vector has another mode, or a space has no network or
                no head here.
        """
        if vector.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
            raise UnsupportedEnvironmentError(
                "Environments: expected AutoresetMode.DISABLED, got "
                f"{vector.metadata['autoreset_mode']}; make the vector with that mode"
            )
        self._vector = vector
        self.count = vector.num_envs
        self.observations = check_observations(vector.single_observation_space)
        self.actions = check_actions(vector.single_action_space)
        space = self.observations
        self._first_state = int(space.start) if isinstance(space, Discrete) else 0
        self._log = EpisodeLog(self.count, entropy)

    def reset(self) -> Array:
        """Start an episode in every environment; return [N, ...] observations."""
        seeds = self._log.begin(np.ones(self.count, np.bool_))
        observations, _ = self._vector.reset(seed=seeds)
        return self._observed(observations)

    def restart(self, ended: Array) -> Array:
        """Start an episode in some environments; return all [N, ...] observations.

        Args:
            ended: [N] bool. True for at least one environment to start.
        """
        seeds = self._log.begin(ended)
        observations, _ = self._vector.reset(seed=seeds, options={"reset_mask": ended})
        return self._observed(observations)

    def moment(self, observations: Array) -> Callable[[], dict[str, Array]]:
        """Return a function that gives the state of now for `load`, also after further steps.

        Args:
            observations: [N, ...], the current ones.
        """
        return self._log.moment(observations)

    def load(self, state: Mapping[str, Array]) -> tuple[Array, Array]:
        """Bring back the episodes of a state: each is played again from its seed.

        Args:
            state: From a function that `moment` returned; of another number of environments it
                gives the seeds that follow.

        Returns:
            [N, ...] observations, and [N] bool: whether the episode could not be played again, by
            its return and last observation. Such an environment has started another one.
        """
        replays = self._log.replays(state)
        if not replays:
            return self.reset(), np.ones(self.count, np.bool_)
        seeds: list[int | None] = [seed for seed, _ in replays]
        observations, information = self._vector.reset(seed=seeds, options={REPLAY: dict(replays)})
        current = self._observed(observations)
        returns = information.get(REPLAY, np.full(self.count, np.nan))
        lost = (returns != state["returns"]) | (state["begun"] < 0)
        for environment, observation in enumerate(state["observations"]):
            lost[environment] |= current[environment].tobytes() != observation.tobytes()
        return self.restart(lost) if lost.any() else current, lost

    def step(self, actions: Array, *, bounded: bool = False) -> Step:
        """Take one step in every environment.

        Args:
            actions: [N] or [N, n] integers, or [N, n] continuous actions.
            bounded: Whether continuous actions lie in [-1, 1], to be scaled to the space's bounds.

        Returns:
            Observations, rewards, terminated and truncated, [N, ...] each.
        """
        space = self.actions
        if isinstance(space, Discrete):
            native = actions + space.start if space.start else actions
        elif isinstance(space, Box):
            if bounded:
                actions = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
            # A Gaussian's tails leave the space; its log-probability stays the unclipped action's.
            native = np.clip(actions, space.low, space.high).astype(space.dtype)
        else:
            first = space.start if isinstance(space, MultiDiscrete) else 0
            native = (actions + first).astype(space.dtype)
        observations, rewards, terminated, truncated, _ = self._vector.step(native)
        self._log.step(native, rewards)
        return self._observed(observations), rewards, terminated, truncated

    def close(self) -> None:
        """Close every environment."""
        self._vector.close()

    def _observed(self, observations: Array) -> Array:
        return observations - self._first_state if self._first_state else observations


def make_environments(
    name: str,
    count: int,
    arguments: Mapping[str, Any] | None = None,
    entropy: Sequence[int] = (0,),
) -> Environments:
    """Return environments by their Gymnasium name.

    Args:
        name: As `gymnasium.make` takes it, `module:Name-v0` included.
        count: N, at least 1.
        arguments: Keyword arguments for each environment.
        entropy: See `Environments`.

    Raises:
        UnsupportedEnvironmentError: no environment of that name, it cannot be made, or its spaces
            are not supported.
    """
    keywords = dict(arguments or {})
    try:
        # One process: the policy's batch is the parallel part. No copies: `Rollouts` makes them.
        vector = gymnasium.make_vec(
            name,
            count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED, "copy": False},
            wrappers=[Replayed],
            disable_env_checker=True,
            **keywords,
        )
    except gymnasium.error.UnregisteredEnv as error:
        raise UnsupportedEnvironmentError(
            f"environment: expected a known name, got {name!r}; {suggestion(name)}"
        ) from error
    # Gymnasium's other errors explain themselves.
    except gymnasium.error.Error as error:
        raise UnsupportedEnvironmentError(
            f"environment {name!r}: expected one that can be made, got: {error}"
        ) from error
    except ModuleNotFoundError as error:
        if ":" not in name:
            raise
        raise UnsupportedEnvironmentError(
            "environment: expected module:name with a module that can be imported, "
            f"got {name!r} ({error})"
        ) from error
    except TypeError as error:
        # Without arguments the mistake is inside the environment, where its author needs the trace.
        if not keywords:
            raise
        raise UnsupportedEnvironmentError(
            f"environment {name!r}: expected keyword arguments that it takes, "
            f"got {', '.join(keywords)} ({error}); correct section `environment`"
        ) from error
    assert isinstance(vector, SyncVectorEnv)
    return Environments(vector, entropy)


def suggestion(name: str) -> str:
    """Return the registered names near to a name, then all of them."""
    names = sorted(gymnasium.registry)
    # Case is the commonest mistake: Cartpole for CartPole.
    folded = {entry.casefold(): entry for entry in names}
    matches = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    near = " or ".join(repr(folded[match]) for match in matches)
    hint = f"did you mean {near}? " if near else ""
    return f"{hint}known: {', '.join(names)}"


def check_observations(space: Space[Any]) -> Box | Discrete:
    """Return the space, or raise UnsupportedEnvironmentError unless a network takes it."""
    if isinstance(space, Discrete) or (isinstance(space, Box) and len(space.shape) == 1):
        return space
    raise UnsupportedEnvironmentError(
        f"observation space: expected Discrete or a Box of one dimension, got {space}; "
        "register the environment wrapped in gymnasium.wrappers.FlattenObservation"
    )


def check_actions(space: Space[Any]) -> Actions:
    """Return the space, or raise UnsupportedEnvironmentError unless a head covers it."""
    if isinstance(space, Discrete):
        return space
    # A Box of integers has no head: a density is no probability of a number.
    fits = not isinstance(space, Box) or space.dtype.kind == "f"
    if isinstance(space, Box | MultiBinary | MultiDiscrete) and len(space.shape) == 1 and fits:
        return space
    raise UnsupportedEnvironmentError(
        "action space: expected Discrete, or MultiDiscrete, MultiBinary or a Box of real numbers "
        f"of one dimension, got {space}; "
        "register the environment wrapped in a gymnasium.ActionWrapper that offers one of them"
    )
