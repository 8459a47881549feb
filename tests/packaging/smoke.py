"""Uses an installed pgcore as its README does, away from the checkout; run by test_wheel.py in a new environment.

Usage: python -I smoke.py ENVIRONMENT
"""

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import pgcore as pg


def check_origin(environment):
    """Prove that what runs here is the installed wheel, with no framework beside it."""
    for name in (
        "pgcore",
        "pgcore_numpy",
        "pgcore_torch",
        "pgcore_tensorflow",
        "pgcore_jax",
        "pgcore_check",
        "pgcore_derive",
        "pgcore_estimators",
        "pgcore_exact",
        "pgcore_new",
        "pgcore_optimizers",
        "pgcore_train",
    ):
        origin = Path(importlib.import_module(name).__file__ or "")
        assert origin.is_relative_to(environment), (
            f"{name} comes from {origin}, not from {environment}"
        )
    for name in ("backends", "plugins", "tests", "benchmarks", "torch", "tensorflow", "jax"):
        assert importlib.util.find_spec(name) is None, f"{name} can be imported"


def check_commands(environment):
    """Run the two commands that say what is installed."""
    program = environment / "bin" / "pgcore"
    listing = json.loads(
        subprocess.run([program, "list", "--json"], capture_output=True, check=True).stdout
    )
    statuses = {row["name"]: row["status"] for row in listing["backends"]}
    assert statuses == {
        "numpy": "usable",
        "torch": "missing",
        "tensorflow": "missing",
        "jax": "missing",
    }
    assert {"ppo", "reinforce", "actor_critic"} <= {row["name"] for row in listing["estimators"]}
    assert "train" in {row["name"] for row in listing["commands"]}
    report = json.loads(
        subprocess.run([program, "doctor", "--json"], capture_output=True, check=True).stdout
    )
    assert report["problems"] == []


def check_gradient():
    """Compute one gradient, take one step, save and load."""
    rng = np.random.default_rng(0)
    spec = pg.PolicySpec(
        network=pg.MLP(4, (64, 64), "tanh"),
        head=pg.Categorical(2, temperature=1.0),
        critic="separate",
    )
    policy = pg.policy(spec, backend="numpy", seed=0, dtype="float64")
    estimator = pg.estimator("ppo", clip=0.2, entropy_coefficient=0.01)
    batch = pg.Batch(
        observations=rng.normal(size=(12, 4)),
        actions=rng.integers(0, 2, 12),
        rewards=np.ones(12),
        episode_lengths=np.array([5, 7]),
        terminated=np.array([True, False]),
        final_observations=rng.normal(size=(2, 4)),
        log_probs=np.full(12, np.log(0.5)),
    )
    gradient = pg.gradient(policy, estimator, batch)
    arrays = gradient.numpy()
    assert np.isfinite(gradient.loss)
    assert arrays["network.0.weight"].shape == (4, 64)
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert any(array.any() for array in arrays.values())

    before = policy.parameters()["network.0.weight"].copy()
    pg.optimizer("adam", learning_rate=3e-4).step(policy, gradient)
    after = policy.parameters()["network.0.weight"]
    assert not np.array_equal(before, after)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        policy.save(path)
        assert np.array_equal(
            pg.load(path, backend="numpy").parameters()["network.0.weight"], after
        )


def main():
    """Run every check."""
    environment = Path(sys.argv[1]).resolve()
    check_origin(environment)
    check_commands(environment)
    check_gradient()
    sys.stdout.write("smoke tests passed\n")


if __name__ == "__main__":
    main()
