from pgcore_check.testing import assert_agrees, parametrize_cells

from lion.optimizer import Lion


@parametrize_cells(optimizers=[Lion(), Lion(weight_decay=0.1, beta1=0.5)])
def test_every_backend_steps_by_the_formula(cell):
    assert_agrees(cell)
