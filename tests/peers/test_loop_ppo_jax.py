"""PPO with Flax and Optax: the hand-written loss, and pgcore's in its place."""

from __future__ import annotations

import pytest

from pgcore_jax.parameters import enable_x64

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("optax")
flatten_util = pytest.importorskip("jax.flatten_util")

SIZES = {"updates": 3, "steps": 20, "environments": 3, "epochs": 2, "minibatch": 20, "limit": 12}


@pytest.fixture
def ppo(loop):
    with enable_x64(True):
        yield loop("ppo_jax")


def initial(ppo, seed=0):
    """Return the state in float64, whose layers have float32."""
    state = ppo.initial(seed)
    params = jax.tree.map(lambda x: x.astype("float64"), state.params)
    return ppo.TrainState.create(apply_fn=state.apply_fn, params=params, tx=state.tx)


def parameters(state):
    return flatten_util.ravel_pytree(state.params)[0]


def test_training_ends_at_the_same_parameters(ppo, assert_swap):
    start = initial(ppo)
    usual, ours = (
        parameters(ppo.train(algorithm, start, **SIZES)) for algorithm in (ppo.Usual, ppo.ByPgcore)
    )
    assert_swap(ours, usual)
    assert abs(usual - parameters(start)).max() > 1e-3


def test_every_minibatch_has_the_same_loss_and_gradient(ppo, assert_swap):
    params = initial(ppo).params
    rollout = ppo.Collector(3, 0, 18).rollout(params, 60)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    # Away from the policy of the rollout, so that ratios differ from 1 and some are clipped.
    params = jax.tree.map(lambda x: 1.5 * x + 0.1, params)
    usual, ours = (
        (jax.jit(jax.value_and_grad(algorithm.loss)), algorithm.prepare(rollout))
        for algorithm in (ppo.Usual, ppo.ByPgcore)
    )
    for index in jax.numpy.arange(180).reshape(3, 60):
        assert_swap(
            *(
                flatten_util.ravel_pytree(slopes(params, rollout, prepared, index))[0]
                for slopes, prepared in (ours, usual)
            )
        )
