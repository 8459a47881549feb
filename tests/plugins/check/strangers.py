"""Plugins as their authors write them, with nothing for the kit."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

import pgcore as pg
from pgcore.returns import by_group, episode_rewards, normalise

__all__ = [
    "ESTIMATORS",
    "AllActions",
    "Correlated",
    "Dapo",
    "Distilled",
    "Gspo",
    "HalvedLaplace",
    "Kumaraswamy",
    "Laplace",
    "Listed",
    "Squares",
]


def prompts(batch, shape, rng):
    """Return the number of each step's prompt, two prompts in turn."""
    return batch.episode_of_step % 2


@dataclasses.dataclass(frozen=True)
class Dapo(pg.Estimator):
    """Decoupled clips of token ratios, on advantages of groups."""

    low: float = 0.2
    high: float = 0.28
    name: ClassVar[str] = "s_dapo"
    extras: ClassVar = {"group": pg.Extra("[B] integer", "the prompt's number", prompts)}

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False,
            off_policy="limited",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch, evaluate):
        advantage = by_group(normalise, episode_rewards(batch), batch)
        return {"advantage": advantage[batch.episode_of_step], "old_log_prob": batch.log_probs}

    def surrogate(self, xp, *, log_prob, old_log_prob, advantage):
        ratio = xp.exp(log_prob - old_log_prob)
        limited = xp.clip(ratio, 1.0 - self.low, 1.0 + self.high)
        return -xp.minimum(ratio * advantage, limited * advantage)


@dataclasses.dataclass(frozen=True)
class Gspo(pg.Estimator):
    """One ratio for each sequence: the geometric mean of its tokens' ratios."""

    clip: float = 0.2
    reduction: pg.Reduction = pg.Reduction.EPISODE_STEP
    name: ClassVar[str] = "s_gspo"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False,
            off_policy="limited",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch, evaluate):
        reward = np.add.reduceat(batch.rewards, batch.episode_starts)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
        return {"advantage": advantage[batch.episode_of_step], "old_log_prob": batch.log_probs}

    def surrogate(self, xp, *, log_prob, old_log_prob, advantage, episode):
        ratio = xp.exp(xp.episode_mean(log_prob - old_log_prob, episode))
        limited = xp.clip(ratio, 1.0 - self.clip, 1.0 + self.clip)
        return -xp.minimum(ratio * advantage, limited * advantage)


@dataclasses.dataclass(frozen=True)
class AllActions(pg.Estimator):
    """The expected advantage over all actions, and the critic's squared error."""

    gamma: float = 0.9
    name: ClassVar[str] = "s_all_actions"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False,
            off_policy="none",
            needs_critic=False,
            discrete_only=True,
            whole_episodes=True,
        )

    def signals(self, batch, evaluate):
        q = evaluate("action_values", "log_probs")
        pi = np.exp(q["log_probs"])
        value = (pi * q["action_values"]).sum(axis=1)
        following = np.append(value[1:], 0.0)
        following[batch.episode_ends] = 0.0
        return {
            "advantage": q["action_values"] - value[:, None],
            "target": batch.rewards + self.gamma * following,
        }

    def surrogate(self, xp, *, log_probs, action_values, action_value, advantage, target):
        actor = -xp.sum(xp.exp(log_probs) * advantage, 1)
        spread = xp.sum(action_values * action_values, 1)
        return actor + 0.5 * (action_value - target) ** 2 + 0.01 * spread


@dataclasses.dataclass(frozen=True)
class Squares(pg.Estimator):
    """Advantages of the critic, whose error is squared in Python's own notation."""

    coefficient: float = 0.5
    gamma: float = 0.95
    name: ClassVar[str] = "s_squares"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False,
            off_policy="none",
            needs_critic=True,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch, evaluate):
        target = np.zeros(batch.num_steps)
        following = 0.0
        for t in reversed(range(batch.num_steps)):
            if t in batch.episode_ends:
                following = 0.0
            following = target[t] = batch.rewards[t] + self.gamma * following
        return {"advantage": target - evaluate("value")["value"], "target": target}

    def surrogate(self, xp, *, log_prob, value, advantage, target):
        return -log_prob * advantage + self.coefficient * (value - target) ** 2


