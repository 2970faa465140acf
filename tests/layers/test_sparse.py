"""Sparse quadratic programs: against the dense solver, scipy and finite differences; failures; time and memory."""

import tracemalloc

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from cone_problems import interior

from diffopt_lib import SolverError
from diffopt_lib.layers import Cones, solve_cone, solve_qp
from diffopt_lib.layers.sparse import Pattern, solve_sparse
from diffopt_lib.layers.sparse.system import System

DOUBLE = torch.float64


def pattern_of(M):
    M = scipy.sparse.coo_array(M)
    return Pattern(M.row.astype(np.int64), M.col.astype(np.int64), M.shape)


def values_of(M, *batch):
    return torch.tensor(scipy.sparse.coo_array(M).data, dtype=DOUBLE).expand(*batch, -1).clone()


def random_program(n=12, e=3, m=10, batch=(2,), seed=0):
    """Strictly feasible, with a diagonal and some entries off it in P, and its dense form."""
    rng = np.random.default_rng(seed)
    P = scipy.sparse.diags_array(0.5 + rng.random(n)).tolil()
    P[0, 1] = P[1, 0] = 0.3
    A = scipy.sparse.random_array((e + m, n), density=0.3, rng=rng).tolil()
    A[np.arange(e + m), np.arange(e + m) % n] = 1 + rng.random(e + m)
    P, A = P.tocoo(), A.tocoo()
    q = torch.tensor(rng.standard_normal((*batch, n)))
    x = rng.standard_normal((*batch, n))
    slack = np.concatenate([np.zeros((*batch, e)), rng.random((*batch, m))], axis=-1)
    b = torch.tensor(x @ A.toarray().T + slack)
    return values_of(P, *batch), q, values_of(A, *batch), b, (pattern_of(P), pattern_of(A)), Cones(zero=e, nonneg=m)


def dense(values, pattern):
    flat = values.new_zeros(*values.shape[:-1], pattern.shape[0] * pattern.shape[1])
    index = torch.as_tensor(pattern.rows * pattern.shape[1] + pattern.columns)
    return flat.index_copy(-1, index, values).unflatten(-1, pattern.shape)


def solve_densely(P, q, A, b, patterns, cones):
    e = cones.zero
    A = dense(A, patterns[1])
    qp = solve_qp(dense(P, patterns[0]), q, A[..., :e, :], b[..., :e], A[..., e:, :], b[..., e:])
    return torch.cat([qp.y, qp.equality_dual, qp.inequality_dual], dim=-1)


def solve_sparsely(P, q, A, b, patterns, cones):
    found = solve_sparse(P, q, A, b, patterns, cones)
    return torch.cat([found.x, found.y], dim=-1)


