import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError, OptimizerError
from pgcore.xp.numpy import host
from pgcore_optimizers.schedules import LinearSchedule

SPEC = pg.PolicySpec(pg.Table(4), pg.Categorical(3))
OTHER = pg.PolicySpec(pg.Table(5), pg.Categorical(3))
EST = pg.estimator("reinforce")


@pytest.fixture
def batch(make_batch):
    return make_batch(
        observations=np.array([0, 1, 2, 3, 0, 2]),
        final_observations=np.array([0, 1]),
        terminated=[True, True],
        action_mask=None,
    )


def table(seed=0, dtype="float64"):
    """Return a policy whose table is not all zeros, so that it does not stand at a symmetric point."""
    policy = pg.policy(SPEC, seed=seed, dtype=dtype)
    policy.load({"network.table": np.random.default_rng(seed).standard_normal((4, 3))})
    return policy


def values(policy):
    return policy.parameters()["network.table"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adam", {}),
        ("adamw", {"weight_decay": 0.1}),
        ("rmsprop", {"momentum": 0.5}),
    ],
)
def test_a_step_is_the_formula_on_every_parameter(batch, name, fields):
    opt = pg.optimizer(name, learning_rate=LinearSchedule(0.5, 0.1, 3), **fields)
    policy = table()
    expected, slots = values(policy), {slot: np.zeros((4, 3)) for slot in opt.spec.slots}
    for step in range(5):
        gradient = pg.gradient(policy, EST, batch)
        own = gradient.numpy()["network.table"]
        expected, slots = opt.spec.update(
            host,
            expected,
            own,
            slots,
            *opt.spec.scalars(step + 1, LinearSchedule(0.5, 0.1, 3)(step)),
        )
        opt.step(policy, gradient)
        np.testing.assert_allclose(values(policy), expected, rtol=1e-12)
    assert opt.steps_taken == 5
    assert repr(opt).endswith("5 steps taken)")


def test_a_step_reduces_the_loss(batch):
    policy, opt = table(), pg.optimizer("sgd", learning_rate=0.1)
    before = pg.gradient(policy, EST, batch)
    opt.step(policy, before)
    assert pg.gradient(policy, EST, batch).loss < before.loss


def test_clipping_is_by_the_norm_over_all_parameters(batch):
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), pg.Categorical(3)), dtype="float64")
    features = pg.Batch(
        observations=np.random.default_rng(0).standard_normal((6, 3)),
        actions=batch.actions,
        rewards=batch.rewards,
        episode_lengths=batch.episode_lengths,
        terminated=batch.terminated,
    )
    gradient = pg.gradient(policy, EST, features)
    flat = np.concatenate([value.ravel() for value in gradient.numpy().values()])
    assert gradient.norm() == pytest.approx(np.linalg.norm(flat), rel=1e-14)
    before = policy.parameters()
    pg.optimizer("sgd", learning_rate=1.0, max_grad_norm=gradient.norm() / 4).step(policy, gradient)
    for name, value in policy.parameters().items():
        np.testing.assert_allclose(
            value, before[name] - gradient.numpy()[name] / 4, rtol=1e-12, atol=1e-16
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_restored_optimizer_goes_on_to_the_bit(batch, name, dtype):
    def steps(policy, opt, count):
        for _ in range(count):
            opt.step(policy, pg.gradient(policy, EST, batch))

    make = lambda: pg.optimizer(name, learning_rate=LinearSchedule(0.1, 0.01, 8), max_grad_norm=0.5)  # noqa: E731
    through, opt = table(dtype=dtype), make()
    steps(through, opt, 3)
    resumed, again = table(1, dtype), make()
    resumed.load(through.parameters())
    again.load(resumed, opt.state(through), opt.steps_taken)
    assert again.steps_taken == 3
    steps(through, opt, 3)
    steps(resumed, again, 3)
    np.testing.assert_array_equal(values(resumed), values(through))


def test_the_state_is_the_callers_own(batch):
    policy, opt = table(), pg.optimizer("sgd", momentum=0.9)
    opt.step(policy, pg.gradient(policy, EST, batch))
    state = opt.state(policy)
    assert list(state) == ["momentum/network.table"]
    kept = state["momentum/network.table"].copy()
    state["momentum/network.table"][...] = 7.0
    np.testing.assert_array_equal(opt.state(policy)["momentum/network.table"], kept)


def test_an_optimizer_belongs_to_the_first_policy_it_steps(batch):
    first, second, opt = table(), table(1), pg.optimizer("adam")
    opt.step(first, pg.gradient(first, EST, batch))
    before = values(second)
    with pytest.raises(
        OptimizerError,
        match=r"Optimizer\.step: expected the policy of its first step, got another; make one",
    ):
        opt.step(second, pg.gradient(second, EST, batch))
    np.testing.assert_array_equal(values(second), before)
    assert opt.steps_taken == 1


def test_a_gradient_of_another_policy_is_refused(batch):
    policy, other, opt = table(), table(1), pg.optimizer("adam")
    before = values(policy)
    with pytest.raises(
        OptimizerError,
        match=r"Optimizer\.step: expected a gradient of this policy, got one of another;",
    ):
        opt.step(policy, pg.gradient(other, EST, batch))
    np.testing.assert_array_equal(values(policy), before)
    assert opt.steps_taken == 0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"momentum/network.table": np.zeros((4, 2))},
        {"momentum/network.table": np.zeros((4, 3)), "surplus/network.table": np.zeros((4, 3))},
        {"first_moment/network.table": np.zeros((4, 3))},
    ],
)
def test_a_state_of_another_spec_is_refused(state):
    words = r"Optimizer\.load: expected the slots momentum for every parameter of the policy, got \d arrays that differ;"
    with pytest.raises(OptimizerError, match=words):
        pg.optimizer("sgd").load(table(), state, 0)


@pytest.mark.parametrize("steps", [-1, float("nan"), "3"])
def test_steps_taken_is_a_number_of_at_least_zero(steps):
    with pytest.raises(
        OptimizerError,
        match=r"Optimizer\.load steps_taken: expected a finite number of at least 0, got ",
    ):
        pg.optimizer("sgd").load(table(), {"momentum/network.table": np.zeros((4, 3))}, steps)


def test_a_gradient_that_is_not_finite_leaves_parameters_and_state_as_they_were(batch):
    policy, opt = table(), pg.optimizer("adam")
    opt.step(policy, pg.gradient(policy, EST, batch))
    before, state = values(policy), opt.state(policy)
    huge = pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=np.full(6, 1e308),
        episode_lengths=[6],
        terminated=[True],
    )
    with pytest.raises(
        NonFiniteError,
        match=r"reinforce\.signals\['advantage'\]: expected finite numbers, got inf at step 0",
    ):
        opt.step(policy, pg.gradient(policy, EST, huge))
    np.testing.assert_array_equal(values(policy), before)
    for name, value in opt.state(policy).items():
        np.testing.assert_array_equal(value, state[name])
