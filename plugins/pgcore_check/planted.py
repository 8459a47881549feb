"""The first stage at which the kit finds a planted bug."""

from __future__ import annotations

from pgcore.api import policy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.estimator import Estimator
from pgcore_check.cases.builders import builder_of
from pgcore_check.cases.cases import make_case
from pgcore_check.compare import stages
from pgcore_check.proofs import first_formula, hold_to_parent
from pgcore_check.stages.truth import Truth

__all__ = ["first_disagreement"]


def first_disagreement(
    estimator: Estimator, spec: PolicySpec, backend: str = "numpy", *, seed: int = 60
) -> tuple[str | None, float]:
    """Return the first stage that disagrees with the reference and its ratio.

    Args:
        estimator: A variant of one with a proof, perhaps of a subclass with a bug; the reference
            reads its fields alone. Or any other, compared with its own formulas.
        spec: The policy's spec; its head may be of a subclass too.
        backend: A registered name.
        seed: Seed of the case, which is in float64.

    Returns:
        The stage, or None where all agree, and its ratio, or the largest of all.
    """
    # Without this a subclass that overrides a formula would have no reference implementation.
    hold_to_parent(type(estimator))
    hold_to_parent(type(spec.head))
    extras = estimator.used_extras
    correct, batch = make_case(spec, builder_of(spec), "float64", seed, extras=extras)
    truth = Truth(spec, correct.parameters(), estimator, batch, first_formula(), (1, 10))
    suspect = policy(spec, backend=backend, dtype="float64")
    suspect.load(truth.parameters)
    rows = list(stages(suspect, truth, backend))
    first = next((row for row in rows if not row.agrees), None)
    worst = first or max(rows, key=lambda row: row.ratio)
    return first and first.stage, worst.ratio
