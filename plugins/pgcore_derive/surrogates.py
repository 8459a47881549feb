"""An estimator's surrogate, run on symbols."""

from __future__ import annotations

from typing import Any

from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import QUANTITIES, Estimator
from pgcore_derive.differentiation import derivatives, simplified
from pgcore_derive.library import Expression, sympy
from pgcore_derive.tracing import NeedsRows, Rank, Trace, Traced
from pgcore_derive.xp import SymbolicNamespace

__all__ = ["derivatives_of"]

# The quantities with an entry for each action.
ROWS = frozenset(name for name, what in QUANTITIES.items() if what.startswith("[B, A]"))


def derivatives_of(estimator: Estimator) -> tuple[Trace, Expression, dict[str, Expression]]:
    """Return the run of an estimator's surrogate on symbols, its term, and the term's derivatives by quantity.

    Raises:
        EstimatorError: the surrogate cannot be differentiated; names the operation.
    """
    # A coefficient stays in front of its bracket.
    with sympy.core.parameters.distribute(False):  # noqa: FBT003 - SymPy's own signature
        trace, given, term = traced(estimator)
        found = derivatives(term, [given[name].expression for name in estimator.quantities])
        return trace, simplified(term), dict(zip(estimator.quantities, found, strict=True))


def traced(estimator: Estimator) -> tuple[Trace, dict[str, Traced], Expression]:
    """Run the surrogate, again with other signals as [B, A] where it shows that they are."""
    where = f"{estimator.name}.surrogate"
    signals = frozenset(estimator.keywords) - QUANTITIES.keys()
    rows = ROWS & set(estimator.keywords)
    while True:
        trace = Trace(where, rows, signals)
        given = {name: trace.given(name) for name in estimator.keywords}
        namespace: Any = SymbolicNamespace(trace)
        try:
            terms: Any = estimator.surrogate(namespace, **given)
        except NeedsRows as needed:
            rows |= needed.names
            continue
        except (
            TypeError
        ) as error:  # a function of a framework, an operator that arrays here do not have
            trace.refuse(
                f"one that raises TypeError ({error})", "use the functions of xp, ", cause=error
            )
        if not isinstance(terms, Traced) or terms.rank is not Rank.STEP:
            got = terms.rank.value if isinstance(terms, Traced) else type(terms).__name__
            raise EstimatorError(
                f"{where}: expected terms of shape [B], got {got}; sum over the actions"
            )
        return trace, given, terms.expression
