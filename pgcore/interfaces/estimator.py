"""Estimators: signals that are held constant, and a surrogate that is differentiated."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.errors import DependencyError, EstimatorError, PgcoreError
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Checked, choice, set_field
from pgcore.validation.inheritance import overrides
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = [
    "KLS",
    "OFF_POLICY",
    "QUANTITIES",
    "VALUES_OF_ACTIONS",
    "AnyReduction",
    "Claims",
    "Estimator",
    "Evaluate",
    "Reduction",
    "check_claims",
    "quantities_of",
]

# What a surrogate may ask a policy for; [B] except where a shape is given.
QUANTITIES: dict[str, str] = {
    "log_prob": "log pi(a_t given s_t), nats",
    "entropy": "entropy of pi(. given s_t), nats",
    "kl": "KL(reference, current policy) at s_t, nats; the signal `reference` [B, width] describes the reference",
    "reverse_kl": "KL(current policy, reference) at s_t, nats",
    "log_probs": "[B, A] log pi of every action, heads of numbered actions",
    "value": "the critic's V(s_t)",
    "action_value": "Q(s_t, a_t) of a critic or Q-network",
    "action_values": "[B, A] Q(s_t, .) of a critic or Q-network",
}

# Quantities that measure from the signal `reference`.
KLS = frozenset(("kl", "reverse_kl"))

# Quantities that the outputs of a head over action values are; its probabilities are piecewise constant in them.
VALUES_OF_ACTIONS = frozenset(("action_value", "action_values"))


# What an estimator may claim of another policy's episodes.
OffPolicy = Literal["exact", "limited", "none"]
OFF_POLICY: tuple[OffPolicy, ...] = ("exact", "limited", "none")


class Evaluate(Protocol):
    """The current policy on the batch at hand, forward only, for `signals`."""

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """Return float64 arrays by name: any of `QUANTITIES` that the policy has, or of `pgcore.interfaces.policy.EVALUATIONS`."""
        ...

    @property
    def target(self) -> Evaluate:
        """The target policy on the same batch, such as an older copy; the current policy where none was given."""
        ...

    def scores(self, step_weights: Array | None = None) -> Array:
        """Return [E, D] per-episode scores; see `Policy.episode_scores`."""
        ...


class Reduction(Enum):
    """How the terms of single steps become one loss."""

    TRAJECTORY = "trajectory"  # sum over a trajectory's steps, mean over trajectories
    STEP = "step"  # mean over all steps
    EPISODE_STEP = "episode_step"  # mean over a trajectory's steps, then over trajectories

    @staticmethod
    def of(where: str, value: object, error: type[PgcoreError] = EstimatorError) -> Reduction:
        """Return the reduction, or the one of that value; raise the error where there is none."""
        try:
            return Reduction(value)
        except ValueError as unknown:
            choices = ", ".join(repr(member.value) for member in Reduction)
            raise error(
                f"{where}: expected one of {choices}, got {value!r}; choose one of them"
            ) from unknown

    def weights(self, batch: Batch) -> Array:
        """Return [B] float64 weights w_t, with loss = sum_t w_t * term_t; padding weighs 0."""
        real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        if self is Reduction.STEP:
            return real / real.sum()
        weights = real / batch.episode_weights.sum()
        if self is Reduction.EPISODE_STEP:
            weights = weights / batch.episode_lengths[batch.episode_of_step]
        return weights


# The type of a field `reduction`: a Reduction, or its value, which the estimator then replaces.
AnyReduction = Annotated[Reduction, Reduction.of]


@dataclass(frozen=True, slots=True)
class Claims(Checked):
    """What an estimator says of itself; the exact oracle verifies each claim.

    Attributes:
        unbiased: Its expected gradient is the exact gradient of the expected return, up to `discount_state`, for whole
            episodes from the current policy.
        off_policy: What becomes of another policy's episodes, with that policy's log-probabilities. "exact": the
            expected gradient is as unbiased as with the current policy's, or tends to the exact one in large batches.
            "limited": they are corrected for in part, as by truncated ratios. "none": the batch must come from the
            current policy.
        needs_critic: The policy must have a critic.
        discrete_only: The head must be enumerable: an action is one integer.
        whole_episodes: Every episode of the batch must be whole; a truncated one counts as if its reward ended there.

    Raises:
        EstimatorError: `off_policy` is none of the three.
    """

    unbiased: bool
    off_policy: Annotated[OffPolicy, choice(*OFF_POLICY)]
    needs_critic: bool
    discrete_only: bool
    whole_episodes: bool = False
    field_error = EstimatorError


class Estimator(Checked, ABC):
    """One way to estimate a policy gradient from a batch: a frozen dataclass whose fields are its hyper-parameters.

    A field declares the check of its values in its annotation, as in `clip: Positive = 0.2`; see `pgcore.validation.fields`.

    A subclass writes `signals` and `surrogate`, and may write `cotangents`, which are else derived. The keyword-only parameters of
    `surrogate` say what it needs: names in `QUANTITIES` come from the policy, all others from `signals`. A keyword with a
    default is passed only when `uses` says so. A surrogate that asks for `episode`, [B] the number of each step's episode, sees whole
    episodes: its terms may hold `xp.episode_sum` and `xp.episode_mean`, and minibatches are of episodes then.

    Attributes:
        name: What the estimator is registered as.
        sources: The papers and equations it follows.
        usual_optimizer: What `pgcore train` steps with where nobody says.
        reduction: How terms become a loss.
    """

    name: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ()
    usual_optimizer: ClassVar[str] = "adam"
    field_error = EstimatorError
    reduction: AnyReduction = Reduction.STEP
    _fitting: PolicySpec | None = None  # the spec that it was last found to fit

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the surrogate's signature, and give up cotangents that were written for another surrogate."""
        super().__init_subclass__(**kwargs)
        writer = next(base for base in cls.__mro__ if "cotangents" in vars(base))
        # A class that changes the surrogate, or a method that it calls, differs from the closed form that it inherits.
        if writer is not Estimator and overrides(cls, writer, ("surrogate",)):
            cls.cotangents = Estimator.cotangents
        if cls.surrogate is not Estimator.surrogate:
            check_signature(cls)

    @property
    @abstractmethod
    def claims(self) -> Claims:
        """What holds under these hyper-parameters."""

    @abstractmethod
    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """Return the constants of the loss, [B, ...] float64 each, computed from the whole batch.

        Args:
            batch: The episodes.
            evaluate: `evaluate("value", "final_value")` runs the current policy forward; see `Evaluate`.
        """

    @abstractmethod
    def surrogate(self, xp: ArrayNamespace, *arguments: Any, **named: Native) -> Native:
        """Return [B] terms of the loss, to be minimised; row t may depend on step t alone, with `episode` on its episode."""

    def cotangents(self, *arguments: Any, **named: Any) -> Mapping[str, Array]:
        """Return d surrogate_t / d quantity_t in closed form, for every quantity that is used; takes what `surrogate` takes.

        Arrays have the quantity's shape and dtype, and may be NumPy arrays of any float dtype, `np.longdouble` included. With `episode` they
        are the derivatives of the sum of the episode's terms, all of which weigh the same in the loss. An estimator that does not write it
        has it derived from its surrogate, once, by a registered deriver; see `pgcore.derive`. So has a subclass that changes the
        surrogate, or a method that it calls, and not the cotangents; `cotangents = Parent.cotangents` in it keeps the parent's,
        `cotangents = Estimator.cotangents` derives them in any class.

        Raises:
            EstimatorError: the surrogate cannot be differentiated symbolically; names the operation.
            DependencyError: SymPy, which derives, is not installed.
        """
        return self._derivation.cotangents(**named)

    def uses(self, name: str) -> bool:
        """Whether a keyword of `surrogate` that has a default is wanted under these hyper-parameters; all are by default."""
        return True

    def finalise(self, signals: dict[str, Array], padding: Array | None) -> dict[str, Array]:
        """Return the signals as the surrogate is to see them, for one gradient: where minibatch normalisation happens.

        Args:
            signals: [B, ...] arrays by name, of the batch or minibatch at hand, in the policy's dtype.
            padding: [B] float, 0 where a step is padding and above 0 elsewhere; None where none is.
        """
        return signals

    def metrics(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Return figures worth logging beside those of `pgcore.interfaces.metrics`; takes what `surrogate` takes.

        Where names agree, these are what is logged. None by default. Padding is left out.
        """
        return {}

    def metric_inputs(self, **named: Any) -> dict[str, Array]:
        """Return what `pgcore.interfaces.metrics` may ask for beside quantities and signals, [B] by name; takes what `surrogate` takes.

        `log_ratio`, log pi - log mu in nats, where the surrogate takes `old_log_prob`; `clipped`, [B]
        bool, where the estimator says so of a ratio and an `advantage`; `value` and `return_`, where
        the critic's estimates and targets are `action_value` and `target`. Padding is left out.
        """
        derived: dict[str, Array] = {}
        if {"log_prob", "old_log_prob"} <= named.keys():
            derived["log_ratio"] = named["log_prob"] - named["old_log_prob"]
            clipped = (
                self.clipped(derived["log_ratio"], named["advantage"])
                if "advantage" in named
                else None
            )
            derived |= {} if clipped is None else {"clipped": clipped}
        if {"action_value", "target"} <= named.keys():
            derived |= {"value": named["action_value"], "return_": named["target"]}
        return derived

    def clipped(self, log_ratio: Array, advantage: Array) -> Array | None:
        """Return [B] bool, where the surrogate is clipped; None, the default, of an estimator that clips nothing.

        Args:
            log_ratio: [B] float. log pi - log mu, nats.
            advantage: [B] float, as the surrogate sees it.
        """
        return None

    def adapted(self, metrics: Mapping[str, float]) -> Estimator:
        """Return the estimator for the next update, given this one's metrics; itself by default."""
        return self

    def differentiate(self, policy: Any, surrogate: Any) -> Any:
        """Return the loss's `pgcore.Gradient`: that of the weighted sum of terms, unless an estimator overrides it.

        Args:
            policy: The `pgcore.Policy` whose parameters it is taken by.
            surrogate: The `pgcore.interfaces.surrogate.Surrogate` of this estimator and a batch.
        """
        return policy.gradient(surrogate)

    def check_fits(self, spec: PolicySpec) -> None:
        """Raise EstimatorError unless a policy has every quantity that this estimator uses, and moves by one; found once for each spec.

        Claims that contradict the use of quantities are an EstimatorError too.
        """
        if self._fitting is spec:
            return
        check_claims(self)
        if spec.head.action_values and VALUES_OF_ACTIONS.isdisjoint(self.quantities):
            raise EstimatorError(
                f"{self} on {spec.head}: expected an estimator of action values, since probabilities are piecewise constant in those and "
                f"have no gradient, got one of {', '.join(self.quantities)}; choose one that uses action_value, or a head such as Categorical"
            )
        offered = quantities_of(spec)
        missing = [name for name in self.quantities if name not in offered]
        if not missing and not (self.claims.discrete_only and not spec.head.enumerable):
            set_field(self, "_fitting", spec)
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
            f"{self} on {spec.head} with critic={spec.critic!r}: expected a policy with "
            f"{', '.join(self.quantities)}, got {what}; {advice}"
        )

    @cached_property
    def _derivation(self) -> Any:
        """The closed form of the cotangents, by the first usable of the registered derivers."""
        derivers = registry().providers("derivers")
        if not derivers:
            raise DependencyError(
                f"{self.name}.cotangents: expected a registered deriver, got none; write `cotangents`, or install one"
            )
        deriver = next((entry for entry in derivers if entry.status == "usable"), derivers[0])
        return cast(
            "Callable[[Estimator], Any]", registry().load("derivers", deriver.provider.name)
        )(self)

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """The policy quantities that the surrogate uses under these hyper-parameters."""
        return tuple(name for name in self.keywords if name in QUANTITIES)

    @cached_property
    def signal_names(self) -> frozenset[str]:
        """The signals that the surrogate uses under these hyper-parameters, `reference` among them where it uses `kl` or `reverse_kl`."""
        reference = set[str]() if KLS.isdisjoint(self.quantities) else {"reference"}
        return frozenset(name for name in self.keywords if name not in QUANTITIES) | reference

    @property
    def sees_episodes(self) -> bool:
        """Whether a step's term depends on its whole episode; minibatches are of episodes then."""
        return "episode" in self.keywords

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """Every keyword that the surrogate is given under these hyper-parameters."""
        return tuple(
            name
            for name, optional in surrogate_keywords(type(self)).items()
            if not optional or self.uses(name)
        )


