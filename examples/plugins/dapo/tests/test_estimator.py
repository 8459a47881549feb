from pgcore_check.testing import assert_agrees, parametrize_cells

from dapo.estimator import DAPO


@parametrize_cells(estimators=[DAPO])
def test_every_backend_has_the_gradient_of_the_definition(cell):
    assert_agrees(cell)
