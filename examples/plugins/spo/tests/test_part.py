import numpy as np
import pytest
from pgcore_check.planted import stage_of
from pgcore_check.testing import assert_agrees, parametrize_cells
from pgcore_estimators.policy_gradient import PolicyGradient

from spo.part import Spo
from spo.proof import PROOF


@parametrize_cells(estimators=[PolicyGradient(**options) for options in PROOF.variants.values()])
def test_every_backend_has_the_gradient_of_the_definition(cell):
    assert_agrees(cell)


@pytest.mark.parametrize("bug", PROOF.bugs, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug):
    assert stage_of(bug) == bug.stage


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_beyond_the_bound_the_gradient_leads_back(advantage):
    sign = np.sign(advantage)
    log_ratio = np.log(1.0 + sign * np.array([0.0, 0.19, 0.21, 0.5]))
    advantages = np.full(4, advantage)
    slope, _ = Spo(epsilon=0.2).slope(log_ratio, log_ratio, advantages)
    clipped = Spo(epsilon=0.2).clipped(log_ratio, advantages)
    np.testing.assert_array_equal(sign * slope < 0, [False, False, True, True])
    np.testing.assert_array_equal(clipped, [False, False, True, True])
