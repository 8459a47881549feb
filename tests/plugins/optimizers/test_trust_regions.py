"""Trust regions on NumPy, against dense linear algebra and against their own promises; every backend: `pgcore_check.suite`."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError, OptimizerError
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_optimizers import natural_gradient as trust_regions
from pgcore_optimizers import trust_region
from pgcore_optimizers.natural_gradient import (
    TRPO,
    EuclideanTrustRegion,
    FisherRegionSpec,
    NaturalGradient,
)
from pgcore_optimizers.trust_region import Region

HEADS = variants("heads")

ESTIMATOR = pg.estimator("trpo", gamma=0.9)
NAMES = ("natural_gradient", "trpo", "trust_region")


def made(head="categorical", network="tanh", critic="separate", dtype="float64", padding=0):
    spec = pg.PolicySpec(NETWORKS[network], HEADS[head], critic)
    return make_case(spec, "numpy", dtype, seed=71, steps=40, padding=padding)


def own(named):
    """Return the policy's own entries in one vector; the critic's left out."""
    return np.concatenate(
        [value.ravel() for name, value in named.items() if not name.startswith("critic.")]
    )


def dense_fisher(policy, batch):
    """Return the Fisher matrix of the policy's own parameters, by its products with unit vectors."""
    sizes = {name: value.size for name, value in policy.parameters().items()}
    mask = np.concatenate(
        [np.full(size, not name.startswith("critic.")) for name, size in sizes.items()]
    )
    return np.array(
        [policy.fisher_vector_product(batch, row)[mask] for row in np.eye(len(mask))[mask]]
    )


def stepped(optimizer, head="categorical", estimator=ESTIMATOR, **fields):
    """Return what a step changed, the gradient before it, the Fisher matrix before it, and the report."""
    policy, batch = made(head, **fields)
    gradient = pg.gradient(policy, estimator, batch)
    before, fisher = own(policy.parameters()), dense_fisher(policy, batch)
    report = optimizer.step(policy, gradient)
    assert report is not None
    return own(policy.parameters()) - before, own(gradient.numpy()), fisher, report


def gap_to_dense(head="categorical", damping=0.05):
    """Return how far the natural gradient and its length are from those of a dense solve, beside the length."""
    optimizer = pg.optimizer(
        "natural_gradient",
        damping=damping,
        max_kl=1e-3,
        learning_rate=1e9,
        iterations=400,
        tolerance=1e-13,
    )
    change, g, fisher, report = stepped(optimizer, head)
    assert report.converged
    x = np.linalg.solve(fisher + damping * np.eye(len(g)), g)
    expected = -math.sqrt(2e-3 / (g @ x)) * x
    return float(np.linalg.norm(change - expected) / np.linalg.norm(expected))


# An epsilon-greedy policy's probabilities do not move with its parameters.
MOVING = [name for name, head in HEADS.items() if not head.action_values]


@pytest.mark.parametrize("damping", [1e-3, 0.05, 2.0])
@pytest.mark.parametrize("head", MOVING)
def test_the_step_is_that_of_a_dense_solve(head, damping):
    assert gap_to_dense(head, damping) < 1e-9


def test_without_a_bound_the_step_is_the_rate_times_the_natural_gradient():
    optimizer = pg.optimizer(
        "natural_gradient", learning_rate=0.03, max_kl=None, iterations=400, tolerance=1e-13
    )
    change, g, fisher, report = stepped(optimizer)
    expected = -0.03 * np.linalg.solve(fisher + 0.1 * np.eye(len(g)), g)
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert report.step_size == 0.03
    assert report.expected == pytest.approx(-g @ expected, rel=1e-10)


def test_the_bound_holds_the_rate_back_only_where_it_must():
    unbounded = stepped(pg.optimizer("natural_gradient", learning_rate=1e-4, max_kl=None))[0]
    np.testing.assert_array_equal(
        stepped(pg.optimizer("natural_gradient", learning_rate=1e-4))[0], unbounded
    )


