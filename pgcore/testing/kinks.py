"""Named points at kinks and extremes, where frameworks disagree, each with the gradient that the conventions give.

Each is a policy with one state or a linear map, one or two steps, and the exact derivative worked out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.api import estimator, gradient
from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.estimator import Estimator
from pgcore.heads import Categorical, DiagonalGaussian, EpsilonGreedy, SquashedGaussian
from pgcore.policy import Policy
from pgcore.spec import MLP, Linear, PolicySpec, Table
from pgcore.step_signals import Signals
from pgcore.testing.agreement import FACTOR, TINY, largest

__all__ = ["KINKS", "Kink", "worst_at"]

Build = Callable[[PolicySpec], Policy]

# Of float64 gradients at kinks: some twenty roundings.
RTOL = 4e-15


@dataclass(frozen=True)
class Kink:
    """A point and what its gradient must be.

    Attributes:
        name: Short, for a test's name.
        group: Kinks of a group have one architecture and one estimator, so that what is compiled for one serves all.
        estimator: The registered name of the estimator it is about.
        head: The registered name of the head it is about.
        compute: `compute(build)` returns the gradient by canonical parameter name; `build(spec)` makes a policy.
        expected: The parameters it settles, by name.
        atol: What float64's rounding may add where the plain formula cancels; else only what is flushed to 0.
        everywhere: Whether backends differ enough in how they compute it to look in each of their modes.
    """

    name: str
    group: str
    estimator: str
    head: str
    compute: Callable[[Build], dict[str, Array]]
    expected: dict[str, Array]
    atol: float = 0.0
    everywhere: bool = False

    def allowed(self, name: str, dtype: np.dtype[Any]) -> Array:
        """Return how far each entry of a parameter's gradient may be from the one expected, in a dtype."""
        coarser = float(np.finfo(dtype).eps) / 2.0**-52
        return (RTOL * np.abs(self.expected[name]) + self.atol) * coarser + TINY[dtype.name]


def worst_at(kink: Kink, build: Build, dtype: np.dtype[Any]) -> tuple[float, str]:
    """Return the largest error at a kink, in quarters of what is allowed, and the entry that it is in."""
    found = kink.compute(build)
    ratio, where = -1.0, ""
    for name, expected in kink.expected.items():
        allowed = kink.allowed(name, dtype) / FACTOR
        own, position = largest(found[name], expected.astype(np.longdouble), allowed, dtype)
        if not own <= ratio:
            ratio, where = own, f"{name}{list(position)}"
    return ratio, where


def constants(made: Policy, advantage: float, **others: float) -> Signals:
    """Return the signals of one step."""
    values = {name: np.array([value], made.dtype) for name, value in {"advantage": advantage, **others}.items()}
    return Signals(values, np.ones(1, made.dtype), padded=False)


def one_step(
    action: int | list[float],
    observation: int | list[float] = 0,
    mask: list[bool] | None = None,
    *,
    reward: float = 0.0,
    log_prob: float | None = None,
) -> Batch:
    """Return a batch of one step."""
    return Batch(
        observations=[observation],
        actions=[action],
        rewards=[reward],
        log_probs=None if log_prob is None else [log_prob],
        episode_lengths=[1],
        terminated=[True],
        action_mask=None if mask is None else [mask],
    )


# A log ratio that log 1/2 can be moved by and back without rounding, so that the ratio is exactly at the bound.
BOUND = 0.1875
PPO = estimator("ppo", clip=math.expm1(BOUND), value_clip=0.5, value_coefficient=1.0, normalise="none")
PPO_LOW = estimator("ppo", clip=-math.expm1(-BOUND), value_clip=0.5, value_coefficient=1.0, normalise="none")
CISPO = estimator("cispo", clip_low=-math.expm1(-BOUND), clip_high=math.expm1(BOUND))
GSPO = estimator("gspo", clip_low=-math.expm1(-BOUND), clip_high=math.expm1(BOUND))
COIN = PolicySpec(Table(1), Categorical(2), "separate")


