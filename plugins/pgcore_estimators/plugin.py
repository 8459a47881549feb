"""Registers the built-in estimators."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_estimators"]


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
            "ppo", "pgcore_estimators.ppo:PPO", "clipped surrogate or adaptive KL penalty, value loss, entropy bonus"
        ),
        Provider(
            "trpo",
            "pgcore_estimators.trpo:TRPO",
            "ratio times advantage, unclipped; for the optimizer of the same name",
        ),
    ]
