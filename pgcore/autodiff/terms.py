"""The function that is differentiated: a head's and an estimator's formulas, one after the other, through `xp`.

The order is the one in which NumPy's closed forms are carried back.
"""

from __future__ import annotations

from collections.abc import Collection

from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.errors import EstimatorError
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["quantities", "surrogate_terms"]


def quantities(
    xp: ArrayNamespace, head: Head, names: Collection[str], found: Outputs, inputs: Inputs
) -> dict[str, Native]:
    """Return the named quantities, native; see `pgcore.interfaces.estimator.QUANTITIES`."""
    distribution = head.distribution(xp, found.outputs, found.head, inputs.action_mask)
    named: dict[str, Native] = {}
    for name in names:
        if name == "log_prob":
            named[name] = head.log_prob(xp, distribution, inputs.actions)
        elif name == "entropy":
            named[name] = head.entropy(xp, distribution)
        elif name == "kl":
            named[name] = head.kl(xp, inputs.signals["reference"], distribution)
        elif name == "reverse_kl":
            named[name] = head.kl(xp, distribution, inputs.signals["reference"])
        elif name in ("action_value", "action_values"):
            q = found.outputs if head.action_values else found.values
            named[name] = q if name == "action_values" else xp.take_last(q, inputs.actions)
        else:
            named[name] = distribution if name == "log_probs" else found.values
    return named


def surrogate_terms(
    xp: ArrayNamespace, head: Head, estimator: Estimator, found: Outputs, inputs: Inputs
) -> tuple[Native, dict[str, Native]]:
    """Return [N] surrogate_t, and the quantities that it was given, by name."""
    named = quantities(xp, head, estimator.quantities, found, inputs)
    signals = {name: inputs.signals[name] for name in estimator.keywords if name not in named}
    terms = estimator.surrogate(xp, **named, **signals)
    if len(terms.shape) != 1:
        raise EstimatorError(
            f"{estimator.name}.surrogate: expected one term a step, shape [B], got {list(terms.shape)}; sum over steps is the reduction's"
        )
    return terms, named
