"""The loss of some parts: its keywords, terms, derivatives, signals and claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.native import Arrays
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import QUANTITIES, Claims, Evaluate, Reduction
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.quantities import LISTED, PER_ACTION
from pgcore.interfaces.recorded import old_log_probs, recorded_values
from pgcore.interfaces.reduced import reduced
from pgcore.parts.advantages import Advantage
from pgcore.parts.counting import Counting, SelectedEvaluate
from pgcore.parts.critics import CriticLoss
from pgcore.parts.levels import Level
from pgcore.parts.masks import GainMask, StepMask
from pgcore.parts.objectives import Objective
from pgcore.parts.part import Part
from pgcore.parts.penalties import Penalty
from pgcore.parts.weights import GainWeight
from pgcore.returns import Standard, normalise, standard
from pgcore.validation.arrays import Array
from pgcore.validation.fields import choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["Composition", "Normalisation", "refusal", "several"]

# Quantities of one number a step.
HELD = QUANTITIES.keys() - PER_ACTION
# The steps over which advantages get mean 0 and standard deviation 1.
Normalisation = Annotated[str, choice("none", "batch", "minibatch")]


@dataclass(frozen=True)
class Composition:
    """The parts of one loss, which meet here.

    loss = sum_t w_t (-(gain_weight_t gain_t) + penalties_t + c_v critic_t - c_e entropy_t)

    Attributes:
        advantage: A, and the critic's target.
        objective: The gain.
        level: What the ratio is of.
        weights: Corrections and masks of the gain, whose product is its weight.
        drops: Masks of whole steps, which no term and no denominator counts.
        penalties: Those of coefficient 0 are left out.
        critic: The critic's loss, or None.
        value_coefficient: c_v.
        entropy_coefficient: c_e; 0 leaves the entropy out.
        normalise: Of the advantages: "none", "batch" or "minibatch".
        ddof: Of their standard deviation.
        reduction: The rule that makes one loss of the terms.

    Raises:
        EstimatorError: two parts do not fit each other; names both.
    """

    advantage: Advantage
    objective: Objective
    level: Level
    weights: tuple[GainWeight, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    critic: CriticLoss | None = None
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    normalise: str = "none"
    ddof: int = 1
    reduction: Reduction = Reduction.STEP
    drops: tuple[StepMask, ...] = ()

    def __post_init__(self) -> None:
        """Leave out penalties without effect, and check that the parts meet."""
        penalties = tuple(penalty for penalty in self.penalties if penalty.coefficient != 0)
        object.__setattr__(self, "penalties", penalties)
        if self.level.changes and not self.objective.reads_ratio:
            raise refusal(
                self.level, "an objective of ratios", self.objective, "choose the level 'token'"
            )
        if self.critic is not None and not self.advantage.gives_return:
            raise refusal(
                self.critic, "an advantage with a target R", self.advantage, "leave the critic out"
            )
        for part in self:
            part.meet(self)
        _ = self._ddof  # see `Estimator.prepare`

    @staticmethod
    def of(parts: Mapping[str, Any], **settings: Any) -> Composition:
        """Return the composition of parts by kind.

        Args:
            parts: `advantage`, `objective` and `level`; and any of `correction`, `mask`, `penalty`
                and `critic`, the first three of which may be tuples.
            settings: The other attributes.
        """
        masks = several(parts.get("mask"))
        gain_masks = (mask for mask in masks if not isinstance(mask, StepMask))
        return Composition(
            parts["advantage"],
            parts["objective"],
            parts["level"],
            (*several(parts.get("correction")), *gain_masks),
            several(parts.get("penalty")),
            parts.get("critic"),
            drops=tuple(mask for mask in masks if isinstance(mask, StepMask)),
            **settings,
        )

    def __iter__(self) -> Iterator[Part]:
        """Return an iterator over the parts."""
        return iter(self._parts)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        gain = (self.advantage, self.objective, self.level, *self.weights, *self.drops)
        return (*gain, *self.penalties, *(() if self.critic is None else (self.critic,)))

    # What an estimator declares.

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """Every keyword of the surrogate, each once."""
        names = ["log_prob", "advantage"]
        if self.objective.reads_ratio:
            names.append("old_log_prob")
        if self.level.sees_episodes:
            names.append("episode")
        if self.weights:
            names.append("gain_weight")
        if self.drops:
            names.append("counted")
        if self.critic is not None:
            names += ["value", "return_"]
            names += ["old_value"] if self.critic.reads_old_value else []
        if self.entropy_coefficient != 0:
            names.append("entropy")
        for part in (self.objective, *self._terms):
            names += part.reads
        return tuple(dict.fromkeys(names))

    @cached_property
    def extras(self) -> dict[str, Extra]:
        """The extras that the parts read, by name."""
        extras: dict[str, Extra] = {}
        for part in self:
            extras |= part.used_extras
        return extras

    @property
    def differentiated_parts(self) -> dict[str, str]:
        """The parts that are differentiated, by kind; several penalties are one level."""
        factors = {"objective": self.objective.name, "level": self.level.name}
        if self.penalties:
            factors["penalty"] = " and ".join(penalty.name for penalty in self.penalties)
        if self.critic is not None:
            factors["value_loss"] = self.critic.name
        return factors

    @cached_property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        # What weighs, penalises or normalises departs from the gradient of the return alone.
        plain = (
            self.normalise == "none"
            and self.entropy_coefficient == 0
            and self.reduction == Reduction.TRAJECTORY
            and not (self.weights or self.drops or self.penalties or self.level.changes)
        )
        # Beside the advantage's ratio the objective's own would weigh twice.
        ratio = self.objective.reads_ratio or bool(self.objective.references) or bool(self.weights)
        off_policy = "none" if ratio else self.advantage.off_policy
        return Claims(
            unbiased=plain and self.objective.unbiased and self.advantage.unbiased,
            off_policy="limited" if off_policy == "exact" and not plain else off_policy,
            needs_critic=self.advantage.needs_critic or self.critic is not None,
            discrete_only=any(part.discrete_only for part in self)
            or not LISTED.isdisjoint(self.keywords),
            whole_episodes=self.advantage.whole_episodes,
        )

    @property
    def own_denominator(self) -> bool:
        """See `Estimator.own_denominator`."""
        return any(has_own_denominator(part) for part in self.weights)

    # The constants.

    def counted(self, batch: Batch) -> Array | None:
        """See `Estimator.counted`; None without a mask of whole steps."""
        return Counting(self.drops, batch).steps if self.drops else None

    def signals(self, batch: Batch, evaluate: Evaluate) -> dict[str, Array]:
        """See `Estimator.signals`; the behaviour policy is by default the current one."""
        if not self.drops:
            signals = self._estimates(batch, evaluate, batch.step_weights)
            return self._statistics(batch, evaluate, signals)
        counting = Counting(self.drops, batch)
        present, counted = counting.present, counting.counted
        seen = SelectedEvaluate(evaluate, present)
        signals = self._estimates(present.batch, seen, counting.kept.astype(np.float64))
        # Baselines see all steps that are present, and statistics of a batch those that count.
        seen = SelectedEvaluate(evaluate, counted)
        signals = self._statistics(counted.batch, seen, counting.chosen(signals))
        return counting.spread(signals) | {"counted": counting.stretch}

    def _estimates(
        self, batch: Batch, evaluate: Evaluate, counted: Array | None
    ) -> dict[str, Array]:
        """Return A, R and the signals beside them; A is normalised over weights above 0."""
        rewards = batch.rewards
        for penalty in self.penalties:
            if penalty.in_reward:
                rewards = rewards - penalty.reward(batch, evaluate)
        signals = dict(self.advantage.estimate(batch, rewards, evaluate))
        for part in self:
            signals |= part.signals(batch, evaluate)
        if self.normalise == "batch":
            advantage = normalise(signals["advantage"], counted, ddof=self.ddof)
            signals["advantage"] = advantage
        if "discount" in signals:
            signals["advantage"] = signals.pop("discount") * signals["advantage"]
        return signals

    def _statistics(
        self, batch: Batch, evaluate: Evaluate, signals: dict[str, Array]
    ) -> dict[str, Array]:
        """Return all signals from those of `_estimates`, of the same steps."""
        for part in self:
            signals |= part.signals_of(batch, evaluate, signals["advantage"])
        # A part may give another policy's, such as the one that sampled the episodes.
        if "old_log_prob" in self.keywords and "old_log_prob" not in signals:
            signals["old_log_prob"] = old_log_probs(batch, evaluate)
        if self.critic is None:
            signals.pop("return_", None)
        elif self.critic.reads_old_value:
            signals["old_value"] = recorded_values(batch, str(self.critic))
        if self.weights:
            weights = [
                self._weights(part, batch, evaluate, signals["advantage"]) for part in self.weights
            ]
            signals["gain_weight"] = math.prod(weights[1:], start=weights[0])
        return signals

    def _weights(
        self, part: GainWeight, batch: Batch, evaluate: Evaluate, advantage: Array
    ) -> Array:
        """Return [B] a part's weights, at a mask's own denominator if it has one."""
        weights = part.weights(batch, evaluate, advantage)
        if not has_own_denominator(part):
            return weights
        # w_t of the mask's steps alone over w_t of all steps that count.
        real = batch.step_weights
        among = np.ones(batch.num_steps, np.bool_) if real is None else real > 0
        # The reduction sees a batch of these steps alone, whose shapes are the host's.
        own = self._reduced(batch, among & np.asarray(weights > 0))
        return np.where(own > 0, own / np.where(own > 0, self._reduced(batch, among), 1.0), 0.0)

    def _reduced(self, batch: Batch, steps: Array) -> Array:
        """Return [B] the reduction's weights of some steps; 0 at the others."""
        return reduced(self.reduction, batch, steps)

    def finalise(self, signals: dict[str, Array], padding: Array | None) -> dict[str, Array]:
        """See `Estimator.finalise`: minibatch normalisation of the advantages."""
        if self.normalise != "minibatch":
            return signals
        return signals | {"advantage": normalise(signals["advantage"], padding, ddof=self.ddof)}

    def standards(
        self, signal: Callable[[str], Array], padding: Array | None
    ) -> dict[str, Standard]:
        """See `Estimator.standards`: those of the advantages."""
        if self.normalise != "minibatch":
            return {}
        return {"advantage": standard(signal("advantage"), padding, ddof=self.ddof)}

    def finalise_on(
        self, arrays: Arrays, signals: dict[str, Native], real: Native
    ) -> dict[str, Native]:
        """See `Estimator.finalise_on`."""
        if self._ddof is None:
            return signals
        # `normalise`'s eps, in full: compiled code looks up defaults at each call.
        advantage = arrays.normalised(signals["advantage"], real, ddof=self._ddof, eps=1e-8)
        # Older compilers trace no union of dictionaries.
        return {**signals, "advantage": advantage}

    # The terms, and their derivatives.

    def terms(self, xp: ArrayNamespace, inputs: Mapping[str, Native]) -> Native:
        """Return [B] terms of the loss from the surrogate's keywords."""
        losses: list[Native] = []
        if self._simple:
            log_ratio = self._ratio_by_step(inputs)
            gain = self.objective.gain(xp, log_ratio, inputs["log_prob"], inputs["advantage"])
        else:
            if not self._plain:
                inputs = self._held(xp, inputs)
            gain = self._plain_gain(xp, inputs) if self._plain else self._gain(xp, inputs)
            losses += [penalty.term(xp, **read_by(penalty, inputs)) for penalty in self._terms]
        if self.critic is not None:
            loss = self.critic.term(xp, inputs["value"], inputs["return_"], inputs.get("old_value"))
            losses.append(self.value_coefficient * loss)
        if losses:
            terms = losses[0]
            for loss in losses[1:]:
                terms = terms + loss
            # One operation fewer than the sum with a negative gain.
            terms = terms - gain
        else:
            terms = -gain
        if self.entropy_coefficient != 0:
            terms = terms - self.entropy_coefficient * inputs["entropy"]
        if self._simple or not self.drops:
            return terms
        return xp.where(inputs["counted"] > 0, terms, 0.0)

    def _plain_gain(self, xp: ArrayNamespace, inputs: Mapping[str, Native]) -> Native:
        """Return `_gain` of a plain gain, without what would leave it as it is."""
        log_prob = inputs["log_prob"]
        log_ratio = self._ratio_by_step(inputs) if self._reads_ratio else None
        read = {name: inputs[name] for name in self._reads}
        return self.objective.gain(xp, log_ratio, log_prob, inputs["advantage"], **read)

    def _gain(self, xp: ArrayNamespace, inputs: Mapping[str, Native]) -> Native:
        """Return [B] the gain of the level's log ratios, weighed."""
        _, log_ratio = self._log_ratios(xp, inputs)
        log_prob, read = self._weighed(xp, inputs)
        gain = self.objective.gain(xp, log_ratio, log_prob, inputs["advantage"], **read)
        return inputs["gain_weight"] * gain if self.weights else gain

    def cotangents(self, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
        """Return the derivatives of `terms` by quantity, or None where a part has no slope."""
        if self.drops:
            inputs = self._held(host, inputs)
        slope = self._plain_slope(inputs) if self._plain else self._gain_slope(inputs)
        if slope is None:
            return None
        cotangents = {"log_prob": -slope}
        for penalty in self._terms:
            slopes = penalty.slope(**read_by(penalty, inputs))
            if slopes is None:
                return None
            for name, part in slopes.items():
                cotangents[name] = cotangents[name] + part if name in cotangents else part
        if self.critic is not None:
            slope = self.critic.slope(inputs["value"], inputs["return_"], inputs.get("old_value"))
            if slope is None:
                return None
            cotangents["value"] = self.value_coefficient * slope
        if self.entropy_coefficient != 0:
            bonus = np.full_like(inputs["entropy"], -self.entropy_coefficient)
            present = cotangents.get("entropy")
            cotangents["entropy"] = bonus if present is None else present + bonus
        if not self.drops:
            return cotangents
        counted = inputs["counted"] > 0
        return {name: chosen(counted, value) for name, value in cotangents.items()}

    def metric_inputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Estimator.metric_inputs`: a ratio is the level's, at each step."""
        if not self.objective.reads_ratio:
            return {}
        advantage, by_step = inputs["advantage"], inputs["log_prob"] - inputs["old_log_prob"]
        log_ratio = self.level.log_ratio(host, by_step, inputs["log_prob"], inputs.get("episode"))
        clipped = self.objective.limited(by_step, advantage)
        if clipped is None:
            clipped = self.objective.clipped(log_ratio, advantage)
        figures = {"log_ratio": log_ratio}
        return figures if clipped is None else figures | {"clipped": clipped}

    @cached_property
    def _terms(self) -> tuple[Penalty, ...]:
        """The penalties in the loss."""
        return tuple(penalty for penalty in self.penalties if not penalty.in_reward)

    def _held(self, xp: ArrayNamespace, inputs: Mapping[str, Native]) -> Mapping[str, Native]:
        """Return the inputs, with quantities of steps that are left out held at 0.

        Their signals are 0 already. A weight of 0 alone would not cancel what overflows there.
        """
        if not self.drops:
            return inputs
        counted = inputs["counted"] > 0
        names = [name for name in self.keywords if name in HELD]
        return {**inputs, **{name: xp.where(counted, inputs[name], 0.0) for name in names}}

    def _weighed(
        self, xp: ArrayNamespace, inputs: Mapping[str, Native]
    ) -> tuple[Native, dict[str, Native]]:
        """Return log pi, at 0 where the gain weighs 0, and what the objective reads."""
        log_prob, read = inputs["log_prob"], {name: inputs[name] for name in self._reads}
        if not self.weights:
            return log_prob, read
        # As for log ratios: the objective may make one of log pi and a signal of its own.
        counts = inputs["gain_weight"] > 0
        for name in self.objective.references:
            read[name] = xp.where(counts, read[name], 0.0)
        return xp.where(counts, log_prob, 0.0), read

    @cached_property
    def _plain(self) -> bool:
        """Whether the gain is the objective's, of the ratios of all single steps."""
        changed = self._limits or self.level.changes
        return not (changed or self.weights or self.drops)

    # Kept, since compiled code looks at each call at all that it read, and copies a class's dictionary
    # to look at what is the class's.

    @cached_property
    def _simple(self) -> bool:
        """Whether the gain is of ratios of single steps and nothing else, and no penalty is a term."""
        return self._plain and self._reads_ratio and not (self._reads or self._terms)

    @cached_property
    def _ddof(self) -> int | None:
        """That of advantages that are normalised in the minibatch; None where they are not."""
        return self.ddof if self.normalise == "minibatch" else None

    @cached_property
    def _reads_ratio(self) -> bool:
        """Whether the objective reads the log ratio."""
        return self.objective.reads_ratio

    @cached_property
    def _reads(self) -> tuple[str, ...]:
        """The keywords that the objective reads beside the arguments of all objectives."""
        return self.objective.reads

    @cached_property
    def _limits(self) -> bool:
        """Whether the objective limits the log ratios of single steps."""
        return type(self.objective).limit is not Objective.limit

    def _ratio_by_step(self, inputs: Mapping[str, Native]) -> Native:
        """Return [B] log ratios of single steps."""
        return inputs["log_prob"] - inputs["old_log_prob"]

    def _log_ratios(
        self, xp: ArrayNamespace, inputs: Mapping[str, Native]
    ) -> tuple[Native, Native]:
        """Return [B] log ratios of single steps and of the level; None where the gain reads none."""
        objective, log_prob = self.objective, inputs["log_prob"]
        if not self._reads_ratio:
            return None, None
        by_step = self._ratio_by_step(inputs)
        if self.drops:
            by_step = xp.where(inputs["counted"] > 0, by_step, 0.0)
        limited = objective.limit(xp, by_step, inputs["advantage"]) if self._limits else by_step
        if self.drops and self.level.averages:
            # The level divides by all steps of the episode, those left out included.
            limited = limited * inputs["counted"]
        log_ratio = self.level.log_ratio(xp, limited, log_prob, inputs.get("episode"))
        # A weight of 0 does not cancel a gain that overflows: 0 times infinity is NaN.
        if self.weights:
            log_ratio = xp.where(inputs["gain_weight"] > 0, log_ratio, 0.0)
        return by_step, log_ratio

    def _plain_slope(self, inputs: Mapping[str, Array]) -> Array | None:
        """Return `_gain_slope` of a plain gain, without what would leave it as it is.

        At the minibatches of an inner loop those calls take as long as the arithmetic.
        """
        objective, log_prob = self.objective, inputs["log_prob"]
        log_ratio = log_prob - inputs["old_log_prob"] if objective.reads_ratio else None
        read = read_by(objective, inputs)
        slopes = objective.slope(log_ratio, log_prob, inputs["advantage"], **read)
        if slopes is None:
            return None
        slope = added(*slopes)
        return np.zeros_like(log_prob) if slope is None else slope

    def _gain_slope(self, inputs: Mapping[str, Array]) -> Array | None:
        """Return [B] derivatives of the weighed gain by log pi, of an episode's sum at its level."""
        objective, advantage = self.objective, inputs["advantage"]
        by_step, log_ratio = self._log_ratios(host, inputs)
        log_prob, read = self._weighed(host, inputs)
        slopes = objective.slope(log_ratio, log_prob, advantage, **read)
        if slopes is None:
            return None
        by_ratio, slope = slopes
        if self.weights:
            # Without a weight above 0 the definition holds the gain constant.
            weight = np.maximum(inputs["gain_weight"], 0)
            by_ratio = None if by_ratio is None else weight * by_ratio
            slope = None if slope is None else weight * slope
        if by_ratio is not None:
            if self.drops:
                by_ratio = np.where(inputs["counted"] > 0, by_ratio, 0.0)
            by_ratio, direct = self.level.pull(by_ratio, inputs.get("episode"))
            if by_ratio is not None and self.drops and self.level.averages:
                by_ratio = by_ratio * inputs["counted"]
            if by_ratio is not None and self._limits:
                limited = objective.limited(by_step, advantage)
                if limited is None:
                    return None
                by_ratio = np.where(limited, 0.0, by_ratio)
            slope = added(slope, added(by_ratio, direct))
        return np.zeros_like(inputs["log_prob"]) if slope is None else slope


def has_own_denominator(part: GainWeight) -> bool:
    """Return whether the gain is reduced over a mask's steps alone."""
    return isinstance(part, GainMask) and part.own_denominator


def chosen(counted: Array, cotangent: Array) -> Array:
    """Return a [B] or [B, A] cotangent, 0 where a step does not count."""
    return np.where(counted if cotangent.ndim == 1 else counted[:, None], cotangent, 0.0)


def added(left: Array | None, right: Array | None) -> Array | None:
    """Return the sum of two derivatives of which None is 0."""
    return right if left is None else left if right is None else left + right


def read_by(part: Part, inputs: Mapping[str, Native]) -> dict[str, Native]:
    """Return the keywords that a part reads beside its kind's own arguments."""
    names = part.reads
    return {name: inputs[name] for name in names} if names else {}


def several(parts: Any) -> tuple[Any, ...]:
    """Return the parts of a field that holds none, one or a tuple of them."""
    if isinstance(parts, tuple):
        return cast("tuple[Any, ...]", parts)
    return () if parts is None else (parts,)


def refusal(part: Part, rule: str, partner: Part, advice: str) -> EstimatorError:
    """Return the error for two parts that do not fit each other."""
    return EstimatorError(f"{part}: expected {rule} beside it, got {partner}; {advice}")
