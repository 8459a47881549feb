"""Policies: native parameters behind an interface that every backend implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore import files
from pgcore.arrays import Array, check_finite, owned_numbers
from pgcore.batch import Batch
from pgcore.errors import EstimatorError, NonFiniteError, ParameterError
from pgcore.estimator import KLS, VALUES_OF_ACTIONS, Estimator, check_claims
from pgcore.fitting import check_mask, check_observations
from pgcore.gradient import Gradient
from pgcore.host import host
from pgcore.spec import PolicySpec
from pgcore.surrogate import Surrogate, check_reference

if TYPE_CHECKING:
    from pgcore.backend import Backend

__all__ = ["EVALUATIONS", "Policy", "quantities_of", "read_policy"]

FORMAT = "pgcore.policy"
LOAD_ANOTHER = "load a good checkpoint, and look for what made it so"

# What `Policy.evaluate` offers beyond `QUANTITIES`.
EVALUATIONS: dict[str, str] = {
    "distribution": "[B, width] description of pi(. given s_t), as the head defines it",
    "final_value": "[E] V of each episode's final observation; 0 where the episode terminated",
    "final_action_values": "[E, A] Q of each episode's final observation and every action; 0 where the episode terminated",
    "final_log_probs": "[E, A] log pi of every action that is possible at each episode's final observation; 0 where the episode terminated",
}


class Policy(ABC):
    """A policy, and its critic where it has one.

    `B` steps, `E` episodes, `D` parameters in all. Observations are given as the batch holds them.

    Attributes:
        backend: The backend that owns the parameters.
        spec: The architecture.
        dtype: NumPy's float32 or float64; what parameters and gradients are in.
        compiled: Whether the backend compiles what it computes.
    """

    backend: Backend
    spec: PolicySpec
    dtype: np.dtype[Any]
    compiled: bool = False
    _fitting: Estimator | None = None

    @abstractmethod
    def distribution(self, observations: Array, action_mask: Array | None = None) -> Array:
        """Return [B, width] float64: the head's description of pi at each observation."""

    @abstractmethod
    def evaluate(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Array]:
        """Run forward only and return float64 NumPy arrays by name.

        Args:
            batch: The steps; checked as `check` does.
            names: Any of `QUANTITIES` that the policy has, and of `EVALUATIONS`; a KL is from the batch's extra `reference`.

        Raises:
            EstimatorError: the policy does not have a quantity, or the batch has no `reference` for `kl`.
            BatchError: `final_value` is asked for, an episode was cut and there are no final observations.
        """

    @abstractmethod
    def gradient(self, surrogate: Surrogate, batch: Batch) -> Gradient:
        """Return the gradient of sum_t w_t * surrogate_t, a loss: parameters step against it.

        The parameters are not changed, and the result owns its memory.

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
    def gradient_from(self, vector: Array, surrogate: Surrogate, batch: Batch) -> Gradient:
        """Return a native gradient from a [D] vector in canonical order; loss and metrics are the surrogate's."""

    @abstractmethod
    def parameters(self) -> dict[str, Array]:
        """Return every parameter by canonical name, as arrays of the policy's dtype that the caller owns."""

    @abstractmethod
    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """Replace every parameter; on an error none is changed.

        Raises:
            ParameterError: names, shapes or values are not those that the spec asks for.
        """

    def act(
        self, observations: ArrayLike, rng: np.random.Generator, action_mask: ArrayLike | None = None
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
            name.removeprefix("final_") if name in EVALUATIONS else name for name in names if name != "distribution"
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
        """Raise EstimatorError unless this policy has every quantity that the estimator uses, and moves by one; found once for each estimator.

        Claims that contradict what the estimator uses are an EstimatorError too.
        """
        if estimator is self._fitting:
            return
        check_claims(estimator)
        if self.spec.head.action_values and VALUES_OF_ACTIONS.isdisjoint(estimator.quantities):
            raise EstimatorError(
                f"{estimator} on {self.spec.head}: expected an estimator of action values, since probabilities are piecewise constant in those and "
                f"have no gradient, got one of {', '.join(estimator.quantities)}; choose one that uses action_value, or a head such as Categorical"
            )
        missing = [name for name in estimator.quantities if name not in self.quantities]
        if not missing and not (estimator.claims.discrete_only and not self.spec.head.enumerable):
            self._fitting = estimator
            return
        what = f"no {', '.join(missing)}" if missing else "actions that cannot be listed"
        advice = (
            "give the spec critic='separate' or 'shared'"
            if "value" in missing
            else "give the spec a critic with critic_values='action', or an EpsilonGreedy head"
            if "action_value" in missing or "action_values" in missing
            else "choose another head or another estimator"
        )
        raise EstimatorError(
            f"{estimator} on {self.spec.head} with critic={self.spec.critic!r}: expected a policy with "
            f"{', '.join(estimator.quantities)}, got {what}; {advice}"
        )

    def check(self, batch: Batch) -> None:
        """Check once for each batch and spec that they fit; later calls and minibatches cost nothing.

        Raises:
            ShapeError: observations or actions have the wrong shape.
            BatchError: an action or a state is out of range.
        """
        if batch.__dict__.get("_fits") is self.spec:
            return
        check_observations("Batch.observations", self.spec, batch.observations)
        self.spec.head.check_actions(batch.actions, batch.action_mask)
        if "reference" in batch.extras:
            check_reference("Batch.extras['reference']", batch.extras["reference"], self.spec.head.width)
        batch.__dict__["_fits"] = self.spec

    def check_finite(self, where: str) -> None:
        """Raise NonFiniteError, naming the parameter, unless all are finite: what is asked first where a result is not."""
        bad = first_not_finite(self.parameters())
        if bad is not None:
            raise NonFiniteError(f"{where}: expected finite parameters, got NaN or infinity in {bad}; {LOAD_ANOTHER}")

    def check_scores(self, scores: Array) -> None:
        """Raise NonFiniteError, naming a parameter or else the episode, unless [E, D] scores are finite."""
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all():
            self.check_finite("episode_scores")
            raise NonFiniteError(
                f"episode_scores: expected finite numbers, got NaN or infinity in episode {int(finite.argmin())}; scale its observations down or use "
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

    def at_final(self, batch: Batch, width: int, found: Callable[[Array, Array | None], Array]) -> Array:
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
                    self.spec, mask[batch.episode_ends[cut]], len(cut), where="next_action_mask of cut episodes"
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
        files.write(path, FORMAT, parameters, {"spec": self.spec.to_json(), "dtype": self.dtype.name})

    def _checked_distribution(self, observations: ArrayLike, action_mask: ArrayLike | None) -> Array:
        given: Any = observations
        # Of a subclass, such as a masked array, a plain copy is made or none at all.
        if type(given) is np.ndarray and cast("Array", given).dtype.kind in "biuf":
            observed = cast("Array", given)
        else:
            observed = owned_numbers("observations", observations)
        check_observations("observations", self.spec, observed)
        if observed.dtype.kind == "f" and not np.isfinite(observed).all():
            check_finite("observations", observed)
        mask = None if action_mask is None else check_mask(self.spec, action_mask, len(observed))
        with np.errstate(all="ignore"):  # what overflows is found below, and named by its step
            distribution = self.distribution(observed, mask)
        if np.isnan(distribution).any():
            self.check_finite("act")
            step = int(np.isnan(distribution).any(axis=1).argmax())
            raise NonFiniteError(
                f"act: expected a distribution at every step, got NaN at step {step}; scale that step's observation down or use float64"
            )
        return distribution


def first_not_finite(parameters: Mapping[str, Array]) -> str | None:
    """Return the name of the first array with NaN or infinity in it, None where there is none."""
    return next((name for name, value in parameters.items() if not np.isfinite(value).all()), None)


def quantities_of(spec: PolicySpec) -> frozenset[str]:
    """Return the quantities that a policy of this spec can give a surrogate."""
    if spec.critic == "none":
        return spec.head.quantities
    return spec.head.quantities | ({"value"} if spec.critic_values == "state" else {"action_value", "action_values"})


def read_policy(path: str | Path) -> tuple[str, dict[str, Array], str]:
    """Return spec (JSON), parameters and dtype name of a file that `Policy.save` wrote.

    Raises:
        FileError: the file cannot be read, or is not a policy.
    """
    arrays, metadata = files.read(path, FORMAT)
    return metadata.get("spec", ""), arrays, metadata.get("dtype", "float64")
