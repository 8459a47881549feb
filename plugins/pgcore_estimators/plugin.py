"""Registers the built-in estimators and metrics."""

from __future__ import annotations

import inspect

from pgcore.hooks import Provider, hookimpl
from pgcore_estimators.metrics import METRICS

__all__ = ["pgcore_estimators", "pgcore_metrics", "pgcore_proofs"]


@hookimpl
def pgcore_estimators() -> list[Provider]:
    """Provide the estimators."""
    return [
        Provider(
            "reinforce",
            "pgcore_estimators.reinforce:Reinforce",
            "score function times return, with any of seven baselines",
        ),
        Provider(
            "actor_critic",
            "pgcore_estimators.actor_critic:ActorCritic",
            "n-step, TD(0) or GAE advantages from a critic",
        ),
        Provider(
            "ppo",
            "pgcore_estimators.ppo:PPO",
            "clipped surrogate or adaptive KL penalty, value loss, entropy bonus",
        ),
        Provider(
            "trpo",
            "pgcore_estimators.trpo:TRPO",
            "ratio times advantage, unclipped; for the optimizer of the same name",
        ),
        Provider(
            "a2c",
            "pgcore_estimators.actor_critic:A2C",
            "actor-critic with bootstrapped returns and an entropy bonus",
        ),
        Provider(
            "vtrace",
            "pgcore_estimators.vtrace:VTrace",
            "actor-critic on another policy's episodes, as in IMPALA",
        ),
        Provider(
            "awr",
            "pgcore_estimators.awr:AWR",
            "regression on actions, weighed by exponentiated advantages",
        ),
        Provider(
            "trajectory_is",
            "pgcore_estimators.importance_sampling:TrajectoryIS",
            "returns weighed by whole episodes' ratios",
        ),
        Provider(
            "pdis",
            "pgcore_estimators.importance_sampling:PerDecisionIS",
            "rewards weighed by the ratios that led to them",
        ),
        Provider(
            "wis",
            "pgcore_estimators.importance_sampling:WeightedIS",
            "self-normalised ratios of whole episodes, biased",
        ),
        Provider(
            "averaged_ratio",
            "pgcore_estimators.importance_sampling:AveragedRatio",
            "mean ratio of single steps times the return, biased",
        ),
        Provider(
            "rloo",
            "pgcore_estimators.rloo:RLOO",
            "group rewards less the mean of the others, unbiased",
        ),
        Provider(
            "grpo",
            "pgcore_estimators.group_relative:GRPO",
            "standardised group rewards, clipped ratios",
        ),
        Provider(
            "dr_grpo",
            "pgcore_estimators.group_relative:DrGRPO",
            "GRPO without dividing by deviation or by length",
        ),
        Provider(
            "gspo",
            "pgcore_estimators.group_relative:GSPO",
            "group rewards, ratios of whole trajectories clipped",
        ),
        Provider(
            "cispo",
            "pgcore_estimators.group_relative:CISPO",
            "group rewards, clipped ratios held constant",
        ),
        Provider(
            "reinforce_pp",
            "pgcore_estimators.reinforce_pp:ReinforcePP",
            "clipped ratios, rewards to come normalised over the batch",
        ),
        Provider(
            "expected",
            "pgcore_estimators.expected:Expected",
            "all-action policy gradient over action values",
        ),
        Provider(
            "q_learning",
            "pgcore_estimators.q_learning:QLearning",
            "error to the best next action's value, plain or double",
        ),
        Provider(
            "soft_actor",
            "pgcore_estimators.soft_actor:SoftActor",
            "entropy-regularised actor over action values",
        ),
    ]


@hookimpl
def pgcore_metrics() -> list[Provider]:
    """Provide the metrics, each with the first line of its docstring."""
    return [
        Provider(
            name,
            f"pgcore_estimators.metrics:{name}",
            (inspect.getdoc(function) or "").partition("\n")[0].rstrip("."),
        )
        for name, function in METRICS.items()
    ]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the proofs of the estimators, one a family."""
    proofs = "pgcore_estimators.proofs"
    return [
        Provider("on_policy", f"{proofs}.on_policy:PROOFS", "reinforce, actor_critic, ppo"),
        Provider("trust_region", f"{proofs}.trust_region:PROOFS", "trpo"),
        Provider("a2c", f"{proofs}.on_policy:A2C_PROOF", "a2c"),
        Provider("off_policy", f"{proofs}.off_policy:PROOFS", "vtrace, awr, importance sampling"),
        Provider(
            "group_relative",
            f"{proofs}.group_relative:PROOFS",
            "rloo, grpo and its kin, reinforce_pp",
        ),
        Provider(
            "action_values", f"{proofs}.action_values:PROOFS", "expected, q_learning, soft_actor"
        ),
    ]