def quantities_of(spec: PolicySpec) -> frozenset[str]:
    """Return the quantities that a policy of this spec can give a surrogate."""
    if spec.critic == "none":
        return spec.head.quantities
    return spec.head.quantities | (
        {"value"} if spec.critic_values == "state" else {"action_value", "action_values"}
    )


def check_claims(estimator: Estimator) -> None:
    """Raise EstimatorError where claims contradict what the surrogate's signature asks for."""
    claims = estimator.claims
    for claim, stated, quantities in (
        ("needs_critic", claims.needs_critic, {"value"}),
        ("discrete_only", claims.discrete_only, {"log_probs"} | VALUES_OF_ACTIONS),
    ):
        used = [name for name in estimator.quantities if name in quantities]
        if used and not stated:
            raise EstimatorError(
                f"{estimator.name}.claims: expected {claim}=True for a surrogate that uses {', '.join(used)}, got False; "
                f"claim {claim}=True, or leave that quantity out"
            )


@lru_cache
def surrogate_keywords(cls: type[Estimator]) -> dict[str, bool]:
    """Return the surrogate's keyword names, each with whether it has a default."""
    parameters = inspect.signature(cls.surrogate).parameters.values()
    return {p.name: p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_signature(cls: type[Estimator]) -> None:
    """Raise EstimatorError unless `surrogate` takes self, xp and keywords only, and `cotangents` the same keywords."""
    parameters = list(inspect.signature(cls.surrogate).parameters.values())
    shape = [p.kind for p in parameters[:2]]
    keywords = {p.name for p in parameters[2:] if p.kind is p.KEYWORD_ONLY}
    if (
        len(shape) < 2
        or any(kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in shape)
        or len(keywords) != len(parameters) - 2
    ):
        raise EstimatorError(
            f"{cls.__name__}.surrogate: expected (self, xp, *, names...), got {inspect.signature(cls.surrogate)}; "
            f"quantities are {', '.join(QUANTITIES)}, and every other name is a signal"
        )
    if not keywords & QUANTITIES.keys():
        raise EstimatorError(
            f"{cls.__name__}.surrogate: expected at least one of the quantities {', '.join(QUANTITIES)}, got only signals "
            f"{', '.join(sorted(keywords))}; without a quantity there is nothing to differentiate"
        )
    if cls.cotangents is not Estimator.cotangents:
        taken = inspect.signature(cls.cotangents).parameters.values()
        names = {p.name for p in taken if p.kind is p.KEYWORD_ONLY}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in taken)
        if names - keywords or (keywords - names and not takes_any):
            differing = ", ".join(sorted(names ^ keywords))
            raise EstimatorError(
                f"{cls.__name__}.cotangents: expected the keywords of surrogate, got a difference in {differing}; use the same names"
            )
