from pgcore_exact.audits import Audit, audit, audit_process
from pgcore_exact.expectation.moments import Moments, moments
from pgcore_exact.penalties.audit import PenaltyAudit, audit_penalty
from pgcore_exact.process.dynamics import (
    action_values,
    gradient,
    objective,
    time_blind_values,
    values,
    visits,
)
from pgcore_exact.process.environments import from_gymnasium
from pgcore_exact.process.episodes import Episodes, all_episodes
from pgcore_exact.process.mdp import MDP, random
from pgcore_exact.process.tabulated import Tabulated, softmax_table

__all__ = [
    "MDP",
    "Audit",
    "Episodes",
    "Moments",
    "PenaltyAudit",
    "Tabulated",
    "action_values",
    "all_episodes",
    "audit",
    "audit_penalty",
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
