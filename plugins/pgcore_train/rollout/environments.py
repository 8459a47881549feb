"""Gymnasium environments side by side, with checked spaces."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array
from pgcore.wording import shown
from pgcore_train.rollout.episodes import REPLAY, EpisodeLog, Replayed, as_bytes
from pgcore_train.rollout.masks import ActionMasks
from pgcore_train.rollout.observations import Form, reader_of
from pgcore_train.rollout.processes import START, Quiet, await_signal, kill, start_tracker

__all__ = ["Actions", "Environments", "make_environments"]

# Ways of drawing that wait for somebody to ask for a frame.
ON_REQUEST = ("rgb_array", "ansi")
NO_LIMIT = -1  # Gymnasium's number for episodes without a limit
# Package and module of the namespaces that Gymnasium's own pages name.
PACKAGES = {"ALE": ("ale-py", "ale_py")}
PACKAGES_OF_MODULES = {module: package for package, module in PACKAGES.values()}

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
        observations: Space of one observation as it is here; see `Form`.
        native_observations: Space of one environment's observations.
        actions: Space of one environment's actions: `Discrete`, or a `Box`, `MultiDiscrete` or
            `MultiBinary` of one dimension.
    """

    def __init__(
        self,
        vector: SyncVectorEnv | AsyncVectorEnv,
        entropy: Sequence[int] = (0,),
        *,
        form: Form = Form.AUTO,
        action_masks: bool = True,
    ) -> None:
        """Take over a vector of environments with `AutoresetMode.DISABLED`.

        Args:
            vector: N environments, in `Replayed` each for `load`.
            entropy: Numbers at least 0 that the seeds of all episodes are drawn from.
            form: Of the observations.
            action_masks: Whether the masks in their infos are read.

        Raises:
            UnsupportedEnvironmentError: the vector has another mode, or a space has no network or
                no head here.
        """
        self._vector, self._calling = vector, False
        if vector.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
            raise UnsupportedEnvironmentError(
                "Environments: expected AutoresetMode.DISABLED, got "
                f"{vector.metadata['autoreset_mode']}; make the vector with that mode"
            )
        self.count = vector.num_envs
        self.native_observations = vector.single_observation_space
        reader = reader_of(self.native_observations, form)
        self.observations, self._observed = reader.space, reader.read
        self.actions = check_actions(vector.single_action_space)
        self._masks = ActionMasks(self.actions, self.count) if action_masks else None
        self._log = EpisodeLog(self.count, entropy)

    @property
    def action_mask(self) -> Array | None:
        """[N, width] bool, True for the actions possible now; None if the environments give none."""
        return None if self._masks is None else self._masks.current

    def reset(self) -> Array:
        """Start an episode in every environment; return [N, ...] observations."""
        every = np.ones(self.count, np.bool_)
        seeds = self._log.begin(every)
        observations, infos = self._call(lambda: self._vector.reset(seed=seeds))
        self._take_masks(infos, every)
        return self._observed(observations)

    def restart(self, ended: Array) -> Array:
        """Start an episode in some environments; return all [N, ...] observations.

        Args:
            ended: [N] bool. True for at least one environment to start.
        """
        seeds, options = self._log.begin(ended), {"reset_mask": ended}
        observations, infos = self._call(lambda: self._vector.reset(seed=seeds, options=options))
        self._take_masks(infos, ended)
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
        options = {REPLAY: dict(replays)}
        observations, infos = self._call(lambda: self._vector.reset(seed=seeds, options=options))
        self._take_masks(infos, np.ones(self.count, np.bool_))
        current = self._observed(observations)
        lost = infos.get(REPLAY, np.full(self.count, np.nan)) != state["returns"]
        lost |= state["begun"] < 0
        seen, then = as_bytes(current), state["observations"]
        lost |= seen.shape != then.shape or (seen != then).any(axis=1)
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
        observations, rewards, terminated, truncated, infos = self._call(
            lambda: self._vector.step(native)
        )
        self._log.step(native, rewards)
        self._take_masks(infos, ~terminated)
        return self._observed(observations), rewards, terminated, truncated

    def close(self) -> None:
        """Close every environment; processes that are busy or fail are ended."""
        vector = self._vector
        if isinstance(vector, SyncVectorEnv):
            vector.close()
            return
        try:
            # One that does not answer a call would not answer this one either.
            if not self._calling:
                vector.close()
        except (OSError, EOFError):
            pass
        finally:
            if not vector.closed:
                kill(vector)

    def _call(self, method: Callable[[], Any]) -> Any:
        """Return a call's result, or raise UnsupportedEnvironmentError where a process is gone."""
        self._calling = True
        try:
            result = method()
        except (EOFError, ConnectionError) as error:
            if isinstance(self._vector, SyncVectorEnv):
                raise
            await_signal()
            raise UnsupportedEnvironmentError(
                "rollout.processes: expected processes that stay alive, got one that ended; "
                "look for its last words, and for memory that ran out"
            ) from error
        self._calling = False
        return result

    def _take_masks(self, infos: Mapping[str, Any], needed: Array) -> None:
        if self._masks is not None:
            self._masks.take(infos, needed)


