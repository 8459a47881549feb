"""Named points at kinks and extremes, where frameworks disagree, each with the gradient that the conventions give.

Each is a policy with one state or a linear map, one or two steps, and the exact derivative worked out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgcore.api import estimator, gradient
from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.estimator import Estimator
from pgcore.heads import Categorical, DiagonalGaussian
from pgcore.policy import Policy
from pgcore.spec import MLP, Linear, PolicySpec, Table
from pgcore.surrogate import Signals

__all__ = ["KINKS", "Kink"]

Build = Callable[[PolicySpec], Policy]


@dataclass(frozen=True)
class Kink:
    """A point and what its gradient must be.

    Attributes:
        name: Short, for a test's name.
        compute: `compute(build)` returns the gradient by canonical parameter name; `build(spec)` makes a float64 policy.
        expected: The parameters it settles, by name.
        atol: What rounding may add where the plain formula cancels; else only what is flushed to 0.
    """

    name: str
    compute: Callable[[Build], dict[str, Array]]
    expected: dict[str, Array]
    atol: float = 1e-290

    @property
    def estimator(self) -> str:
        """The registered name of the estimator it is about."""
        return "ppo" if self.name.startswith(("ppo", "value clip")) else "reinforce"

    @property
    def head(self) -> str:
        """The registered name of the head it is about."""
        return "diagonal_gaussian" if self.name.startswith("sigma") else "categorical"


def constants(advantage: float, **others: float) -> Signals:
    """Return the signals of one step."""
    values = {name: np.array([value]) for name, value in {"advantage": advantage, **others}.items()}
    return Signals(values, np.ones(1), padded=False)


def one_step(action: int | list[float], observation: int | list[float] = 0, mask: list[bool] | None = None) -> Batch:
    """Return a batch of one step."""
    return Batch(
        observations=[observation],
        actions=[action],
        rewards=[0.0],
        episode_lengths=[1],
        terminated=[True],
        action_mask=None if mask is None else [mask],
    )


def ppo_at(log_ratio: float, advantage: float, clip: float = 0.2) -> Callable[[Build], dict[str, Array]]:
    """Return PPO's gradient in the logits of a fair coin, action 0, at a log ratio and an advantage."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(PolicySpec(Table(1), Categorical(2), "separate"))
        made.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        batch = one_step(0)
        old = made.evaluate(batch, ("log_prob",))["log_prob"][0] - log_ratio
        signals = constants(advantage, return_=0.0, old_log_prob=old)
        return gradient(made, estimator("ppo", clip=clip, normalise="none"), batch, signals=signals).numpy()

    return compute


def value_clip_at(value: float, old_value: float, return_: float) -> Callable[[Build], dict[str, Array]]:
    """Return the clipped value loss's gradient in V, with clip 0.5 and coefficient 1."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(PolicySpec(Table(1), Categorical(2), "separate"))
        made.load({"network.table": np.zeros((1, 2)), "critic.table": np.array([[value]])})
        signals = constants(0.0, return_=return_, old_log_prob=-math.log(2.0), old_value=old_value)
        estimator_ = estimator("ppo", value_clip=0.5, value_coefficient=1.0, normalise="none")
        return gradient(made, estimator_, one_step(0), signals=signals).numpy()

    return compute


def score_of(
    spec: PolicySpec, parameters: dict[str, Array], batch: Batch, entropy: float | None = None
) -> Callable[[Build], dict[str, Array]]:
    """Return -d log pi / d parameters, or with an entropy coefficient the entropy bonus's gradient alone."""

    def compute(build: Build) -> dict[str, Array]:
        made = build(spec)
        made.load(parameters)
        plain: Estimator = estimator("reinforce", entropy_coefficient=entropy or 0.0)
        return gradient(made, plain, batch, signals=constants(1.0 if entropy is None else 0.0)).numpy()

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
# A log ratio that log 1/2 can be moved by and back without rounding, so that the ratio is exactly at the bound.
BOUND = 0.1875
SATURATED = math.exp(-100.0) / (1.0 + math.exp(-100.0))


def row(*values: float) -> dict[str, Array]:
    """Return the expected derivative of a table of one state."""
    return {"network.table": np.array([values])}


