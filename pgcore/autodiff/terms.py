"""The differentiated function: a head's formulas, then an estimator's, through `xp`."""

from __future__ import annotations

from collections.abc import Collection

from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.errors import EstimatorError
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.quantities import PER_ACTION, VALUES, columns_of
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["quantities", "surrogate_terms"]


def quantities(
    xp: ArrayNamespace, head: Head, names: Collection[str], outputs: Outputs, inputs: Inputs
) -> dict[str, Native]:
    """Return quantities by name, native.

    Args:
        xp: The backend's namespace.
        head: The action distribution.
        names: Of `pgcore.interfaces.estimator.QUANTITIES`.
        outputs: The network's.
        inputs: Actions and mask; its signal `reference` for a KL.
    """
    distribution = head.distribution(xp, outputs.outputs, outputs.head, inputs.action_mask)
    values: dict[str, Native] = {}
    for name in names:
        if name == "log_prob":
            values[name] = head.log_prob(xp, distribution, inputs.actions)
        elif name == "entropy":
            values[name] = head.entropy(xp, distribution)
        elif name == "kl":
            values[name] = head.kl(xp, inputs.signals["reference"], distribution)
        elif name == "reverse_kl":
            values[name] = head.kl(xp, distribution, inputs.signals["reference"])
        elif name in VALUES["twin"]:
            # A head over action values has the network's outputs for them, any other the critic's.
            q = outputs.outputs if head.action_values else outputs.values
            # A slice of all columns takes time too.
            if q.shape[1] > head.outputs:
                q = q[:, columns_of(name, head.outputs)]
            values[name] = q if name in PER_ACTION else xp.take_last(q, inputs.actions)
        else:
            values[name] = distribution if name == "log_probs" else outputs.values
    return values


def surrogate_terms(
    xp: ArrayNamespace, head: Head, estimator: Estimator, outputs: Outputs, inputs: Inputs
) -> tuple[Native, dict[str, Native]]:
    """Return [N] surrogate_t, and its quantities by name.

    Args:
        xp: The backend's namespace.
        head: The action distribution.
        estimator: The loss.
        outputs: The network's.
        inputs: Actions, mask and signals.
    """
    arguments = quantities(xp, head, estimator.quantities, outputs, inputs)
    signals = {name: inputs.signals[name] for name in estimator.keywords if name not in arguments}
    terms = estimator.surrogate(xp, **arguments, **signals)
    if len(terms.shape) != 1:
        raise EstimatorError(
            f"{estimator.name}.surrogate: expected one term a step, shape [B], got "
            f"{list(terms.shape)}; sum over steps is the reduction's"
        )
    return terms, arguments
