"""Terms that several surrogates add, each beside its derivatives; and the values that several signals start from."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.recorded import critic_values
from pgcore.returns import GROUPS, gae, next_values, normalise
from pgcore.validation.arrays import Array
from pgcore.validation.fields import choice
from pgcore.xp.namespace import Native

__all__ = [
    "Ddof",
    "Group",
    "Normalisation",
    "check_old_values",
    "clipped_gain",
    "clipped_gain_slope",
    "gae_and_returns",
    "is_clipped",
    "log_bounds",
    "normalised",
    "old_log_probs",
    "penalised_rewards",
    "reference_log_probs",
    "state_values",
]

# Types of the fields that say whether advantages get mean 0 and standard deviation 1, by which
# divisor, and which episodes are compared.
Normalisation = Annotated[str, choice("none", "batch")]
Ddof = Annotated[int, choice(0, 1)]
Group = Annotated[str, choice(*GROUPS)]

# Nats by which a log-probability may differ from the recorded one while the policy counts as
# unchanged. Rounding of float32 on another device stays below it; a usual optimizer step goes beyond.
UNCHANGED = 1e-3


def log_bounds(below: float, above: float) -> tuple[float, float]:
    """Return the logarithms of 1 - below and 1 + above."""
    return math.log1p(-below) if below < 1 else -math.inf, math.log1p(above)


def clipped_gain(
    xp: Any, log_ratio: Native, advantage: Native, bounds: tuple[float, float]
) -> Native:
    """Return min(r A, clip(r) A) for r = exp(log ratio), with the logarithms of the bounds.

    The branch is chosen before the exponential is taken, and a ratio exactly at a bound counts as unclipped.
    """
    infinite, gaining = xp.full_like(advantage, math.inf), advantage >= 0
    low, high = xp.where(gaining, -infinite, bounds[0]), xp.where(gaining, bounds[1], infinite)
    return advantage * xp.exp(xp.clip(log_ratio, low, high))


def clipped_gain_slope(log_ratio: Array, advantage: Array, bounds: tuple[float, float]) -> Array:
    """Return the derivative of `clipped_gain` in the log ratio."""
    # exp(-inf) is exactly 0, so the clipped branch takes no gradient and nothing overflows on its way there.
    return advantage * np.exp(
        np.where(is_clipped(log_ratio, advantage, bounds), -math.inf, log_ratio)
    )


def is_clipped(log_ratio: Array, advantage: Array, bounds: tuple[float, float]) -> Array:
    """Return where the clipped branch is the smaller: beyond the bound that the advantage pushes towards."""
    return np.where(advantage >= 0, log_ratio > bounds[1], log_ratio < bounds[0])


def old_log_probs(batch: Batch, evaluate: Evaluate) -> Array:
    """Return [B] log mu(a_t given s_t) of the policy that acted: the batch's, or where it says nothing the current one's.

    Padding has the current one's too: the ratio of the step that it repeats could overflow, and infinity has no weight of 0.
    """
    if batch.log_probs is None:
        return evaluate("log_prob")["log_prob"]
    if batch.step_weights is None:
        return batch.log_probs
    return np.where(batch.step_weights > 0, batch.log_probs, evaluate("log_prob")["log_prob"])


def check_old_values(batch: Batch, evaluate: Evaluate, where: str) -> None:
    """Check that the current critic may stand for the old one, around whose values new ones are clipped.

    A batch with recorded `values` needs no critic. In any other only the log-probabilities can show
    that the policy has changed; without these the old policy is the current one by definition.

    Args:
        batch: The episodes.
        evaluate: What `Estimator.signals` was passed.
        where: The field that asks for old values, as `PPO.value_clip`.

    Raises:
        BatchError: the policy has changed since the batch was recorded; names the first such step.
    """
    if batch.values is not None or batch.log_probs is None:
        return
    now = evaluate("log_prob")["log_prob"]
    changed = (np.abs(now - batch.log_probs) > UNCHANGED) & (
        np.repeat(batch.episode_weights, batch.episode_lengths) > 0
    )
    if changed.any():
        step = int(changed.argmax())
        raise BatchError(
            f"Batch.values: expected the critic's values at the time, which {where} clips around, got none "
            f"and a policy that has changed since (log-probability {now[step]:.6g} at step {step}, "
            f"recorded as {batch.log_probs[step]:.6g}); record values, or compute signals once, before "
            "the first optimizer step, and slice them"
        )


def reference_log_probs(batch: Batch) -> Array:
    """Return [B] log pi_ref(a_t given s_t), nats, from the extra of that name.

    Raises:
        BatchError: the batch has none.
    """
    found = batch.extras.get("reference_log_probs")
    if found is None or found.shape != (batch.num_steps,):
        got = "none" if found is None else f"shape {list(found.shape)}"
        raise BatchError(
            f"Batch.extras['reference_log_probs']: expected [B], the reference policy's log-probabilities of the actions, got {got}; "
            "add them, or set kl_coefficient=0"
        )
    return found


def penalised_rewards(batch: Batch, evaluate: Evaluate, kl_coefficient: float) -> Array:
    """Return [B] rewards, each less kl_coefficient (log mu - log pi_ref) of its action; with 0 nothing else is asked for."""
    if kl_coefficient == 0:
        return batch.rewards
    return batch.rewards - kl_coefficient * (
        old_log_probs(batch, evaluate) - reference_log_probs(batch)
    )


def state_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return [B] V(s_t) and [B] V(s_{t+1}), time limits bootstrapped; see `pgcore.interfaces.recorded`."""
    v_t, final = critic_values(batch, evaluate)
    return v_t, next_values(v_t, batch.episode_lengths, final)


def gae_and_returns(
    batch: Batch, evaluate: Evaluate, gamma: float, gae_lambda: float
) -> tuple[Array, Array]:
    """Return [B] GAE advantages and [B] TD(lambda) returns, which are the advantages plus V."""
    v_t, v_tp1 = state_values(batch, evaluate)
    a_t = gae(batch.rewards, v_t, v_tp1, batch.episode_lengths, gamma, gae_lambda)
    return a_t, a_t + v_t


def normalised(batch: Batch, advantage: Array, how: str, ddof: int) -> Array:
    """Return [B] advantages, of mean 0 and standard deviation 1 over the batch's real steps where `how` is "batch"."""
    return normalise(advantage, batch.step_weights, ddof=ddof) if how == "batch" else advantage
