"""The exact oracle: gradients, biases and variances on small finite processes, computed and never sampled."""

from __future__ import annotations

from pgcore.exact.audit import Audit, audit, audit_process
from pgcore.exact.dynamics import action_values, gradient, objective, time_blind_values, values, visits
from pgcore.exact.environments import from_gymnasium
from pgcore.exact.episodes import Episodes, all_episodes
from pgcore.exact.mdp import MDP, random
from pgcore.exact.moments import Moments, moments
from pgcore.exact.tabulated import Tabulated, softmax_table

__all__ = [
    "MDP",
    "Audit",
    "Episodes",
    "Moments",
    "Tabulated",
    "action_values",
    "all_episodes",
    "audit",
    "audit_process",
    "from_gymnasium",
    "gradient",
    "moments",
    "objective",
    "random",
    "softmax_table",
    "time_blind_values",
    "values",
    "visits",
]
