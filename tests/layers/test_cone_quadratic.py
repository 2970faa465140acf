"""Cone programs with a quadratic objective: solutions, derivatives in P, certificates, no difference where P is 0."""

import contextlib

import cvxpy as cp
import pytest
import torch
from cone_problems import PROBLEMS, in_cvxpy, random_program, times, unbounded_program

from diffopt_lib import SolverError
from diffopt_lib.layers.cone import solve_cone
from diffopt_lib.layers.cone.outside import own_path_only
from diffopt_lib.layers.cones import Cones, project, project_dual
from diffopt_lib.layers.qp import solve_qp

DOUBLE = torch.float64
NAMES = list(PROBLEMS)


@pytest.fixture(autouse=True, params=["own path", "from outside"])
def start(request):
    with own_path_only() if request.param == "own path" else contextlib.nullcontext():
        yield request.param


def curvature(n, rank, batch=(), seed=0):
    """A positive semidefinite matrix, and a root of it."""
    M = torch.randn(*batch, n, rank, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    return M @ M.mT, M


def quadratic_program(name, batch=(), seed=0):
    cones, n = PROBLEMS[name]
    return random_program(cones, n, batch, seed), curvature(n, n // 2, batch, seed)[0], cones


class TestSolutions:
    @pytest.mark.parametrize("name", NAMES)
    def test_optimality_conditions(self, name):
        (c, A, b), P, cones = quadratic_program(name, (8,))
        solution = solve_cone(c, A, b, cones, P)
        x, y, s = solution.x, solution.y, solution.s
        for part in (times(P, x) + times(A.mT, y) + c, times(A, x) + s - b, (s * y).sum(-1)):
            assert part.abs().max() < 1e-10
        torch.testing.assert_close(project(s, cones), s, rtol=0, atol=1e-10)
        torch.testing.assert_close(project_dual(y, cones), y, rtol=0, atol=1e-10)
        torch.testing.assert_close(solution.value, (x * (0.5 * times(P, x) + c)).sum(-1))
        assert solution.converged.all() and solution.confirmed.all() and solution.residual.max() < 1e-12

    @pytest.mark.parametrize("name", NAMES)
    def test_clarabel_finds_the_same(self, name):
        cones, n = PROBLEMS[name]
        c, A, b = random_program(cones, n, seed=11)
        P, M = curvature(n, n // 2, seed=11)
        solution = solve_cone(c, A, b, cones, P)
        x, problem = in_cvxpy(c, A, b, cones)
        objective = problem.objective.args[0] + 0.5 * cp.sum_squares(M.mT.numpy() @ x)
        problem = cp.Problem(cp.Minimize(objective), problem.constraints)
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert abs(problem.value - solution.value.item()) < 1e-7 * (1 + abs(problem.value))
        assert (torch.tensor(x.value) - solution.x).abs().max() < 1e-4

    def test_quadratic_programs_are_those_of_solve_qp(self):
        generator = torch.Generator().manual_seed(2)
        n, k, m = 6, 2, 9
        Q = curvature(n, n, (5,), 2)[0]
        p, A, G = (torch.randn(5, *s, dtype=DOUBLE, generator=generator) for s in ((n,), (k, n), (m, n)))
        x = torch.randn(5, n, dtype=DOUBLE, generator=generator)
        b, h = times(A, x), times(G, x) + torch.rand(5, m, dtype=DOUBLE, generator=generator)
        data = [t.requires_grad_() for t in (Q, p, A, b, G, h)]
        qp = solve_qp(*data)
        cone = solve_cone(p, torch.cat([A, G], -2), torch.cat([b, h], -1), Cones(zero=k, nonneg=m), Q)
        torch.testing.assert_close(cone.x, qp.y, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(cone.y, torch.cat([qp.equality_dual, qp.inequality_dual], -1), rtol=1e-8, atol=1e-8)
        loss = [y.sin().sum() for y in (qp.y, cone.x)]
        for ours, theirs in zip(torch.autograd.grad(loss[1], data), torch.autograd.grad(loss[0], data), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)

    @pytest.mark.parametrize("name", NAMES)
    def test_zero_curvature_is_none(self, name):
        cones, n = PROBLEMS[name]
        data = random_program(cones, n, (3,), seed=4)
        with_zero = solve_cone(*data, cones, torch.zeros(n, n, dtype=DOUBLE))
        torch.testing.assert_close(with_zero.x, solve_cone(*data, cones).x, rtol=1e-9, atol=1e-9)

    def test_closed_forms(self):
        # The projection onto a cone, min ½‖x − v‖² s.t. x ∈ K, and its multiplier, which is that onto the dual cone.
        cones = Cones(nonneg=3, soc=(4,), psd=(3,), exp=2)
        v = torch.randn(5, cones.rows, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        identity = torch.eye(cones.rows, dtype=DOUBLE)
        solution = solve_cone(-v, -identity, torch.zeros(cones.rows, dtype=DOUBLE), cones, identity)
        torch.testing.assert_close(solution.x, project(v, cones), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(solution.y, project_dual(-v, cones), rtol=1e-10, atol=1e-10)
        # Nothing but a quadratic.
        P, c = torch.tensor([[4.0, 1], [1, 3]], dtype=DOUBLE), torch.tensor([1.0, 2], dtype=DOUBLE)
        x = solve_cone(c, torch.zeros(0, 2, dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE), Cones(), P).x
        torch.testing.assert_close(x, -torch.linalg.solve(P, c))

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_scale_of_the_objective_does_not_matter(self, scale):
        (c, A, b), P, cones = quadratic_program("product", (3,))
        expected = solve_cone(c, A, b, cones, P)
        torch.testing.assert_close(solve_cone(scale * c, A, b, cones, scale * P).x, expected.x, rtol=1e-9, atol=1e-9)


class TestDerivatives:
    @pytest.mark.parametrize("name", NAMES)
    def test_perturb_and_solve_again(self, name):
        (c, A, b), P, cones = quadratic_program(name, (3,), seed=3)
        data = [t.requires_grad_() for t in (c, A, b, P + torch.eye(len(P[0]), dtype=DOUBLE))]
        generator = torch.Generator().manual_seed(1)
        directions = [torch.randn(t.shape, dtype=DOUBLE, generator=generator) for t in data]
        directions[3] = directions[3] @ directions[3].mT

        def loss(c, A, b, P):
            solution = solve_cone(c, A, b, cones, P)
            return (solution.x.sin() + 0.1 * solution.value[:, None]).sum() + solution.y.square().sum() / 10

        gradients = torch.autograd.grad(loss(*data), data)
        e = 1e-6
        up, down = (loss(*(t + sign * e * d for t, d in zip(data, directions, strict=True))) for sign in (1, -1))
        exact = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        torch.testing.assert_close(exact, (up - down) / (2 * e), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "cones", [Cones(zero=1, nonneg=3), Cones(nonneg=1, soc=[3]), Cones(nonneg=1, psd=[2]), Cones(nonneg=1, exp=1)]
    )
    def test_gradcheck_and_gradgradcheck(self, cones):
        data = [t.requires_grad_() for t in (*random_program(cones, 2, seed=4), curvature(2, 2, seed=4)[0])]

        def layer(c, A, b, P):
            solution = solve_cone(c, A, b, cones, P)
            return solution.x, solution.y, solution.s, solution.value

        assert torch.autograd.gradcheck(layer, data, atol=1e-5, fast_mode=True)
        assert torch.autograd.gradgradcheck(layer, data, atol=1e-4, rtol=1e-3, fast_mode=True)

    def test_only_the_symmetric_part_counts_and_gets_a_gradient(self):
        (c, A, b), P, cones = quadratic_program("product", (2,))
        skew = torch.randn(2, *P.shape[-2:], dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
        lopsided = (P + skew - skew.mT).requires_grad_()
        solution = solve_cone(c, A, b, cones, lopsided)
        torch.testing.assert_close(solution.x, solve_cone(c, A, b, cones, P).x, rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad(solution.x.sum(), lopsided)
        torch.testing.assert_close(gradient, gradient.mT)

    @pytest.mark.parametrize("shared", ["P", "A", "all but c"])
    def test_shared_arguments(self, shared):
        (c, A, b), P, cones = quadratic_program("product", (3,), seed=6)
        if shared != "A":
            P = P[0]
        if shared != "P":
            A, b = A[0], b[0]
        data = [t.requires_grad_() for t in (c, A, b, P)]
        whole = [t.detach().expand(3, *t.shape[-k:]).clone() for t, k in zip(data, (1, 2, 1, 2), strict=True)]
        full = [t.requires_grad_() for t in whole]
        solution, reference = (solve_cone(*ts[:3], cones, ts[3], on_failure="nan") for ts in (data, full))
        torch.testing.assert_close(solution.x, reference.x, rtol=1e-9, atol=1e-9, equal_nan=True)
        found = solution.converged
        gradients = torch.autograd.grad(solution.x[found].sin().sum(), data)
        expected = torch.autograd.grad(reference.x[found].sin().sum(), full)
        for gradient, each in zip(gradients, expected, strict=True):
            summed = each[found].sum(0) if gradient.ndim < each.ndim else each
            torch.testing.assert_close(gradient, summed, rtol=1e-7, atol=1e-8, equal_nan=True)

    def test_vmap(self):
        (c, A, b), P, cones = quadratic_program("second-order", (3,))
        expected = solve_cone(c, A, b, cones, P).x
        vmapped = torch.func.vmap(lambda c, A, b, P: solve_cone(c, A, b, cones, P).x)(c, A, b, P)
        torch.testing.assert_close(vmapped, expected, rtol=1e-9, atol=1e-9)


class TestFailures:
    @pytest.mark.parametrize("name", NAMES)
    def test_unbounded_only_where_the_curvature_ends(self, name):
        cones, n = PROBLEMS[name]
        c, A, b = unbounded_program(cones, n, (3,))
        ray = solve_cone(c, A, b, cones, on_failure="nan").unbounded_because
        P = torch.eye(n, dtype=DOUBLE)
        assert (solve_cone(c, A, b, cones, P).status == 1).all()
        across = P - ray.unsqueeze(-1) * ray.unsqueeze(-2) / ray.square().sum(-1)[:, None, None]
        solution = solve_cone(c, A, b, cones, across, on_failure="nan")
        x = solution.unbounded_because
        assert (solution.status == 3).all() and times(across, x).abs().max() < 1e-9 * x.abs().max()
        torch.testing.assert_close(project(times(-A, x), cones), times(-A, x), rtol=0, atol=1e-9)
        with pytest.raises(SolverError, match="unbounded"):
            solve_cone(c, A, b, cones, across)

    def test_objectives_that_are_not_convex(self):
        (c, A, b), P, cones = quadratic_program("linear", (2,))
        with pytest.raises(ValueError, match="P must be positive semidefinite"):
            solve_cone(c, A, b, cones, P - 2 * torch.eye(len(c[0]), dtype=DOUBLE))

    @pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
    def test_an_indefinite_p_is_refused_in_all_units_of_a_variable(self, unit):
        """A small negative curvature that is as large as the other in even units."""
        P = torch.diag(torch.tensor([1.0, -(unit**2)], dtype=DOUBLE))
        rows = torch.diag(torch.tensor([1.0, unit], dtype=DOUBLE))
        with pytest.raises(ValueError, match="P must be positive semidefinite"):
            solve_cone(P.new_ones(2), torch.cat([rows, -rows]), P.new_ones(4), Cones(nonneg=4), P)

    def test_shapes(self):
        c, A, b = torch.ones(2), torch.ones(3, 2), torch.ones(3)
        with pytest.raises(ValueError, match="P must be 2 × 2"):
            solve_cone(c, A, b, Cones(nonneg=3), torch.ones(3, 3))
        with pytest.raises(ValueError, match="P must be finite"):
            solve_cone(c, A, b, Cones(nonneg=3), torch.full((2, 2), torch.nan))
