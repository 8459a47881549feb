"""What the kit makes of a policy with a bug in it: the first stage that disagrees."""

from __future__ import annotations

from pgcore.api import policy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.estimator import Estimator
from pgcore_check.cases.cases import make_case
from pgcore_check.compare import stages
from pgcore_check.proofs import first_formula, hold_to_parent
from pgcore_check.stages.truth import Truth

__all__ = ["first_disagreement"]


def first_disagreement(
    estimator: Estimator, spec: PolicySpec, backend: str = "numpy", *, seed: int = 60
) -> tuple[str | None, float]:
    """Return the first stage that disagrees with the reference, or None, and its ratio; else the largest ratio of all.

    Args:
        estimator: A variant of one with a proof, perhaps of a subclass with a bug; the reference takes its fields alone.
        spec: The policy's; of its head the same holds.
        backend: A registered name.
        seed: Of the case, which is in float64.
    """
    hold_to_parent(type(estimator))
    hold_to_parent(type(spec.head))
    given, batch = make_case(spec, "numpy", "float64", seed)
    truth = Truth(spec, given.parameters(), estimator, batch, first_formula(), (1, 10))
    made = policy(spec, backend=backend, dtype="float64")
    made.load(truth.parameters)
    rows = list(stages(made, truth, backend))
    first = next((row for row in rows if not row.agrees), None)
    worst = first or max(rows, key=lambda row: row.ratio)
    return first and first.stage, worst.ratio
