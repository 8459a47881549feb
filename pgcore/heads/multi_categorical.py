"""Several softmax choices at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

from pgcore.errors import PgcoreError, SpecError
from pgcore.heads.discrete import DiscreteHead
from pgcore.validation.fields import Positive, count
from pgcore.wording import shown
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["MultiCategorical"]


def _counts(where: str, value: object, error: type[PgcoreError] = SpecError) -> tuple[int, ...]:
    """Return the value as a tuple of ints, or raise unless it is a sequence of counts."""
    # A string is iterable, but no sequence of counts.
    sequence = isinstance(value, Iterable) and not isinstance(value, str)
    items = tuple(cast("Iterable[Any]", value)) if sequence else ()
    if not items:
        raise error(
            f"{where}: expected one count for each choice, got {shown(cast('object', value))}; "
            "give a tuple like (3, 2)"
        )
    return tuple(count(f"{where}[{k}]", item, error) for k, item in enumerate(items))


@dataclass(frozen=True, slots=True)
class MultiCategorical(DiscreteHead):
    """Independent choices, the k-th a softmax over n[k] alternatives.

    log pi(a) = sum_k log softmax(w_k / temperature)_{a_k}. Network outputs are the logits of all
    choices side by side, [B, sum n]; so are the distribution parameters, log-probabilities, and the
    mask. Actions are [B, len(n)] integers, a_k in [0, n[k]). Entropy and KL are sums over choices.

    Attributes:
        n: Number of alternatives of each choice; one choice or more, at least 1 alternative each.
        temperature: Divides the logits; positive.
    """

    n: Annotated[tuple[int, ...], _counts]
    temperature: Positive = 1.0
    name: ClassVar[str] = "multi_categorical"

    @property
    def outputs(self) -> int:
        """One logit an alternative."""
        return sum(self.n)

    @property
    def choices(self) -> tuple[slice, ...]:
        """See `Head.choices`: side by side."""
        bounds = itertools.accumulate(self.n, initial=0)
        return tuple(slice(start, stop) for start, stop in itertools.pairwise(bounds))

    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """See `Head.distribution`."""
        logits = outputs if self.temperature == 1.0 else outputs / self.temperature
        # Before the softmax, so that masked alternatives take no probability.
        masked = logits if mask is None else xp.where(mask, logits, -math.inf)
        return xp.concatenate(tuple(xp.log_softmax(masked[:, k], 1) for k in self.choices), 1)
