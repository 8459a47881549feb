"""The base of all parts of an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra, declared_extras
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Checked
from pgcore.validation.inheritance import overrides

__all__ = ["Part"]


class Part(Checked):
    """One part of an estimator: a frozen dataclass of options, which declare their checks.

    Where a formula's arrays are [B] and it sees no episodes, it gets those of any other layout too,
    such as [E, T], from `pgcore.loss`.

    Attributes:
        registered_as: The kind, such as "objectives".
        noun: One of that kind, for errors.
        formula: The method that `slope` differentiates, where the kind has one. A subclass that
            changes the formula alone does not inherit the slope.
        name: Its registered name.
        sources: The papers and equations it follows.
        extras: The extras of a batch that it reads; `Extra.when` gets the part.
        discrete_only: Whether it makes sense for actions that can be listed alone.
    """

    registered_as: ClassVar[str]
    noun: ClassVar[str]
    formula: ClassVar[str]
    name: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ()
    extras: ClassVar[Mapping[str, Extra]] = {}
    discrete_only: ClassVar[bool] = False
    field_error = EstimatorError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Join the extras with those of the base classes, and drop the slope of another formula."""
        super().__init_subclass__(**kwargs)
        cls.extras = declared_extras(cls)
        # The kind's own slope is None, which has the derivative derived.
        part: Any = cls
        writers: list[Any] = [base for base in cls.__mro__ if "slope" in vars(base)]
        if len(writers) > 1:
            changed = {name: overrides(cls, writers[0], (name,)) for name in (cls.formula, "slope")}
            if changed[cls.formula] and not changed["slope"]:
                part.slope = writers[-1].slope

    @property
    def reads(self) -> tuple[str, ...]:
        """The quantities and signals that its term needs, beside its kind's own arguments."""
        return ()

    @property
    def evaluates(self) -> tuple[str, ...]:
        """The quantities that it evaluates for its constants; a policy must have them."""
        return ()

    @property
    def used_extras(self) -> dict[str, Extra]:
        """The extras that it reads under these options."""
        extras = self.extras.items()
        return {name: extra for name, extra in extras if extra.when is None or extra.when(self)}

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """Return the constants among `reads` that are no other part's, [B, ...] by name.

        Args:
            batch: The episodes.
            evaluate: See `Estimator.signals`.
        """
        return {}

    def signals_of(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Mapping[str, Array]:
        """Return the constants among `reads` that depend on the advantage; see `signals`.

        Args:
            batch: The episodes, without steps that masks of whole steps leave out.
            evaluate: See `Estimator.signals`.
            advantage: [B] A as the gain gets it, but for a normalisation of minibatches.
        """
        return {}

    def metrics(self, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Return figures to log by name; none by default.

        Args:
            inputs: [B, ...] the surrogate's keywords, without padding.
        """
        return {}

    def meet(self, parts: Any) -> None:
        """Raise EstimatorError where it cannot be combined with the other parts.

        Args:
            parts: The `Composition`, whose attributes are the parts.
        """

    def __str__(self) -> str:
        """Return kind and name for errors, such as `objective 'clip'`."""
        return f"{self.noun} {self.name!r}"
