"""Planted bugs, and the first stage at which the kit finds one."""

from __future__ import annotations

from pgcore.api import policy
from pgcore.data.spec import PolicySpec
from pgcore.errors import PluginError
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.parts import Part
from pgcore_check.cases.builders import builder_of
from pgcore_check.cases.cases import NETWORKS, fits, make_case
from pgcore_check.compare import stages
from pgcore_check.compositions import compositions
from pgcore_check.proof import Bug
from pgcore_check.proofs import first_formula, hold_to_parent, proofs, variants
from pgcore_check.stages.truth import Truth

__all__ = ["bugs", "first_disagreement", "stage_of"]


def bugs() -> tuple[Bug, ...]:
    """Return the planted bugs of all proofs."""
    return tuple(bug for proof in proofs().all for bug in proof.bugs)


def stage_of(bug: Bug) -> str | None:
    """Return the first stage that finds a planted bug; None where all agree.

    An estimator is run on the first head that fits it, a head under the first estimator that fits
    it, and a part in the first estimator that takes it.

    Raises:
        PluginError: nothing fits it.
    """
    heads, estimators = [*variants("heads").values()], [*variants("estimators").values()]
    planted = bug.planted
    if isinstance(planted, Part):
        composed, problems = compositions(estimators, {bug.name: planted})
        if problems:
            raise PluginError(f"bug {bug.name!r}: {next(iter(problems.values()))}")
        estimators = [*composed.values()]
    elif isinstance(planted, Head):
        heads = [planted]
    else:
        estimators = [planted] if isinstance(planted, Estimator) else []
    for estimator in estimators:
        for head in heads:
            for values in ("state", "action"):
                spec = PolicySpec(NETWORKS["tanh"], head, "separate", values)
                if fits(estimator, spec):
                    return first_disagreement(estimator, spec)[0]
    raise PluginError(
        f"bug {bug.name!r}: expected an estimator, a head or a part that something fits, got "
        f"{planted!r}; plant it in another class"
    )


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