KINKS: tuple[Kink, ...] = (
    # The unclipped side: d(-A r)/d logits = -A r (e_a - pi), with pi = (1/2, 1/2).
    Kink(
        "ppo ratio at 1 + clip, positive advantage",
        ppo_at(BOUND, 1.0, math.expm1(BOUND)),
        row(-0.5 * math.exp(BOUND), 0.5 * math.exp(BOUND)),
    ),
    Kink(
        "ppo ratio at 1 - clip, negative advantage",
        ppo_at(-BOUND, -1.0, -math.expm1(-BOUND)),
        row(0.5 * math.exp(-BOUND), -0.5 * math.exp(-BOUND)),
    ),
    Kink("ppo ratio above 1 + clip, positive advantage", ppo_at(0.19, 1.0), row(0.0, 0.0)),
    Kink(
        "ppo ratio above 1 + clip, negative advantage",
        ppo_at(0.19, -1.0),
        row(0.5 * math.exp(0.19), -0.5 * math.exp(0.19)),
    ),
    Kink(
        "ppo ratio below 1 - clip, positive advantage",
        ppo_at(-0.5, 1.0),
        row(-0.5 * math.exp(-0.5), 0.5 * math.exp(-0.5)),
    ),
    Kink("ppo log ratio 1000, positive advantage", ppo_at(1000.0, 1.0), row(0.0, 0.0)),
    Kink("ppo log ratio 1000, no advantage", ppo_at(1000.0, 0.0), row(0.0, 0.0)),
    Kink("ppo log ratio -1000, negative advantage", ppo_at(-1000.0, -1.0), row(0.0, 0.0)),
    Kink("ppo log ratio -1000, positive advantage", ppo_at(-1000.0, 1.0), row(0.0, 0.0)),
    # V = 1, old 0: clipped to 0.5. R = 0.75 is as far from both, and the unclipped V takes the gradient.
    Kink("value clip, tie", value_clip_at(1.0, 0.0, 0.75), {"critic.table": np.array([[0.25]])}),
    Kink("value clip, clipped loss larger", value_clip_at(1.0, 0.0, 2.0), {"critic.table": np.array([[0.0]])}),
    Kink("value clip, unclipped loss larger", value_clip_at(1.0, 0.0, 0.0), {"critic.table": np.array([[1.0]])}),
    Kink("value clip, at its bound", value_clip_at(0.5, 0.0, 2.0), {"critic.table": np.array([[-1.5]])}),
    # The unit's input is 0: no gradient reaches the first layer, while the second layer's bias has its usual one.
    Kink(
        "relu at 0",
        score_of(RELU, RELU_AT_0, one_step(0, [1.0])),
        {"network.0.weight": np.zeros((1, 1)), "network.0.bias": np.zeros(1), "network.1.bias": np.array([-0.5, 0.5])},
    ),
    # The notes' simplification for small temperatures gives -2e-9 here; the true score of the unlikely action is 100.
    Kink(
        "temperature 0.01, unlikely action",
        score_of(PolicySpec(Table(1), COLD), logits(1.0, 0.0), one_step(1)),
        row(100.0, -100.0),
    ),
    Kink(
        "temperature 0.01, likely action",
        score_of(PolicySpec(Table(1), COLD), logits(1.0, 0.0), one_step(0)),
        row(-100.0 * SATURATED, 100.0 * SATURATED),
        atol=100.0 * 2.0**-52,  # 1 - pi, over the temperature
    ),
    Kink(
        "a masked action takes no gradient",
        score_of(PolicySpec(Table(1), Categorical(3)), logits(0.0, 5.0, 0.0), one_step(0, 0, [True, False, True])),
        row(-0.5, 0.0, 0.5),
    ),
    Kink(
        "entropy of masked logits",
        score_of(
            PolicySpec(Table(1), Categorical(3)),
            logits(math.log(3.0), 9.0, 0.0),
            one_step(0, 0, [True, False, True]),
            entropy=1.0,
        ),
        row(*(0.75 * (math.log(0.75) + 0.5623351446188083), 0.0, 0.25 * (math.log(0.25) + 0.5623351446188083))),
    ),
    # sigma = 1e-4, z = 2: d log pi / d mean = z / sigma = 2e4 and d log pi / d log std = z^2 - 1 = 3.
    Kink(
        "sigma 1e-4",
        score_of(
            GAUSSIAN,
            {
                "network.0.weight": np.zeros((1, 1)),
                "network.0.bias": np.zeros(1),
                "head.log_std": np.array([math.log(1e-4)]),
            },
            one_step([2e-4], [1.0]),
        ),
        {"network.0.bias": np.array([-2e4]), "head.log_std": np.array([-3.0])},
    ),
)