def near_the_policy(batch, shape, rng):
    """Return the log-probabilities of a teacher who acts much as the policy did."""
    return batch.log_probs + 0.3 * rng.standard_normal(shape)


def teacher(batch):
    """Return a teacher's log-probabilities of a rollout's actions."""
    return batch.log_probs - 0.1


@dataclasses.dataclass(frozen=True)
class Distilled(pg.Estimator):
    """Returns, and the squared distance from a teacher, who comes with the batch."""

    weight: float = 0.5
    name: ClassVar[str] = "s_distilled"
    extras: ClassVar = {
        "teacher": pg.Extra("[B] float", "the teacher's log-probabilities, nats", near_the_policy)
    }

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False,
            off_policy="none",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch, evaluate):
        reward = episode_rewards(batch)[batch.episode_of_step]
        return {"reward": 2.0 * reward, "teacher_log_prob": batch.extras["teacher"]}

    def surrogate(self, xp, *, log_prob, reward, teacher_log_prob):
        return self.weight * (log_prob - teacher_log_prob) ** 2 - log_prob * reward


@dataclasses.dataclass(frozen=True)
class Laplace(pg.Head):
    """Independent Laplace distributions with a learned vector of log scales; no kernel."""

    n: int = 2
    name: ClassVar[str] = "laplace"
    discrete: ClassVar[bool] = False

    @property
    def outputs(self):
        return self.n

    @property
    def width(self):
        return 2 * self.n

    def initial_parameters(self):
        return {"log_scale": np.zeros(self.n)}

    def distribution(self, xp, outputs, parameters, mask):
        return xp.concatenate((outputs, xp.broadcast_to(parameters["log_scale"], outputs)), 1)

    def log_prob(self, xp, distribution, actions):
        middle, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        z = xp.abs(actions - middle) / xp.exp(log_scale)
        return -xp.sum(z + log_scale, 1) - self.n * math.log(2.0)

    def entropy(self, xp, distribution):
        return xp.sum(distribution[:, self.n :], 1) + self.n * (1.0 + math.log(2.0))

    def kl(self, xp, reference, distribution):
        middle_0, log_0 = reference[:, : self.n], reference[:, self.n :]
        middle, log_scale = distribution[:, : self.n], distribution[:, self.n :]
        apart = xp.abs(middle_0 - middle)
        excess = xp.exp(log_0) * xp.exp(-apart / xp.exp(log_0)) + apart
        return xp.sum(log_scale - log_0 + excess / xp.exp(log_scale) - 1.0, 1)

    def fisher(self, xp, distribution, tangent):
        scale = xp.exp(distribution[:, self.n :])
        squares = xp.concatenate((1.0 / (scale * scale), xp.full_like(scale, 1.0)), 1)
        return squares * tangent

    def sample(self, distribution, rng):
        return rng.laplace(distribution[:, : self.n], np.exp(distribution[:, self.n :]))

    def mode(self, distribution):
        return distribution[:, : self.n]

    def check_actions(self, actions, mask):
        assert actions.ndim == 2
        assert mask is None


class HalvedLaplace(Laplace):
    """Half the Fisher information of the log scale."""

    name: ClassVar[str] = "halved_laplace"

    def fisher(self, xp, distribution, tangent):
        scale = xp.exp(distribution[:, self.n :])
        squares = xp.concatenate((1.0 / (scale * scale), xp.full_like(scale, 0.5)), 1)
        return squares * tangent


