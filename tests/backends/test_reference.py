"""The reference itself, which everything else is measured by, against complex steps of its own forward pass."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.interfaces.surrogate import Surrogate
from pgcore.parts import Composed
from pgcore_check.bounds.agreement import FACTOR, allowance
from pgcore_check.bounds.running_error import bounded
from pgcore_check.cases.cases import NETWORKS, Case, cases
from pgcore_check.core_proofs.discrete import CategoricalForm
from pgcore_check.core_proofs.gaussian import GaussianForm
from pgcore_check.proofs import variants
from pgcore_check.reference import reference
from pgcore_check.reference.differences import complex_step, random_direction

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

# A complex step passes neither |x| nor a value that is held constant, which parts have; test_differences.py
# holds compositions to real steps.
# Parts that a complex step does not pass: they hold a value constant, or take a magnitude.
HELD = {"vespo", "gspo_token", "sapo", "k3_straight", "abs_k1", "kl_cov"}


def passes(case):
    """Return whether an estimator's terms are analytic where a step is taken."""
    parts = [*case.estimator.composition] if isinstance(case.estimator, Composed) else []
    return not any(
        part.name in HELD or getattr(part, "ratio", "none") == "constant" for part in parts
    )


# One of each surrogate and head, whatever the signals.
CASES = list(
    {
        (
            *case.estimator.differentiated_parts.values(),
            case.estimator.quantities,
            case.spec.head,
        ): case
        for case in reversed(list(filter(passes, cases(("float64",)))))
    }.values()
)[::-1]


def gap(case):
    """Return how far the reference's slope along a random direction is from a complex step's, in units of what 80-bit rounding allows."""
    policy, batch = case.make("numpy", padding=3 * (case.seed % 2))
    surrogate = Surrogate(
        policy.spec, case.estimator, batch, pg.signals(policy, case.estimator, batch)
    )
    inputs = (policy.spec, policy.parameters(), surrogate, batch)
    gradient, bounds = reference.gradient(*inputs), reference.gradient(*inputs, lift=bounded)
    direction = random_direction(gradient, np.random.default_rng(case.seed))
    slope = sum((gradient[name] * direction[name]).sum() for name in gradient)
    extended = np.dtype(np.longdouble)
    allowed = sum(
        (allowance(bounds[name], extended) * np.abs(direction[name])).sum() for name in gradient
    )
    return float(abs(slope - complex_step(*inputs, direction)) / allowed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_the_reference_gradient_is_the_complex_step_to_the_last_digits(case):
    assert gap(case) <= FACTOR  # 0.35 at most


def test_scores_and_fisher_products_follow_from_the_gradient():
    """The score is the gradient of log pi, and the Fisher information the slope of the gradient of KL(here, moved)."""
    for case in CASES[:10]:  # every head twice
        policy, batch = case.make("numpy")
        spec, parameters = policy.spec, policy.parameters()
        scores = reference.episode_scores(spec, parameters, batch)
        estimator = pg.estimator("reinforce", baseline="constant", baseline_value=-1.0, gamma=0.0)
        signals = pg.signals(policy, estimator, batch)
        signals.values["advantage"] = np.ones(batch.num_steps)
        gradient = reference.gradient(
            spec, parameters, Surrogate(policy.spec, estimator, batch, signals), batch
        )
        flat = np.concatenate([value.reshape(-1) for value in gradient.values()])
        np.testing.assert_allclose(
            -scores.mean(axis=0), flat, rtol=0, atol=1e-16 * float(np.abs(flat).max())
        )
        vector = np.random.default_rng(0).standard_normal(scores.shape[1])
        product = reference.fisher_vector_product(spec, parameters, batch, vector)
        np.testing.assert_allclose(
            product,
            slope_of_kl(case, vector),
            rtol=0,
            atol=1e-10 * float(np.abs(product).max()),
            err_msg=case.label,
        )


def slope_of_kl(case, vector, size=2.0**-20):
    """Return the slope along a vector of d KL(here, moved) / d moved, at moved = here."""
    policy, batch = case.make("numpy")
    spec, parameters = policy.spec, policy.parameters()
    described = policy.evaluate(batch, ("distribution",))["distribution"]
    estimator = pg.estimator(
        "policy_gradient", advantage="returns", objective="ratio", penalty="exact", critic=None
    )
    signals = pg.signals(policy, estimator, batch)
    signals.values["advantage"] = np.zeros(batch.num_steps)
    signals.values["reference"] = described
    ends = []
    for sign in (1, -1):
        moved, start = {}, 0
        for name, shape in spec.parameter_shapes.items():
            stop = start + int(np.prod(shape))
            moved[name] = reference.extended(parameters[name]) + sign * size * vector[
                start:stop
            ].reshape(shape)
            start = stop
        found = reference.gradient(
            spec, moved, Surrogate(policy.spec, estimator, batch, signals), batch
        )
        ends.append(np.concatenate([value.reshape(-1) for value in found.values()]))
    return (ends[0] - ends[1]) / (2 * size)


@pytest.mark.parametrize(
    ("form", "method", "change", "head"),
    [
        (CategoricalForm, "backward", lambda d, form, _: d * form.temperature, "categorical"),
        (CategoricalForm, "backward", lambda d, form, _: -d, "hot"),
        (GaussianForm, "_outputs", lambda d, form, *_: d / form.std, "fixed"),
        (reference._Run, "_slope", lambda slope, *_: slope * 0 + 1, "per-state"),
        (reference._Run, "_layer_backward", lambda d, *_: d[:, ::-1], "shared"),
    ],
)
def test_a_bug_in_the_reference_does_not_pass(monkeypatch, form, method, change, head):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "shared")
    case = Case("planted", spec, ESTIMATORS["ppo kl"], "float64", seed=30)
    original = getattr(form, method)
    assert gap(case) <= FACTOR
    monkeypatch.setattr(form, method, lambda *args: change(original(*args), *args))
    assert gap(case) > 1e9 * FACTOR
