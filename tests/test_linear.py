"""Linear solvers against torch.linalg, scipy, and the properties they promise."""

import pytest
import scipy.sparse.linalg
import torch

from diffopt_lib import SolverError, linear
from diffopt_lib.linear import LinearOperator, cg, condition_estimate, dense_solve, gmres, least_norm_solve


def operator_of(A):
    return LinearOperator(
        matvec=lambda v: (A @ v.unsqueeze(-1)).squeeze(-1),
        rmatvec=lambda v: (A.mT @ v.unsqueeze(-1)).squeeze(-1),
    )


@pytest.fixture
def spd(device, generator):
    M = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=generator)
    return (M @ M.mT + torch.eye(8, dtype=torch.float64)).to(device)


@pytest.fixture
def rhs(device, generator):
    return torch.randn(3, 2, 8, dtype=torch.float64, generator=generator).to(device)


@pytest.mark.parametrize("solve", [dense_solve, least_norm_solve, cg, gmres])
def test_solvers_agree_with_torch_on_definite_systems(solve, spd, rhs):
    expected = torch.linalg.solve(spd, rhs.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(solve(operator_of(spd), rhs), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("solve", [dense_solve, least_norm_solve, gmres])
def test_solvers_agree_with_torch_on_nonsymmetric_systems(solve, rhs, generator, device):
    A = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=generator).to(device)
    expected = torch.linalg.solve(A, rhs.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(solve(operator_of(A), rhs), expected, rtol=1e-7, atol=1e-8)


def test_restarted_gmres_reaches_the_tolerance_scipy_reaches(generator):
    A = torch.randn(60, 60, dtype=torch.float64, generator=generator) / 60**0.5 + 3 * torch.eye(60, dtype=torch.float64)
    b = torch.randn(60, dtype=torch.float64, generator=generator)
    x = gmres(operator_of(A), b, restart=5)
    theirs, info = scipy.sparse.linalg.gmres(A.numpy(), b.numpy(), rtol=1e-10, restart=5)
    assert info == 0
    assert (A @ x - b).norm() <= 1e-10 * b.norm()
    torch.testing.assert_close(x, torch.tensor(theirs), rtol=1e-8, atol=1e-8)


def test_transpose_swaps_the_products(rhs, generator):
    A = torch.randn(8, 8, dtype=torch.float64, generator=generator)
    operator = operator_of(A)
    torch.testing.assert_close(operator.T.dense(rhs[0, 0]), A.T)
    assert operator.T.transposed and not operator.T.T.transposed


def test_condition_estimate_is_within_a_factor_of_the_truth(generator):
    A = torch.randn(50, 12, 12, dtype=torch.float64, generator=generator)
    LU, pivots = torch.linalg.lu_factor(A)
    ratio = condition_estimate(A, LU, pivots) / torch.linalg.cond(A)
    assert ratio.min() > 0.5  # from below by the iteration, …
    assert ratio.max() <= 12**0.5 + 1e-9  # … from above by the Frobenius norm


def test_one_singular_element_of_a_batch_is_named(spd, rhs):
    A = spd.clone()
    A[1, 0, :, 3] = A[1, 0, :, 2]
    with pytest.raises(SolverError, match="singular") as error:
        dense_solve(operator_of(A), rhs)
    assert error.value.indices == [(1, 0)]


def test_nan_elements_are_left_alone(spd, rhs):
    marked = rhs.clone()
    marked[0, 0] = torch.nan
    x = dense_solve(operator_of(spd), marked)
    assert x[0, 0].isnan().all()
    torch.testing.assert_close(x[1:], dense_solve(operator_of(spd), rhs)[1:])


def test_cg_and_gmres_name_the_elements_they_could_not_solve(spd, rhs):
    A = spd.clone()
    A[2, 1] = torch.diag(torch.logspace(0, 12, 8, dtype=A.dtype))
    for solve in (lambda op, b: cg(op, b, max_iterations=7), lambda op, b: gmres(op, b, restart=2, max_restarts=2)):
        with pytest.raises(SolverError) as error:
            solve(operator_of(A), rhs)
        assert (2, 1) in error.value.indices


def test_a_few_steps_of_cg_are_the_best_point_of_their_krylov_space(generator):
    """With ``on_failure="return"``: the x in span(b, Ab, A²b) that minimizes ½ xᵀAx − bᵀx, for every element."""
    A = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    A = A @ A.mT + torch.eye(6, dtype=torch.float64)
    b = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    operator = LinearOperator(
        lambda v: (A @ v.unsqueeze(-1)).squeeze(-1), lambda v: (A.mT @ v.unsqueeze(-1)).squeeze(-1)
    )
    x = cg(operator, b, max_iterations=3, on_failure="return")
    basis = torch.stack([b, operator.matvec(b), operator.matvec(operator.matvec(b))], -1)
    c = torch.linalg.solve(basis.mT @ A @ basis, basis.mT @ b.unsqueeze(-1))
    torch.testing.assert_close(x, (basis @ c).squeeze(-1))
    with pytest.raises(SolverError, match="did not reach its tolerance in 3 iterations"):
        cg(operator, b, max_iterations=3)


def test_cg_says_that_the_matrix_is_indefinite():
    A = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    operator = LinearOperator(lambda v: v @ A, lambda v: v @ A)
    with pytest.raises(SolverError, match="not positive definite") as caught:
        cg(operator, torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.float64))
    assert caught.value.indices == [(1,)]


def test_zero_right_hand_side_costs_no_product(rhs):
    def refuse(v):
        raise AssertionError("no product is needed")

    assert (cg(LinearOperator(refuse, refuse), torch.zeros_like(rhs)) == 0).all()


def test_float32_reaches_its_own_tolerance(spd, rhs):
    A, b = spd.float(), rhs.float()
    for solve in (cg, gmres, dense_solve):
        x = solve(operator_of(A), b)
        assert x.dtype == torch.float32
        torch.testing.assert_close(operator_of(A).matvec(x), b, rtol=1e-3, atol=1e-3)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch", [(2,), (2, 2)])
def test_batches_of_large_systems_are_right_with_several_threads(batch, generator, two_threads):
    """torch's own batched factorisation is not (pytorch issue 142815)."""
    A = torch.randn(*batch, 160, 160, dtype=torch.float64, generator=generator) + 20 * torch.eye(160)
    b = torch.randn(*batch, 160, dtype=torch.float64, generator=generator)
    x = dense_solve(operator_of(A), b)
    torch.testing.assert_close((A @ x.unsqueeze(-1)).squeeze(-1), b)
    A, b = A.flatten(0, -3).requires_grad_(), b.flatten(0, -2)
    torch.testing.assert_close((A @ linear.solve(A, b).unsqueeze(-1)).squeeze(-1), b)
    assert torch.isfinite(torch.autograd.grad(linear.solve(A, b).sum(), A)[0]).all()
