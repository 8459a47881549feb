"""Ratios of single steps and of whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgcore.parts import Level
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["GSPOToken", "Sequence", "SequenceProduct", "Token"]

Pulled = tuple[Array | None, Array | None]


@dataclass(frozen=True)
class Token(Level):
    """log r_t, the step's own."""

    sees_episodes = False
    changes = False
    name = "token"

    def log_ratio(
        self, xp: ArrayNamespace, log_ratio: Native, log_prob: Native, episode: Native
    ) -> Native:
        """See `Level.log_ratio`."""
        return log_ratio

    def pull(self, slope: Array, episode: Any) -> Pulled:
        """See `Level.pull`."""
        return slope, None


@dataclass(frozen=True)
class Sequence(Level):
    """log s = (1/T) sum_t log r_t, the logarithm of the geometric mean of the episode's ratios."""

    averages = True
    name = "sequence"
    sources = ("Zheng et al. 2025, eq. 7, arXiv:2507.18071",)

    def log_ratio(
        self, xp: ArrayNamespace, log_ratio: Native, log_prob: Native, episode: Native
    ) -> Native:
        """See `Level.log_ratio`."""
        return xp.episode_mean(log_ratio, episode)

    def pull(self, slope: Array, episode: Any) -> Pulled:
        """See `Level.pull`: each of T summands moves by 1 / T with each log ratio."""
        return host.episode_mean(slope, episode), None


@dataclass(frozen=True)
class SequenceProduct(Level):
    """sum_t log r_t, the logarithm of the product of the episode's ratios."""

    name = "sequence_product"
    sources = ("Ahmadian et al. 2024, arXiv:2402.14740",)

    def log_ratio(
        self, xp: ArrayNamespace, log_ratio: Native, log_prob: Native, episode: Native
    ) -> Native:
        """See `Level.log_ratio`."""
        return xp.episode_sum(log_ratio, episode)

    def pull(self, slope: Array, episode: Any) -> Pulled:
        """See `Level.pull`."""
        return host.episode_sum(slope, episode), None


@dataclass(frozen=True)
class GSPOToken(Level):
    """log of sg(s) pi / sg(pi): the value of `sequence`, the derivative of `token`.

    sg holds its argument constant.
    """

    averages = True
    couples_steps = False
    name = "gspo_token"
    sources = ("Zheng et al. 2025, arXiv:2507.18071",)

    def log_ratio(
        self, xp: ArrayNamespace, log_ratio: Native, log_prob: Native, episode: Native
    ) -> Native:
        """See `Level.log_ratio`."""
        mean = xp.stop_gradient(xp.episode_mean(log_ratio, episode))
        return mean + (log_prob - xp.stop_gradient(log_prob))

    def pull(self, slope: Array, episode: Any) -> Pulled:
        """See `Level.pull`."""
        return None, slope
