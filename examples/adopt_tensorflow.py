"""One PPO update of a Keras model of your own: `python examples/adopt_tensorflow.py`."""

import keras
import numpy as np

import pgcore as pg

keras.utils.set_random_seed(0)
images = keras.Input((8, 8, 3), dtype="uint8")  # of bytes, to two logits and a value
features = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(
    keras.layers.Rescaling(1 / 255)(images)
)
features = keras.layers.Flatten()(features)
model = keras.Model(images, [keras.layers.Dense(2)(features), keras.layers.Dense(1)(features)])

policy = pg.backend("tensorflow").adopt(model, head=pg.Categorical(2), critic="shared")
observations = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
actions, log_probs = policy.act(observations, pg.generator(0))
batch = pg.Batch(
    observations=observations,
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
    adam.step(policy, pg.gradient(policy, ppo, batch, signals=signals))  # `model` itself is trained
after = pg.gradient(policy, ppo, batch, signals=signals).loss
print("PPO's loss before and after:", before, after)
