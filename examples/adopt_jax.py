"""One PPO update of a network of your own in JAX: `python examples/adopt_jax.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pgcore as pg


def apply(parameters: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return [B, 2] logits and [B] values of images [B, 8, 8, 3] of bytes."""
    flat = images.reshape(len(images), -1).astype(jnp.float32) / 255
    features = jnp.tanh(flat @ parameters["torso"])
    return features @ parameters["policy"], features @ parameters["value"]


keys = jax.random.split(jax.random.key(0), 3)
shapes = {"torso": (192, 16), "policy": (16, 2), "value": (16,)}
start = {
    name: 0.1 * jax.random.normal(key, shape)
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
}

policy = pg.backend("jax").adopt((apply, start), head=pg.Categorical(2), critic="shared")
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
actions, log_probs = policy.act(images, pg.generator(0))
batch = pg.Batch(
    observations=images,
    actions=actions,
    rewards=actions == 1,
    episode_lengths=[32, 32],
    terminated=[True, True],
    log_probs=log_probs,
)
ppo, adam = pg.estimator("ppo"), pg.optimizer("adam", learning_rate=1e-3)
signals = pg.signals(policy, ppo, batch)
before = pg.gradient(policy, ppo, batch, signals=signals).loss
for _ in range(10):
    adam.step(policy, pg.gradient(policy, ppo, batch, signals=signals))
after = pg.gradient(policy, ppo, batch, signals=signals).loss
trained = policy.tree  # a tree like `start`, which stays as it was
print("PPO's loss before and after:", before, after)
