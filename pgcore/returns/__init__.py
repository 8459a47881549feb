"""Pure functions of rewards and values, held constant in a gradient.

Arrays are flat float64, `B` steps in `E` episodes one after the other. `_t` is a step's own time,
`_tp1` the next. Episodes do not depend on one another, but in baselines that average over them.
"""

# ruff: noqa: F403 - the modules' own lists name what is exported, and a test compares them.
from pgcore.returns import baselines, discounted, groups, off_policy
from pgcore.returns.baselines import *
from pgcore.returns.discounted import *
from pgcore.returns.groups import *
from pgcore.returns.off_policy import *

__all__: list[str] = []
__all__ += baselines.__all__
__all__ += discounted.__all__
__all__ += groups.__all__
__all__ += off_policy.__all__