def test_a_schedule_counts_the_optimizers_steps():
    policy, batch = made()
    optimizer = pg.optimizer(
        "natural_gradient", learning_rate=pg.LinearSchedule(0.01, 0.002, 2), max_kl=None
    )
    sizes = []
    for _ in range(3):
        report = optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))
        assert report is not None
        sizes.append(report.step_size)
    assert sizes == pytest.approx([0.01, 0.006, 0.002])


@pytest.mark.parametrize("network", ["table", "linear"])
@pytest.mark.parametrize("head", ["categorical", "hot", "shared", "per-state"])
def test_the_kl_is_the_bound_to_second_order(head, network):
    """KL = eps + O(eps^1.5) once damping is negligible: an eps a hundred times smaller has a relative error ten times smaller."""

    def error(eps):
        optimizer = pg.optimizer(
            "natural_gradient",
            damping=1e-9,
            max_kl=eps,
            learning_rate=1e9,
            iterations=200,
            tolerance=1e-9,
        )
        return stepped(optimizer, head, network=network)[3].kl / eps - 1.0

    coarse, fine = error(1e-4), error(1e-6)
    assert 1e-5 < abs(fine) < 2e-3
    assert coarse / fine == pytest.approx(10.0, rel=0.1)


def notes_slope(original):
    """Return a `solve` with g^T F g where g^T F^-1 g belongs, as the notes have it."""

    def solve(self, region):
        solution, _ = original(self, region)
        return solution, float(region.unit @ region.fisher_product(region.unit, 0.0))

    return solve


def test_the_notes_formula_overshoots(monkeypatch):
    optimizer = lambda name: pg.optimizer(name, damping=1e-3, max_kl=1e-4, iterations=400)  # noqa: E731
    right = stepped(optimizer("natural_gradient"), "hot")[3]
    monkeypatch.setattr(FisherRegionSpec, "solve", notes_slope(FisherRegionSpec.solve))
    wrong = stepped(optimizer("natural_gradient"), "hot")[3]
    assert right.kl < 1.05e-4
    assert wrong.kl > 100 * 1e-4
    assert (
        stepped(optimizer("trpo"), "hot")[3].backtracks > 0
    )  # all that keeps it in the region is the search


def undamped(original):
    return lambda self, vector, damping: original(self, vector, 0.0)


def damped_twice(original):
    return lambda self, vector, damping: original(self, vector, 2.0 * damping)


def transposed_change(original):
    return lambda self, change: original(self, -change)


@pytest.mark.parametrize(
    ("owner", "name", "plant"),
    [
        (FisherRegionSpec, "solve", notes_slope),
        (Region, "fisher_product", undamped),
        (Region, "fisher_product", damped_twice),
        (Region, "move_by", transposed_change),
        (trust_region, "critic_names", lambda original: lambda policy: ()),
        (
            trust_regions,
            "conjugate_gradient",
            lambda original: (
                lambda *args, **_: dataclasses.replace(
                    original(*args, iterations=3, tolerance=0.0), converged=True
                )
            ),
        ),
    ],
    ids=[
        "the notes' formula",
        "no damping",
        "damping twice",
        "ascent",
        "critic in the region",
        "limit not said",
    ],
)
def test_a_wrong_step_is_not_that_of_a_dense_solve(monkeypatch, owner, name, plant):
    assert gap_to_dense() < 1e-9
    monkeypatch.setattr(owner, name, plant(getattr(owner, name)))
    assert gap_to_dense() > 1e-3


