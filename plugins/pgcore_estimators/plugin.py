"""Registers the built-in estimators, reductions and metrics."""

from __future__ import annotations

from collections.abc import Callable

from pgcore.hooks import Provider, hookimpl
from pgcore_estimators.presets import PRESETS

__all__ = ["pgcore_advantages", "pgcore_critics", "pgcore_estimators", "pgcore_functions"]
__all__ += ["pgcore_corrections", "pgcore_levels", "pgcore_masks", "pgcore_metrics"]
__all__ += ["pgcore_objectives", "pgcore_penalties", "pgcore_proofs", "pgcore_reductions"]

# Name, module:class in this package, and a summary for `pgcore list`.
ESTIMATORS = (
    (
        "policy_gradient",
        "policy_gradient:PolicyGradient",
        "any advantage, objective, level, penalty, mask, correction and critic that meet",
    ),
    (
        "reinforce",
        "reinforce:Reinforce",
        "score function times return, with any of seven baselines",
    ),
    # Action values.
    ("expected", "expected:Expected", "all-action policy gradient over action values"),
    (
        "q_learning",
        "q_learning:QLearning",
        "error to the best next action's value, plain or double",
    ),
    ("soft_actor", "soft_actor:SoftActor", "entropy-regularised actor over action values"),
)
# Name of the function in `metrics`, and its summary: a listing imports no function, nor NumPy.
METRICS = (
    ("entropy", "mean entropy of the policy, nats"),
    ("kl", "mean KL(reference, current policy), nats, in closed form"),
    ("approx_kl", "KL(behaviour policy, current policy) from its samples, nats"),
    ("clip_fraction", "fraction of steps at which the surrogate is clipped"),
    ("effective_sample_size", "steps of equal weight that estimate a mean as well"),
    ("gain_weight_sample_size", "steps of equal correction and mask that estimate a mean as well"),
    ("gain_weight_max", "largest weight of a step's gain by corrections and masks"),
    ("ratio_min", "smallest ratio to the behaviour policy"),
    ("ratio_max", "largest ratio to the behaviour policy"),
    ("action_value", "mean action value of the steps, reward units"),
    ("value_loss", "half the mean squared error of the critic, whatever the loss"),
    ("explained_variance", "share of the returns' variance that the critic explains, at most 1"),
    ("gradient_norm", "Euclidean norm of the gradient before clipping"),
)
# Name, class in `reductions`, and a summary.
REDUCTIONS = (
    ("group_step", "GroupMean", "mean over a group's steps, then over groups"),
    ("constant", "ConstantDivisor", "sum over steps, divided by episodes times a constant"),
    ("sum", "StepSum", "sum over all steps"),
    ("weighted", "WeightedSteps", "another reduction's weights times the user's"),
)
# By kind, the parts: name, module:class in the package `parts`, and a summary.
PARTS = {
    "advantages": (
        ("gae", "gae:GAE", "generalised advantage estimates from a critic"),
        ("returns", "returns:Returns", "discounted returns, less a critic's value or nothing"),
        ("n_step", "n_step:NStep", "n rewards and a critic's value, less its value before"),
        ("td", "n_step:TD", "one reward and a critic's value, less its value before"),
        ("vtrace", "vtrace:VTraceAdvantage", "advantages corrected for the behaviour policy"),
        ("per_decision", "importance:PerDecision", "returns, weighed by the ratios up to a reward"),
        (
            "self_normalised",
            "importance:SelfNormalised",
            "returns, weighed by episodes' ratios over their mean",
        ),
        ("group_relative", "group_relative:GroupRelative", "rewards against those of a group"),
        (
            "success_normalised",
            "success_normalised:SuccessNormalised",
            "rewards less the group's mean, over that mean",
        ),
        ("best_alone", "best_alone:BestAlone", "the best of a group less the second best"),
        ("gpg", "gpg:GroupPolicyGradient", "rewards less the group's mean, over the share not 0"),
        ("group_returns", "group_returns:GroupReturns", "returns less the group's mean reward"),
        (
            "several_rewards",
            "several_rewards:SeveralRewards",
            "weighted rewards against those of a group",
        ),
        (
            "optimal_token_baseline",
            "token_baseline:OptimalTokenBaseline",
            "returns less the group's weighted mean at each position",
        ),
        ("greedy_baseline", "given:GreedyBaseline", "returns less the greedy answer's reward"),
        ("given", "given:Given", "the batch's own advantages"),
    ),
    "objectives": (
        ("score", "score:Score", "advantage times log-probability"),
        ("ratio", "score:Ratio", "advantage times ratio"),
        ("clip", "clip:Clip", "clipped ratio, with dual and two-sided bounds"),
        (
            "exponential",
            "exponential:Exponential",
            "score, weighted by the exponentiated advantage",
        ),
        ("cispo", "cispo:ClippedWeight", "score, weighted by the clipped ratio"),
        ("sapo", "sapo:SoftGate", "soft gate of the ratio"),
        ("gmpo", "gmpo:LimitedRatio", "ratio of log ratios limited step by step"),
        ("vespo", "vespo:GammaWeight", "score, weighted by a gamma density of the ratio"),
        ("dppo_tv", "dppo:DPPOTV", "ratio within a total variation of the rollout policy"),
        ("dppo_kl", "dppo:DPPOKL", "ratio within a divergence of the rollout policy"),
    ),
    "levels": (
        ("token", "levels:Token", "the step's own ratio"),
        ("sequence", "levels:Sequence", "geometric mean of an episode's ratios"),
        ("sequence_product", "levels:SequenceProduct", "product of an episode's ratios"),
        ("gspo_token", "levels:GSPOToken", "the sequence's ratio, the step's gradient"),
    ),
    "penalties": (
        ("k1", "kl:K1", "log ratio to the reference"),
        ("k2", "kl:K2", "half of the squared log ratio to the reference"),
        ("k3", "kl:K3", "estimate of the KL divergence that is never negative"),
        ("k3_straight", "kl:StraightK3", "value of k3, derivative of k2"),
        ("exact", "exact_kl:ExactKL", "KL divergence of the distributions, in either direction"),
        ("abs_k1", "kl:AbsoluteK1", "absolute log ratio to the reference"),
        ("kl_cov", "kl_cov:CovariancePenalty", "log ratio at steps of high covariance"),
    ),
    "corrections": (
        ("truncated", "corrections:Truncated", "importance weights up to a cap"),
        ("masked", "corrections:Masked", "importance weights within bounds, else 0"),
        ("bypass", "corrections:Bypass", "the rollout policy in the old one's place"),
    ),
    "masks": (
        ("loss", "step_masks:LossMask", "the batch's loss mask"),
        ("zero_variance", "step_masks:ZeroVariance", "groups of rewards that differ"),
        ("truncated", "step_masks:TruncatedEpisodes", "episodes that terminated"),
        ("entropy_quantile", "masks:EntropyQuantile", "the steps of the highest entropy"),
        ("off_policy_sequence", "masks:OffPolicySequence", "answers near the rollout policy"),
        ("clip_cov", "masks:CovarianceMask", "all but a few steps of high covariance"),
    ),
    "critics": (
        ("squared", "critics:Squared", "squared error, halved or not"),
        ("huber", "critics:Huber", "squared error that grows linearly beyond a bound"),
        ("clipped", "critics:ClippedValue", "squared error, clipped around the recorded value"),
    ),
}
# Attributes of `pgcore` beside the reductions: parts, and a function that makes penalties.
FUNCTIONS = ("gae:GAE", "returns:Returns", "group_relative:GroupRelative", "clip:Clip", "kl:KL")
# One a family of estimators, and one of reductions.
PROOFS = (
    ("on_policy", "on_policy:PROOFS", "reinforce, actor_critic, ppo"),
    ("trust_region", "trust_region:PROOFS", "trpo"),
    ("a2c", "on_policy:A2C_PROOF", "a2c"),
    ("off_policy", "off_policy:PROOFS", "vtrace, awr, importance sampling"),
    ("group_relative", "group_relative:PROOFS", "rloo, the GRPO family, reinforce_pp"),
    ("advantages", "advantage_parts:PROOFS", "advantages as parts"),
    ("parts", "parts:PROOFS", "policy_gradient and the presets"),
    ("corrections", "corrections:PROOFS", "corrections, masks and their objectives"),
    ("part_points", "part_points:PROOFS", "gradients of single parts, worked out by hand"),
    ("action_values", "action_values:PROOFS", "expected, q_learning, soft_actor"),
    ("further_reductions", "reductions:PROOFS", "group_step, constant, sum, weighted"),
)


