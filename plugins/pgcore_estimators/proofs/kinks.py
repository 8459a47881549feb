"""Non-differentiable points of the built-in estimators: clips, caps and ties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pgcore.api import gradient
from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec, Table
from pgcore.heads import Categorical, EpsilonGreedy
from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array
from pgcore_check.cases.kinks import constants, one_step, row
from pgcore_check.proof import Build, Kink
from pgcore_estimators.awr import AWR
from pgcore_estimators.group_relative import CISPO, GSPO
from pgcore_estimators.ppo import PPO
from pgcore_estimators.q_learning import QLearning
from pgcore_estimators.soft_actor import SoftActor
from pgcore_estimators.vtrace import VTrace

__all__ = ["AWR_KINKS", "CISPO_KINKS", "GSPO_KINKS", "HUBER_KINKS", "PPO_KINKS", "VTRACE_KINKS"]
__all__ += ["TWIN_KINKS"]

# Nats. log 1/2 plus and minus this log ratio does not round, so a ratio can be exactly at the bound.
BOUND = 0.1875
CLIPPED = PPO(clip=math.expm1(BOUND), value_clip=0.5, value_coefficient=1.0, normalise="none")
CLIPPED_LOW = PPO(clip=-math.expm1(-BOUND), value_clip=0.5, value_coefficient=1.0, normalise="none")
CISPO_AT = CISPO(clip_low=-math.expm1(-BOUND), clip_high=math.expm1(BOUND))
GSPO_AT = GSPO(clip_low=-math.expm1(-BOUND), clip_high=math.expm1(BOUND))
HUBER = QLearning(huber=0.5)
VTRACE = VTrace(rho_bar=1.0)
AWR_AT, AWR_PAST = AWR(max_weight=math.exp(0.75)), AWR(max_weight=1.5)
COIN = PolicySpec(Table(1), Categorical(2), "separate")
TWIN = SoftActor(alpha=0.0, gamma=0.5, value_coefficient=1.0, twin=True)


def ratio_at(
    plain: Estimator, log_ratio: float, advantage: float
) -> Callable[[Build], dict[str, Array]]:
    """Return a clipped estimator's gradient in the logits of a fair coin, action 0.

    Args:
        plain: The estimator, at its bounds.
        log_ratio: log pi - log mu, nats.
        advantage: Of the one step.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        batch = one_step(0)
        # From the policy's own log pi, so that no rounding moves the ratio off its bound.
        old = policy.evaluate(batch, ("log_prob",))["log_prob"][0] - log_ratio
        signals = constants(policy, advantage, return_=0.0, old_log_prob=old, old_value=0.0)
        if plain.sees_episodes:
            signals.values["episode"] = batch.episode_of_step
        return gradient(policy, plain, batch, signals=signals).numpy()

    return compute


def ppo_at(
    log_ratio: float, advantage: float, plain: Estimator = CLIPPED
) -> Callable[[Build], dict[str, Array]]:
    """Return PPO's gradient; see `ratio_at`."""
    return ratio_at(plain, log_ratio, advantage)


def value_clip_at(
    value: float, old_value: float, return_: float
) -> Callable[[Build], dict[str, Array]]:
    """Return the clipped value loss's gradient in V, with clip 0.5 and coefficient 1."""

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.array([[value]])})
        # Advantage 0 and ratio 1: the value loss alone has a gradient.
        signals = constants(
            policy, 0.0, return_=return_, old_log_prob=-math.log(2.0), old_value=old_value
        )
        return gradient(policy, CLIPPED, one_step(0), signals=signals).numpy()

    return compute


def huber_at(error: float) -> Callable[[Build], dict[str, Array]]:
    """Return Q-learning's gradient in two action values, action 0, with Huber bound 0.5."""

    def compute(build: Build) -> dict[str, Array]:
        policy = build(PolicySpec(Table(1), EpsilonGreedy(2, epsilon=0.2)))
        policy.load({"network.table": np.array([[1.0, 0.0]])})
        signals = constants(policy, 0.0, target=1.0 - error)
        return gradient(policy, HUBER, one_step(0), signals=signals).numpy()

    return compute


