"""Action masks of environments, from `action_mask` in the infos of reset and step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array

__all__ = ["KEY", "ActionMasks"]

# The key of an info; Gymnasium's vectors mark the environments that gave it under `_action_mask`.
KEY = "action_mask"

# The end of messages.
ADVICE = "correct the environment, or set rollout.action_masks=false to play without masks"


class ActionMasks:
    """The possible actions of N environments.

    Masks have the form that `Space.sample` takes: [n] of 0 and 1 for `Discrete`, a tuple of such arrays
    or all of them side by side for `MultiDiscrete`, [n] of 0, 1 and 2 (either) for `MultiBinary`.

    The first reset tells whether there are masks. From then on each reset and each step has one, except
    a step into a terminal state.

    Attributes:
        current: [N, width] bool, True for the actions possible now, as a policy takes them; a new array
            after each change. None without masks, and before the first reset.
    """

    def __init__(self, space: Box | Discrete | MultiBinary | MultiDiscrete, count: int) -> None:
        """Start without masks.

        Args:
            space: Of one environment's actions.
            count: N.
        """
        self.current: Array | None = None
        self._space, self._count, self._started = space, count, False

    def take(self, infos: Mapping[str, Any], needed: Array) -> None:
        """Take the masks of a call.

        Args:
            infos: Of the vector of environments.
            needed: [N] bool. Whether the environment was in the call, and is in no terminal state.

        Raises:
            UnsupportedEnvironmentError: a mask is missing, of another shape, or leaves no action.
        """
        if KEY not in infos and self.current is None:
            self._started = True
            return
        present = infos.get(f"_{KEY}", np.zeros(self._count, np.bool_))
        if self._started and self.current is None:
            raise UnsupportedEnvironmentError(
                f"info['{KEY}']: expected one at each reset too, got the first at a step; {ADVICE}"
            )
        if (needed & ~present).any():
            raise UnsupportedEnvironmentError(
                f"info['{KEY}']: expected one at each reset and step, as others have, got none from "
                f"environment {int(np.argmax(needed & ~present))}; {ADVICE}"
            )
        self._started = True
        # New, since a batch may still hold the last one. Terminal states have no actions to mask.
        masks = np.ones((self._count, self._width), np.bool_)
        if self.current is not None:
            masks[~present] = self.current[~present]
        rows = np.flatnonzero(needed & present)
        for row in rows:
            masks[row] = self._flat(infos[KEY][row])
        masks[present & ~needed] = True
        self.current = masks

    @property
    def _width(self) -> int:
        """The number of a mask's columns, as the usual heads have them."""
        space = self._space
        if isinstance(space, Discrete):
            return int(space.n)
        if isinstance(space, MultiDiscrete):
            return int(space.nvec.sum())
        if isinstance(space, MultiBinary):
            return 2 * space.shape[0]
        raise UnsupportedEnvironmentError(
            f"info['{KEY}']: expected none for continuous actions, {space}, got one; {ADVICE}"
        )

    def _flat(self, mask: Any) -> Array:
        """Return [width] bool of one environment's mask."""
        space = self._space
        try:
            parts = cast("tuple[Any, ...]", mask) if isinstance(mask, tuple | list) else (mask,)
            numbers = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
            if isinstance(space, MultiBinary) and np.isin(numbers, (0, 1, 2)).all():
                # One column for a 0 and one for a 1 of each action.
                numbers = np.concatenate((numbers != 1, numbers != 0))
            valid = numbers.shape == (self._width,) and bool(np.isin(numbers, (0, 1)).all())
        except (TypeError, ValueError):
            valid, numbers = False, np.empty(0)
        if not valid:
            raise UnsupportedEnvironmentError(
                f"info['{KEY}']: expected a mask for {space}, as its `sample` takes it, "
                f"got {shown(mask)}; {ADVICE}"
            )
        flat = numbers.astype(np.bool_)
        bounds = np.cumsum(space.nvec)[:-1] if isinstance(space, MultiDiscrete) else []
        # A pair of columns of a MultiBinary always leaves one.
        if not isinstance(space, MultiBinary) and not all(
            choice.any() for choice in np.split(flat, bounds)
        ):
            raise UnsupportedEnvironmentError(
                f"info['{KEY}']: expected a possible action in every state that is not terminal, "
                f"got none; {ADVICE}"
            )
        return flat


def shown(mask: Any) -> str:
    """Return a mask's type and shape, for a message."""
    if isinstance(mask, np.ndarray):
        return f"{mask.dtype} {list(mask.shape)}"
    return type(mask).__name__
