import numpy as np
import pytest

from pgcore.errors import NonFiniteError, OptimizerError
from pgcore_optimizers.conjugate_gradient import conjugate_gradient

N = 12
RNG = np.random.default_rng(3)
Q = np.linalg.qr(RNG.standard_normal((N, N)))[0]
B = RNG.standard_normal(N)


def matrix(eigenvalues):
    return Q @ np.diag(eigenvalues) @ Q.T


SPREAD = matrix(np.geomspace(0.1, 30.0, N))


def solve(a, b=B, *, iterations=N, tolerance=0.0):
    """Return the solution, and how often `a` was multiplied with."""
    products = []

    def product(vector):
        products.append(vector)
        return a @ vector

    return conjugate_gradient(product, b, iterations=iterations, tolerance=tolerance), len(products)


def test_it_is_the_dense_solution():
    found, products = solve(SPREAD, iterations=2 * N, tolerance=1e-13)
    np.testing.assert_allclose(found.vector, np.linalg.solve(SPREAD, B), rtol=1e-11)
    assert found.converged
    assert found.iterations == products


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_it_takes_as_many_iterations_as_there_are_different_eigenvalues(distinct):
    found, _ = solve(matrix(1.0 + np.arange(N) % distinct), iterations=100, tolerance=1e-12)
    assert found.iterations == distinct
    assert found.converged


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_the_limit_is_kept_and_said(iterations):
    found, products = solve(SPREAD, iterations=iterations, tolerance=1e-12)
    assert found.iterations == products == iterations
    assert not found.converged
    assert found.residual == pytest.approx(
        np.linalg.norm(B - SPREAD @ found.vector) / np.linalg.norm(B), rel=1e-10
    )


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-6])
def test_it_stops_at_the_first_residual_within_the_tolerance(tolerance):
    found, _ = solve(SPREAD, iterations=100, tolerance=tolerance)
    assert found.converged
    assert found.residual <= tolerance
    assert solve(SPREAD, iterations=found.iterations - 1)[0].residual > tolerance


def test_the_tolerance_is_beside_the_length_of_the_target():
    short, long = (
        solve(SPREAD, size * B, iterations=100, tolerance=1e-3)[0] for size in (2.0**-30, 2.0**30)
    )
    assert short.iterations == long.iterations
    np.testing.assert_array_equal(short.vector * 2.0**60, long.vector)


def test_nothing_is_to_be_done_for_zero():
    found, products = solve(SPREAD, np.zeros(N))
    assert (products, found.iterations, found.residual, found.converged) == (0, 0, 0.0, True)
    assert not found.vector.any()


def test_rounding_does_not_grow_with_the_iterations():
    """Left alone, the recursion finds the four large eigenvalues again and again, and is off by 9e-9 here."""
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.standard_normal((100, 100)))[0]
    a = q @ np.diag(np.append(np.linspace(0.1, 0.14, 96), [3.6, 4.0, 5.7, 6.3])) @ q.T
    b = q @ np.append(0.01 * rng.standard_normal(96), np.ones(4))
    other = a * (1.0 + 2.0**-53 * rng.standard_normal(a.shape))
    left, right = (solve(each, b, iterations=10)[0].vector for each in (a, other))
    assert np.abs(left - right).max() < 1e-14 * np.abs(left).max()


def test_the_target_is_left_alone():
    before = B.copy()
    solve(SPREAD)
    np.testing.assert_array_equal(B, before)


@pytest.mark.parametrize(
    ("a", "words"), [(-SPREAD, "got -.* at iteration 1"), (0 * SPREAD, "got 0 at iteration 1")]
)
def test_curvature_that_is_not_positive_is_an_error(a, words):
    with pytest.raises(
        OptimizerError,
        match=rf"conjugate_gradient: expected p\^T A p above 0, {words}; .* raise damping",
    ):
        solve(a)


def test_curvature_is_looked_at_in_every_direction():
    indefinite = matrix(np.append(np.geomspace(1.0, 9.0, N - 1), -5.0))
    along = (
        Q[:, :-1].sum(axis=1) + 0.1 * Q[:, -1]
    )  # curvature is positive along the first direction
    assert along @ indefinite @ along > 0
    with pytest.raises(OptimizerError, match=r"at iteration [2-9]"):
        solve(indefinite, along)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_are_not_finite_are_an_error(bad):
    with pytest.raises(
        NonFiniteError,
        match=r"conjugate_gradient: expected finite products, got NaN or infinity at",
    ):
        solve(np.where(np.eye(N) > 0, bad, SPREAD))


@pytest.mark.parametrize("size", [30, 200])
def test_a_residual_that_is_rounding_alone_ends_it(size):
    """Beyond that p^T A p underflows, which would be taken for a direction without curvature."""
    rng = np.random.default_rng(size)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    eigenvalues = np.full(size, 1e-6)
    eigenvalues[:10] = np.geomspace(1e-6, 1.0, 10)
    a = basis @ np.diag(eigenvalues) @ basis.T
    solution = conjugate_gradient(
        lambda v: a @ v, basis.sum(axis=1), iterations=size, tolerance=0.0
    )
    assert solution.converged
    assert solution.iterations < size
    np.testing.assert_allclose(solution.vector, basis @ (1.0 / eigenvalues), rtol=1e-6)
