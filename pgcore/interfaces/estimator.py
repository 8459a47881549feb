"""Estimators: signals that are held constant, and a surrogate that is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast, get_args

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.native import Arrays, host
from pgcore.data.spec import PolicySpec
from pgcore.errors import DependencyError, EstimatorError
from pgcore.interfaces.extras import Extra, declared_extras, used_extras
from pgcore.interfaces.quantities import (
    KLS,
    LISTED,
    PER_ACTION,
    QUANTITIES,
    TWIN_VALUES,
    VALUES_OF_ACTIONS,
    check_cotangents,
    quantities_of,
    surrogate_keywords,
)
from pgcore.interfaces.reduction import AnyReduction, Reduction
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Checked, choice, instance_check, set_field
from pgcore.validation.inheritance import overrides
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host as host_namespace

__all__ = [
    "KLS",
    "QUANTITIES",
    "VALUES_OF_ACTIONS",
    "AnyReduction",
    "Claims",
    "Estimator",
    "Evaluate",
    "Reduction",
    "check_claims",
    "ensure_estimator",
    "quantities_of",
]

# The claims about another policy's episodes, strongest first.
OffPolicy = Literal["exact", "limited", "none"]


class Evaluate(Protocol):
    """The current policy on the batch at hand, forward only, for `signals`."""

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """Return float64 arrays by name, of the policy's quantities and of `EVALUATIONS`."""
        ...

    @property
    def target(self) -> Evaluate:
        """The target policy on the same batch, such as an older copy; the current one by default."""
        ...

    def scores(self, step_weights: Array | None = None) -> Array:
        """Return [E, D] per-episode scores; see `Policy.episode_scores`."""
        ...


@dataclass(frozen=True, slots=True)
class Claims(Checked):
    """An estimator's stated properties; the exact oracle verifies each.

    Attributes:
        unbiased: Its expected gradient is the exact gradient of the expected return, up to
            `discount_state`, for whole episodes from the current policy.
        off_policy: Of another policy's episodes, with that policy's log-probabilities. "exact": as
            unbiased as on-policy, or tends to the exact gradient in large batches. "limited":
            corrected in part, as by truncated ratios. "none": needs the current policy's episodes.
        needs_critic: The policy must have a critic.
        discrete_only: The head must be enumerable: an action is one integer.
        whole_episodes: Every episode must be whole; a truncated one counts as if its reward ended.
    """

    unbiased: bool
    off_policy: Annotated[OffPolicy, choice(*get_args(OffPolicy))]
    needs_critic: bool
    discrete_only: bool
    whole_episodes: bool = False
    field_error = EstimatorError


