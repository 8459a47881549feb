"""The exact oracle: gradients and biases and variances on finite processes, without sampling.

Each name is imported on first use: the plugin's entry point is in this package, and every process
that uses pgcore reads it. `__init__.pyi` has the types.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES_BY_MODULE = {
    "pgcore_exact.audits": "Audit audit audit_process",
    "pgcore_exact.expectation.moments": "Moments moments",
    "pgcore_exact.penalties.audit": "PenaltyAudit audit_penalty",
    "pgcore_exact.process.dynamics": "action_values gradient objective time_blind_values values visits",
    "pgcore_exact.process.environments": "from_gymnasium",
    "pgcore_exact.process.episodes": "Episodes all_episodes",
    "pgcore_exact.process.mdp": "MDP random",
    "pgcore_exact.process.tabulated": "Tabulated softmax_table",
}
_HOME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}

# `__init__.pyi` lists and types them.
__all__ = [*_HOME]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'pgcore_exact' has no attribute {name!r}")
    # The next use of the name is an ordinary attribute's.
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