@hookimpl
def pgcore_estimators() -> list[Provider]:
    """Provide the estimators and the presets."""
    plain = [
        Provider(name, f"pgcore_estimators.{target}", summary)
        for name, target, summary in ESTIMATORS
    ]
    module = "pgcore_estimators.preset_classes"
    return plain + [
        Provider(row.name, f"{module}:{row.class_name}", row.summary) for row in PRESETS
    ]


@hookimpl
def pgcore_reductions() -> list[Provider]:
    """Provide the reductions beside the core's."""
    module = "pgcore_estimators.reductions"
    return [Provider(name, f"{module}:{cls}", summary) for name, cls, summary in REDUCTIONS]


@hookimpl
def pgcore_functions() -> list[Provider]:
    """Provide parts and reductions as `pgcore.GAE` and the like."""
    parts = [
        Provider(
            target.partition(":")[2], f"pgcore_estimators.parts.{target}", "a part of estimators"
        )
        for target in FUNCTIONS
    ]
    module = "pgcore_estimators.reductions"
    return parts + [Provider(cls, f"{module}:{cls}", summary) for _, cls, summary in REDUCTIONS]


@hookimpl
def pgcore_metrics() -> list[Provider]:
    """Provide the metrics."""
    return [
        Provider(name, f"pgcore_estimators.metrics:{name}", summary) for name, summary in METRICS
    ]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the proofs of estimators and reductions."""
    return [
        Provider(name, f"pgcore_estimators.proofs.{target}", summary)
        for name, target, summary in PROOFS
    ]


def provided(kind: str) -> Callable[[], list[Provider]]:
    """Return the hook that provides one kind of part."""
    providers = [
        Provider(name, f"pgcore_estimators.parts.{target}", summary)
        for name, target, summary in PARTS[kind]
    ]
    return hookimpl(lambda: providers)


pgcore_advantages, pgcore_objectives = provided("advantages"), provided("objectives")
pgcore_levels, pgcore_penalties = provided("levels"), provided("penalties")
pgcore_corrections, pgcore_masks = provided("corrections"), provided("masks")
pgcore_critics = provided("critics")
