"""Policies: native parameters behind an interface that every backend implements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.batch import Batch
from pgcore.data.device_array import DeviceArray, place_of
from pgcore.data.episodes import Episodes, ensure_episodes
from pgcore.data.files import read, write
from pgcore.data.spec_checks import check_mask, check_mask_shape, check_observations
from pgcore.errors import (
    EstimatorError,
    NonFiniteError,
    ParameterError,
    ShapeError,
    SpecError,
)
from pgcore.interfaces.estimator import KLS, Estimator, ensure_estimator, quantities_of
from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.parameters import Parameters
from pgcore.interfaces.quantities import columns_of
from pgcore.interfaces.surrogate import Surrogate, check_batch
from pgcore.validation.arrays import (
    Array,
    PutOff,
    booleans_in,
    check_finite,
    check_rows,
    first_row,
    is_host,
    owned_numbers,
    put_off,
    row_not_finite,
)
from pgcore.validation.fields import ensure_rng, instance_check
from pgcore.validation.observations import ObservationsLike, owned_observations
from pgcore.wording import abbreviated, shown
from pgcore.xp.numpy import host

__all__ = ["EVALUATIONS", "Policy", "ensure_policy", "read_policy"]

# The format's name in the files of `Policy.save`.
FORMAT = "pgcore.policy"

# Names for `Policy.evaluate` beside `QUANTITIES`; those of final observations are 0 where an episode terminated.
EVALUATIONS: dict[str, str] = {
    "distribution": "[B, width] distribution parameters of pi(. given s_t), as the head defines them",
    "final_value": "[E] V of each episode's final observation",
    "final_action_values": "[E, A] Q of each episode's final observation and every action",
    "final_twin_action_values": "[E, A] the same of the second of twin critics",
    "final_log_probs": "[E, A] log pi of every possible action at each episode's final observation",
}
# Those that one forward pass of the critic gives.
FINAL_ACTION_VALUES = ("final_action_values", "final_twin_action_values")


class Policy(Parameters):
    """A policy, and its critic where it has one; `B` steps, `E` episodes, `D` parameters."""

    backend: str  # registered name of the backend that owns the parameters
    compiled: bool = False  # whether the backend compiles its computations
    resident: bool = (
        False  # whether batches are moved to its device, and minibatches gathered there
    )

    def beside(self, batch: Episodes) -> bool:
        """Whether the batch's arrays stay on the accelerator that holds this policy, in its framework."""
        return False

    def on_accelerator(self, x: Any) -> Any:
        """Return arrays on the accelerator that holds this policy as such, others as they are.

        Args:
            x: An array, which becomes a `DeviceArray`; or by name, which become `DeviceRecords`.
        """
        return x

    def run_checks(self, checks: Iterable[PutOff]) -> None:
        """Run checks of arrays on a device: at once, unless this policy's device holds the arrays."""
        for check in checks:
            check.run()

    def actions_there(self, actions: Any) -> Any:
        """Return a head's actions as the framework's array on the accelerator that holds this policy."""
        raise NotImplementedError

    @abstractmethod
    def distribution(self, observations: Array, action_mask: Array | None = None) -> Array:
        """Return [B, width] float64 distribution parameters of pi.

        Like all results of arrays on a device, they stay on the device, in its dtype.

        Args:
            observations: [B, ...] in the batch's shape and dtype.
            action_mask: [B, A] bool or None. True where an action is possible.
        """

    def distribution_at(self, batch: Batch) -> Array:
        """Return `distribution` at a batch's steps; on the device of a policy that holds the batch."""
        return self.distribution(batch.observations, batch.action_mask)

    @abstractmethod
    def quantities_at(self, names: tuple[str, ...], batch: Batch) -> dict[str, Array]:
        """Return `evaluate` of quantities alone, unchecked, in the policy's dtype."""

    @abstractmethod
    def values_at(self, observations: Array, *, from_outputs: bool = False) -> Array:
        """Return [N, K] values of [N, ...] observations: the critic's, or the outputs of a Q-network."""

    @abstractmethod
    def gradient(self, surrogate: Surrogate) -> Gradient:
        """Return the gradient of sum_t w_t * surrogate_t, a loss; it owns its memory.

        Raises:
            NonFiniteError: a quantity or the gradient is NaN or infinite; names it and the first step.
        """

    @abstractmethod
    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """Return [E, D] scores: sum over an episode's steps of c_t d log pi(a_t given s_t) / d theta.

        They are of the policy's dtype, in canonical parameter order and C order.

        Args:
            batch: The episodes.
            step_weights: [B] float or None. c_t; None weighs every step 1.
        """

    @abstractmethod
    def fisher_vector_product(self, batch: Batch, vector: Array) -> Array:
        """Return F v with F = E_t E_{a ~ pi(. given s_t)}[score score^T], the mean over real steps.

        The result is [D] of the policy's dtype, 0 for the critic's own parameters.

        Args:
            batch: Its observations and masks; actions and rewards are not read.
            vector: [D] float in canonical parameter order.

        Source: Kakade 2001, "A natural policy gradient".
        """

    @abstractmethod
    def gradient_from(self, vector: Array, surrogate: Surrogate) -> Gradient:
        """Return a native gradient of [D] derivatives, with the surrogate's loss and metrics."""

    @abstractmethod
    def optimizer_state(self, formula: OptimizerSpec) -> BoundOptimizer:
        """Return the native state of an optimizer that steps this policy by a formula."""

    def evaluate(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Array]:
        """Run forward only and return float64 NumPy arrays by name.

        Args:
            batch: The steps; checked as `check` does.
            names: Of `EVALUATIONS` and `QUANTITIES`; a KL is from the batch's extra `reference`.

        Raises:
            EstimatorError: the policy does not have a quantity, or the batch no `reference` for a KL.
            BatchError: a truncated episode has no final observation, and a name needs it.
        """
        ensure_episodes("Policy.evaluate batch", batch)
        self.check_evaluations(names, batch)
        self.check(batch)
        head, evaluated = self.spec.head, dict[str, Array]()
        if "distribution" in names:
            evaluated["distribution"] = self.distribution(batch.observations, batch.action_mask)
        if "final_value" in names:
            values = self.at_final(batch, 1, lambda seen, _: self.values_at(seen))
            evaluated["final_value"] = values[:, 0]
        # One forward pass for the values of both of twin critics.
        if finals := [name for name in FINAL_ACTION_VALUES if name in names]:
            q = partial(self.values_at, from_outputs=head.action_values)
            width = head.outputs if head.action_values else self.spec.critic_outputs
            values = self.at_final(batch, width, lambda seen, _: q(seen))
            for name in finals:
                evaluated[name] = values[:, columns_of(name, head.outputs)]
        if "final_log_probs" in names:
            evaluated["final_log_probs"] = self.at_final(batch, head.width, self.distribution)
        # One call for all of them, so that a backend runs its network once.
        quantities = tuple(name for name in names if name in quantities_of(self.spec))
        if quantities:
            for name, value in self.quantities_at(quantities, batch).items():
                evaluated[name] = value.astype(np.float64)
        return evaluated

    def act(
        self,
        observations: ObservationsLike,
        rng: np.random.Generator,
        action_mask: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """Draw [B] integer or [B, n] float64 actions, with [B] float64 log-probabilities, nats.

        For observations in the policy's framework, on the accelerator that holds it, actions and
        log-probabilities are arrays there, in the policy's dtype. Nothing waits for the device, so
        numbers are not checked: NaN comes out as NaN.

        Args:
            observations: [B, ...] as the network takes them; also a dict of arrays.
            rng: The source of randomness; `pgcore.generator(seed)` makes one.
            action_mask: [B, A] bool or None. True where an action is possible.

        Raises:
            BatchError: an observation or a mask does not fit the spec, or is not finite.
            NonFiniteError: the distribution at a step is NaN; names it.
        """
        ensure_rng("Policy.act rng", rng)
        head, seen = self.spec.head, self.on_accelerator(observations)
        if (place := place_of(seen)) is not None:
            arrays = place.arrays
            with arrays.computing(place.dtype):
                distribution = self._distribution_there(seen, action_mask)
                actions = self.actions_there(head.sample(distribution, rng))
                return actions, head.log_prob(arrays.xp, distribution.native, actions)
        distribution = self._checked_distribution(observations, action_mask)
        actions = head.sample(distribution, rng)
        return actions, head.log_prob(host, distribution, actions)

    def mode(self, observations: ObservationsLike, action_mask: ArrayLike | None = None) -> Array:
        """See `act`: the most probable action for each observation."""
        head, seen = self.spec.head, self.on_accelerator(observations)
        if (place := place_of(seen)) is not None:
            with place.arrays.computing(place.dtype):
                return self.actions_there(head.mode(self._distribution_there(seen, action_mask)))
        return head.mode(self._checked_distribution(observations, action_mask))

    def check_evaluations(self, names: tuple[str, ...], batch: Batch) -> None:
        """Raise EstimatorError unless `evaluate` can give every name for this batch."""
        if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EstimatorError(
                f"evaluate: expected a tuple of names, got {shown(names)}; pass ('log_prob',)"
            )
        # An evaluation at final observations needs the quantity that it is of.
        finals = {name.removeprefix("final_") for name in EVALUATIONS.keys() & set(names)}
        needed = (set(names) - EVALUATIONS.keys() | finals) - {"distribution"}
        quantities = quantities_of(self.spec)
        if not needed <= quantities:
            raise EstimatorError(
                f"evaluate: expected names among {', '.join(sorted(quantities))} and "
                f"{', '.join(EVALUATIONS)} for {self.spec.head} with critic={self.spec.critic!r}, "
                f"got {abbreviated(', '.join(names))}; give the policy what is missing"
            )
        if not KLS.isdisjoint(names) and "reference" not in batch.extras:
            raise EstimatorError(
                "evaluate: expected a batch with the extra 'reference' for a KL, got none; add it"
            )

    def check_fits(self, estimator: Estimator) -> None:
        """See `Estimator.check_fits`."""
        ensure_estimator("Policy.check_fits estimator", estimator)
        estimator.check_fits(self.spec)

    def check(self, batch: Batch) -> None:
        """See `pgcore.interfaces.surrogate.check_batch`; a policy elsewhere reads numbers on a device."""
        check_batch(self.spec, batch)
        if not self.beside(batch):
            batch.run_checks()

    def check_vector(self, where: str, vector: ArrayLike, size: int, noun: str) -> Array:
        """Return [size] numbers, one for each `noun`, or raise ShapeError or BatchError."""
        checked = owned_numbers(where, vector, copied=False)
        if checked.shape != (size,):
            raise ShapeError(
                f"{where}: expected [{size}], one number for each {noun}, got "
                f"{list(checked.shape)}; flatten in canonical order"
            )
        return checked

    def check_computed(self, where: str, result: Array) -> None:
        """Raise NonFiniteError, naming parameter or episode, unless [E, D] scores or [D] are finite."""
        row = row_not_finite(result)
        if row is not None:
            self.check_finite(where)
            place = f" in episode {row}" if result.ndim > 1 else ""
            raise NonFiniteError(
                f"{where}: expected finite numbers, got NaN or infinity{place}; "
                "scale the observations or the vector down, or use float64"
            )

    def at_final(
        self, batch: Batch, width: int, function: Callable[[Array, Array | None], Array]
    ) -> Array:
        """Return [E, width] float64 values at the final observations of truncated episodes, else 0.

        Args:
            batch: The episodes.
            width: The function's number of values.
            function: [N, ...] observations and their mask or None to [N, width].
        """
        rows: Any = np.zeros((batch.num_episodes, width))
        batch.check_bootstrap()
        # Only truncated episodes are bootstrapped, so the network sees no other rows.
        truncated = np.flatnonzero(~batch.terminated)
        if batch.final_observations is not None and len(truncated):
            observations = batch.final_observations[truncated]
            check_observations("Batch.final_observations", self.spec, observations)
            mask = batch.next_action_mask
            if mask is not None:
                where = "next_action_mask of truncated episodes"
                mask = mask[batch.episode_ends[truncated]]
                if is_host(mask):
                    mask = check_mask(self.spec, mask, len(truncated), where=where)
            found = function(observations, mask)
            if (place := place_of(found)) is not None:
                rows = place.array(place.native(rows))
            rows[truncated] = found
        return rows

    def save(self, path: str | Path) -> None:
        """Write spec and parameters to a safetensors file, whole or not at all.

        Raises:
            ParameterError: a parameter is NaN or infinite; names it, and nothing is written.
            FileError: the file cannot be written.
        """
        # A file of NaN would be refused at loading, when the good parameters are gone.
        self.check_finite(str(path), ParameterError)
        metadata = {"spec": self.spec.to_json(), "dtype": self.dtype.name}
        write(path, FORMAT, self.parameters(), metadata)

    def _distribution_there(self, observations: Any, mask: Any) -> Any:
        """Return `distribution` on the device, of arrays of shapes that fit."""
        possible: Any = self.on_accelerator(mask)
        with put_off() as checks:
            check_observations("observations", self.spec, observations)
            if isinstance(possible, DeviceArray):
                check_mask_shape(self.spec, possible.shape, len(observations))
                if possible.dtype.kind != "b":
                    valid, got = booleans_in(possible), "other numbers"
                    check_rows("action_mask", "booleans", valid, got, "compare first")
            elif possible is not None:
                possible = check_mask(self.spec, possible, len(observations))
        self.run_checks(checks)
        return self.distribution(observations, cast("Any", possible))

    def _checked_distribution(
        self, observations: ObservationsLike, mask: ArrayLike | None
    ) -> Array:
        """Return `distribution` of a user's observations, every step of it defined."""
        observed: Any = observations
        # An ndarray is read in place; of a subclass, such as a masked array, a plain copy is made or none.
        if type(observed) is not np.ndarray or observed.dtype.kind not in "biuf":
            observed = owned_observations("observations", observations)
        check_observations("observations", self.spec, observed)
        check_finite("observations", observed)
        mask = None if mask is None else check_mask(self.spec, mask, len(observed))
        # An overflow is reported below, by its step.
        with np.errstate(all="ignore"):
            distribution = self.distribution(observed, mask)
        # Masked actions' log-probabilities are -inf, so NaN alone is an error.
        undefined = np.isnan(distribution)
        if undefined.any():
            self.check_finite("act")
            raise NonFiniteError(
                f"act: expected a distribution at every step, got NaN at step {first_row(undefined)}; "
                "scale that step's observation down or use float64"
            )
        return distribution


def read_policy(path: str | Path) -> tuple[str, dict[str, Array], str]:
    """Return spec (JSON), parameters and dtype name of a file that `Policy.save` wrote.

    Raises:
        FileError: the file cannot be read, or is not a policy.
    """
    arrays, metadata = read(path, FORMAT)
    return metadata.get("spec", ""), arrays, metadata.get("dtype", "float64")


ensure_policy = instance_check(Policy, "pgcore.policy(spec)", SpecError)
