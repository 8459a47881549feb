"""An estimator's gradient on every batch of a finite process, on batches that share their arrays.

A step of such a process is one of S A rows, a state and an action. All quantities of a step depend
on its row alone, so that they and their derivatives are computed once a row, by the policy itself.
Of the estimator, `signals`, `finalise` and `combine` run on every batch; `signals` on every episode
instead where a batch's further episodes do not change them. Its `cotangents` run on many batches'
steps at once, and the chain rule is a product with the rows' derivatives.

On a sample of batches the result is compared with `pgcore.gradient`. Where the two differ, or the
estimator cannot run this way, `pgcore.gradient` runs on all batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import PgcoreError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.reduction import checked_weights
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.signals import check_names
from pgcore.validation.arrays import Array, read_only
from pgcore_exact.expectation.rows import Lookup, RowEvaluate, Rows, flat_gradient
from pgcore_exact.process.episodes import Episodes
from pgcore_exact.process.mdp import MDP
from pgcore_exact.process.tabulated import Tabulated, backing

__all__ = ["Estimates"]

# Batches whose steps are computed at once, which bounds the memory.
CHUNK = 8192
# Batches of a sample.
SAMPLE = 24

# Relative difference of the shortcut from `pgcore.gradient` by rounding.
ROUNDING = 1e-10


@dataclass(frozen=True, slots=True)
class Group:
    """Batches of equal episode lengths, in the same order: `P` batches, `L` steps, `N` episodes.

    Attributes:
        numbers: [P] numbers of the batches.
        shared: The fields of `Batch` that all share: lengths and their like.
        fields: [P, ...] all other fields.
        extras: [P, L, ...] extras by name.
        places: [P, L] step numbers among all episodes' steps.
        steps: [P, L] row numbers.
        finals: [P, N] final states.
    """

    numbers: Array
    shared: dict[str, Any]
    fields: dict[str, Array]
    extras: dict[str, Array]
    places: Array
    steps: Array
    finals: Array

    def batches(self) -> Iterator[Batch]:
        """Yield each batch, unchecked: a user gave none, and checks would take most of the time."""
        pairs = zip(named_rows(self.fields), named_rows(self.extras), strict=False)
        for fields, extras in pairs:
            yield Batch.trusted({**self.shared, **fields, "extras": extras})

    def evaluated(self, rows: Rows) -> Iterator[tuple[Batch, RowEvaluate]]:
        """Yield each batch with its evaluation."""
        lookup = Lookup(rows, self.steps, self.finals, self.fields["terminated"])
        for index, batch in enumerate(self.batches()):
            yield batch, RowEvaluate(lookup, batch, index)


class Estimates:
    """An estimator on a process.

    Attributes:
        estimator: The estimator.
        rows: The policy's quantities at every row.
        episodes: All episodes, the members of batches.
    """

    def __init__(
        self,
        mdp: MDP,
        table: Tabulated,
        estimator: Estimator,
        episodes: Episodes,
        behaviour: Array,
        extras: Mapping[str, Array] | None = None,
    ) -> None:
        """Prepare the rows.

        Args:
            mdp: The process.
            table: The current policy.
            estimator: The estimator.
            episodes: All episodes of the process.
            behaviour: [S, A] float64. The behaviour policy's probabilities.
            extras: [S, A, ...] of extras that replace the examples.
        """
        self.estimator, self.episodes = estimator, episodes
        self.rows = Rows(mdp, table, behaviour, estimator, extras)
        # By N: whether the shortcut agrees, and whether episodes' signals are independent.
        self._agrees: dict[int, bool] = {}
        self._independent: dict[int, bool] = {}

    def gradients(self, members: Array) -> Array:
        """Return [P, D] gradients of the loss, in canonical parameter order.

        Args:
            members: [P, N] episode numbers of the batches.

        Raises:
            PgcoreError: the estimator's own error.
        """
        return self._by_rows(members) if self.shortcut(members.shape[1]) else self.direct(members)

    def direct(self, members: Array) -> Array:
        """Return the same as `gradients`, by `pgcore.gradient` on one batch after the other."""
        policy = backing(self.rows.table, self.estimator.name)
        gradients = np.empty((len(members), self.rows.scores.shape[1]))
        for group in self._groups(members):
            for number, batch in zip(group.numbers, group.batches(), strict=True):
                gradients[number] = flat_gradient(policy, self.estimator, batch)
        return gradients

    def shortcut(self, size: int) -> bool:
        """Return whether the chain rule agrees with `pgcore.gradient` on a sample of batches."""
        if self.rows.table.policy is None:
            return True
        if size not in self._agrees:
            self._agrees[size] = self._compare(sample(len(self.episodes), size))
        return self._agrees[size]

    def _compare(self, members: Array) -> bool:
        # An error that is the estimator's own shows again without the shortcut.
        try:
            expected, quick = self.direct(members), self._by_rows(members)
        except (PgcoreError, AttributeError, TypeError, KeyError, IndexError, ValueError):
            return False
        scale = np.abs(expected).max(initial=0.0)
        return bool(np.abs(quick - expected).max(initial=0.0) <= ROUNDING * scale)

    def _by_rows(self, members: Array) -> Array:
        gradients = np.empty((len(members), self.rows.scores.shape[1]))
        for group in self._groups(members):
            gradients[group.numbers] = self._shortcut(group)
        return gradients

    def _shortcut(self, group: Group) -> Array:
        """Return [P, D] gradients by the chain rule."""
        estimator, rows = self.estimator, self.rows
        first = next(group.batches())
        weights = self._weights(group, first)
        with np.errstate(all="ignore"):
            if isinstance(estimator, ScoreEstimator):
                return self._combine(group, estimator, weights)
            collected = self._finalised(group, first)
            # All batches' steps at once; `signal_names` may hold more than the keywords.
            arguments: dict[str, Array] = {}
            for name in estimator.keywords:
                if name in estimator.signal_names:
                    arguments[name] = np.concatenate([signals[name] for signals in collected])
                elif name in estimator.quantities:
                    arguments[name] = rows.value(name)[group.steps.reshape(-1)]
            cotangents = estimator.cotangents(**arguments)
        gradients = np.zeros((len(group.numbers), rows.scores.shape[1]))
        for name in estimator.quantities:
            cotangent, derivative = np.asarray(cotangents[name]), rows.derivative(name)
            gradients += self._contract(cotangent, weights, group.steps, derivative)
        return gradients

    def _weights(self, group: Group, first: Batch) -> Array:
        """Return [P, L] or [L] weights of the reduction; `first` is the group's first batch."""
        reduction = self.estimator.reduction
        # Lengths are the same in all batches of a group, extras are not.
        if not reduction.used_extras:
            return checked_weights(reduction, first)
        return np.array([checked_weights(reduction, batch) for batch in group.batches()])

    def _finalised(self, group: Group, first: Batch) -> list[dict[str, Array]]:
        """Return each batch's finalised signals; `first` is the group's first batch."""
        estimator = self.estimator
        sees_episodes = estimator.sees_episodes
        collected: list[dict[str, Array]] = []
        for signals in self._signals(group):
            # In one call, each batch's episodes need numbers of their own.
            if sees_episodes:
                signals["episode"] = first.episode_of_step + len(collected) * first.num_episodes
            if not collected:
                check_names(estimator, signals)
            collected.append(estimator.finalise(signals, None))
        return collected

    def _combine(self, group: Group, estimator: ScoreEstimator, weights: Array) -> Array:
        """Return [P, D] gradients of an estimator that combines scores."""
        gradients: list[Array] = []
        by_batch = np.broadcast_to(weights, group.steps.shape)
        for (batch, evaluate), row in zip(group.evaluated(self.rows), by_batch, strict=True):
            signals = estimator.signals(batch, evaluate)
            check_names(estimator, signals)
            gradients.append(estimator.combine(batch, evaluate, signals, row))
        return np.array(gradients)

    def _signals(self, group: Group) -> Iterator[dict[str, Array]]:
        """Yield each batch's signals, gathered from the episodes' where those are independent."""
        size = group.finals.shape[1]
        if size == 1 or not self._are_independent(size):
            yield from self._run_signals(group)
            return
        assert self._episode_signals is not None
        gathered = {name: value[group.places] for name, value in self._episode_signals.items()}
        yield from itertools.islice(named_rows(gathered), len(group.numbers))

    def _run_signals(self, group: Group) -> Iterator[dict[str, Array]]:
        for batch, evaluate in group.evaluated(self.rows):
            yield dict(self.estimator.signals(batch, evaluate))

    def _are_independent(self, size: int) -> bool:
        """Return whether batches' signals are bitwise their episodes', on a sample."""
        if size not in self._independent:
            groups = self._groups(sample(len(self.episodes), size))
            self._independent[size] = all(self._has_episode_signals(group) for group in groups)
        return self._independent[size]

    def _has_episode_signals(self, group: Group) -> bool:
        alone = self._episode_signals
        if alone is None:
            return False
        for places, signals in zip(group.places, self._run_signals(group), strict=True):
            for name, value in signals.items():
                if not np.array_equal(value, alone[name][places]):
                    return False
        return True

    @cached_property
    def _episode_signals(self) -> dict[str, Array] | None:
        """The signals of every single episode, concatenated; None if single episodes fail."""
        singles = cast("Array", np.arange(len(self.episodes)))[:, None]
        by_number: dict[int, dict[str, Array]] = {}
        # A leave-one-out baseline, for example, needs two episodes.
        try:
            for group in self._groups(singles):
                by_number.update(zip(group.numbers.tolist(), self._run_signals(group), strict=True))
        except (PgcoreError, TypeError, AttributeError):
            return None
        signals: dict[str, Array] = {}
        for name in by_number[0]:
            signals[name] = np.concatenate(
                [by_number[index][name] for index in range(len(singles))]
            )
        return signals

    def _contract(self, cotangent: Array, weights: Array, steps: Array, derivative: Array) -> Array:
        """Return [P, D], the sum over a batch's steps of weight, cotangent and derivative.

        Args:
            cotangent: [P L] or [P L, A].
            weights: [P, L] or [L] of the reduction.
            steps: [P, L] row numbers.
            derivative: [S A, D] or [S A, A, D].
        """
        batches, length = steps.shape
        # Weights are summed by row first: there are fewer rows than steps.
        weighted = cotangent.reshape(batches, length, -1) * weights[..., None]
        totals = np.zeros((batches, len(derivative), weighted.shape[2]))
        batch = cast("Array", np.arange(batches)[:, None])
        np.add.at(totals, (batch, steps), weighted)
        return totals.reshape(batches, -1) @ derivative.reshape(-1, derivative.shape[-1])

    def _groups(self, members: Array) -> Iterator[Group]:
        """Yield the batches in chunks of equal lengths."""
        lengths = self.episodes.lengths[members]
        distinct, kind = np.unique(lengths, axis=0, return_inverse=True)
        # NumPy's versions differ in the inverse's shape.
        kind = kind.reshape(-1)
        order = np.argsort(kind, kind="stable")
        bounds = np.searchsorted(kind[order], np.arange(len(distinct) + 1))
        for start, stop in itertools.pairwise(bounds.tolist()):
            for first in range(start, stop, CHUNK):
                numbers = order[first : min(first + CHUNK, stop)]
                yield self._group(members[numbers], numbers)

    def _group(self, members: Array, numbers: Array) -> Group:
        episodes, mdp = self.episodes, self.rows.mdp
        lengths = episodes.lengths[members[0]]
        # [P, L]: the steps of a batch's episodes, one after the other.
        parts: list[Array] = []
        for column, length in enumerate(lengths.tolist()):
            firsts = episodes.starts[members[:, [column]]]
            parts.append(cast("Array", firsts + np.arange(length)))
        steps: Array = np.concatenate(parts, axis=1)
        states, actions = episodes.states[steps], episodes.actions[steps]
        rows, finals = states * mdp.actions + actions, episodes.final_states[members]
        starts = lengths.cumsum() - lengths
        # The fields that `Batch` derives from the lengths.
        shared: dict[str, Any] = {
            "action_mask": None,
            "step_weights": None,
            "discount": None,
            "final_values": None,
            "episode_lengths": lengths,
            "episode_starts": starts,
            "episode_ends": starts + lengths - 1,
            "episode_of_step": np.repeat(np.arange(len(lengths)), lengths),
            "step_in_episode": np.arange(lengths.sum()) - np.repeat(starts, lengths),
            "episode_weights": np.ones(len(lengths)),
        }
        fields = {
            "observations": mdp.seen[states],
            "actions": actions,
            "rewards": episodes.rewards[steps],
            "log_probs": self.rows.log_probs[rows],
            "terminated": episodes.terminated[members],
            "final_observations": mdp.seen[finals],
        }
        # The recorded values are the current critic's, also on a behaviour policy's episodes.
        if self.rows.has_state_values:
            fields["values"] = self.rows.state_values()[states]
        else:
            shared["values"] = None
        extras = {name: looked_up(value, rows) for name, value in self.rows.extras.items()}
        for value in (*shared.values(), *fields.values(), *extras.values()):
            if value is not None:
                read_only(value)
        return Group(numbers, shared, fields, extras, steps, rows, finals)


def named_rows(arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Return each row of [P, ...] arrays by name; without arrays, empty ones without an end."""
    # Arrays are iterated sooner than indexed, and each batch waits for this.
    rows: Iterator[tuple[Array, ...]] = itertools.repeat(())
    if arrays:
        rows = zip(*arrays.values(), strict=True)
    return map(dict, map(zip, itertools.repeat(tuple(arrays)), rows))


def looked_up(values: Array, rows: Array) -> Array:
    """Return [P, L, ...] of [S A, ...]; one value of all rows is not repeated in memory."""
    if (values == values[0]).all():
        return np.broadcast_to(values[0], (*rows.shape, *values.shape[1:]))
    return values[rows]


def sample(episodes: int, size: int) -> Array:
    """Return [n, N] a few batches of episode numbers, always the same.

    Args:
        episodes: Number of episodes.
        size: N, episodes in a batch.
    """
    rng = np.random.Generator(np.random.Philox(7))
    if size == 1:
        return np.unique(np.linspace(0, episodes - 1, SAMPLE).astype(np.intp))[:, None]
    return rng.integers(0, episodes, (SAMPLE, size))