def measured(policy, batch, gradient, before, head):
    """Return KL(before, now) and the fall of the loss over real steps, by plain loops over the distributions."""
    real = np.flatnonzero(
        np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
    )
    now = policy.distribution(batch.observations, batch.action_mask)
    kl = 0.0
    for p, q in zip(before[real], now[real], strict=True):
        if head.discrete:
            kl += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True) if a > -math.inf)
        else:
            (m0, l0), (m1, l1) = (np.split(each, 2) for each in (p, q))
            kl += float(
                (l1 - l0 + (np.exp(2 * l0) + (m0 - m1) ** 2) / (2 * np.exp(2 * l1)) - 0.5).sum()
            )
    log_prob = policy.spec.head.log_prob(host, now, batch.actions)
    old, own_signals = (
        policy.spec.head.log_prob(host, before, batch.actions),
        gradient.surrogate.values,
    )
    ratios = [np.exp(each - own_signals["old_log_prob"]) for each in (log_prob, old)]
    return kl / len(real), float(((ratios[0] - ratios[1]) * own_signals["advantage"])[real].mean())


@pytest.mark.parametrize("padding", [0, 9])
@pytest.mark.parametrize("head", MOVING)
@pytest.mark.parametrize("name", NAMES)
def test_the_report_is_what_happened(name, head, padding):
    policy, batch = made(head, padding=padding)
    gradient = pg.gradient(policy, ESTIMATOR, batch)
    before, distribution = (
        own(policy.parameters()),
        policy.distribution(batch.observations, batch.action_mask),
    )
    report = pg.optimizer(name).step(policy, gradient)
    assert report is not None
    assert report.accepted
    kl, fell = measured(policy, batch, gradient, distribution, policy.spec.head)
    assert report.kl == pytest.approx(kl, rel=1e-9)
    assert report.improvement == pytest.approx(fell, rel=1e-9)
    assert report.length == pytest.approx(
        np.linalg.norm(own(policy.parameters()) - before), rel=1e-9
    )
    assert report.metrics["step_kl"] == report.kl


@pytest.mark.parametrize("plant", ["other direction", "padding counts"])
def test_a_wrong_kl_is_not_what_happened(monkeypatch, plant):
    if plant == "other direction":
        kl = pg.Categorical.kl
        monkeypatch.setattr(pg.Categorical, "kl", lambda self, xp, p, q: kl(self, xp, q, p))
    else:
        init = Region.__init__

        def counting(self, policy, gradient):
            init(self, policy, gradient)
            self._shares = np.full(len(self._shares), 1.0 / len(self._shares))

        monkeypatch.setattr(Region, "__init__", counting)
    with pytest.raises(AssertionError):
        test_the_report_is_what_happened("trpo", "categorical", 9)


@pytest.mark.parametrize("head", MOVING)
@pytest.mark.parametrize("max_kl", [1e-3, 0.1, 5.0])
def test_trpo_keeps_its_promises(head, max_kl):
    optimizer = pg.optimizer("trpo", max_kl=max_kl, shrinkage=0.7, acceptance=0.3, backtracks=40)
    change, g, _, report = stepped(optimizer, head)
    assert report.accepted
    assert report.kl <= max_kl
    assert report.improvement >= 0.3 * report.expected > 0
    assert report.expected == pytest.approx(-g @ change, rel=1e-9)
    longest = stepped(pg.optimizer("natural_gradient", max_kl=max_kl, learning_rate=1e9), head)[0]
    np.testing.assert_allclose(change, longest * 0.7**report.backtracks, rtol=1e-9, atol=1e-14)
    if report.backtracks:  # and none longer was good enough
        optimizer = pg.optimizer(
            "trpo",
            max_kl=max_kl,
            shrinkage=0.7,
            acceptance=0.3,
            backtracks=max(report.backtracks - 1, 1),
        )
        assert report.backtracks == 1 or not stepped(optimizer, head)[3].accepted