def ratio_at(plain: Estimator, log_ratio: float, advantage: float) -> Callable[[Build], dict[str, Array]]:
    """Return a clipped estimator's gradient in the logits of a fair coin, action 0, at a log ratio and an advantage."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(COIN)
        made.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        batch = one_step(0)
        old = made.evaluate(batch, ("log_prob",))["log_prob"][0] - log_ratio
        signals = constants(made, advantage, return_=0.0, old_log_prob=old, old_value=0.0)
        if plain.sees_episodes:
            signals.values["episode"] = batch.episode_of_step
        return gradient(made, plain, batch, signals=signals).numpy()

    return compute


def ppo_at(log_ratio: float, advantage: float, plain: Estimator = PPO) -> Callable[[Build], dict[str, Array]]:
    """Return PPO's gradient; see `ratio_at`."""
    return ratio_at(plain, log_ratio, advantage)


def value_clip_at(value: float, old_value: float, return_: float) -> Callable[[Build], dict[str, Array]]:
    """Return the clipped value loss's gradient in V, with clip 0.5 and coefficient 1."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(COIN)
        made.load({"network.table": np.zeros((1, 2)), "critic.table": np.array([[value]])})
        signals = constants(made, 0.0, return_=return_, old_log_prob=-math.log(2.0), old_value=old_value)
        return gradient(made, PPO, one_step(0), signals=signals).numpy()

    return compute


def huber_at(error: float) -> Callable[[Build], dict[str, Array]]:
    """Return Q-learning's gradient in two action values, action 0, at an error, with Huber bound 0.5."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(PolicySpec(Table(1), EpsilonGreedy(2, epsilon=0.2)))
        made.load({"network.table": np.array([[1.0, 0.0]])})
        signals = constants(made, 0.0, target=1.0 - error)
        return gradient(made, HUBER, one_step(0), signals=signals).numpy()

    return compute


def capped_at(plain: Estimator, log_ratio: float, reward: float) -> Callable[[Build], dict[str, Array]]:
    """Return the gradient of an estimator whose signals are limited: a fair coin, V = 0.25, one terminal step, at a log ratio."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(COIN)
        made.load({"network.table": np.zeros((1, 2)), "critic.table": np.array([[0.25]])})
        now = made.evaluate(one_step(0), ("log_prob",))["log_prob"]
        return gradient(made, plain, one_step(0, reward=reward, log_prob=now[0] - log_ratio)).numpy()

    return compute


def squashed_at(u: float, log_std: float) -> Callable[[Build], dict[str, Array]]:
    """Return PPO's gradient at log ratio 0.1 and advantage 1 for a squashed Gaussian of mean 0, at an action far out."""
    old = squashed_log_prob(u, log_std) - 0.1

    def compute(build: Build) -> dict[str, Array]:
        made = build(SQUASHED)
        made.load(
            {name: np.zeros(shape) for name, shape in SQUASHED.parameter_shapes.items()}
            | {"head.log_std": np.array([log_std])}
        )
        signals = constants(made, 1.0, return_=0.0, old_log_prob=old, old_value=0.0)
        return gradient(made, PPO, one_step([u], [1.0]), signals=signals).numpy()

    return compute


def squashed_log_prob(u: float, log_std: float) -> float:
    """Return log pi of tanh(u): log N(u; 0, std) less log |d tanh / du| = 2 (log 2 - |u|), which far out is exact."""
    normal = -0.5 * (u / math.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)
    return normal - 2.0 * (math.log(2.0) - abs(u))


def squashed_row(u: float, log_std: float) -> dict[str, Array]:
    """Return the expected derivatives: - r z / std and - r (z^2 - 1)."""
    z, ratio = u / math.exp(log_std), math.exp(0.1)
    return {
        "network.0.bias": np.array([-ratio * z / math.exp(log_std)]),
        "head.log_std": np.array([-ratio * (z * z - 1.0)]),
    }


