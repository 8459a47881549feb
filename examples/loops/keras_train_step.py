"""PPO in Keras's `fit`, on TensorFlow: `python examples/loops/keras_train_step.py --loss pgcore`.

The task has episodes of one step: of four actions, the one whose observation is largest pays 1.
`Usual` has the loss as it is written by hand, `ByPgcore` the same one of `pgcore.loss`.
"""

import argparse
import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import pgcore as pg

ACTIONS, CLIP, VALUE, ENTROPY = 4, 0.2, 0.5, 0.01
PPO = pg.estimator("ppo", clip=CLIP, value_coefficient=VALUE, entropy_coefficient=ENTROPY)


class Agent(keras.Model):
    """A policy and a critic: [B, 4] observations to [B, 4] log-probabilities and [B] values."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.torso = keras.layers.Dense(32, "tanh")
        self.actor, self.critic = keras.layers.Dense(ACTIONS), keras.layers.Dense(1)

    def call(self, observations: Any) -> tuple[Any, Any]:
        """Return log-probabilities and values."""
        features = self.torso(observations)
        return tf.nn.log_softmax(self.actor(features)), self.critic(features)[:, 0]

    def prepare(self, rewards: Any, values: Any, log_probs: Any) -> None:
        """Keep the constants of a rollout, [B] each."""
        raise NotImplementedError

    def constants(self, index: Any) -> Any:
        """Return the constants of a minibatch, a nest of tensors: elements of a dataset."""
        raise NotImplementedError

    def minibatch_loss(self, constants: Any, log_probs: Any, values: Any, entropy: Any) -> Any:
        """Return the loss of a minibatch."""
        raise NotImplementedError

    def train_step(self, data: Any) -> dict[str, Any]:
        """Return the metrics of one optimizer step."""
        observations, actions, constants = data
        with tf.GradientTape() as tape:
            log_pi, values = self(observations, training=True)
            log_probs = tf.gather(log_pi, actions, batch_dims=1)
            entropy = -tf.reduce_sum(tf.exp(log_pi) * log_pi, -1)
            loss = self.minibatch_loss(constants, log_probs, values, entropy)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class Usual(Agent):
    """The loss by hand."""

    def prepare(self, rewards: Any, values: Any, log_probs: Any) -> None:
        """See `Agent.prepare`; after one step an episode is over."""
        self.columns = {"advantage": rewards - values, "old": log_probs, "return": rewards}

    def constants(self, index: Any) -> Any:
        """See `Agent.constants`."""
        return {name: tf.gather(column, index) for name, column in self.columns.items()}

    def minibatch_loss(self, constants: Any, log_probs: Any, values: Any, entropy: Any) -> Any:
        """See `Agent.minibatch_loss`."""
        advantage = constants["advantage"]
        advantage -= tf.reduce_mean(advantage)
        count = tf.cast(tf.size(advantage), advantage.dtype)
        advantage /= tf.sqrt(tf.reduce_sum(advantage**2) / (count - 1)) + 1e-8
        ratio = tf.exp(log_probs - constants["old"])
        clipped = tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP)
        gain = tf.minimum(ratio * advantage, clipped * advantage)
        critic = 0.5 * (values - constants["return"]) ** 2
        return tf.reduce_mean(-gain + VALUE * critic - ENTROPY * entropy)


class ByPgcore(Agent):
    """The same loss of `pgcore.loss`.

    `fit` compiles `train_step` once, so that signals reach it as data: as an attribute, those of the
    first rollout would be constants of its graph.
    """

    def prepare(self, rewards: Any, values: Any, log_probs: Any) -> None:
        """See `Agent.prepare`."""
        ends = np.ones(len(rewards), bool)
        recorded = {"rewards": rewards, "values": values, "log_probs": log_probs}
        self.signals = pg.signals(PPO, pg.Episodes.from_replay(**recorded, terminated=ends))

    def constants(self, index: Any) -> Any:
        """See `Agent.constants`."""
        part = self.signals.steps(index)
        return part.values, part.weights

    def minibatch_loss(self, constants: Any, log_probs: Any, values: Any, entropy: Any) -> Any:
        """See `Agent.minibatch_loss`."""
        part = dataclasses.replace(self.signals, values=constants[0], weights=constants[1])
        return pg.loss(PPO, part, log_prob=log_probs, value=values, entropy=entropy).loss


def train(
    agent: Agent, *, updates: int, steps: int = 256, minibatch: int = 64, seed: int = 0
) -> list[float]:
    """Train for some rollouts; return the mean reward of each."""
    rng, rewards = np.random.default_rng(seed), list[float]()
    agent.compile(optimizer=keras.optimizers.Adam(3e-3))
    for update in range(updates):
        observations = rng.standard_normal((steps, ACTIONS)).astype(keras.config.floatx())
        log_pi, values = agent(observations)
        uniform = rng.random((steps, 1))
        actions = np.minimum((np.cumsum(np.exp(log_pi), 1) < uniform).sum(1), ACTIONS - 1)
        paid = tf.cast(actions == observations.argmax(1), values.dtype)
        agent.prepare(paid, values, tf.gather(log_pi, actions, batch_dims=1))

        def rows(index: Any, x: Any = observations, taken: Any = actions) -> Any:
            return tf.gather(x, index), tf.gather(taken, index), agent.constants(index)

        order = tf.data.Dataset.range(steps).shuffle(steps, seed=update)
        agent.fit(order.batch(minibatch).map(rows), epochs=4, shuffle=False, verbose=0)
        rewards.append(float(tf.reduce_mean(paid)))
    return rewards


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=("usual", "pgcore"), default="pgcore")
    parser.add_argument("--updates", type=int, default=30)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    chosen = Usual() if options.loss == "usual" else ByPgcore()
    for number, reward in enumerate(train(chosen, updates=options.updates), 1):
        print(f"update {number}  mean reward {reward:.2f}")
