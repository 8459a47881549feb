"""Pure functions of rewards and values, held constant in a gradient.

Returns, advantages, baselines, off-policy corrections, group statistics. Arrays are flat float64,
`B` steps in `E` episodes one after the other. `_t` is a step's own time, `_tp1` the next. No
episode's numbers depend on another's, except in the baselines that average over episodes.
"""

from pgcore.returns.baselines import centre, leave_one_out_mean, normalise, optimal_baseline
from pgcore.returns.discounted import (
    discounted_sum,
    discounts,
    episode_returns,
    gae,
    n_step_returns,
    next_values,
    returns,
    td_errors,
)
from pgcore.returns.groups import GROUPS, by_group, episode_rewards, group_of_episode, is_one_group
from pgcore.returns.off_policy import cumulative_log_ratios, limited_ratios, retrace, vtrace

__all__ = [
    "GROUPS",
    "by_group",
    "centre",
    "cumulative_log_ratios",
    "discounted_sum",
    "discounts",
    "episode_returns",
    "episode_rewards",
    "gae",
    "group_of_episode",
    "is_one_group",
    "leave_one_out_mean",
    "limited_ratios",
    "n_step_returns",
    "next_values",
    "normalise",
    "optimal_baseline",
    "retrace",
    "returns",
    "td_errors",
    "vtrace",
]
