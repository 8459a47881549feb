"""Gymnasium environments side by side, and the networks and heads that their spaces ask for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array

__all__ = ["Actions", "Environments", "make_environments"]

Step = tuple[Array, Array, Array, Array]
# What heads there are for.
Actions = Box | Discrete | MultiBinary | MultiDiscrete


class Environments:
    """`N` environments that step together and are reset only when told to.

    Gymnasium's own autoreset is off. NEXT_STEP makes the step after an end a reset, which is no data; SAME_STEP hands out the
    last observation by reference after the reset, and an environment that reuses its buffer has overwritten it by then.

    Discrete observations and actions are numbered from 0 here, whatever their space says, and real actions are clipped to
    their space on the way in, or scaled to it from (-1, 1). Observations are views of a buffer that the next call overwrites.

    Attributes:
        count: N.
        observations: The space of one environment's observations, `Box` of one dimension or `Discrete`.
        actions: The space of one environment's actions: `Discrete`, or a `Box`, `MultiDiscrete` or `MultiBinary` of one dimension.
    """

    def __init__(self, vector: SyncVectorEnv) -> None:
        """Take over a vector of environments that was made with `AutoresetMode.DISABLED`.

        Raises:
            UnsupportedEnvironmentError: the vector resets by itself, or a space has no network or no head here.
        """
        if vector.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
            raise UnsupportedEnvironmentError(
                f"Environments: expected AutoresetMode.DISABLED, got {vector.metadata['autoreset_mode']}; make the vector with that mode"
            )
        self._vector = vector
        self.count = vector.num_envs
        self.observations = check_observations(vector.single_observation_space)
        self.actions = check_actions(vector.single_action_space)
        self._first_state = (
            int(self.observations.start) if isinstance(self.observations, Discrete) else 0
        )

    def reset(self, seed: Sequence[int] | None = None) -> Array:
        """Start an episode in every environment; return [N, ...] observations.

        Args:
            seed: N seeds, or None to go on with the random numbers there are.
        """
        observations, _ = self._vector.reset(seed=None if seed is None else list(seed))
        return self._observed(observations)

    def restart(self, ended: Array) -> Array:
        """Start an episode where the [N] bool mask says so, one environment at least; return all [N, ...] observations."""
        observations, _ = self._vector.reset(options={"reset_mask": ended})
        return self._observed(observations)

    def step(self, actions: Array, *, bounded: bool = False) -> Step:
        """Take a step everywhere; return observations, rewards, terminated and truncated, [N, ...] each.

        Args:
            actions: [N] or [N, n] integers, or [N, n] real numbers.
            bounded: Real actions lie in [-1, 1], and are scaled to the space's bounds.
        """
        space = self.actions
        if isinstance(space, Discrete):
            native = actions + space.start if space.start else actions
        elif isinstance(space, Box):
            if bounded:
                actions = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
            native = np.clip(actions, space.low, space.high).astype(space.dtype)
        else:
            first = space.start if isinstance(space, MultiDiscrete) else 0
            native = (actions + first).astype(space.dtype)
        observations, rewards, terminated, truncated, _ = self._vector.step(native)
        return self._observed(observations), rewards, terminated, truncated

    def close(self) -> None:
        """Close every environment."""
        self._vector.close()

    def _observed(self, observations: Array) -> Array:
        return observations - self._first_state if self._first_state else observations


def make_environments(
    name: str, count: int, arguments: Mapping[str, Any] | None = None
) -> Environments:
    """Return environments by their Gymnasium name.

    Args:
        name: As `gymnasium.make` takes it, `module:Name-v0` included.
        count: N, at least 1.
        arguments: Keyword arguments for each environment.

    Raises:
        UnsupportedEnvironmentError: no environment of that name, it cannot be made, or its spaces are not supported.
    """
    given = dict(arguments or {})
    try:
        vector = gymnasium.make_vec(
            name,
            count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED, "copy": False},
            disable_env_checker=True,
            **given,
        )
    except gymnasium.error.UnregisteredEnv as error:
        raise UnsupportedEnvironmentError(
            f"environment: expected a known name, got {name!r}; {suggestion(name)}"
        ) from error
    except gymnasium.error.Error as error:
        raise UnsupportedEnvironmentError(
            f"environment {name!r}: expected one that can be made, got: {error}"
        ) from error
    except ModuleNotFoundError as error:
        if ":" not in name:
            raise
        raise UnsupportedEnvironmentError(
            f"environment: expected module:name with a module that can be imported, got {name!r} ({error})"
        ) from error
    except TypeError as error:
        if not given:
            raise
        raise UnsupportedEnvironmentError(
            f"environment {name!r}: expected keyword arguments that it takes, got {', '.join(given)} ({error}); correct section `environment`"
        ) from error
    assert isinstance(vector, SyncVectorEnv)
    return Environments(vector)


def suggestion(name: str) -> str:
    """Return the registered names near to a name, then all of them."""
    known = sorted(gymnasium.registry)
    folded = {each.casefold(): each for each in known}
    near = [
        folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    ]
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}known: {', '.join(known)}"


def check_observations(space: Space[Any]) -> Box | Discrete:
    """Return the space, or raise UnsupportedEnvironmentError unless a network takes its elements."""
    if isinstance(space, Discrete) or (isinstance(space, Box) and len(space.shape) == 1):
        return space
    raise UnsupportedEnvironmentError(
        f"observation space: expected Discrete or a Box of one dimension, got {space}; register the environment wrapped in "
        "gymnasium.wrappers.FlattenObservation"
    )


def check_actions(space: Space[Any]) -> Actions:
    """Return the space, or raise UnsupportedEnvironmentError unless a head covers it."""
    if isinstance(space, Discrete):
        return space
    numbers = not isinstance(space, Box) or space.dtype.kind == "f"
    if isinstance(space, Box | MultiBinary | MultiDiscrete) and len(space.shape) == 1 and numbers:
        return space
    raise UnsupportedEnvironmentError(
        f"action space: expected Discrete, or MultiDiscrete, MultiBinary or a Box of real numbers of one dimension, got {space}; register "
        "the environment wrapped in a gymnasium.ActionWrapper that offers one of them"
    )