class TestSolution:
    @pytest.mark.parametrize("seed", range(5))
    def test_primal_and_dual_are_those_of_the_dense_solver(self, seed):
        program = random_program(seed=seed)
        torch.testing.assert_close(solve_sparsely(*program), solve_densely(*program), rtol=1e-9, atol=1e-9)

    def test_a_linear_program_is_scipys(self):
        rng = np.random.default_rng(3)
        A = scipy.sparse.vstack([scipy.sparse.eye_array(8), -scipy.sparse.eye_array(8), np.ones((1, 8))]).tocoo()
        b, q = np.concatenate([np.ones(8), np.zeros(8), [3.5]]), rng.standard_normal(8)
        patterns = Pattern(np.zeros(0, int), np.zeros(0, int), (8, 8)), pattern_of(A)
        P, cones = torch.zeros(0, dtype=DOUBLE), Cones(nonneg=17)
        found = solve_sparse(P, torch.tensor(q), values_of(A), torch.tensor(b), patterns, cones)
        expected = scipy.optimize.linprog(q, A_ub=A.toarray(), b_ub=b, bounds=(None, None))
        torch.testing.assert_close(found.x, torch.tensor(expected.x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.y, torch.tensor(-expected.ineqlin.marginals), rtol=1e-9, atol=1e-9)

    def test_redundant_constraints_do_no_harm(self):
        P, q, A, b, (of_P, of_A), cones = random_program(e=0)
        twice = Pattern(np.concatenate([of_A.rows, of_A.rows + 10]), np.tile(of_A.columns, 2), (20, 12))
        one = solve_sparse(P, q, A, b, (of_P, of_A), cones)
        two = solve_sparse(P, q, torch.cat([A, A], -1), torch.cat([b, b], -1), (of_P, twice), Cones(nonneg=20))
        torch.testing.assert_close(two.x, one.x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(two.y[:, :10] + two.y[:, 10:], one.y, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("bound", [1e6, 1e9, 1e20])
    def test_a_bound_far_away_changes_nothing(self, bound):
        """0 ≤ x ≤ bound for ½|x|² − x₀: the solution is (1, 0, …)."""
        A = scipy.sparse.vstack([scipy.sparse.eye_array(5), -scipy.sparse.eye_array(5)])
        b = torch.tensor([bound] * 5 + [0.0] * 5, dtype=DOUBLE)
        q = torch.tensor([-1.0, 1, 2, 3, 4], dtype=DOUBLE)
        patterns = pattern_of(scipy.sparse.eye_array(5)), pattern_of(A)
        found = solve_sparse(torch.ones(5, dtype=DOUBLE), q, values_of(A), b, patterns, Cones(nonneg=len(b)))
        torch.testing.assert_close(found.x, torch.tensor([1.0, 0, 0, 0, 0], dtype=DOUBLE), rtol=0, atol=1e-12)

    def test_batches_broadcast_and_vmap_is_a_batch(self):
        P, q, A, b, patterns, cones = random_program(batch=(3,))
        whole = solve_sparse(P, q, A, b, patterns, cones).x
        torch.testing.assert_close(solve_sparse(P[0], q, A[0], b, patterns, cones).x, whole)
        mapped = torch.func.vmap(lambda q, b: solve_sparse(P[0], q, A[0], b, patterns, cones).x)(q, b)
        torch.testing.assert_close(mapped, whole)
        assert solve_sparse(P[0], q[:0], A[0], b[:0], patterns, cones).x.shape == (0, 12)

    def test_tensors_stay_on_their_device(self, device):
        """Though the factorisation is the CPU's."""
        P, q, A, b, patterns, cones = random_program()
        there = [t.to(device).requires_grad_() for t in (P, q, A, b)]
        found = solve_sparse(*there, patterns, cones)
        gradients = torch.autograd.grad(found.x.square().sum(), there)
        assert {t.device.type for t in (found.x, found.y, found.status, *gradients)} == {device}
        torch.testing.assert_close(found.x.cpu(), solve_sparse(P, q, A, b, patterns, cones).x)

    def test_single_precision_is_computed_in_double(self):
        P, q, A, b, patterns, cones = random_program()
        single = solve_sparse(P.float(), q.float(), A.float(), b.float(), patterns, cones)
        assert single.x.dtype == torch.float32
        torch.testing.assert_close(single.x.double(), solve_sparse(P, q, A, b, patterns, cones).x, rtol=1e-4, atol=1e-4)


KINDS = {
    "second-order": Cones(zero=1, nonneg=2, soc=(4, 4, 3)),
    "semidefinite": Cones(nonneg=2, psd=(3, 2)),
    "exponential": Cones(zero=1, exp=3),
    "all": Cones(zero=1, nonneg=3, soc=(4,), psd=(3,), exp=2),
}


def cone_program(cones, n=6, seed=0):
    """Strictly feasible with a strictly feasible dual, and with a quadratic objective; dense data by their entries."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(2, cones.rows, n, dtype=DOUBLE, generator=g)
    s, y = (interior(cones, (2,), g, dual=dual) for dual in (False, True))
    L = 0.3 * torch.randn(2, n, n, dtype=DOUBLE, generator=g)
    P, x = L @ L.mT, torch.randn(2, n, dtype=DOUBLE, generator=g)
    b, q = torch.einsum("bij,bj->bi", A, x) + s, -torch.einsum("bij,bi->bj", A, y)
    full = [Pattern(*(index.ravel() for index in np.indices(t.shape[1:])), tuple(t.shape[1:])) for t in (P, A)]
    return P, q, A, b, tuple(full), cones


@pytest.mark.parametrize("kind", KINDS)
class TestCones:
    def test_primal_dual_and_slack_are_those_of_the_dense_solver(self, kind):
        P, q, A, b, patterns, cones = cone_program(KINDS[kind])
        found = solve_sparse(P.flatten(1), q, A.flatten(1), b, patterns, cones)
        expected = solve_cone(q, A, b, cones, P)
        for name in ("x", "y", "s"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-7)
        assert found.residual.max() < 1e-11

    def test_gradients_of_all_arguments_are_those_of_the_dense_solver(self, kind):
        P, q, A, b, patterns, cones = cone_program(KINDS[kind], seed=1)
        tensors = [t.requires_grad_() for t in (P, q, A, b)]
        sparse, dense = (
            torch.cat([solution.x, solution.y, solution.s], dim=-1)
            for solution in (
                solve_sparse(P.flatten(1), q, A.flatten(1), b, patterns, cones),
                solve_cone(q, A, b, cones, P),
            )
        )
        w = torch.randn(sparse.shape, dtype=DOUBLE)
        found, expected = (torch.autograd.grad((w * z).sum(), tensors) for z in (sparse, dense))
        for g, want in zip(found, expected, strict=True):
            torch.testing.assert_close(g, want, rtol=1e-5, atol=1e-5)

    def test_finite_differences_agree_in_both_modes(self, kind):
        P, q, A, b, patterns, cones = cone_program(KINDS[kind], seed=2)
        tensors = [t[0].clone().requires_grad_() for t in (P.flatten(1), q, A.flatten(1), b)]

        def solve(*tensors):
            solution = solve_sparse(*tensors, patterns, cones)
            return solution.x, solution.y

        assert torch.autograd.gradcheck(solve, tensors, atol=1e-4, rtol=1e-3, fast_mode=True)
        assert torch.autograd.gradgradcheck(solve, tensors, atol=1e-3, rtol=1e-2, fast_mode=True)
        with torch.autograd.forward_ad.dual_level():
            pushed = torch.autograd.forward_ad.make_dual(tensors[1].detach(), torch.ones_like(tensors[1]))
            of_x = torch.autograd.forward_ad.unpack_dual(solve(tensors[0], pushed, *tensors[2:])[0]).tangent
        w = torch.randn_like(of_x)
        (pulled,) = torch.autograd.grad((w * solve(*tensors)[0]).sum(), tensors[1])
        torch.testing.assert_close((w * of_x).sum(), pulled.sum(), rtol=1e-6, atol=1e-8)


class TestGradients:
    def test_of_all_arguments_are_those_of_the_dense_solver(self):
        *tensors, patterns, cones = random_program()
        tensors = [t.requires_grad_() for t in tensors]
        w = torch.randn(2, 25, dtype=DOUBLE)
        sparse, full = (f(*tensors, patterns, cones) for f in (solve_sparsely, solve_densely))
        found, expected = (torch.autograd.grad((w * z).sum(), tensors) for z in (sparse, full))
        for g, want in zip(found, expected, strict=True):
            torch.testing.assert_close(g, want, rtol=1e-8, atol=1e-8)

    def test_finite_differences_agree_twice(self):
        *tensors, patterns, cones = random_program(n=5, e=1, m=4, batch=())
        tensors = [t.requires_grad_() for t in tensors]
        assert torch.autograd.gradcheck(lambda *t: solve_sparsely(*t, patterns, cones), tensors, atol=1e-6)
        assert torch.autograd.gradgradcheck(lambda *t: solve_sparsely(*t, patterns, cones), tensors, atol=1e-5)

    def test_forward_mode_is_the_transpose(self):
        P, q, A, b, patterns, cones = random_program(batch=())
        forward, reverse = (
            jac(lambda q: solve_sparse(P, q, A, b, patterns, cones).x)(q)
            for jac in (torch.func.jacfwd, torch.func.jacrev)
        )
        torch.testing.assert_close(forward, reverse, rtol=1e-9, atol=1e-9)

    def test_one_factorisation_serves_solver_and_derivative(self, monkeypatch):
        count, factorise = [], System.factorise
        monkeypatch.setattr(System, "factorise", lambda *matrices: count.append(1) or factorise(*matrices))
        P, q, A, b, patterns, cones = random_program()
        solve_sparse(P, q.requires_grad_(), A, b, patterns, cones).x.sum().backward()
        assert len(count) == 2  # one for each element


class TestFailures:
    def program(self, rows, b, P=(), q=(1.0, 1.0)):
        of_P = Pattern(np.arange(len(P)), np.arange(len(P)), (2, 2))
        A = scipy.sparse.coo_array(np.array(rows, dtype=float))
        q, b = (torch.tensor(v, dtype=DOUBLE) for v in (q, b))
        return torch.tensor(P, dtype=DOUBLE), q, values_of(A), b, (of_P, pattern_of(A)), Cones(nonneg=len(rows))

    def test_infeasible_and_unbounded_elements_are_told_apart(self):
        with pytest.raises(SolverError, match="infeasible"):
            solve_sparse(*self.program([[1, 1], [-1, -1]], [0.0, -1.0], P=(1.0, 1.0)))
        with pytest.raises(SolverError, match="unbounded"):
            solve_sparse(*self.program([[1, 1]], [1.0]))

    def test_a_failed_element_leaves_the_others_alone(self):
        P, q, A, b, patterns, cones = self.program([[1, 1], [-1, -1]], [[1.0, 0.0], [0.0, -1.0]], P=(1.0, 1.0))
        q.requires_grad_()
        found = solve_sparse(P, q.expand(2, 2), A, b, patterns, cones, on_failure="nan")
        assert found.converged.tolist() == [True, False] and found.status.tolist() == [1, 2]
        assert torch.isfinite(found.x[0]).all() and torch.isnan(found.x[1]).all()
        (g,) = torch.autograd.grad(found.x[0].sum(), q, retain_graph=True)
        assert torch.isnan(torch.autograd.grad(found.x.sum(), q)[0]).all()
        assert torch.isnan(g).all() or torch.isfinite(g).all()

    def test_a_solution_that_is_not_unique_has_no_derivative(self):
        P, q, A, b, patterns, cones = self.program([[1, 1], [-1, 0], [0, -1]], [1.0, 0.0, 0.0], q=(-1.0, -1.0))
        found = solve_sparse(P, q.requires_grad_(), A, b, patterns, cones)
        torch.testing.assert_close(found.x.sum(), torch.tensor(1.0, dtype=DOUBLE))
        with pytest.raises(SolverError, match="not unique"):
            found.x[0].backward()

    def test_bad_input_names_the_argument(self):
        P, q, A, b, patterns, cones = random_program()
        with pytest.raises(ValueError, match="q must have shape"):
            solve_sparse(P, q[:, 1:], A, b, patterns, cones)
        with pytest.raises(ValueError, match="b must be finite"):
            solve_sparse(P, q, A, b * torch.nan, patterns, cones)
        with pytest.raises(ValueError, match="the batch dimensions"):
            solve_sparse(P, q.repeat(2, 1)[:3], A, b, patterns, cones)
        with pytest.raises(ValueError, match="cones must have as many rows as A"):
            solve_sparse(P, q, A, b, patterns, Cones(nonneg=99))


def test_memory_goes_with_the_entries():
    """A chain of 20,000 variables, x_{i+1} − x_i ≤ 0.1: a dense matrix of it would take 3.2 GB."""
    n = 20_000
    A = scipy.sparse.diags_array([np.ones(n - 1), -np.ones(n - 1)], offsets=[1, 0], shape=(n - 1, n))
    patterns = pattern_of(scipy.sparse.eye_array(n)), pattern_of(A)
    q, b = torch.randn(n, dtype=DOUBLE).requires_grad_(), torch.full((n - 1,), 0.1, dtype=DOUBLE)
    tracemalloc.start()
    x = solve_sparse(torch.ones(n, dtype=DOUBLE), q, values_of(A), b, patterns, Cones(nonneg=len(b))).x
    x.square().sum().backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert ((x[1:] - x[:-1]) <= 0.1 + 1e-9).all() and torch.isfinite(q.grad).all()
