"""Quantities: the keywords of a surrogate that a policy provides, and the checks of its signature."""

from __future__ import annotations

import inspect
from typing import Any

from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError

__all__ = [
    "KLS",
    "LISTED",
    "PER_ACTION",
    "QUANTITIES",
    "TWIN_VALUES",
    "VALUES",
    "VALUES_OF_ACTIONS",
    "check_cotangents",
    "columns_of",
    "quantities_of",
    "surrogate_keywords",
]

# Names of a policy's quantities, [B] except where a shape is written.
QUANTITIES: dict[str, str] = {
    "log_prob": "log pi(a_t given s_t), nats",
    "entropy": "entropy of pi(. given s_t), nats",
    "kl": "KL(reference, current policy) at s_t, nats; from the signal `reference` [B, width]",
    "reverse_kl": "KL(current policy, reference) at s_t, nats",
    "log_probs": "[B, A] log pi of every action, heads of numbered actions",
    "value": "the critic's V(s_t)",
    "action_value": "Q(s_t, a_t) of a critic or Q-network",
    "action_values": "[B, A] Q(s_t, .) of a critic or Q-network",
    "twin_action_value": "Q(s_t, a_t) of the second of twin critics",
    "twin_action_values": "[B, A] Q(s_t, .) of the second of twin critics",
}

# Quantities with a column for each action.
PER_ACTION = frozenset(("log_probs", "action_values", "twin_action_values"))

# Quantities that compare with the signal `reference`, which holds distribution parameters.
KLS = frozenset(("kl", "reverse_kl"))

# Outputs of a head over action values; its probabilities are piecewise constant in them.
VALUES_OF_ACTIONS = frozenset(("action_value", "action_values"))
TWIN_VALUES = frozenset(("twin_action_value", "twin_action_values"))

# Quantities that only heads of numbered actions have.
LISTED = PER_ACTION | VALUES_OF_ACTIONS | TWIN_VALUES

# The quantities of a critic, by `PolicySpec.critic_values`.
VALUES = {
    "state": frozenset(("value",)),
    "action": VALUES_OF_ACTIONS,
    "twin": VALUES_OF_ACTIONS | TWIN_VALUES,
}


def quantities_of(spec: PolicySpec) -> frozenset[str]:
    """Return the quantities that a policy of this spec can give a surrogate."""
    if spec.critic == "none":
        return spec.head.quantities
    return spec.head.quantities | VALUES[spec.critic_values]


def columns_of(name: str, actions: int) -> slice:
    """Return the columns that a quantity, or an evaluation, has among a critic's action values.

    Args:
        name: Of action values; one with "twin" has the second critic's.
        actions: A, the columns of one critic.
    """
    return slice(actions, 2 * actions) if "twin" in name else slice(actions)


def surrogate_keywords(cls: Any) -> dict[str, bool]:
    """Return a surrogate's keywords, each with whether it has a default, or raise EstimatorError."""
    name, signature = cls.__name__, inspect.signature(cls.surrogate)
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters[:2] if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    if len(positional) < 2 or len(keywords) != len(parameters) - 2:
        raise EstimatorError(
            f"{name}.surrogate: expected (self, xp, *, names...), got {signature}; "
            f"quantities are {', '.join(QUANTITIES)}, and every other name is a signal"
        )
    if not keywords.keys() & QUANTITIES.keys():
        raise EstimatorError(
            f"{name}.surrogate: expected at least one of the quantities {', '.join(QUANTITIES)}, "
            f"got only signals {', '.join(sorted(keywords))}; differentiate a quantity"
        )
    return keywords


def check_cotangents(cls: Any) -> None:
    """Raise EstimatorError unless a class's cotangents take the surrogate's keywords, or any."""
    keywords = surrogate_keywords(cls).keys()
    parameters = inspect.signature(cls.cotangents).parameters.values()
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if names - keywords or (keywords - names and not takes_any):
        raise EstimatorError(
            f"{cls.__name__}.cotangents: expected the keywords of surrogate, got a difference in "
            f"{', '.join(sorted(names ^ keywords))}; use the same names"
        )