def test_a_large_region_is_searched():
    """Without this the test above might never have seen a shorter step."""
    assert stepped(pg.optimizer("trpo", max_kl=5.0))[3].backtracks > 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_failed_search_leaves_every_bit(dtype):
    policy, batch = made("shared", dtype=dtype)
    optimizer = pg.optimizer("trpo", backtracks=4)
    first = optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))
    before, state = policy.parameters(), optimizer.state(policy)
    uphill = pg.gradient(policy, ESTIMATOR, batch).scaled(-1.0)  # along this the loss can only rise
    report = optimizer.step(policy, uphill)
    assert first is not None
    assert report is not None
    assert (first.accepted, report.accepted, report.backtracks, optimizer.steps_taken) == (
        True,
        False,
        4,
        1,
    )
    assert (report.kl, report.length, report.step_size) == (0.0, 0.0, 0.0)
    assert report.iterations > 0
    for name, value in policy.parameters().items():
        assert value.tobytes() == before[name].tobytes(), name
    for name, value in optimizer.state(policy).items():
        assert value.tobytes() == state[name].tobytes(), name


def test_a_refused_step_is_none_for_the_critic():
    moved = []
    for refusals in (0, 3):
        policy, batch = made("shared")
        optimizer = pg.optimizer("trpo", backtracks=4)
        for _ in range(refusals):
            refused = optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch).scaled(-1.0))
            assert refused is not None
            assert not refused.accepted
        optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))
        moved.append(
            {
                name: value
                for name, value in policy.parameters().items()
                if name.startswith("critic.")
            }
        )
    assert moved[0]
    for name, value in moved[1].items():
        assert value.tobytes() == moved[0][name].tobytes(), name


def test_putting_back_by_subtraction_would_not_leave_every_bit(monkeypatch):
    def back(self):
        now = self.policy.parameters()
        change = {name: self._before[name] - value for name, value in now.items()}
        self.policy.load({name: value + 0.1 + change[name] - 0.1 for name, value in now.items()})

    monkeypatch.setattr(Region, "restore", back)
    with pytest.raises(AssertionError):
        test_a_failed_search_leaves_every_bit("float64")


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_zero_moves_nothing(name):
    policy, batch = made()
    before = policy.parameters()
    report = pg.optimizer(name).step(policy, pg.gradient(policy, ESTIMATOR, batch).scaled(0.0))
    assert report is not None
    assert (report.accepted, report.iterations, report.length) == (False, 0, 0.0)
    for key, value in policy.parameters().items():
        assert value.tobytes() == before[key].tobytes()


@pytest.mark.parametrize("factor", [1e-150, 1e150])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_size_does_not_matter(name, factor):
    fields = {"learning_rate": 1e300} if name == "natural_gradient" else {}
    changes = []
    for scale in (1.0, factor):
        policy, batch = made()
        before, gradient = own(policy.parameters()), pg.gradient(policy, ESTIMATOR, batch)
        optimizer = pg.optimizer(name, **fields, **({"acceptance": 0.0} if name == "trpo" else {}))
        if scale > 1 and name == "trpo":
            continue  # the loss cannot fall by what such a gradient promises
        optimizer.step(policy, gradient.scaled(scale))
        changes.append(own(policy.parameters()) - before)
    for change in changes[1:]:
        np.testing.assert_allclose(change, changes[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("reward", [1e160, 1.5e308])
@pytest.mark.parametrize("name", NAMES)
def test_rewards_of_any_size_give_a_step_or_a_clear_error(name, reward):
    policy, batch = made(critic="none")
    rewards = np.where(np.arange(batch.num_steps) % 2 == 0, reward, -reward)
    fields = {
        "observations": batch.observations,
        "actions": batch.actions,
        "log_probs": batch.log_probs,
        "action_mask": batch.action_mask,
    }
    ends = {
        "episode_lengths": batch.episode_lengths,
        "terminated": np.ones(batch.num_episodes, bool),
    }
    huge = pg.Batch(rewards=rewards, **fields, **ends)
    before, optimizer = own(policy.parameters()), pg.optimizer(name)
    try:
        report = optimizer.step(
            policy, pg.gradient(policy, pg.estimator("reinforce", gamma=0.0), huge)
        )
    except NonFiniteError:
        np.testing.assert_array_equal(own(policy.parameters()), before)
        assert reward > 1e300
    else:
        assert report is not None
        assert report.accepted or reward > 1e300


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_is_an_error_that_changes_nothing(name, factor):
    policy, batch = made()
    before, gradient = own(policy.parameters()), pg.gradient(policy, ESTIMATOR, batch)
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            NonFiniteError,
            match=r"expected a finite gradient, got NaN or infinity; the parameters are unchan",
        ),
    ):
        pg.optimizer(name).step(policy, gradient.times(factor))
    np.testing.assert_array_equal(own(policy.parameters()), before)