def make_environments(
    name: str,
    count: int,
    arguments: Mapping[str, Any] | None = None,
    entropy: Sequence[int] = (0,),
    *,
    form: Form = Form.AUTO,
    action_masks: bool = True,
    processes: bool = False,
) -> Environments:
    """Return environments by their Gymnasium name.

    Args:
        name: As `gymnasium.make` takes it, `module:Name-v0` included.
        count: N, at least 1.
        arguments: Keyword arguments for each environment.
        entropy: See `Environments`.
        form: See `Environments`.
        action_masks: See `Environments`.
        processes: Whether each environment has a process of its own.

    Raises:
        UnsupportedEnvironmentError: no environment of that name, it cannot be made, or its spaces
            are not supported.
    """
    keywords = dict(arguments or {})
    check_arguments(keywords)
    try:
        # No copies: `Rollouts` makes them.
        settings: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
        if processes:
            settings["context"] = START
            start_tracker()
        vector = gymnasium.make_vec(
            name,
            count,
            vectorization_mode="async" if processes else "sync",
            vector_kwargs=settings,
            wrappers=(Quiet(os.getpid()), Replayed) if processes else (Replayed,),
            disable_env_checker=True,
            **keywords,
        )
    except gymnasium.error.UnregisteredEnv as error:
        raise UnsupportedEnvironmentError(
            f"environment: expected a known name, got {shown(name)}; {suggestion(name)}"
        ) from error
    # Gymnasium's other errors explain themselves.
    except gymnasium.error.Error as error:
        raise UnsupportedEnvironmentError(
            f"environment {shown(name)}: expected one that can be made, got {error}; "
            "install it, or choose another"
        ) from error
    except ModuleNotFoundError as error:
        # Gymnasium's error of `module:name` does not keep the module's name.
        module = error.name or name.partition(":")[0]
        package = PACKAGES_OF_MODULES.get(module, f"the package that has {module}")
        raise UnsupportedEnvironmentError(
            f"environment {shown(name)}: expected one whose packages are installed, got none that "
            f"has the module {shown(module)}; install {package}"
        ) from error
    except ImportError as error:
        raise UnsupportedEnvironmentError(
            f"environment {shown(name)}: expected one that can be imported, got "
            f"{str(error).rstrip('.')}; install that, or choose another"
        ) from error
    except Exception as error:
        # Without arguments the mistake is inside the environment, where its author needs the trace.
        if not keywords:
            raise
        raise UnsupportedEnvironmentError(
            f"environment {name!r}: expected keyword arguments that it takes, "
            f"got {', '.join(keywords)} ({type(error).__name__}: {error}); "
            "correct section `environment`"
        ) from error
    assert isinstance(vector, SyncVectorEnv | AsyncVectorEnv)
    try:
        return Environments(vector, entropy, form=form, action_masks=action_masks)
    except UnsupportedEnvironmentError:
        # Processes would outlive the error.
        vector.close()
        raise


def check_arguments(keywords: Mapping[str, Any]) -> None:
    """Raise UnsupportedEnvironmentError for arguments of `gymnasium.make` that no training can use."""
    mode = keywords.get("render_mode")
    # Frames that are made on request cost nothing; some environments observe them.
    if mode is not None and mode not in ON_REQUEST:
        raise UnsupportedEnvironmentError(
            f"environment.render_mode: expected none, since drawing every step of every environment "
            f"is slow and needs a display or memory, got {shown(mode)}; leave it out, and watch the "
            "trained policy by pgcore.load of policy.safetensors"
        )
    limit = keywords.get("max_episode_steps")
    valid = limit is None or (type(limit) is int and (limit >= 1 or limit == NO_LIMIT))
    if not valid:
        raise UnsupportedEnvironmentError(
            "environment.max_episode_steps: expected an integer of at least 1, or -1 for no limit, "
            f"got {shown(limit)}; give a number of steps"
        )


def suggestion(name: str) -> str:
    """Return the package of a name's namespace, or the registered names near to it, then all."""
    namespace = name.partition("/")[0]
    if namespace in PACKAGES and "/" in name:
        package, module = PACKAGES[namespace]
        return f"pip install {package}, and write {module}:{name}"
    names = sorted(gymnasium.registry)
    # Case is the commonest mistake: Cartpole for CartPole.
    folded = {entry.casefold(): entry for entry in names}
    matches = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    near = " or ".join(repr(folded[match]) for match in matches)
    hint = f"did you mean {near}? " if near else ""
    return f"{hint}known: {', '.join(names)}"


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
