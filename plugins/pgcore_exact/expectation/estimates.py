"""An estimator's gradient on every batch of a finite process: the estimator runs, on batches that share their arrays.

A step of such a process is one of S A rows, a state and an action, and everything that a policy computes at a step depends on its row
alone. So quantities, and their derivatives in the parameters, are computed once a row with the policy itself; the estimator's
`signals`, `finalise` and `combine` run on every batch, or its `signals` on every episode where a batch's others do not change them; its
`cotangents` on many batches' steps at once; and the chain rule is a product with the rows' derivatives. On a sample of batches the result is
compared with `pgcore.gradient`; an estimator for which the two differ, or that cannot be run this way, is run through `pgcore.gradient` on all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import PgcoreError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.signals import check_names
from pgcore.validation.arrays import Array, read_only
from pgcore_exact.expectation.rows import Lookup, RowEvaluate, Rows, flat_gradient
from pgcore_exact.process.episodes import Episodes
from pgcore_exact.process.mdp import MDP
from pgcore_exact.process.tabulated import Tabulated, backing

__all__ = ["Estimates"]

# Batches whose steps are handled at once.
CHUNK = 8192
SAMPLE = 24

# The shortcut and `pgcore.gradient` round differently.
ROUNDING = 1e-10


@dataclass(frozen=True, slots=True)
class Group:
    """Batches whose episodes have the same lengths, in the same order: `P` batches of `L` steps and `N` episodes.

    Attributes:
        numbers: [P] which batches.
        shared: What `Batch` knows of lengths, the same for all.
        fields: [P, ...] what differs.
        places: [P, L] step numbers among all episodes' steps.
        steps: [P, L] row numbers.
        finals: [P, N] states.
    """

    numbers: Array
    shared: dict[str, Any]
    fields: dict[str, Array]
    extras: dict[str, Array]
    places: Array
    steps: Array
    finals: Array

    def batches(self) -> Iterator[Batch]:
        """Yield each batch."""
        fields = zip(*self.fields.values(), strict=True)
        for values, extras in zip(fields, zip(*self.extras.values(), strict=True), strict=True):
            by_name = dict(zip(self.extras, extras, strict=True))
            columns = dict(zip(self.fields, values, strict=True))
            yield Batch.trusted(self.shared | columns | {"extras": by_name})

    def evaluated(self, rows: Rows) -> Iterator[tuple[Batch, RowEvaluate]]:
        """Yield each batch with what evaluates it."""
        lookup = Lookup(rows, self.steps, self.finals, self.fields["terminated"])
        for index, batch in enumerate(self.batches()):
            yield batch, RowEvaluate(lookup, batch, index)


class Estimates:
    """An estimator on a process.

    Attributes:
        estimator: What is run.
        rows: The policy that it is run with.
        episodes: What batches are made of.
    """

    def __init__(
        self, mdp: MDP, table: Tabulated, estimator: Estimator, episodes: Episodes, behaviour: Array
    ) -> None:
        """Keep all; behaviour is [S, A] float64, the behaviour policy's probabilities."""
        self.estimator, self.episodes = estimator, episodes
        self.rows = Rows(mdp, table, behaviour)
        self._shortcuts: dict[int, bool] = {}
        self._aparts: dict[int, bool] = {}

    def gradients(self, members: Array) -> Array:
        """Return [P, D] gradients of the loss on batches of [P, N] episode numbers, in canonical parameter order.

        Raises:
            PgcoreError: what the estimator raises.
        """
        return self._by_rows(members) if self.shortcut(members.shape[1]) else self.direct(members)

    def direct(self, members: Array) -> Array:
        """Return what `gradients` does, by `pgcore.gradient` on one batch after the other."""
        policy = backing(self.rows.table, self.estimator.name)
        gradients = np.empty((len(members), self.rows.scores.shape[1]))
        for group in self._groups(members):
            for number, batch in zip(group.numbers, group.batches(), strict=True):
                gradients[number] = flat_gradient(policy, self.estimator, batch)
        return gradients

    def shortcut(self, size: int) -> bool:
        """Whether the chain rule by rows gives what `pgcore.gradient` does, on a sample of batches of that many episodes."""
        if self.rows.table.policy is None:
            return True
        if size not in self._shortcuts:
            self._shortcuts[size] = self._holds(sample(len(self.episodes), size))
        return self._shortcuts[size]

    def _holds(self, members: Array) -> bool:
        try:
            expected, quick = self.direct(members), self._by_rows(members)
        except (PgcoreError, AttributeError, TypeError, KeyError, IndexError, ValueError):
            return False  # what it lacks shows when it is run as it is
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
        weights = self.estimator.reduction.weights(first)
        with np.errstate(all="ignore"):
            if isinstance(estimator, ScoreEstimator):
                return self._combined(group, estimator, weights)
            collected: list[dict[str, Array]] = []
            sees_episodes = estimator.sees_episodes
            for signals in self._signals(group):
                if sees_episodes:  # each batch's episodes are its own
                    signals["episode"] = first.episode_of_step + len(collected) * first.num_episodes
                if not collected:
                    check_names(estimator, signals)
                collected.append(estimator.finalise(signals, None))
            steps = group.steps.reshape(-1)
            arguments = {
                name: np.concatenate([signals[name] for signals in collected])
                for name in estimator.signal_names
            }
            arguments = {name: arguments[name] for name in estimator.keywords if name in arguments}
            arguments |= {name: rows.value(name)[steps] for name in estimator.quantities}
            cotangents = estimator.cotangents(**arguments)
        parts = [
            self._contracted(
                np.asarray(cotangents[name]), weights, group.steps, rows.derivative(name)
            )
            for name in estimator.quantities
        ]
        return np.sum(parts, axis=0)

    def _combined(self, group: Group, estimator: ScoreEstimator, weights: Array) -> Array:
        """Return [P, D] gradients that the estimator makes from scores."""
        gradients: list[Array] = []
        for batch, evaluate in group.evaluated(self.rows):
            signals = estimator.signals(batch, evaluate)
            check_names(estimator, signals)
            gradients.append(estimator.combine(batch, evaluate, signals, weights))
        return np.array(gradients)

    def _signals(self, group: Group) -> Iterator[dict[str, Array]]:
        """Yield each batch's signals: put together from the episodes' own, where that is the same."""
        size = group.finals.shape[1]
        if size == 1 or not self._apart(size):
            yield from self._run_signals(group)
            return
        assert self._alone is not None
        gathered = {name: value[group.places] for name, value in self._alone.items()}
        for index in range(len(group.numbers)):
            yield {name: value[index] for name, value in gathered.items()}

    def _run_signals(self, group: Group) -> Iterator[dict[str, Array]]:
        for batch, evaluate in group.evaluated(self.rows):
            yield dict(self.estimator.signals(batch, evaluate))

    def _apart(self, size: int) -> bool:
        """Whether a batch's signals are its episodes' own, to every digit, on a sample of batches of that size."""
        if size not in self._aparts:
            alone = self._alone
            self._aparts[size] = alone is not None and all(
                np.array_equal(value, alone[name][places])
                for group in self._groups(sample(len(self.episodes), size))
                for places, signals in zip(group.places, self._run_signals(group), strict=True)
                for name, value in signals.items()
            )
        return self._aparts[size]

    @cached_property
    def _alone(self) -> dict[str, Array] | None:
        """The signals of every episode by itself, one after the other; None where there are none."""
        every = cast("Array", np.arange(len(self.episodes)))[:, None]
        by_number: dict[int, dict[str, Array]] = {}
        try:
            for group in self._groups(every):
                by_number.update(zip(group.numbers.tolist(), self._run_signals(group), strict=True))
        except (PgcoreError, TypeError, AttributeError):
            return None  # it needs others, or rounds
        return {
            name: np.concatenate([by_number[number][name] for number in range(len(every))])
            for name in by_number[0]
        }

    def _contracted(
        self, cotangent: Array, weights: Array, steps: Array, derivative: Array
    ) -> Array:
        """Return [P, D]: sum over a batch's steps of weight, cotangent and the derivative at the step's row."""
        batches, length = steps.shape
        weighted = cotangent.reshape(batches, length, -1) * weights[:, None]
        totals = np.zeros((batches, len(derivative), weighted.shape[2]))
        which = cast("Array", np.arange(batches)[:, None])
        np.add.at(totals, (which, steps), weighted)
        return totals.reshape(batches, -1) @ derivative.reshape(-1, derivative.shape[-1])

    def _groups(self, members: Array) -> Iterator[Group]:
        """Yield the batches, those of the same lengths together, in chunks."""
        lengths = self.episodes.lengths[members]
        distinct, kind = np.unique(lengths, axis=0, return_inverse=True)
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
        parts = [
            cast("Array", episodes.starts[members[:, [n]]] + np.arange(length))
            for n, length in enumerate(lengths.tolist())
        ]
        steps: Array = np.concatenate(parts, axis=1)
        states, actions = episodes.states[steps], episodes.actions[steps]
        rows, finals = states * mdp.actions + actions, episodes.final_states[members]
        starts = lengths.cumsum() - lengths
        shared: dict[str, Any] = {
            "action_mask": None,
            "step_weights": None,
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
        # The recorded values are the policy's own critic's, also on a behaviour policy's episodes.
        if self.rows.has_state_values:
            fields["values"] = self.rows.state_values()[states]
        else:
            shared["values"] = None
        extras = {name: value[rows] for name, value in self.rows.extras.items()}
        for value in (*shared.values(), *fields.values(), *extras.values()):
            if value is not None:
                read_only(value)
        return Group(numbers, shared, fields, extras, steps, rows, finals)


def sample(episodes: int, size: int) -> Array:
    """Return [n, N] a few batches of episode numbers, the same ones every time."""
    rng = np.random.Generator(np.random.Philox(7))
    if size == 1:
        return np.unique(np.linspace(0, episodes - 1, SAMPLE).astype(np.intp))[:, None]
    return rng.integers(0, episodes, (SAMPLE, size))
