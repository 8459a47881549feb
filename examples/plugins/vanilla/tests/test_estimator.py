from pgcore_check.testing import assert_agrees, parametrize_cells

from vanilla.estimator import Vanilla


@parametrize_cells(estimators=[Vanilla])
def test_every_backend_has_the_gradient_of_the_definition(cell):
    assert_agrees(cell)
