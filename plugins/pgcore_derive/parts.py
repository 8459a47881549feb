"""The formula of one part of an estimator, and its derivatives, in LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgcore.interfaces.estimator import QUANTITIES
from pgcore.parts import CriticLoss, Level, Objective, Penalty
from pgcore.parts.part import Part
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_derive.differentiation import derivatives, simplify
from pgcore_derive.functions import sympy
from pgcore_derive.surrogates import trace_terms
from pgcore_derive.writing import latex_of, symbol_latex

__all__ = ["PartFormula", "derive_part"]


@dataclass(frozen=True)
class PartFormula:
    """The formula of a part under its options.

    Attributes:
        latex: The gain of an objective, the term of a penalty or of a critic's loss, the log ratio
            of a level.
        derivatives: Those of `latex` that are not 0 by the symbols of their variables, in LaTeX.
    """

    latex: str
    derivatives: dict[str, str]


def derive_part(part: Part) -> PartFormula | None:
    """Return the formula of a part; None of a kind that is computed in the signals.

    r is the ratio that an objective sees, or of a single step for a level. The derivative of a level
    is that of its sum over an episode's steps.

    Raises:
        EstimatorError: the formula cannot be differentiated; names the operation.

    Example:
        >>> from pgcore_derive.parts import derive_part
        >>> formula = derive_part(pg.KL("k1", 1.0))
        >>> list(formula.derivatives.values())
        ['1']
    """
    traced = function_of(part)
    if traced is None:
        return None
    function, keywords, variables = traced
    signals = frozenset(keywords) - QUANTITIES.keys()
    # A coefficient stays in front of its bracket.
    with sympy.core.parameters.distribute(False):  # noqa: FBT003 - SymPy's own signature
        trace, inputs, term = trace_terms(str(part), function, keywords, signals)
        symbols = [inputs[name].expression for name in variables]
        slopes = zip(variables, derivatives(term, symbols), strict=True)
        return PartFormula(
            latex_of(simplify(term)),
            {
                symbol_latex(name, row=name in trace.rows): latex_of(simplify(slope))
                for name, slope in slopes
                if slope != 0
            },
        )


# A function of `xp` and keywords, the keywords, and those to differentiate by.
Traceable = tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]


def function_of(part: Part) -> Traceable | None:
    """Return the function of a part's formula; see `derive_part`."""
    if isinstance(part, Objective):
        ratios = ("log_ratio",) if part.reads_ratio else ()
        variables = (*ratios, "log_prob")
        return gain_of(part), (*variables, "advantage", *part.reads), variables
    if isinstance(part, Penalty):
        reads = tuple(part.reads)
        return part.term, reads, tuple(name for name in reads if name in QUANTITIES)
    if isinstance(part, CriticLoss):
        old = ("old_value",) if part.reads_old_value else ()
        return loss_of(part), ("value", "return_", *old), ("value",)
    if isinstance(part, Level):
        variables = ("log_ratio", "log_prob")
        return part.log_ratio, (*variables, "episode"), variables
    return None


def gain_of(objective: Objective) -> Callable[..., Native]:
    """Return an objective's gain of keywords, of single steps' log ratios as it limits them."""

    def gain(xp: ArrayNamespace, **inputs: Native) -> Native:
        log_ratio, log_prob = inputs.pop("log_ratio", None), inputs.pop("log_prob")
        advantage = inputs.pop("advantage")
        if log_ratio is not None:
            log_ratio = objective.limit(xp, log_ratio, advantage)
        return objective.gain(xp, log_ratio, log_prob, advantage, **inputs)

    return gain


def loss_of(critic: CriticLoss) -> Callable[..., Native]:
    """Return a critic's loss of keywords."""

    def term(xp: ArrayNamespace, **inputs: Native) -> Native:
        return critic.term(xp, inputs["value"], inputs["return_"], inputs.get("old_value"))

    return term
