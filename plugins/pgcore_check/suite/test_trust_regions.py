"""Trust regions on every backend: the same steps as on NumPy, from the same products, and none where the search fails."""

# pyright: standard
from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import proofs
from pgcore_check.suite.material import HEADS, TRUST_REGIONS, flat
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()


if not all("trpo" in registry().names(kind) for kind in ("estimators", "optimizers")):
    pytest.skip("trpo is disabled", allow_module_level=True)

ESTIMATOR = pg.estimator("trpo", gamma=0.9)
CASES = [
    ("categorical", "tanh"),
    ("hot", "table"),
    ("fixed", "linear"),
    ("shared", "relu"),
    ("per-state", "sigmoid"),
    ("squashed", "tanh"),
    ("multi", "relu"),
    ("bernoulli", "linear"),
]
CLASSES = {type(rule) for rule in TRUST_REGIONS.values()}
FIELDS = {
    proof.of.name: options
    for proof in proofs().all
    if proof.of in CLASSES
    for options in proof.variants.values()
}

# Of the largest parameter, in units of the dtype's roundoff. A product with F + damping I is within some units of the exact one, and
# solving amplifies that by at most its condition number, which is up to 7,000 in these cases; three steps were seen within 10.
ROUNDOFFS = 64.0


def run(backend, name, head, network, dtype, steps=3, **more):
    """Return the parameters after each step, and the reports."""
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS[network], HEADS[head], "separate"), backend, dtype, 73, 40, 5
    )
    optimizer = pg.optimizer(name, critic_steps=5, **FIELDS[name] | more)  # pyright: ignore[reportOperatorIssue]
    actual, reports = [], []
    for _ in range(steps):
        reports.append(optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch)))
        actual.append(flat(policy.parameters()))
    return actual, reports


def gap(actual, expected, dtype):
    """Return the largest difference in units of roundoff beside the largest parameter."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max() / np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("head", "network", "dtype"),
    [*((*case, "float64") for case in CASES), (*CASES[0], "float32"), (*CASES[4], "float32")],
)
@pytest.mark.parametrize("name", FIELDS)
def test_steps_are_those_of_numpy(backend, name, head, network, dtype):
    actual, reports = run(backend, name, head, network, dtype)
    expected, expected_reports = run("numpy", name, head, network, dtype)
    for step in (0, 2):
        assert gap(actual[step], expected[step], dtype) < ROUNDOFFS, step + 1
    for report, other in zip(reports, expected_reports, strict=True):
        assert report.accepted
        assert report.backtracks == other.backtracks
        assert report.kl == pytest.approx(other.kl, rel=1e-3 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_search_goes_as_far_as_on_numpy(backend, dtype):
    """One step: a long one carries the rounding of its start on to where the next gradient is another."""
    (actual, (report,)), (expected, (other,)) = (
        run(name, "trpo", *CASES[5], dtype, 1, max_kl=3.0) for name in (backend, "numpy")
    )
    assert report.backtracks == other.backtracks > 0
    assert gap(actual[0], expected[0], dtype) < ROUNDOFFS


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_failed_search_leaves_every_bit(backend, dtype):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["shared"], "separate")
    policy, batch = make_case(spec, backend, dtype, seed=74)
    before = policy.parameters()
    report = pg.optimizer("trpo").step(policy, pg.gradient(policy, ESTIMATOR, batch).scaled(-1.0))
    assert report is not None
    assert not report.accepted
    for name, value in policy.parameters().items():
        assert value.tobytes() == before[name].tobytes(), name


def test_a_restored_optimizer_goes_on(backend):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate")
    through, batch = make_case(spec, backend, "float64", seed=75)
    optimizer = pg.optimizer("trpo")
    optimizer.step(through, pg.gradient(through, ESTIMATOR, batch))
    resumed = pg.policy(spec, backend=backend, dtype="float64")
    resumed.load(through.parameters())
    again = pg.optimizer("trpo")
    again.load(resumed, optimizer.state(through), optimizer.steps_taken)
    for policy, stepper in ((through, optimizer), (resumed, again)):
        stepper.step(policy, pg.gradient(policy, ESTIMATOR, batch))
    assert gap(flat(resumed.parameters()), flat(through.parameters()), "float64") < 4.0