@pytest.mark.parametrize("name", ["natural_gradient", "trpo"])
def test_a_policy_without_curvature_is_an_error_that_changes_nothing(name):
    """A saturated softmax has Fisher information 0, and its score is not 0 where an action was taken that it never takes."""
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), dtype="float64")
    policy.load({"network.table": np.array([[800.0, 0.0]])})
    batch = pg.Batch(
        observations=[0, 0],
        actions=[0, 1],
        rewards=[1.0, 2.0],
        episode_lengths=[1, 1],
        terminated=[True, True],
    )
    optimizer = pg.optimizer(name, damping=0.0)
    with pytest.raises(
        OptimizerError,
        match=r"expected p\^T A p above 0, got 0 at iteration 1; the parameters are unchan",
    ):
        optimizer.step(policy, pg.gradient(policy, pg.estimator("reinforce"), batch))
    assert policy.parameters()["network.table"].tolist() == [[800.0, 0.0]]
    assert optimizer.steps_taken == 0
    damped = pg.optimizer(name, damping=0.1).step(
        policy, pg.gradient(policy, pg.estimator("reinforce"), batch)
    )
    assert damped is not None


def test_fisher_products_that_overflow_are_an_error_that_changes_nothing():
    head = pg.DiagonalGaussian(1, "fixed", std=1e-25)
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), head), dtype="float32")
    zeros = {name: np.zeros_like(value) for name, value in policy.parameters().items()}
    policy.load(zeros)
    batch = pg.Batch(
        observations=[[1.0]],
        actions=[[0.5e-25]],
        rewards=[1.0],
        episode_lengths=[1],
        terminated=[True],
    )
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            NonFiniteError, match="fisher_vector_product: expected finite numbers, got NaN or inf"
        ),
    ):
        pg.optimizer("trpo").step(policy, pg.gradient(policy, pg.estimator("reinforce"), batch))
    assert not any(value.any() for value in policy.parameters().values())


@pytest.mark.parametrize("rate", [1e9, 1e308])
def test_a_step_after_which_the_policy_overflows_is_taken_back(rate):
    policy, batch = made("per-state", critic="none", dtype="float32")
    before = policy.parameters()
    optimizer = pg.optimizer("natural_gradient", learning_rate=rate, max_kl=None)
    with (
        np.errstate(all="ignore"),
        pytest.raises(NonFiniteError, match=r"NaN or infinity after a step of length"),
    ):
        optimizer.step(policy, pg.gradient(policy, pg.estimator("reinforce"), batch))
    for name, value in policy.parameters().items():
        assert value.tobytes() == before[name].tobytes()


def test_the_euclidean_step_has_one_length_along_the_gradient():
    change, g, _, report = stepped(pg.optimizer("trust_region", eps=0.04))
    np.testing.assert_allclose(change, -0.2 * g / np.linalg.norm(g), rtol=1e-9, atol=1e-15)
    assert report.length == pytest.approx(0.2)
    assert report.expected == pytest.approx(0.2 * np.linalg.norm(g))
    assert (report.iterations, report.converged) == (0, True)


def test_conjugate_gradients_say_how_far_they_came():
    short, whole = (
        stepped(pg.optimizer("trpo", iterations=iterations, tolerance=1e-8, damping=0.01))[3]
        for iterations in (3, 500)
    )
    assert (short.iterations, short.converged) == (3, False)
    assert short.residual > 1e-8 >= whole.residual
    assert whole.converged
    assert whole.iterations > 3


