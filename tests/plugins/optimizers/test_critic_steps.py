"""The critic beside a trust region: its own parameters, its own steps, and everything put back where something fails."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError, OptimizerError
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_optimizers.critic_steps import critic_names

HEADS = variants("heads")

ESTIMATOR = pg.estimator("trpo", gamma=0.9)
NAMES = ("natural_gradient", "trpo", "trust_region")


def made(critic="separate", dtype="float64", network="tanh"):
    return make_case(
        pg.PolicySpec(NETWORKS[network], HEADS["shared"], critic), "numpy", dtype, seed=72
    )


def critic_of(policy):
    return {
        name: value for name, value in policy.parameters().items() if name.startswith("critic.")
    }


@pytest.mark.parametrize("network", ["table", "linear", "tanh"])
@pytest.mark.parametrize("name", NAMES)
def test_the_critic_takes_adams_steps(name, network):
    """A critic's gradient does not depend on the policy's parameters, so Adam on everything moves it just the same."""
    policy, batch = made(network=network)
    other, _ = made(network=network)
    optimizer = pg.optimizer(name, critic_steps=3, critic_learning_rate=0.02)
    signals = pg.signals(policy, ESTIMATOR, batch)
    adam = pg.optimizer("adam", learning_rate=0.02)
    for _ in range(2):
        optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch, signals=signals))
        for _ in range(3):
            adam.step(other, pg.gradient(other, ESTIMATOR, batch, signals=signals))
    assert critic_of(policy)
    for key, value in critic_of(other).items():
        np.testing.assert_allclose(critic_of(policy)[key], value, rtol=1e-12, atol=1e-14)


def test_the_value_loss_falls():
    policy, batch = made()
    signals = pg.signals(policy, ESTIMATOR, batch)
    before = pg.gradient(policy, ESTIMATOR, batch, signals=signals).metrics["value_loss"]
    pg.optimizer("trpo").step(policy, pg.gradient(policy, ESTIMATOR, batch, signals=signals))
    assert pg.gradient(policy, ESTIMATOR, batch, signals=signals).metrics["value_loss"] < before


@pytest.mark.parametrize("critic", ["separate", "none"])
def test_state_is_the_critics_alone(critic):
    policy, batch = made(critic)
    optimizer = pg.optimizer("trpo")
    optimizer.step(
        policy,
        pg.gradient(policy, ESTIMATOR if critic != "none" else pg.estimator("reinforce"), batch),
    )
    names = [
        f"{slot}/{name}" for slot in ("first_moment", "second_moment") for name in critic_of(policy)
    ]
    state = optimizer.state(policy)
    assert list(state) == names
    assert all(value.any() for value in state.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_optimizer_goes_on_to_the_bit(name, dtype):
    def steps(policy, optimizer, count):
        for _ in range(count):
            optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))

    through, batch = made(dtype=dtype)
    optimizer = pg.optimizer(name)
    steps(through, optimizer, 2)
    resumed, _ = made(dtype=dtype)
    resumed.load(through.parameters())
    again = pg.optimizer(name)
    again.load(resumed, optimizer.state(through), optimizer.steps_taken)
    steps(through, optimizer, 2)
    steps(resumed, again, 2)
    for key, value in through.parameters().items():
        assert resumed.parameters()[key].tobytes() == value.tobytes(), key


def test_a_state_of_another_optimizer_is_refused():
    policy, batch = made()
    adam = pg.optimizer("adam")
    adam.step(policy, pg.gradient(policy, ESTIMATOR, batch))
    with pytest.raises(
        OptimizerError,
        match=r"Optimizer\.load: expected the slots .* of the policy's critic, got \d+ arr",
    ):
        pg.optimizer("trpo").load(policy, adam.state(policy), 1)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_critic_that_overflows_puts_everything_back(dtype):
    policy, batch = made(dtype=dtype)
    optimizer = pg.optimizer("trpo", critic_learning_rate=1e300)
    before, state = policy.parameters(), optimizer.state(policy)
    with pytest.raises(NonFiniteError):
        optimizer.step(policy, pg.gradient(policy, ESTIMATOR, batch))
    for name, value in policy.parameters().items():
        assert value.tobytes() == before[name].tobytes(), name
    for name, value in optimizer.state(policy).items():
        assert value.tobytes() == state[name].tobytes(), name
    assert optimizer.steps_taken == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_torso_that_policy_and_critic_share_is_refused(name):
    policy, batch = made("shared")
    before = policy.parameters()
    with pytest.raises(
        OptimizerError,
        match=r"trust region: expected a critic with parameters of its own, or none, got crit",
    ):
        pg.optimizer(name).step(policy, pg.gradient(policy, ESTIMATOR, batch))
    for key, value in policy.parameters().items():
        assert value.tobytes() == before[key].tobytes()


def test_names():
    assert critic_names(made("none")[0]) == ()
    assert critic_names(made()[0]) == tuple(critic_of(made()[0]))