@dataclasses.dataclass(frozen=True)
class Kumaraswamy(pg.Head):
    """Actions in (0, 1), which the log-density knows as the numbers whose logarithm is real."""

    n: int = 1
    name: ClassVar[str] = "kumaraswamy"
    discrete: ClassVar[bool] = False

    @property
    def outputs(self):
        return 2 * self.n

    @property
    def width(self):
        return 2 * self.n

    @property
    def quantities(self):
        return frozenset({"log_prob"})

    def distribution(self, xp, outputs, parameters, mask):
        return outputs

    def log_prob(self, xp, distribution, actions):
        a, b = xp.exp(distribution[:, : self.n]) + 1.0, xp.exp(distribution[:, self.n :]) + 1.0
        log_x = xp.log(actions)
        density = xp.log(a) + xp.log(b) + (a - 1.0) * log_x
        return xp.sum(density + (b - 1.0) * xp.log(1.0 - xp.exp(a * log_x)), 1)

    def sample(self, distribution, rng):
        a, b = np.exp(distribution[:, : self.n]) + 1, np.exp(distribution[:, self.n :]) + 1
        return (1 - (1 - rng.random(a.shape)) ** (1 / b)) ** (1 / a)

    def mode(self, distribution):
        a, b = np.exp(distribution[:, : self.n]) + 1, np.exp(distribution[:, self.n :]) + 1
        return ((a - 1) / (a * b - 1)) ** (1 / a)

    def entropy(self, xp, distribution): ...
    def kl(self, xp, reference, distribution): ...
    def check_actions(self, actions, mask): ...


@dataclasses.dataclass(frozen=True)
class Correlated(pg.Head):
    """Two normal actions with a correlation: five distribution parameters."""

    name: ClassVar[str] = "correlated"
    discrete: ClassVar[bool] = False
    outputs: ClassVar[int] = 5
    width: ClassVar[int] = 5

    @property
    def quantities(self):
        return frozenset({"log_prob", "entropy"})

    def distribution(self, xp, outputs, parameters, mask):
        return outputs

    def log_prob(self, xp, distribution, actions):
        z = actions - distribution[:, :2]
        first = z[:, 0] / xp.exp(distribution[:, 2])
        second = (z[:, 1] - distribution[:, 4] * first) / xp.exp(distribution[:, 3])
        logs = distribution[:, 2] + distribution[:, 3]
        return -0.5 * (first * first + second * second) - logs - math.log(2.0 * math.pi)

    def entropy(self, xp, distribution):
        return distribution[:, 2] + distribution[:, 3] + 1.0 + math.log(2.0 * math.pi)

    def kl(self, xp, reference, distribution): ...

    def sample(self, distribution, rng):
        noise = rng.standard_normal((len(distribution), 2))
        second = distribution[:, 4] * noise[:, 0] + np.exp(distribution[:, 3]) * noise[:, 1]
        first = np.exp(distribution[:, 2]) * noise[:, 0]
        return distribution[:, :2] + np.stack([first, second], 1)

    def mode(self, distribution):
        return distribution[:, :2]

    def check_actions(self, actions, mask):
        assert actions.shape[1:] == (2,)


class Listed(pg.Categorical):
    """A softmax that does not declare its choices."""

    name: ClassVar[str] = "listed"
    choices: ClassVar[tuple[slice, ...]] = ()
    sample = None


ESTIMATORS = (Dapo, Gspo, AllActions, Squares, Distilled)


@dataclasses.dataclass(frozen=True)
class Boltzmann(pg.Estimator):
    """Exponentials of rewards, squared ratios and a logistic function: beyond float32 at times."""

    name: ClassVar[str] = "s_boltzmann"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=True, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"weight": np.exp(batch.rewards), "old": batch.log_probs}

    def surrogate(self, xp, *, log_prob, value, weight, old):
        ratio = xp.exp(2.0 * (log_prob - old))
        logistic = xp.exp(value) / (1.0 + xp.exp(value))
        return -ratio * ratio * weight + logistic
