"""Policies, optimizers and gradients pickle, cloud-pickle and deep-copy to the bit, and work afterwards."""

# pyright: standard
from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import OptimizerError
from pgcore_check.suite.material import TRUST_REGIONS
from pgcore_check.testing import parametrize_backends

__all__ = [
    "COPIERS",
    "ESTIMATOR",
    "SPEC",
    "bits",
    "contents",
    "go_on",
    "make_batch",
]

pytestmark = parametrize_backends()


def cloud_pickled(value):
    """Return a copy by cloudpickle, which others than pgcore's tests need not have."""
    cloudpickle = pytest.importorskip("cloudpickle")
    return cloudpickle.loads(cloudpickle.dumps(value))


COPIERS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": cloud_pickled,
    "deepcopy": copy.deepcopy,
}


SPEC = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.DiagonalGaussian(2), "separate")


ESTIMATOR = pg.estimator("ppo")


def make_batch():
    """Return two episodes of 2 and 3 steps."""
    rng = np.random.default_rng(7)
    return pg.Batch(
        observations=rng.standard_normal((5, 3)),
        actions=rng.standard_normal((5, 2)),
        rewards=rng.standard_normal(5),
        log_probs=-rng.random(5),
        episode_lengths=[2, 3],
        terminated=[True, True],
    )


def trained(backend, dtype="float64"):
    """Return a policy, the optimizer that moved it once, and the next gradient; its caches are full."""
    policy = pg.policy(SPEC, backend=backend, dtype=dtype, seed=3)
    optimizer = pg.optimizer("adam", learning_rate=0.1)
    optimizer.step(policy, pg.gradient(policy, ESTIMATOR, make_batch()))
    # A negative zero and a subnormal number, which careless copies lose.
    parameters = policy.parameters()
    parameters["network.0.bias"][:2] = -0.0, np.finfo(dtype).smallest_subnormal
    policy.load(parameters)
    policy.evaluate(make_batch(), ("log_prob",))
    return policy, optimizer, pg.gradient(policy, ESTIMATOR, make_batch())


def bits(arrays):
    """Return arrays by name as dtype, shape and bytes."""
    return {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in arrays.items()}


def contents(policy, optimizer, gradient):
    """Return all that a policy, its optimizer and a gradient hold, to the bit."""
    arrays = policy.parameters() | optimizer.state(policy)
    arrays |= {f"gradient of {name}": value for name, value in gradient.numpy().items()}
    arrays |= {f"given {name}": value for name, value in gradient.arguments().items()} | {
        "terms": gradient.terms()
    }
    return bits(arrays), gradient.metrics, optimizer.steps_taken


def go_on(policy, optimizer, gradient):
    """Step twice more, and return what comes out: parameters and actions."""
    optimizer.step(policy, gradient)
    optimizer.step(policy, pg.gradient(policy, ESTIMATOR, make_batch()).clipped(0.5))
    actions, log_probs = policy.act(make_batch().observations, pg.generator(0))
    return bits(policy.parameters() | {"actions": actions, "log_probs": log_probs})


@pytest.mark.parametrize(
    ("copier", "dtype"), [*((copier, "float64") for copier in COPIERS), ("pickle", "float32")]
)
def test_a_copy_is_the_same_to_the_bit_and_goes_on_alike(backend, copier, dtype):
    original = trained(backend, dtype)
    before = contents(*original)
    copied = COPIERS[copier](original)
    assert contents(*copied) == before
    assert copied[0].dtype == dtype
    after = go_on(*copied)
    # The original has not moved, and moves as the copy did.
    assert contents(*original) == before
    assert go_on(*original) == after


def test_an_optimizer_stays_bound_to_the_policy_that_was_copied_with_it(backend):
    policy, optimizer, gradient = trained(backend)
    copied_policy, copied_optimizer, copied_gradient = copy.deepcopy((policy, optimizer, gradient))
    assert copied_gradient.policy is copied_policy
    for one, other in ((policy, copied_gradient), (copied_policy, gradient)):
        with pytest.raises(OptimizerError, match="expected"):
            copied_optimizer.step(one, other)
    copied_optimizer.step(copied_policy, copied_gradient)
    assert optimizer.steps_taken == 1


def test_a_deep_copy_is_a_target_network(backend):
    spec = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.EpsilonGreedy(2))
    policy = pg.policy(spec, backend=backend, dtype="float64")
    batch = pg.Batch(
        observations=np.eye(3),
        actions=[0, 1, 0],
        rewards=[1.0, 0.0, 2.0],
        episode_lengths=[3],
        terminated=[False],
        final_observations=np.ones((1, 3)),
    )
    estimator = pg.estimator("q_learning")
    target = copy.deepcopy(policy)
    before = pg.signals(policy, estimator, batch, target=target).values
    pg.optimizer("sgd", learning_rate=0.5).step(
        policy, pg.gradient(policy, estimator, batch, target=target)
    )
    after = pg.signals(policy, estimator, batch, target=target).values
    moved = pg.signals(policy, estimator, batch).values
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert any(not np.array_equal(moved[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", sorted({rule.name for rule in TRUST_REGIONS.values()}))
def test_a_trust_region_is_copied_with_its_critics_optimizer(backend, name):
    policy = pg.policy(SPEC, backend=backend, dtype="float64", seed=3)
    estimator, optimizer = pg.estimator("ppo"), pg.optimizer(name)
    optimizer.step(policy, pg.gradient(policy, estimator, make_batch()))
    copied_policy, copied_optimizer = pickle.loads(pickle.dumps((policy, optimizer)))
    for one, stepper in ((policy, optimizer), (copied_policy, copied_optimizer)):
        stepper.step(one, pg.gradient(one, estimator, make_batch()))
    assert bits(copied_policy.parameters()) == bits(policy.parameters())


READ = """
import pickle, sys
from pgcore_check.suite import test_copies
copied = pickle.load(sys.stdin.buffer)
pickle.dump((test_copies.contents(*copied), test_copies.go_on(*copied)), sys.stdout.buffer)
"""


def test_a_new_process_reads_the_pickle(backend):
    original = trained(backend)
    done = subprocess.run(
        [sys.executable, "-c", READ], input=pickle.dumps(original), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert pickle.loads(done.stdout) == (contents(*original), go_on(*original))
