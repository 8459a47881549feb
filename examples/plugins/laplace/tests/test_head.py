from pgcore_check.testing import assert_agrees, parametrize_cells

from laplace.head import Laplace


@parametrize_cells(heads=[Laplace(n=2, scale=0.6)], estimators=["reinforce", "ppo", "trpo"])
def test_every_backend_has_the_gradient_of_the_definition(cell):
    assert_agrees(cell)
