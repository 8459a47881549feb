"""Pure functions of rewards and values, held constant in a gradient.

Arrays are flat float64, `B` steps in `E` episodes one after the other. `_t` is a step's own time,
`_tp1` the next. Arrays on an accelerator, `pgcore.data.device_array.DeviceArray`s, give results
there, in the device's float dtype. Episodes do not depend on one another, but in baselines that average over them.
"""

from pgcore.returns.baselines import (
    Standard,
    best_over_second,
    centre,
    leave_one_out_mean,
    normalise,
    optimal_baseline,
    standard,
    weighted_centre,
    weighted_means,
)
from pgcore.returns.discounted import (
    discounted_sum,
    discounts,
    episode_returns,
    gae,
    n_step_returns,
    next_values,
    returns,
    state_discounts,
    td_errors,
)
from pgcore.returns.groups import (
    GROUPS,
    by_group,
    episode_rewards,
    group_of_episode,
    group_ranks,
    is_one_group,
    unmasked_episodes,
)
from pgcore.returns.off_policy import cumulative_log_ratios, limited_ratios, retrace, vtrace

__all__ = ["best_over_second", "centre", "leave_one_out_mean", "normalise", "optimal_baseline"]
__all__ += ["Standard", "standard", "weighted_centre", "weighted_means"]
__all__ += ["discounted_sum", "discounts", "episode_returns", "gae", "n_step_returns"]
__all__ += ["next_values", "returns", "state_discounts", "td_errors"]
__all__ += ["GROUPS", "by_group", "episode_rewards", "group_of_episode", "group_ranks"]
__all__ += ["is_one_group", "unmasked_episodes"]
__all__ += ["cumulative_log_ratios", "limited_ratios", "retrace", "vtrace"]
