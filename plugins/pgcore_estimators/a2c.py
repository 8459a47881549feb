"""A2C: the synchronous form of A3C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pgcore_estimators.actor_critic import ActorCritic

__all__ = ["A2C"]


@dataclass(frozen=True)
class A2C(ActorCritic):
    """Actor-critic with A2C's settings: bootstrapped returns to the rollout's end, and an entropy bonus.

    Fields are those of `ActorCritic`; a rollout of n steps makes them n-step returns.
    """

    gae_lambda: float = 1.0
    entropy_coefficient: float = 0.01
    name: ClassVar[str] = "a2c"
    sources: ClassVar[tuple[str, ...]] = ("Mnih et al. 2016, algorithm S3, arXiv:1602.01783",)
