from pgcore_check.testing import assert_agrees, parametrize_cells


@parametrize_cells(backends=["hips"], quick=True)
def test_every_stage_agrees_with_the_reference(cell):
    assert_agrees(cell)