def score_of(
    spec: PolicySpec, parameters: dict[str, Array], batch: Batch, entropy: float | None = None
) -> Callable[[Build], dict[str, Array]]:
    """Return -d log pi / d parameters, or with an entropy coefficient the entropy bonus's gradient alone."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(spec)
        made.load(parameters)
        plain: Estimator = estimator("reinforce", entropy_coefficient=entropy or 0.0)
        return gradient(made, plain, batch, signals=constants(made, 1.0 if entropy is None else 0.0)).numpy()

    return compute


def logits(*values: float) -> dict[str, Array]:
    """Return the parameters of a table of one state."""
    return {"network.table": np.array([values])}


RELU = PolicySpec(MLP(1, (1,), "relu"), Categorical(2))
RELU_AT_0 = {
    "network.0.weight": np.array([[1.0]]),
    "network.0.bias": np.array([-1.0]),
    "network.1.weight": np.array([[1.0, -1.0]]),
    "network.1.bias": np.zeros(2),
}
GAUSSIAN = PolicySpec(Linear(1), DiagonalGaussian(1, "shared"))
COLD = Categorical(2, temperature=0.01)
HUBER = estimator("q_learning", huber=0.5)
VTRACE = estimator("vtrace", rho_bar=1.0)
AWR_AT, AWR_PAST = (estimator("awr", max_weight=each) for each in (math.exp(0.75), 1.5))
SQUASHED = PolicySpec(Linear(1), SquashedGaussian(1, "shared"), "separate")
# The logarithm of a standard deviation near 1e-4 that both dtypes hold exactly.
SMALL = -9.25
SATURATED = math.exp(-100.0) / (1.0 + math.exp(-100.0))


def row(*values: float) -> dict[str, Array]:
    """Return the expected derivative of a table of one state."""
    return {"network.table": np.array([values])}


def coin(half: float) -> dict[str, Array]:
    """Return the expected derivatives of a fair coin's logits: `half` in that of the action, as much less in the other."""
    return row(half, -half)


def ppo_kink(name: str, log_ratio: float, advantage: float, expected: dict[str, Array]) -> Kink:
    """Return a kink of PPO's clip."""
    return Kink(f"ppo {name}", "ppo", "ppo", "categorical", ppo_at(log_ratio, advantage), expected, everywhere=True)


def value_kink(name: str, value: float, return_: float, expected: float) -> Kink:
    """Return a kink of PPO's value clip, the old value being 0."""
    found = {"critic.table": np.array([[expected]])}
    compute = value_clip_at(value, 0.0, return_)
    return Kink(f"value clip, {name}", "ppo", "ppo", "categorical", compute, found, everywhere=True)


def score_kink(
    name: str, compute: Callable[[Build], dict[str, Array]], expected: dict[str, Array], **others: Any
) -> Kink:
    """Return a kink of a categorical head's scores."""
    return Kink(name, name, "reinforce", "categorical", compute, expected, **others)


def far_out(u: float, log_std: float) -> Kink:
    """Return an extreme of the squashed Gaussian; the ratio takes the rounding of a log-probability of this size."""
    expected = squashed_row(u, log_std)
    largest = max(float(np.abs(value).max()) for value in expected.values())
    rounding = 4.0 * largest * (abs(squashed_log_prob(u, log_std)) + 2.0 * abs(u)) * 2.0**-52
    name = f"squashed, u = {u:g}"
    return Kink(name, "squashed", "ppo", "squashed_gaussian", squashed_at(u, log_std), expected, rounding)


