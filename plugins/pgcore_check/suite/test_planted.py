"""The planted bugs of all proofs: each is found at the stage that its proof names."""

# pyright: standard
from __future__ import annotations

import pytest

from pgcore_check.planted import bugs, stage_of

__all__: list[str] = []


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_found_at_its_stage(bug):
    assert stage_of(bug) == bug.stage
