"""Estimators that are compositions of parts."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from pgcore.data.batch import Batch
from pgcore.data.native import Arrays
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.quantities import surrogate_keywords
from pgcore.parts.composition import Composition
from pgcore.returns import Standard
from pgcore.validation.arrays import Array
from pgcore.validation.fields import set_field
from pgcore.validation.inheritance import overrides
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Composed"]


class Composed(Estimator):
    """An estimator whose fields make a `Composition`, which does all of its work.

    A subclass is a frozen dataclass that writes `compose`. One that writes a surrogate of its own
    names its keywords, as any estimator, or takes the composition's as `**inputs`.

    Attributes:
        composition: The parts under these hyper-parameters.
    """

    composition: Composition
    _takes_layouts: ClassVar[bool] = True  # not with a surrogate or a `finalise` of its own, of [B]

    def __post_init__(self) -> None:
        """Check the fields, and that the parts meet."""
        super().__post_init__()
        set_field(self, "composition", self.compose())
        self.prepare()

    @abstractmethod
    def compose(self) -> Composition:
        """Return the parts; called once, after the fields are checked."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Read the keywords of a surrogate that the class writes itself."""
        super().__init_subclass__(**kwargs)
        cls._takes_layouts = not overrides(cls, Composed, ("surrogate", "finalise"))
        # NumPy's own code of a subclass is not the composition's.
        if overrides(cls, Composed, ("finalise",)):
            cls.finalise_on = Estimator.finalise_on
        parameters = inspect.signature(cls.surrogate).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            cls._surrogate_keywords = surrogate_keywords(cls)

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """See `Estimator.keywords`: those that the parts read, or those of a surrogate of its own."""
        keywords = self._surrogate_keywords or dict.fromkeys(self.composition.keywords, True)
        return tuple(name for name, optional in keywords.items() if not optional or self.uses(name))

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`: what the parts read."""
        return name in self.composition.keywords

    @property
    def differentiated_parts(self) -> Mapping[str, str]:
        """See `Estimator.differentiated_parts`: the parts that are differentiated."""
        return self.composition.differentiated_parts

    @property
    def used_extras(self) -> dict[str, Extra]:
        """See `Estimator.used_extras`: those of the parts, and of a subclass."""
        return self.composition.extras | super().used_extras

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return self.composition.claims

    @property
    def couples_steps(self) -> bool:
        """See `Estimator.couples_steps`: as the level."""
        return super().couples_steps and self.composition.level.couples_steps

    @cached_property
    def elementwise(self) -> bool:
        """See `Estimator.elementwise`: parts are, but for levels of episodes and rows of actions."""
        return self._takes_layouts and not self.sees_episodes

    @property
    def own_denominator(self) -> bool:
        """See `Estimator.own_denominator`: as a mask."""
        return self.composition.own_denominator

    @property
    def evaluates(self) -> tuple[str, ...]:
        """See `Estimator.evaluates`: those of the parts."""
        return tuple(dict.fromkeys(name for part in self.composition for name in part.evaluates))

    def counted(self, batch: Batch) -> Array | None:
        """See `Estimator.counted`: those that no mask leaves out."""
        return self.composition.counted(batch)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`."""
        return self.composition.signals(batch, evaluate)

    def finalise(self, signals: dict[str, Array], padding: Array | None) -> dict[str, Array]:
        """See `Estimator.finalise`."""
        return self.composition.finalise(signals, padding)

    def standards(
        self, signal: Callable[[str], Array], padding: Array | None
    ) -> Mapping[str, Standard]:
        """See `Estimator.standards`."""
        return self.composition.standards(signal, padding)

    def finalise_on(
        self, arrays: Arrays, signals: dict[str, Native], real: Native
    ) -> dict[str, Native]:
        """See `Estimator.finalise_on`."""
        return self.composition.finalise_on(arrays, signals, real)

    def surrogate(self, xp: ArrayNamespace, *arguments: Any, **inputs: Any) -> Native:
        """See `Estimator.surrogate`."""
        return self.composition.terms(xp, inputs)

    def cotangents(self, *arguments: Any, **inputs: Any) -> Mapping[str, Array]:
        """See `Estimator.cotangents`: from the parts' slopes, derived where one has none."""
        cotangents = self.composition.cotangents(inputs)
        return super().cotangents(**inputs) if cotangents is None else cotangents

    def metric_inputs(self, **keywords: Any) -> dict[str, Array]:
        """See `Estimator.metric_inputs`."""
        return self.composition.metric_inputs(keywords)

    def metrics(self, **keywords: Any) -> dict[str, float]:
        """See `Estimator.metrics`: those of the parts."""
        figures: dict[str, float] = {}
        for part in self.composition:
            figures |= part.metrics(keywords)
        return figures

    def clipped(self, log_ratio: Array, advantage: Array) -> Array | None:
        """See `Estimator.clipped`; the log ratio is the level's."""
        return self.composition.objective.clipped(log_ratio, advantage)