KINKS: tuple[Kink, ...] = (
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
        ppo_at(-BOUND, -1.0, PPO_LOW),
        coin(0.5 * math.exp(-BOUND)),
        everywhere=True,
    ),
    # V = 1, old 0: clipped to 0.5. R = 0.75 is as far from both, and the unclipped V takes the gradient.
    value_kink("tie", 1.0, 0.75, 0.25),
    value_kink("clipped loss larger", 1.0, 2.0, 0.0),
    value_kink("unclipped loss larger", 1.0, 0.0, 1.0),
    value_kink("at its bound", 0.5, 2.0, -1.5),
    # Held at the bound, the weight goes on to carry log pi: -A c (e_a - pi), at the bound and past it.
    *(
        Kink(
            f"cispo {name}",
            "cispo",
            "cispo",
            "categorical",
            ratio_at(CISPO, log_ratio, 1.0),
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
    *(
        Kink(
            f"gspo {name}",
            "gspo",
            "gspo",
            "categorical",
            ratio_at(GSPO, log_ratio, advantage),
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
    # The error, held at the bound; the action that was not taken has none.
    *(
        Kink(
            f"huber, {name}", "huber", "q_learning", "epsilon_greedy", huber_at(error), row(held, 0.0), everywhere=True
        )
        for name, error, held in (
            ("error at the bound", 0.5, 0.5),
            ("error at minus the bound", -0.5, -0.5),
            ("error past the bound", 4.0, 0.5),
            ("error 0", 0.0, 0.0),
        )
    ),
    # rho = min(1, r) weighs reward - V = 3/4, in the advantage and in the critic's target V + 3/4, whose loss has coefficient 1/2.
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
    Kink(
        "awr weight at its cap", "awr", "awr", "categorical", capped_at(AWR_AT, 0.0, 1.0), coin(-0.5 * math.exp(0.75))
    ),
    Kink("awr weight past its cap", "awr", "awr", "categorical", capped_at(AWR_PAST, 0.0, 1e4), coin(-0.75)),
    far_out(20.0, 0.0),
    far_out(-400.0, 3.0),
    # The unit's input is 0: no gradient reaches the first layer, while the second layer's bias has its usual one.
    score_kink(
        "relu at 0",
        score_of(RELU, RELU_AT_0, one_step(0, [1.0])),
        {"network.0.weight": np.zeros((1, 1)), "network.0.bias": np.zeros(1), "network.1.bias": np.array([-0.5, 0.5])},
        everywhere=True,
    ),
    # The notes' simplification for small temperatures gives 0 here; the true score of the unlikely action is 100.
    score_kink(
        "temperature 0.01, unlikely action",
        score_of(PolicySpec(Table(1), COLD), logits(1.0, 0.0), one_step(1)),
        row(100.0, -100.0),
    ),
    score_kink(
        "temperature 0.01, likely action",
        score_of(PolicySpec(Table(1), COLD), logits(1.0, 0.0), one_step(0)),
        row(-100.0 * SATURATED, 100.0 * SATURATED),
        atol=100.0 * 2.0**-52,  # 1 - pi, over the temperature
    ),
    score_kink(
        "a masked action takes no gradient",
        score_of(PolicySpec(Table(1), Categorical(3)), logits(0.0, 5.0, 0.0), one_step(0, 0, [True, False, True])),
        row(-0.5, 0.0, 0.5),
    ),
    score_kink(
        "entropy of masked logits",
        score_of(
            PolicySpec(Table(1), Categorical(3)),
            logits(math.log(3.0), 9.0, 0.0),
            one_step(0, 0, [True, False, True]),
            entropy=1.0,
        ),
        row(*(0.75 * (math.log(0.75) + 0.5623351446188083), 0.0, 0.25 * (math.log(0.25) + 0.5623351446188083))),
    ),
    # z = 2: d log pi / d mean = z / sigma, about 2e4, and d log pi / d log std = z^2 - 1 = 3.
    Kink(
        "sigma 1e-4",
        "sigma",
        "reinforce",
        "diagonal_gaussian",
        score_of(
            GAUSSIAN,
            {"network.0.weight": np.zeros((1, 1)), "network.0.bias": np.zeros(1), "head.log_std": np.array([SMALL])},
            one_step([2.0 * math.exp(SMALL)], [1.0]),
        ),
        {"network.0.bias": np.array([-2.0 * math.exp(-SMALL)]), "head.log_std": np.array([-3.0])},
    ),
)
