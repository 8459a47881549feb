"""Parts of estimators: the kinds, their interfaces, and their composition.

loss = sum_t w_t (-(mask_t correction_t gain_t) + penalties_t + c_v critic_t - c_e entropy_t)

A part is a frozen dataclass, registered by kind and name through a hook of `pgcore.hooks`. An
advantage, a correction and a mask are signals; an objective turns them and the ratio of a level into
the gain; penalties and the critic's loss are terms. `pgcore.parts.composition` puts them together.
"""

from pgcore.parts.advantages import Advantage
from pgcore.parts.composed import Composed
from pgcore.parts.composition import Composition
from pgcore.parts.corrections import Correction
from pgcore.parts.critics import CriticLoss
from pgcore.parts.levels import Level
from pgcore.parts.masks import GainMask, Mask, StepMask
from pgcore.parts.objectives import Objective
from pgcore.parts.part import Part
from pgcore.parts.penalties import Penalty

__all__ = ["Advantage", "Composed", "Composition", "Correction", "CriticLoss", "GainMask", "Level"]
__all__ += ["Mask", "Objective", "Part", "Penalty", "StepMask"]
