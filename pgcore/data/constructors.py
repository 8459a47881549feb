"""Constructors of episodes: from columns, rollouts, padded rows and transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from numpy.typing import ArrayLike

__all__ = ["Constructed"]

OPTIONS = ("order", "autoreset")  # arguments that are no arrays


class Constructed:
    """The constructors of `Episodes`, which a batch extends by observations and actions."""

    @classmethod
    def _read(cls, method: str, arguments: dict[str, Any]) -> Self:
        """Return the episodes that a constructor finds in its arguments, a dict of its local names."""
        # Imported here, since a batch of flat arrays needs none of them.
        from pgcore.data import flat_steps, padded, rollout
        from pgcore.data.columns import Columns

        readers: dict[str, Any] = {
            "from_steps": flat_steps.steps,
            "from_rollout": rollout.rollout,
            "from_padded": padded.padded,
            "from_replay": flat_steps.transitions,
        }
        named = {k: v for k, v in arguments.items() if k not in ("cls", "__class__")}
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        columns = Columns(f"{cls.__name__}.{method}", named, named.pop("extras"))
        flat, kind = readers[method](columns, **options), cast("Any", cls)
        episodes = kind(**flat.fields)
        episodes.__dict__.update(layout=flat.layout, like=flat.like)
        return episodes

    @classmethod
    def from_steps(
        cls,
        *,
        rewards: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike | None = None,
        episode: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        final_values: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """Return the episodes of columns with a row for each step, such as those of a data frame.

        An episode ends where `terminated` or `truncated` is True, and with the last row. With
        `episode` rows may be in any order, steps of one episode in that of time.

        Args:
            rewards: [B] number, environment units.
            terminated: [B] bool, True at a step to a terminal state.
            truncated: [B] bool, True at the last step of a truncated episode. An episode whose last
                row is not terminated is truncated, so that `episode` makes it needless.
            episode: [B] integer or string. The episode of each row; episodes are in the order of
                their first rows.
            log_probs: [B] number. See `Episodes`, also for the next three.
            values: [B] number.
            final_values: [E] number.
            discount: [B] number.
            extras: [B, ...] by name.

        Raises:
            ShapeError: an array has not one row for each step.
            BatchError: an episode ends before its last row, no rows, or see `Episodes`.

        Example:
            >>> episodes = pg.Episodes.from_steps(
            ...     rewards=[1.0, 2.0, 3.0], terminated=[False, True, True], episode=["a", "b", "a"])
            >>> episodes.rewards.tolist(), episodes.episode_lengths.tolist()
            ([1.0, 3.0, 2.0], [2, 1])
            >>> episodes.layout.spread(episodes.rewards).tolist()
            [1.0, 2.0, 3.0]
        """
        return cls._read("from_steps", locals())

    @classmethod
    def from_rollout(
        cls,
        *,
        rewards: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
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
        """Return the episodes of T steps in each of N environments, one environment after the other.

        Row t holds the observation before the step, the action, and the reward and flags that the
        step returned. Episodes at the rollout's end are truncated there. A truncated episode needs
        the value of the state that followed it, or in a `Batch` the observation.

        Args:
            rewards: [T, N] number, environment units.
            terminated: [T, N] bool. As Gymnasium's `step` returns it.
            truncated: [T, N] bool. As Gymnasium's `step` returns it.
            log_probs: [T, N] number. See `Episodes`, also for `values`, `discount` and `extras`.
            values: [T, N] number.
            final_values: [T, N] number, read where an episode was truncated: V of what followed that
                step, before any reset. Lists may hold None elsewhere. Under "next_step" the next
                row's value is that already.
            last_values: [N] number. V of the observations after the last row.
            discount: [T, N] number.
            extras: [T, N, ...] by name.
            previous_done: [N] bool. Whether an episode ended in the last row of the rollout before
                this one, so that "next_step" makes the first row a reset; None means nowhere.
            order: "time" for [T, N] arrays, "env" for [N, T].
            autoreset: Gymnasium's mode. "next_step" resets in the row after an episode's end, which
                is no step and is left out; "same_step" and "disabled" have no such row.

        Raises:
            ShapeError: an array is not laid out as the rewards are.
            BatchError: no step, a truncated episode without a bootstrap, or rows that contradict the
                mode: under "next_step" a reward or an end in the row of a reset. Or see `Episodes`.

        Example:
            >>> episodes = pg.Episodes.from_rollout(  # the third row is the reset
            ...     rewards=[[1.0], [2.0], [0.0], [3.0]], terminated=[[0], [1], [0], [0]],
            ...     truncated=[[0], [0], [0], [0]], last_values=[0.5])
            >>> episodes.rewards.tolist(), episodes.episode_lengths.tolist()
            ([1.0, 2.0, 3.0], [2, 1])
            >>> episodes.terminated.tolist(), episodes.final_values.tolist()
            ([True, False], [0.0, 0.5])

        Source: Gymnasium 1.x, `gymnasium.vector.AutoresetMode`.
        """
        return cls._read("from_rollout", locals())

    @classmethod
    def from_padded(
        cls,
        *,
        rewards: ArrayLike,
        mask: ArrayLike,
        truncated: ArrayLike | None = None,
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
        """Return the episodes of padded rows, such as the answers of a language model.

        A place where the mask is False is no step, inside an answer too: returns, lengths and ratios
        leave it out. Whatever stands there is not read, a reward included.

        Args:
            rewards: [E, T] number, or [E] for one reward a row, which its last step gets.
            mask: [E, T] bool. True at the policy's own tokens.
            truncated: [E] bool. True for answers without an end; None means none.
            log_probs: [E, T] number. See `Episodes`, also for the other arrays.
            rollout_log_probs: [E, T] number.
            reference_log_probs: [E, T] number.
            loss_mask: [E, T] bool, for estimators with the mask "loss". False at steps that it leaves
                out; a reward there goes to the last step that counts before.
            group: [E] integer. The prompt of each answer.
            values: [E, T] number.
            final_values: [E] number.
            discount: [E, T] number.
            extras: [E, T, ...] by name.

        Raises:
            ShapeError: an array is not laid out as the mask is.
            BatchError: a row without a step, or see `Episodes`.

        Example:
            >>> episodes = pg.Episodes.from_padded(
            ...     rewards=[1.0, -1.0], mask=[[1, 1, 0], [1, 0, 1]], group=[0, 0])
            >>> episodes.rewards.tolist(), episodes.episode_lengths.tolist()
            ([0.0, 1.0, 0.0, -1.0], [2, 2])
            >>> episodes.layout.spread(episodes.rewards).tolist()
            [[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]
        """
        return cls._read("from_padded", locals())

    @classmethod
    def from_replay(
        cls,
        *,
        rewards: ArrayLike,
        terminated: ArrayLike,
        log_probs: ArrayLike | None = None,
        values: ArrayLike | None = None,
        next_values: ArrayLike | None = None,
        discount: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """Return transitions as episodes of one step.

        Args:
            rewards: [B] number, environment units; for n steps their discounted sum.
            terminated: [B] bool. Whether the next state is terminal; a truncated one is not.
            log_probs: [B] number. See `Episodes`, also for `values` and `extras`.
            values: [B] number.
            next_values: [B] number. V of the next state, not read after a terminal one.
            discount: [B] number in [0, 1]. The factor on an estimator's gamma: gamma^(n - 1) for n steps.
            weights: [B] number, at least 0. The weight of each step's term, such as the importance
                weights of prioritised replay, for the reduction `pgcore.WeightedSteps`.
            extras: [B, ...] by name.

        Raises:
            ShapeError: an array has not one row for each transition.
            BatchError: `values`, and nothing to bootstrap from after a transition that does not
                terminate. Or see `Episodes`.

        Example:
            >>> episodes = pg.Episodes.from_replay(
            ...     rewards=[1.0, 2.0], terminated=[False, True], next_values=[5.0, 9.0])
            >>> episodes.episode_lengths.tolist(), episodes.final_values.tolist()
            ([1, 1], [5.0, 0.0])
        """
        return cls._read("from_replay", locals())