@pytest.mark.parametrize("name", ["trpo", "actor_critic", "ppo", "reinforce"])
def test_any_estimator_can_be_stepped(name):
    _, _, _, report = stepped(pg.optimizer("trpo"), estimator=pg.estimator(name))
    assert report.accepted
    assert report.kl <= 0.01


def test_steps_of_a_batch_are_a_batch():
    """The inner loop's gradients know the steps that they are of."""
    policy, batch = made()
    signals = pg.signals(policy, ESTIMATOR, batch)
    part = np.arange(5, 25)
    gradient = pg.gradient(policy, ESTIMATOR, batch.steps(part), signals=signals.steps(part))
    distribution = policy.distribution(batch.observations, batch.action_mask)[part]
    report = pg.optimizer("trpo").step(policy, gradient.clipped(1e-3))
    assert report is not None
    kl, _ = measured(policy, batch.steps(part), gradient, distribution, policy.spec.head)
    assert report.kl == pytest.approx(kl, rel=1e-9)


def test_what_earlier_steps_on_a_gradient_gained_does_not_count():
    policy, batch = made(critic="none")
    estimator, optimizer = pg.estimator("reinforce"), pg.optimizer("trpo")
    signals = pg.signals(policy, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    refused = 0
    for _ in range(30):
        before = pg.gradient(policy, estimator, batch, signals=signals).loss
        report = optimizer.step(policy, gradient)
        assert report is not None
        fell = before - pg.gradient(policy, estimator, batch, signals=signals).loss
        assert report.improvement == pytest.approx(fell, abs=1e-12)
        assert fell >= 0.0
        refused += not report.accepted
    assert refused > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TRPO(max_kl=0.0), r"TRPO\.max_kl: expected a positive number, got 0\.0"),
        (lambda: TRPO(backtracks=0), r"TRPO\.backtracks: expected an integer of at least 1, got 0"),
        (lambda: TRPO(shrinkage=1.0), r"TRPO\.shrinkage: expected a number in \[0, 1\), got 1\.0"),
        (lambda: TRPO(shrinkage=0.0), r"TRPO\.shrinkage: expected a positive number, got 0\.0"),
        (
            lambda: TRPO(acceptance=1.5),
            r"TRPO\.acceptance: expected a number in \[0, 1\), got 1\.5",
        ),
        (
            lambda: TRPO(damping=-0.1),
            r"TRPO\.damping: expected a finite number of at least 0, got -0\.1",
        ),
        (
            lambda: TRPO(tolerance=math.nan),
            r"TRPO\.tolerance: expected a number in \[0, 1\), got nan",
        ),
        (lambda: TRPO(tolerance=1.0), r"TRPO\.tolerance: expected a number in \[0, 1\), got 1\.0"),
        (
            lambda: TRPO(iterations=2.5),  # pyright: ignore[reportArgumentType]
            r"TRPO\.iterations: expected an integer of at least 1, got 2\.5",
        ),
        (
            lambda: TRPO(critic_steps=0),
            r"TRPO\.critic_steps: expected an integer of at least 1, got 0",
        ),
        (
            lambda: TRPO(critic_learning_rate=0),
            r"TRPO\.critic_learning_rate: expected a positive number, got 0",
        ),
        (
            lambda: NaturalGradient(learning_rate=0),
            r"NaturalGradient\.learning_rate: expected a positive number, got 0",
        ),
        (
            lambda: NaturalGradient(max_kl=-1),
            r"NaturalGradient\.max_kl: expected a positive number, got -1",
        ),
        (
            lambda: EuclideanTrustRegion(eps=0),
            r"EuclideanTrustRegion\.eps: expected a positive number, got 0",
        ),
    ],
)
def test_fields_are_checked(make, words):
    with pytest.raises(OptimizerError, match=words):
        make()