def capped_at(
    plain: Estimator, log_ratio: float, reward: float
) -> Callable[[Build], dict[str, Array]]:
    """Return the gradient of an estimator with limited signals, on one terminal step.

    Args:
        plain: The estimator; the policy is a fair coin with V = 0.25.
        log_ratio: log pi - log mu, nats.
        reward: Of the step.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.array([[0.25]])})
        # Signals come from the batch here, since the limit is theirs and not the surrogate's.
        now = policy.evaluate(one_step(0), ("log_prob",))["log_prob"]
        batch = one_step(0, reward=reward, log_prob=now[0] - log_ratio)
        return gradient(policy, plain, batch).numpy()

    return compute


def twins_at(*second: float) -> Callable[[Build], dict[str, Array]]:
    """Return the soft actor's gradient where the first critic has Q = (1, 3), after one step.

    Args:
        second: The second critic's values of both actions.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(PolicySpec(Table(1), Categorical(2), "separate", "twin"))
        tables = {"network": [0.0, 0.0], "critic.first": [1.0, 3.0], "critic.second": [*second]}
        policy.load({f"{name}.table": np.array([row]) for name, row in tables.items()})
        batch = Batch(
            observations=[0],
            actions=[0],
            rewards=[0.0],
            episode_lengths=[1],
            terminated=[False],
            final_observations=[0],
        )
        return gradient(policy, TWIN, batch).numpy()

    return compute


def coin(half: float) -> dict[str, Array]:
    """Return the expected derivatives of a fair coin's logits, of the action and the other."""
    return row(half, -half)


def ppo_kink(name: str, log_ratio: float, advantage: float, expected: dict[str, Array]) -> Kink:
    """Return a kink of PPO's clip."""
    return Kink(
        f"ppo {name}",
        "ppo",
        "ppo",
        "categorical",
        ppo_at(log_ratio, advantage),
        expected,
        everywhere=True,
    )


def value_kink(name: str, value: float, return_: float, expected: float) -> Kink:
    """Return a kink of PPO's value clip, the old value being 0."""
    return Kink(
        f"value clip, {name}",
        "ppo",
        "ppo",
        "categorical",
        value_clip_at(value, 0.0, return_),
        {"critic.table": np.array([[expected]])},
        everywhere=True,
    )


