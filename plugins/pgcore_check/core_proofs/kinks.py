"""Non-differentiable and extreme points of the core's heads, in losses that use little else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pgcore.api import gradient
from pgcore.data.batch import Batch
from pgcore.data.spec import MLP, Linear, PolicySpec, Table
from pgcore.heads import Categorical, DiagonalGaussian, SquashedGaussian
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_check.cases.kinks import constants, logits, one_step, row
from pgcore_check.proof import Build, Kink

__all__ = ["CATEGORICAL_KINKS", "GAUSSIAN_KINKS", "SQUASHED_KINKS"]


@dataclass(frozen=True)
class Score(Estimator):
    """Minus log pi A, less an entropy bonus; or minus r A, with the ratio r to an old policy."""

    entropy_coefficient: float = 0.0
    ratio: bool = False
    name: ClassVar[str] = "score"

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return self.ratio if name == "old_log_prob" else self.entropy_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the points replace them."""
        return {"advantage": batch.rewards, "old_log_prob": evaluate("log_prob")["log_prob"]}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        advantage: Native,
        entropy: Native = None,
        old_log_prob: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`."""
        gain = advantage * (log_prob if old_log_prob is None else xp.exp(log_prob - old_log_prob))
        return -gain if entropy is None else -gain - self.entropy_coefficient * entropy

    def cotangents(
        self,
        *,
        log_prob: Array,
        advantage: Array,
        entropy: Array | None = None,
        old_log_prob: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        slope = -advantage if old_log_prob is None else -advantage * np.exp(log_prob - old_log_prob)
        bonus = (
            {} if entropy is None else {"entropy": np.full_like(entropy, -self.entropy_coefficient)}
        )
        return {"log_prob": slope, **bonus}


# One hidden unit, whose input is 0 for the observation 1.
RELU = PolicySpec(MLP(1, (1,), "relu"), Categorical(2))
RELU_AT_0 = {
    "network.0.weight": np.array([[1.0]]),
    "network.0.bias": np.array([-1.0]),
    "network.1.weight": np.array([[1.0, -1.0]]),
    "network.1.bias": np.zeros(2),
}
GAUSSIAN = PolicySpec(Linear(1), DiagonalGaussian(1, "shared"))
COLD = Categorical(2, temperature=0.01)
SQUASHED = PolicySpec(Linear(1), SquashedGaussian(1, "shared"), "separate")
# The logarithm of a standard deviation near 1e-4 that both dtypes hold exactly.
SMALL = -9.25
# The unlikely action's probability at logits 1 and 0 and temperature 0.01.
SATURATED = math.exp(-100.0) / (1.0 + math.exp(-100.0))
# The entropy of the probabilities 3/4 and 1/4, in nats.
ENTROPY = 0.5623351446188083


def squashed_at(u: float, log_std: float) -> Callable[[Build], dict[str, Array]]:
    """Return the gradient of -r A for a squashed Gaussian at an extreme action.

    The log ratio is 0.1, the advantage 1, the mean 0, and the action tanh(u).
    """
    old = squashed_log_prob(u, log_std) - 0.1

    def compute(build: Build) -> dict[str, Array]:
        policy = build(SQUASHED)
        parameters = {name: np.zeros(shape) for name, shape in SQUASHED.parameter_shapes.items()}
        policy.load(parameters | {"head.log_std": np.array([log_std])})
        signals = constants(policy, 1.0, old_log_prob=old)
        return gradient(policy, Score(ratio=True), one_step([u], [1.0]), signals=signals).numpy()

    return compute


def squashed_log_prob(u: float, log_std: float) -> float:
    """Return log pi of tanh(u): log N(u; 0, std) less log |d tanh / du|."""
    normal = -0.5 * (u / math.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)
    # Exact for large |u|, since 1 + exp(-2 |u|) is 1 in float64.
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
    """Return -d log pi / d parameters.

    With an entropy coefficient the advantage is 0, and the gradient that of the bonus alone.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(spec)
        policy.load(parameters)
        signals = constants(policy, 1.0 if entropy is None else 0.0)
        return gradient(policy, Score(entropy or 0.0), batch, signals=signals).numpy()

    return compute


def score_kink(
    name: str,
    compute: Callable[[Build], dict[str, Array]],
    expected: dict[str, Array],
    **options: Any,
) -> Kink:
    """Return a kink of a categorical head's scores; `options` are fields of `Kink`."""
    return Kink(name, name, "", "categorical", compute, expected, **options)


def far_out(u: float, log_std: float) -> Kink:
    """Return an extreme point of the squashed Gaussian."""
    expected = squashed_row(u, log_std)
    largest = max(float(np.abs(value).max()) for value in expected.values())
    # The ratio's relative error is the rounding error of a log-probability of this size.
    rounding = 4.0 * largest * (abs(squashed_log_prob(u, log_std)) + 2.0 * abs(u)) * 2.0**-52
    name = f"squashed, u = {u:g}"
    return Kink(
        name, "squashed", "", "squashed_gaussian", squashed_at(u, log_std), expected, rounding
    )


SQUASHED_KINKS = (far_out(20.0, 0.0), far_out(-400.0, 3.0))
CATEGORICAL_KINKS = (
    # The unit's input is 0: the first layer gets no gradient, the second one's bias its usual one.
    score_kink(
        "relu at 0",
        score_of(RELU, RELU_AT_0, one_step(0, [1.0])),
        {
            "network.0.weight": np.zeros((1, 1)),
            "network.0.bias": np.zeros(1),
            "network.1.bias": np.array([-0.5, 0.5]),
        },
        everywhere=True,
    ),
    # A simplification for small temperatures gives 0 here; the unlikely action's score is 100.
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
        score_of(
            PolicySpec(Table(1), Categorical(3)),
            logits(0.0, 5.0, 0.0),
            one_step(0, 0, [True, False, True]),
        ),
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
        # pi (log pi + entropy), 0 for the masked action.
        row(0.75 * (math.log(0.75) + ENTROPY), 0.0, 0.25 * (math.log(0.25) + ENTROPY)),
    ),
)
GAUSSIAN_KINKS = (
    # z = 2: d log pi / d mean = z / sigma, about 2e4, and d log pi / d log std = z^2 - 1 = 3.
    Kink(
        "sigma 1e-4",
        "sigma",
        "",
        "diagonal_gaussian",
        score_of(
            GAUSSIAN,
            {
                "network.0.weight": np.zeros((1, 1)),
                "network.0.bias": np.zeros(1),
                "head.log_std": np.array([SMALL]),
            },
            one_step([2.0 * math.exp(SMALL)], [1.0]),
        ),
        {"network.0.bias": np.array([-2.0 * math.exp(-SMALL)]), "head.log_std": np.array([-3.0])},
    ),
)