class Estimator(Checked, ABC):
    """One estimate of a policy gradient from a batch: a frozen dataclass of hyper-parameters.

    A field declares its check, as in `clip: Positive = 0.2`; see `pgcore.validation.fields`. A
    subclass writes `signals` and `surrogate`; `cotangents` are derived unless it writes them. Of the
    surrogate's keyword-only parameters, names in `QUANTITIES` come from the policy, all others from
    `signals`; one with a default is passed only when `uses` says so. With the keyword `episode`, [B]
    episode numbers, terms may hold `xp.episode_sum` and `xp.episode_mean`.

    Attributes:
        name: Its registered name.
        sources: The papers and equations it follows.
        usual_optimizer: The default of `pgcore train`.
        extras: The extras of a batch that it reads, by name, beside those of its base classes.
        reduction: The rule that makes one loss of the terms; see `pgcore.Reduction`.
    """

    registered_as = "estimators"  # the kind
    name: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ()
    usual_optimizer: ClassVar[str] = "adam"
    extras: ClassVar[Mapping[str, Extra]] = {}
    _own_extras: ClassVar[Any] = {}  # those that the class itself declares
    field_error = EstimatorError
    reduction: AnyReduction = Reduction.STEP
    # The surrogate's keywords, each with whether it has a default; read where the class is defined.
    _surrogate_keywords: ClassVar[dict[str, bool]] = {}
    _fitting: PolicySpec | None = None  # the last spec that passed `check_fits`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check extras and the surrogate's signature, and drop cotangents of another surrogate."""
        super().__init_subclass__(**kwargs)
        cls._own_extras = vars(cls).get("extras", {})
        cls.extras = declared_extras(cls)
        writer = next(base for base in cls.__mro__ if "cotangents" in vars(base))
        # An inherited closed form belongs to the parent's surrogate.
        if writer is not Estimator and overrides(cls, writer, ("surrogate",)):
            cls.cotangents = Estimator.cotangents
        # The constants of an inherited `finalise` do not hold for another.
        writer = next(base for base in cls.__mro__ if "standards" in vars(base))
        if writer is not Estimator and overrides(cls, writer, ("finalise",)):
            cls.standards = Estimator.standards
        # A class with `keywords` of its own needs no signature to read them from.
        if cls.surrogate is not Estimator.surrogate and cls.keywords is Estimator.keywords:
            cls._surrogate_keywords = surrogate_keywords(cls)
            if cls.cotangents is not Estimator.cotangents:
                check_cotangents(cls)

    @property
    @abstractmethod
    def claims(self) -> Claims:
        """The properties under these hyper-parameters."""

    @abstractmethod
    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """Return the constants of the loss, [B, ...] float64 each, computed from the whole batch.

        In `pgcore.signals(estimator, episodes)` arrays on an accelerator are `DeviceArray`s, which
        NumPy's functions and `pgcore.returns` compute on, and float64 is the device's float dtype.

        Args:
            batch: The episodes.
            evaluate: Runs the current policy forward, as in `evaluate("value", "final_value")`.
        """

    @abstractmethod
    def surrogate(self, xp: ArrayNamespace, *arguments: Any, **keywords: Native) -> Native:
        """Return [B] terms of the loss, to be minimised.

        Args:
            xp: The backend's array functions.
            arguments: None; an estimator's surrogate has keyword-only parameters.
            keywords: [B, ...] quantities and signals. A term depends on its own row or episode alone.
        """

    def cotangents(self, *arguments: Any, **keywords: Any) -> Mapping[str, Array]:
        """Return d surrogate_t / d quantity_t in closed form, [B, ...] for every quantity that is used.

        By default a registered deriver derives it, once; see `pgcore.derive`. A subclass that changes
        the surrogate, or a method that it calls, inherits no cotangents unless it writes
        `cotangents = Parent.cotangents`. With `episode`, the sum of an episode's terms is derived.

        Args:
            arguments: See `surrogate`.
            keywords: See `surrogate`; NumPy arrays of any float dtype, as the results.

        Raises:
            EstimatorError: an operation of the surrogate has no symbolic derivative.
            DependencyError: no deriver is installed.
        """
        return self._derivation.cotangents(**keywords)

    def uses(self, name: str) -> bool:
        """Whether a keyword of `surrogate` with a default is used under these hyper-parameters."""
        return True

    def counted(self, batch: Batch) -> Array | None:
        """Return [B] bool, the steps that count in the loss; None, the default, for all.

        The reduction does not see the others, so that they count in no denominator; they weigh 0.
        """
        return None

    @property
    def own_denominator(self) -> bool:
        """Whether signals divide by a number of the batch's steps of which `Totals` knows nothing."""
        return False

    @cached_property
    def elementwise(self) -> bool:
        """Whether the surrogate takes arrays of any one shape, as well as [B]."""
        return False

    def finalise(self, signals: dict[str, Array], padding: Array | None) -> dict[str, Array]:
        """Return the signals of one gradient; minibatch normalisation belongs here.

        Args:
            signals: [B, ...] arrays by name, of the batch or minibatch at hand, in the policy's dtype.
            padding: [B] float, 0 where a step is padding and above 0 elsewhere; None without padding.
        """
        return signals

    def standards(
        self, signal: Callable[[str], Array], padding: Array | None
    ) -> Mapping[str, tuple[float, float, float]] | None:
        """Return constants (first, mean, divisor) by signal, where `finalise` is that and no more.

        Such a signal comes out as ((x - first) - mean) / divisor, and as 0 at padding; the others stay
        as they are. So a device need not get the result. None, the default of a class that writes
        `finalise`, says that NumPy's result is needed; a subclass that overrides it inherits none.

        Args:
            signal: Returns a signal by name, as `finalise` gets it.
            padding: See `finalise`.
        """
        return {} if type(self).finalise is Estimator.finalise else None

    def prepare(self) -> None:
        """Compute what is kept on first use, by the terms of one made-up step.

        A compiler cannot trace that use: in Python 3.11 a cached property holds a lock.
        """
        step: dict[str, Any] = {name: np.zeros(1) for name in self.keywords}
        step |= {name: np.zeros((1, 2)) for name in PER_ACTION.intersection(step)}
        if self.sees_episodes:
            step["episode"] = np.zeros(1, np.intp)
        # A surrogate may refuse made-up numbers, and is then prepared by the first real ones.
        with np.errstate(all="ignore"), suppress(Exception):
            self.surrogate(host_namespace, **step)
        _ = self.declaration, self.elementwise, self.signal_names

    def finalise_on(
        self, arrays: Arrays, signals: dict[str, Native], real: Native
    ) -> dict[str, Native]:
        """Return the signals of one loss of native arrays; by default by way of `finalise`.

        Args:
            arrays: The framework's.
            signals: By name, [N, ...], or of the caller's layout where `elementwise`; entries that are
                not real hold 0.
            real: Bool, [N] or of the layout, as `padding` above 0; None where all are.

        Raises:
            BatchError: `finalise` is of NumPy, and the code is traced.
        """
        if type(self).finalise is Estimator.finalise:
            return signals
        numbers = {name: host(value) for name, value in signals.items()}
        padding = None if real is None else host(real).astype(float)
        changed = self.finalise({**numbers}, padding)
        return {
            name: signals[name]
            if value is numbers.get(name)
            else arrays.native(value, signals[name])
            for name, value in changed.items()
        }

    def metrics(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """See `surrogate`: of the same keywords, without padding, further figures to log by name."""
        return {}

    def metric_inputs(self, **keywords: Any) -> dict[str, Array]:
        """Return further keywords of metrics, [B] by name, where those of `surrogate` suffice.

        `log_ratio` is log pi - log mu in nats, `clipped` the method's result, `value` and `return_` are
        `action_value` and `target`.
        """
        inputs: dict[str, Array] = {}
        if {"log_prob", "old_log_prob"} <= keywords.keys():
            inputs["log_ratio"] = keywords["log_prob"] - keywords["old_log_prob"]
            if "advantage" in keywords:
                clipped = self.clipped(inputs["log_ratio"], keywords["advantage"])
                inputs |= {} if clipped is None else {"clipped": clipped}
        if {"action_value", "target"} <= keywords.keys():
            inputs |= {"value": keywords["action_value"], "return_": keywords["target"]}
        return inputs

    def clipped(self, log_ratio: Array, advantage: Array) -> Array | None:
        """Return [B] bool, True where the surrogate is clipped; None, the default, without a clip.

        Args:
            log_ratio: [B] float. log pi - log mu, nats.
            advantage: [B] float, as the surrogate sees it.
        """
        return None

    def adapted(self, metrics: Mapping[str, float]) -> Estimator:
        """Return the estimator for the next update, given this one's metrics; itself by default."""
        return self

    def differentiate(self, policy: Any, surrogate: Any) -> Any:
        """See `Policy.gradient`, the default."""
        return policy.gradient(surrogate)

    def check_fits(self, spec: PolicySpec) -> None:
        """Raise EstimatorError unless policies of a spec have the quantities, and gradients in them."""
        # Inner loops pass the same spec at each minibatch.
        if self._fitting is spec:
            return
        check_claims(self)
        needed = dict.fromkeys((*self.quantities, *self.evaluates))
        names = ", ".join(needed)
        if spec.head.action_values and VALUES_OF_ACTIONS.isdisjoint(self.quantities):
            raise EstimatorError(
                f"{self} on {spec.head}: expected an estimator of action values, since probabilities "
                f"have no gradient, got one of {names}; choose one that uses action_value"
            )
        missing = [name for name in needed if name not in quantities_of(spec)]
        if missing or (self.claims.discrete_only and not spec.head.enumerable):
            lack = f"no {', '.join(missing)}" if missing else "actions that cannot be listed"
            raise EstimatorError(
                f"{self} on {spec.head} with critic={spec.critic!r}: expected a policy with "
                f"{names}, got {lack}; {advice_on(missing)}"
            )
        set_field(self, "_fitting", spec)

    @cached_property
    def _derivation(self) -> Any:
        """The closed form of the cotangents, by the first usable of the registered derivers."""
        derivers = registry().providers("derivers")
        if not derivers:
            raise DependencyError(
                f"{self.name}.cotangents: expected a registered deriver, got none; write or install one"
            )
        # Where none is usable, loading the first says which package to install.
        deriver = next((entry for entry in derivers if entry.status == "usable"), derivers[0])
        derive = registry().load("derivers", deriver.provider.name)
        return cast("Callable[[Estimator], Any]", derive)(self)

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """The policy quantities that the surrogate uses under these hyper-parameters."""
        return tuple(name for name in self.keywords if name in QUANTITIES)

    @cached_property
    def declaration(self) -> str:
        """Quantities, those of them that are [B, A], and the surrogate's signals, as "a b||c".

        One string: code that is compiled compares each of a tuple's at each call.
        """
        per_action = [name for name in self.quantities if name in PER_ACTION]
        signals = [name for name in self.keywords if name not in self.quantities]
        return "|".join(map(" ".join, (self.quantities, per_action, signals)))

    @property
    def evaluates(self) -> tuple[str, ...]:
        """The quantities that `signals` needs under these hyper-parameters, beside the surrogate's."""
        return ()

    @property
    def differentiated_parts(self) -> Mapping[str, str]:
        """What a test pairs with heads and networks: the name, or the parts of the surrogate by kind."""
        return {"estimator": self.name}

    @property
    def used_extras(self) -> dict[str, Extra]:
        """The declared extras that estimator and reduction read under these hyper-parameters."""
        return used_extras(self) | self.reduction.used_extras

    @cached_property
    def signal_names(self) -> frozenset[str]:
        """The signals that the surrogate uses, and `reference` where it uses a KL."""
        names = frozenset(self.keywords) - QUANTITIES.keys()
        return names if KLS.isdisjoint(self.quantities) else names | {"reference"}

    @property
    def sees_episodes(self) -> bool:
        """Whether a step's term depends on its whole episode; minibatches are then of episodes."""
        return "episode" in self.keywords

    @property
    def couples_steps(self) -> bool:
        """Whether cotangents are of an episode's sum, which needs equal weights of an episode's steps.

        By default those of every surrogate with `episode`. False where each term moves with its own
        step alone, as under a ratio of the episode that is held constant.
        """
        return "episode" in self.keywords

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """Every keyword that the surrogate gets under these hyper-parameters."""
        keywords = self._surrogate_keywords.items()
        return tuple(name for name, optional in keywords if not optional or self.uses(name))


def check_claims(estimator: Estimator) -> None:
    """Raise EstimatorError where claims contradict the surrogate's signature."""
    # A claim that is too strong is harmless: it only keeps policies away.
    needs = {"needs_critic": {"value"}, "discrete_only": LISTED}
    for claim, quantities in needs.items():
        used = [name for name in estimator.quantities if name in quantities]
        if used and not getattr(estimator.claims, claim):
            raise EstimatorError(
                f"{estimator.name}.claims: expected {claim}=True for a surrogate that uses "
                f"{', '.join(used)}, got False; claim {claim}=True, or leave that quantity out"
            )


def advice_on(missing: list[str]) -> str:
    """Return the change of a spec that gives it the missing quantities."""
    if "value" in missing:
        return "give the spec critic='separate' or 'shared'"
    if not VALUES_OF_ACTIONS.isdisjoint(missing):
        return "give the spec a critic with critic_values='action', or an EpsilonGreedy head"
    if not TWIN_VALUES.isdisjoint(missing):
        return "give the spec a critic with critic_values='twin'"
    return "choose another head or another estimator"


ensure_estimator = instance_check(Estimator, "pgcore.estimator(name)", EstimatorError)