PPO_KINKS = (
    # The unclipped side: d(-A r)/d logits = -A r (e_a - pi), with pi = (1/2, 1/2).
    ppo_kink("ratio at 1 + clip, positive advantage", BOUND, 1.0, coin(-0.5 * math.exp(BOUND))),
    ppo_kink("ratio above 1 + clip, positive advantage", 0.19, 1.0, coin(0.0)),
    ppo_kink("ratio above 1 + clip, negative advantage", 0.19, -1.0, coin(0.5 * math.exp(0.19))),
    ppo_kink("ratio below 1 - clip, positive advantage", -0.5, 1.0, coin(-0.5 * math.exp(-0.5))),
    ppo_kink("log ratio 1000, positive advantage", 1000.0, 1.0, coin(0.0)),
    ppo_kink("log ratio 1000, no advantage", 1000.0, 0.0, coin(0.0)),
    ppo_kink("log ratio -1000, negative advantage", -1000.0, -1.0, coin(0.0)),
    ppo_kink("log ratio -1000, positive advantage", -1000.0, 1.0, coin(0.0)),
    Kink(
        "ppo ratio at 1 - clip, negative advantage",
        "ppo low",
        "ppo",
        "categorical",
        ppo_at(-BOUND, -1.0, CLIPPED_LOW),
        coin(0.5 * math.exp(-BOUND)),
        everywhere=True,
    ),
    # V = 1, old 0: clipped to 0.5. R = 0.75 is as far from both, and the unclipped V takes the
    # gradient.
    value_kink("tie", 1.0, 0.75, 0.25),
    value_kink("clipped loss larger", 1.0, 2.0, 0.0),
    value_kink("unclipped loss larger", 1.0, 0.0, 1.0),
    value_kink("at its bound", 0.5, 2.0, -1.5),
)
# Held at the bound, the weight goes on to carry log pi: -A c (e_a - pi), at the bound and past it.
CISPO_KINKS = (
    *(
        Kink(
            f"cispo {name}",
            "cispo",
            "cispo",
            "categorical",
            ratio_at(CISPO_AT, log_ratio, 1.0),
            coin(-0.5 * math.exp(held)),
            everywhere=True,
        )
        for name, log_ratio, held in (
            ("ratio at 1 + clip", BOUND, BOUND),
            ("ratio above 1 + clip", 2.0, BOUND),
            ("ratio at 1 - clip", -BOUND, -BOUND),
            ("log ratio -1000", -1000.0, -BOUND),
        )
    ),
)
# One step is its own trajectory, so the bounds act as PPO's do.
GSPO_KINKS = (
    *(
        Kink(
            f"gspo {name}",
            "gspo",
            "gspo",
            "categorical",
            ratio_at(GSPO_AT, log_ratio, advantage),
            coin(expected),
            everywhere=True,
        )
        for name, log_ratio, advantage, expected in (
            ("ratio at 1 + clip, positive advantage", BOUND, 1.0, -0.5 * math.exp(BOUND)),
            ("ratio above 1 + clip, positive advantage", 0.5, 1.0, 0.0),
            ("ratio at 1 - clip, negative advantage", -BOUND, -1.0, 0.5 * math.exp(-BOUND)),
            ("log ratio 1000, no advantage", 1000.0, 0.0, 0.0),
        )
    ),
)
# The error, limited to the bound; the action not taken has none.
HUBER_KINKS = (
    *(
        Kink(
            f"huber, {name}",
            "huber",
            "q_learning",
            "epsilon_greedy",
            huber_at(error),
            row(held, 0.0),
            everywhere=True,
        )
        for name, error, held in (
            ("error at the bound", 0.5, 0.5),
            ("error at minus the bound", -0.5, -0.5),
            ("error past the bound", 4.0, 0.5),
            ("error 0", 0.0, 0.0),
        )
    ),
)
# J = -(min Q_0 + min Q_1) / 2, so that dJ / dw_0 is a quarter of the difference of the minima. Half
# their sum, halved by gamma, is the target of both critics' values of action 0.
TWIN_KINKS = (
    *(
        Kink(
            f"twin critics, {name}",
            "twin",
            "soft_actor",
            "categorical",
            twins_at(*second),
            coin(slope)
            | {"critic.first.table": np.array([[first, 0.0]])}
            | {"critic.second.table": np.array([[twin, 0.0]])},
        )
        for name, second, slope, first, twin in (
            ("equal", (1.0, 3.0), 0.5, 0.0, 0.0),
            ("equal for one action", (1.0, 2.0), 0.25, 0.25, 0.25),
            ("each smaller once", (2.0, 2.0), 0.25, 0.25, 1.25),
        )
    ),
)
# rho = min(1, r) weighs reward - V = 3/4, in the advantage and in the critic's target V + 3/4,
# whose loss has coefficient 1/2.
VTRACE_KINKS = (
    *(
        Kink(
            f"vtrace {name}",
            "vtrace",
            "vtrace",
            "categorical",
            capped_at(VTRACE, log_ratio, 1.0),
            coin(-0.375) | {"critic.table": np.array([[-0.375]])},
        )
        for name, log_ratio in (("ratio at its cap", 0.0), ("log ratio 1000", 1000.0))
    ),
)
# The weight exp(3/4) at the cap and 1.5 past it, times the score (1/2, -1/2).
AWR_KINKS = (
    Kink(
        "awr weight at its cap",
        "awr",
        "awr",
        "categorical",
        capped_at(AWR_AT, 0.0, 1.0),
        coin(-0.5 * math.exp(0.75)),
    ),
    Kink(
        "awr weight past its cap",
        "awr",
        "awr",
        "categorical",
        capped_at(AWR_PAST, 0.0, 1e4),
        coin(-0.75),
    ),
)
