"""An estimator's surrogate, run on symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import QUANTITIES, Estimator
from pgcore_derive.differentiation import derivatives, hoisted, simplify
from pgcore_derive.functions import Expression, sympy
from pgcore_derive.tracing import NeedsRows, Rank, Trace, Traced
from pgcore_derive.xp import SymbolicNamespace

__all__ = ["derivatives_of", "formulas_of", "trace_terms"]

# The quantities with an entry for each action.
ROWS = frozenset(name for name, text in QUANTITIES.items() if text.startswith("[B, A]"))


def derivatives_of(estimator: Estimator) -> tuple[Trace, Expression, dict[str, Expression]]:
    """Return the surrogate's trace, its term and the derivatives by quantity, to be read.

    Raises:
        EstimatorError: the surrogate cannot be differentiated; names the operation.
    """
    # A coefficient stays in front of its bracket.
    with sympy.core.parameters.distribute(False):  # noqa: FBT003 - SymPy's own signature
        trace, term, by_quantity = differentiate(estimator, brackets=False)
        shown = {name: simplify(derivative) for name, derivative in by_quantity.items()}
        return trace, simplify(term), shown


def formulas_of(estimator: Estimator) -> dict[str, Expression]:
    """Return the derivatives by quantity, to be computed: with the brackets of the surrogate.

    Raises:
        EstimatorError: see `derivatives_of`.
    """
    with sympy.core.parameters.distribute(False):  # noqa: FBT003 - SymPy's own signature
        _, _, by_quantity = differentiate(estimator, brackets=True)
        return {name: hoisted(derivative) for name, derivative in by_quantity.items()}


def differentiate(
    estimator: Estimator, *, brackets: bool
) -> tuple[Trace, Expression, dict[str, Expression]]:
    """Return the surrogate's trace, its term and the derivatives as the chain rule leaves them.

    Args:
        estimator: Whose surrogate.
        brackets: See `Trace`.
    """
    trace, inputs, term = trace_surrogate(estimator, brackets=brackets)
    symbols = [inputs[name].expression for name in estimator.quantities]
    return trace, term, dict(zip(estimator.quantities, derivatives(term, symbols), strict=True))


def trace_surrogate(
    estimator: Estimator, *, brackets: bool = False
) -> tuple[Trace, dict[str, Traced], Expression]:
    """Run the surrogate, again with more signals as [B, A] where their use shows that shape.

    Args:
        estimator: Whose surrogate.
        brackets: See `Trace`.

    Raises:
        EstimatorError: an operation cannot be traced, or the terms are not [B].
    """
    signals = frozenset(estimator.keywords) - QUANTITIES.keys()
    return trace_terms(
        f"{estimator.name}.surrogate",
        estimator.surrogate,
        estimator.keywords,
        signals,
        brackets=brackets,
    )


def trace_terms(
    where: str,
    terms_of: Callable[..., Any],
    keywords: Iterable[str],
    signals: frozenset[str],
    *,
    brackets: bool = False,
) -> tuple[Trace, dict[str, Traced], Expression]:
    """Run a function of `xp` and keywords that returns [B] terms; see `trace_surrogate`.

    Args:
        where: The function's name in errors.
        terms_of: The function.
        keywords: Its keywords.
        signals: Those of a shape that only their use shows.
        brackets: See `Trace`.
    """
    names = tuple(keywords)
    rows = ROWS & set(names)
    # Each restart turns at least one signal into a row, so the loop ends.
    while True:
        trace = Trace(where, rows, signals, brackets=brackets)
        inputs = {name: trace.input(name) for name in names}
        namespace: Any = SymbolicNamespace(trace)
        try:
            terms: Any = terms_of(namespace, **inputs)
        except NeedsRows as needed:
            rows |= needed.names
            continue
        # A framework's function, or an operator that traced arrays lack.
        except TypeError as error:
            trace.refuse(
                f"one that raises TypeError ({error})", "use the functions of xp, ", cause=error
            )
        if not isinstance(terms, Traced) or terms.rank is not Rank.STEP:
            got = terms.rank.value if isinstance(terms, Traced) else type(terms).__name__
            raise EstimatorError(
                f"{where}: expected terms of shape [B], got {got}; sum over the actions"
            )
        return trace, inputs, terms.expression
