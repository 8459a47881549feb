"""Policies: native parameters behind an interface that every backend implements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.batch import Batch
from pgcore.data.files import read, write
from pgcore.data.spec_checks import check_mask, check_observations
from pgcore.errors import EstimatorError, NonFiniteError, ParameterError
from pgcore.interfaces.estimator import KLS, Estimator, quantities_of
from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.parameters import LOAD_ANOTHER, Parameters
from pgcore.interfaces.surrogate import Surrogate, check_batch
from pgcore.validation.arrays import (
    Array,
    check_finite,
    first_not_finite,
    first_row,
    owned_numbers,
    row_not_finite,
)
from pgcore.xp.numpy import host

__all__ = ["EVALUATIONS", "Policy", "read_policy"]

FORMAT = "pgcore.policy"

# What `Policy.evaluate` offers beyond `QUANTITIES`.
EVALUATIONS: dict[str, str] = {
    "distribution": "[B, width] description of pi(. given s_t), as the head defines it",
    "final_value": "[E] V of each episode's final observation; 0 where the episode terminated",
    "final_action_values": "[E, A] Q of each episode's final observation and every action; 0 where the episode terminated",
    "final_log_probs": "[E, A] log pi of every action that is possible at each episode's final observation; 0 where the episode terminated",
}


class Policy(Parameters):
    """A policy, and its critic where it has one.

    `B` steps, `E` episodes, `D` parameters in all. Observations are given as the batch holds them. A policy pickles and
    deep-copies to the bit; see `pgcore.interfaces.copying.Copied`.

    Attributes:
        backend: The registered name of the backend that owns the parameters.
        spec: The architecture.
        dtype: NumPy's float32 or float64, of parameters and gradients.
        compiled: Whether the backend compiles what it computes.
    """

    backend: str
    compiled: bool = False

    @abstractmethod
    def distribution(self, observations: Array, action_mask: Array | None = None) -> Array:
        """Return [B, width] float64: the head's description of pi at each observation."""

    def evaluate(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Array]:
        """Run forward only and return float64 NumPy arrays by name.

        Args:
            batch: The steps; checked as `check` does.
            names: Any of `QUANTITIES` that the policy has, and of `EVALUATIONS`; a KL is from the batch's extra `reference`.

        Raises:
            EstimatorError: the policy does not have a quantity, or the batch has no `reference` for `kl`.
            BatchError: `final_value` is asked for, an episode was cut and there are no final observations.
        """
        self.check_evaluations(names, batch)
        self.check(batch)
        head, evaluated = self.spec.head, dict[str, Array]()
        if "distribution" in names:
            evaluated["distribution"] = self.distribution(batch.observations, batch.action_mask)
        # Final observations belong to episodes, and only those of truncated ones are computed from.
        if "final_value" in names:
            evaluated["final_value"] = self.at_final(
                batch, 1, lambda seen, _: self.values_at(seen, own=False)
            )[:, 0]
        if "final_action_values" in names:
            evaluated["final_action_values"] = self.at_final(
                batch, head.outputs, lambda seen, _: self.values_at(seen, own=head.action_values)
            )
        if "final_log_probs" in names:
            evaluated["final_log_probs"] = self.at_final(batch, head.width, self.distribution)
        quantities = tuple(name for name in names if name in self.quantities)
        if quantities:
            named = self.quantities_at(quantities, batch)
            evaluated |= {name: value.astype(np.float64) for name, value in named.items()}
        return evaluated

    @abstractmethod
    def quantities_at(self, names: tuple[str, ...], batch: Batch) -> dict[str, Array]:
        """Return quantities of every step by name, forward only, [B, ...] of the policy's dtype; a KL is from the extra `reference`."""

    @abstractmethod
    def values_at(self, observations: Array, *, own: bool) -> Array:
        """Return [n, k] values of observations: the critic's, or with `own` the network's outputs, which are action values."""

    @abstractmethod
    def gradient(self, surrogate: Surrogate) -> Gradient:
        """Return the gradient of sum_t w_t * surrogate_t, a loss: parameters step against it.

        The parameters are not changed, and the result owns its memory. The surrogate is one of this policy's spec.

        Raises:
            NonFiniteError: a quantity or the gradient is NaN or infinite; names it and the first step.
        """

    @abstractmethod
    def episode_scores(self, batch: Batch, step_weights: Array | None = None) -> Array:
        """Return [E, D] scores: sum over an episode's steps of c_t d log pi(a_t given s_t) / d theta.

        Args:
            batch: The episodes.
            step_weights: [B] float or None. c_t; None weighs every step 1.

        Returns:
            [E, D] of the policy's dtype. Columns are in canonical parameter order, each array in C order.

        Raises:
            NonFiniteError: a score is NaN or infinite; names the parameter that is, or the episode.
        """

    @abstractmethod
    def fisher_vector_product(self, batch: Batch, vector: Array) -> Array:
        """Return F v, where F = E_t E_{a ~ pi(. given s_t)}[score score^T], the mean over the batch's real steps.

        Args:
            batch: Whose observations and masks are used; actions and rewards are not.
            vector: [D] float in canonical parameter order.

        Returns:
            [D] of the policy's dtype; 0 for the critic's own parameters.

        Raises:
            ShapeError: the vector does not have D entries.
            NonFiniteError: the product is NaN or infinite.

        Source: Kakade 2001, "A natural policy gradient".
        """

    @abstractmethod
    def gradient_from(self, vector: Array, surrogate: Surrogate) -> Gradient:
        """Return a native gradient from a [D] vector in canonical order; loss and metrics are the surrogate's."""

    @abstractmethod
    def optimizer_state(self, formula: OptimizerSpec) -> BoundOptimizer:
        """Return the native state of an optimizer that takes its steps on this policy by a formula."""

    def act(
        self,
        observations: ArrayLike,
        rng: np.random.Generator,
        action_mask: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """Draw an action for each observation.

        Args:
            observations: [B, ...] as the network takes them.
            rng: Where the randomness comes from; `pgcore.generator(seed)` makes one.
            action_mask: [B, A] bool or None. True where an action is possible.

        Returns:
            [B] integers or [B, n] float64 actions, and their [B] float64 log-probabilities, nats.

        Raises:
            BatchError: an observation is NaN or infinite, or every action of a step is masked.
            ShapeError: the observations or the mask have the wrong shape.
            NonFiniteError: an observation is so large that the network overflows; names the step.
        """
        distribution = self._checked_distribution(observations, action_mask)
        actions = self.spec.head.sample(distribution, rng)
        return actions, self.spec.head.log_prob(host, distribution, actions)

    def mode(self, observations: ArrayLike, action_mask: ArrayLike | None = None) -> Array:
        """Return the most probable action for each observation; see `act`."""
        return self.spec.head.mode(self._checked_distribution(observations, action_mask))

    def check_evaluations(self, names: tuple[str, ...], batch: Batch) -> None:
        """Raise EstimatorError unless `evaluate` can give every name for this batch."""
        # What is evaluated at final observations is a quantity as well.
        wanted = [
            name.removeprefix("final_") if name in EVALUATIONS else name
            for name in names
            if name != "distribution"
        ]
        if not self.quantities.issuperset(wanted):
            raise EstimatorError(
                f"evaluate: expected names among {', '.join(sorted(self.quantities))} and {', '.join(EVALUATIONS)} for {self.spec.head} "
                f"with critic={self.spec.critic!r}, got {', '.join(names)}; give the policy what is missing"
            )
        if not KLS.isdisjoint(names) and "reference" not in batch.extras:
            raise EstimatorError(
                "evaluate: expected a batch with the extra 'reference' for a KL, got none; add the reference's description"
            )

    @property
    def quantities(self) -> frozenset[str]:
        """The quantities that this policy can give a surrogate."""
        return quantities_of(self.spec)

    def check_fits(self, estimator: Estimator) -> None:
        """Raise EstimatorError unless this policy has every quantity that the estimator uses; see `Estimator.check_fits`."""
        estimator.check_fits(self.spec)

    def check(self, batch: Batch) -> None:
        """Check once for each batch and spec that they fit; see `pgcore.interfaces.surrogate.check_batch`.

        Raises:
            ShapeError: observations or actions have the wrong shape.
            BatchError: an action or a state is out of range.
        """
        check_batch(self.spec, batch)

    def check_scores(self, scores: Array) -> None:
        """Raise NonFiniteError, naming a parameter or else the episode, unless [E, D] scores are finite."""
        episode = row_not_finite(scores)
        if episode is not None:
            self.check_finite("episode_scores")
            raise NonFiniteError(
                f"episode_scores: expected finite numbers, got NaN or infinity in episode {episode}; scale its observations down or use "
                "float64"
            )

    def check_product(self, product: Array) -> None:
        """Raise NonFiniteError, naming a parameter where it is its fault, unless a [D] Fisher product is finite."""
        if not np.isfinite(product).all():
            self.check_finite("fisher_vector_product")
            raise NonFiniteError(
                "fisher_vector_product: expected finite numbers, got NaN or infinity; the parameters are unchanged, scale the observations or the "
                "vector down, or use float64"
            )

    def at_final(
        self, batch: Batch, width: int, found: Callable[[Array, Array | None], Array]
    ) -> Array:
        """Return [E, width] float64: `found` at the final observations of the episodes that were cut, 0 for those that terminated.

        `found` is given the mask of the actions that are possible there too, or None; see `Batch.next_action_mask`.
        """
        rows = np.zeros((batch.num_episodes, width))
        batch.check_bootstrap()
        cut = np.flatnonzero(~batch.terminated)
        if batch.final_observations is not None and len(cut):
            observations = batch.final_observations[cut]
            check_observations("Batch.final_observations", self.spec, observations)
            mask = batch.next_action_mask
            if mask is not None:
                mask = check_mask(
                    self.spec,
                    mask[batch.episode_ends[cut]],
                    len(cut),
                    where="next_action_mask of cut episodes",
                )
            rows[cut] = found(observations, mask)
        return rows

    def save(self, path: str | Path) -> None:
        """Write spec and parameters to a safetensors file, whole or not at all.

        Raises:
            ParameterError: a parameter is NaN or infinite; names it, and nothing is written.
            FileError: the file cannot be written.
        """
        parameters = self.parameters()
        bad = first_not_finite(parameters)
        if bad is not None:
            raise ParameterError(
                f"{path}: expected finite parameters to save, got NaN or infinity in {bad}; {LOAD_ANOTHER}"
            )
        write(path, FORMAT, parameters, {"spec": self.spec.to_json(), "dtype": self.dtype.name})

    def _checked_distribution(
        self, observations: ArrayLike, action_mask: ArrayLike | None
    ) -> Array:
        given: Any = observations
        # Of a subclass, such as a masked array, a plain copy is made or none at all.
        if type(given) is np.ndarray and cast("Array", given).dtype.kind in "biuf":
            observed = cast("Array", given)
        else:
            observed = owned_numbers("observations", observations)
        check_observations("observations", self.spec, observed)
        check_finite("observations", observed)
        mask = None if action_mask is None else check_mask(self.spec, action_mask, len(observed))
        with np.errstate(all="ignore"):  # what overflows is found below, and named by its step
            distribution = self.distribution(observed, mask)
        undefined = np.isnan(distribution)  # masked actions' log-probabilities are -inf
        if undefined.any():
            self.check_finite("act")
            step = first_row(undefined)
            raise NonFiniteError(
                f"act: expected a distribution at every step, got NaN at step {step}; scale that step's observation down or use float64"
            )
        return distribution


def read_policy(path: str | Path) -> tuple[str, dict[str, Array], str]:
    """Return spec (JSON), parameters and dtype name of a file that `Policy.save` wrote.

    Raises:
        FileError: the file cannot be read, or is not a policy.
    """
    arrays, metadata = read(path, FORMAT)
    return metadata.get("spec", ""), arrays, metadata.get("dtype", "float64")
