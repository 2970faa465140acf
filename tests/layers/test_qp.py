"""Quadratic programs: solutions and duals that Clarabel finds, exact derivatives, honest failures."""

import math

import classic_qps
import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import relu, solve_qp
from diffopt_lib.layers.qp.dual import solve_dual
from diffopt_lib.layers.qp.interior import interior_point
from diffopt_lib.layers.qp.program import flatten, kkt_error

DOUBLE = torch.float64


def random_qp(batch, n, m, k, seed=0, dtype=DOUBLE, rank=None):
    """A feasible QP with a strictly feasible point; Q has the given rank."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, dtype=DOUBLE, generator=g)

    L = normal(n, n if rank is None else rank)
    Q = L @ L.mT + (0.1 * torch.eye(n, dtype=DOUBLE) if rank is None else 0)
    G, A, y = normal(m, n), normal(k, n), normal(n, 1)
    h = (G @ y).squeeze(-1) + torch.rand(*batch, m, dtype=DOUBLE, generator=g)
    return tuple(t.to(dtype) for t in (Q, normal(n), A, (A @ y).squeeze(-1), G, h))


def clarabel(Q, p, A, b, G, h):
    y = cp.Variable(p.shape[-1])
    constraints = [A @ y == b] if len(b) else []
    constraints += [G @ y <= h] if len(h) else []
    problem = cp.Problem(cp.Minimize(cp.quad_form(y, cp.psd_wrap(Q)) / 2 + p @ y), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return y.value, [c.dual_value for c in constraints], problem.value


def kkt_violation(solution, Q, p, A, b, G, h):
    """The largest violation of the optimality conditions, computed from the arguments alone."""
    y, nu, lam = solution.y, solution.equality_dual, solution.inequality_dual

    def mv(M, v):
        return (M @ v.unsqueeze(-1)).squeeze(-1)

    slack = h - mv(G, y)
    blocks = [mv(Q, y) + p + mv(A.mT, nu) + mv(G.mT, lam), mv(A, y) - b, (-slack).clamp_min(0)]
    blocks += [(-lam).clamp_min(0), lam * slack]
    return max(block.abs().max().item() for block in blocks if block.numel())


SIZES = [(2, 3, 0), (5, 8, 2), (10, 10, 5), (20, 40, 5), (30, 0, 10), (12, 0, 0)]


@pytest.mark.parametrize(("n", "m", "k"), SIZES)
def test_solution_and_duals_equal_clarabels(n, m, k):
    data = random_qp((3,), n, m, k)
    solution = solve_qp(*data)
    for i in range(3):
        y, duals, value = clarabel(*(t[i].numpy() for t in data))
        np.testing.assert_allclose(solution.y[i].numpy(), y, atol=1e-5)
        np.testing.assert_allclose(solution.value[i].item(), value, rtol=1e-8, atol=1e-8)
        ours = [d for d in (solution.equality_dual[i], solution.inequality_dual[i]) if len(d)]
        for dual, expected in zip(ours, duals, strict=True):
            np.testing.assert_allclose(dual.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("n", "m", "k"), SIZES)
def test_kkt_residual_is_at_rounding_level(n, m, k, device):
    data = tuple(t.to(device) for t in random_qp((16,), n, m, k, seed=1))
    solution = solve_qp(*data)
    assert kkt_violation(solution, *data) <= 1e-8
    assert solution.converged.all() and solution.residual.max() <= 1e-9


def test_float32_reaches_a_relative_residual_of_1e_4():
    data = random_qp((16,), 10, 15, 4, dtype=torch.float32)
    solution = solve_qp(*data)
    assert solution.y.dtype == torch.float32
    exact = solve_qp(*(t.double() for t in data))
    assert solution.residual.max() <= 1e-4
    torch.testing.assert_close(solution.y.double(), exact.y, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("batch", "n", "m", "k"), [(128, 10, 10, 5), (128, 20, 20, 0), (32, 50, 50, 10)])
def test_float32_has_the_active_set_and_the_gradient_of_float64(batch, n, m, k):
    data = random_qp((batch,), n, m, k, seed=17, dtype=torch.float32)

    def gradients(data):
        data = [t.requires_grad_() for t in data]
        solution = solve_qp(*data)
        return solution, torch.autograd.grad(solution.y.sum(), data)

    single, found = gradients(data)
    double, exact = gradients([t.detach().double() for t in data])
    assert ((single.inequality_dual > single.slack) == (double.inequality_dual > double.slack)).all()
    found, exact = (torch.cat([g.flatten(1) for g in gradients], dim=1) for gradients in (found, exact))
    assert ((found - exact).abs().amax(1) <= 1e-4 * exact.abs().amax(1)).all()


def on_flat_batch(data):
    return flatten(data, data[1].shape[:-1], torch.zeros(*data[1].shape[:-1], 1, dtype=DOUBLE))


@pytest.mark.parametrize(("n", "m", "k"), [(10, 10, 5), (20, 40, 0), (20, 15, 6)])
def test_through_the_dual_and_directly_the_solution_is_the_same(n, m, k):
    qp = on_flat_batch(random_qp((32,), n, m, k, seed=18))
    through_dual, _ = solve_dual(qp, 50)
    direct, error, _ = interior_point(qp, 32, 60)
    assert error.max() <= 1e-9 and kkt_error(qp, through_dual).max() <= 1e-9
    torch.testing.assert_close(through_dual.y, direct.y, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(through_dual.lam, direct.lam, rtol=1e-6, atol=1e-6)


def test_an_ill_conditioned_element_does_not_spoil_its_batch():
    Q, p, A, b, G, h = random_qp((3,), 5, 6, 1, seed=19)
    Q = Q.clone()
    Q[1] = torch.diag(torch.tensor([1e-14, 1e-7, 1.0, 1.0, 1.0], dtype=DOUBLE))
    box = torch.cat([G, torch.eye(5, dtype=DOUBLE).expand(3, 5, 5), -torch.eye(5, dtype=DOUBLE).expand(3, 5, 5)], -2)
    bound = torch.cat([h, torch.full((3, 10), 10.0, dtype=DOUBLE)], -1)
    solution = solve_qp(Q, p, A, b, box[:, :10], bound[:, :10])
    assert solution.converged.all()
    assert kkt_violation(solution, Q, p, A, b, box[:, :10], bound[:, :10]) <= 1e-7


class TestSmoothing:
    """The central path of min ½(y − x)² s.t. y ≥ 0 is y = (x + √(x² + 4μ))/2."""

    @staticmethod
    def project(x, **options):
        one = torch.ones(1, 1, dtype=DOUBLE)
        return solve_qp(one, -x.unsqueeze(-1), G=-one, h=torch.zeros(1, dtype=DOUBLE), **options).y.squeeze(-1)

    x = torch.tensor([-1.0, 0.0, 1e-3, 0.1, 1.0], dtype=DOUBLE)

    def test_the_solution_stays_exact_and_has_the_first_and_second_derivative_of_the_path(self):
        ours, closed = self.x.clone().requires_grad_(), self.x.clone().requires_grad_()
        y, path = self.project(ours, smoothing=1e-2), (closed + (closed**2 + 4e-2).sqrt()) / 2
        torch.testing.assert_close(y, relu(self.x))
        first, expected = (
            torch.autograd.grad(f.sum(), x, create_graph=True)[0] for f, x in ((y, ours), (path, closed))
        )
        torch.testing.assert_close(first, expected)
        second, expected = (torch.autograd.grad(g.sum(), x)[0] for g, x in ((first, ours), (expected, closed)))
        torch.testing.assert_close(second, expected)

    def test_forward_mode_and_vmap(self):
        def slope(x):
            return torch.func.jacfwd(lambda x: self.project(x, smoothing=1e-2))(x)

        expected = 0.5 * (1 + self.x / (self.x**2 + 4e-2).sqrt())
        torch.testing.assert_close(torch.func.vmap(slope)(self.x), expected)

    def test_its_bias_is_of_the_order_of_mu(self):
        data = tuple(t.requires_grad_() for t in random_qp((4,), 5, 6, 1, seed=20))
        exact = torch.autograd.grad(solve_qp(*data).y.square().sum(), data)

        def bias(mu):
            smooth = torch.autograd.grad(solve_qp(*data, smoothing=mu).y.square().sum(), data)
            return max((s - e).abs().max() / e.abs().max() for s, e in zip(smooth, exact, strict=True))

        assert 50 < bias(1e-5) / bias(1e-7) < 200

    def test_a_linear_program_gets_a_derivative_in_its_cost(self):
        """min py s.t. −1 ≤ y ≤ 1 has y = −sign p; on its path p = μ/(1 + y) − μ/(1 − y)."""
        p = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
        one, mu = torch.ones(1, 1, dtype=DOUBLE), 0.1
        y = solve_qp(0 * one, p, G=torch.cat([one, -one]), h=torch.ones(2, dtype=DOUBLE), smoothing=mu).y
        (slope,) = torch.autograd.grad(y.sum(), p)
        on_path = mu - math.sqrt(mu**2 + 1)
        assert y.item() == pytest.approx(-1)
        expected = -1 / (mu / (1 + on_path) ** 2 + mu / (1 - on_path) ** 2)
        assert slope.item() == pytest.approx(expected, rel=1e-8)

    @pytest.mark.parametrize("smoothing", [-1.0, math.inf, math.nan])
    def test_nonsense_is_refused(self, smoothing):
        with pytest.raises(ValueError, match="smoothing"):
            self.project(self.x, smoothing=smoothing)

    def test_without_a_strictly_feasible_point_there_is_no_path(self):
        one = torch.ones(1, 1, dtype=DOUBLE)
        with pytest.raises(SolverError, match="strictly"):
            solve_qp(one, one[0], G=torch.cat([one, -one]), h=torch.zeros(2, dtype=DOUBLE), smoothing=1e-2)


class TestDerivatives:
    @pytest.mark.parametrize(("n", "m", "k"), [(4, 5, 1), (3, 6, 0), (4, 0, 2), (3, 0, 0)])
    def test_first_and_second_derivatives_of_every_output_in_every_argument(self, n, m, k):
        data = tuple(t.requires_grad_() for t in random_qp((2,), n, m, k, seed=2))

        def f(*data):
            s = solve_qp(*data)
            return s.y, s.equality_dual, s.inequality_dual, s.slack, s.value

        assert torch.autograd.gradcheck(f, data)
        assert torch.autograd.gradgradcheck(f, data)

    def test_forward_mode(self):
        data = tuple(t.requires_grad_() for t in random_qp((2,), 3, 4, 1, seed=3))
        assert torch.autograd.gradcheck(lambda *d: solve_qp(*d).y, data, check_forward_ad=True, check_backward_ad=False)

    def test_a_shared_argument_gets_the_sum_over_the_batch(self):
        Q, p, A, b, G, h = random_qp((4,), 4, 6, 1, seed=4)
        shared = [t[0].clone().requires_grad_() for t in (Q, A, G)]
        h = h + 10
        one = solve_qp(shared[0], p, shared[1], b, shared[2], h)
        copies = [t.detach().expand(4, *t.shape).clone().requires_grad_() for t in shared]
        many = solve_qp(copies[0], p, copies[1], b, copies[2], h)
        torch.testing.assert_close(one.y, many.y)
        summed = torch.autograd.grad(one.y.square().sum(), shared)
        each = torch.autograd.grad(many.y.square().sum(), copies)
        for gradient, parts in zip(summed, each, strict=True):
            torch.testing.assert_close(gradient, parts.sum(0))

    def test_only_the_symmetric_part_of_q_counts(self):
        Q, *rest = random_qp((), 4, 3, 1, seed=5)
        skew = torch.triu(torch.ones(4, 4, dtype=DOUBLE), 1)
        skewed = Q + skew - skew.T
        torch.testing.assert_close(solve_qp(skewed, *rest).y, solve_qp(Q, *rest).y)
        assert torch.autograd.gradcheck(lambda Q: solve_qp(Q, *rest).y, skewed.requires_grad_())

    def test_projection_onto_the_orthant_is_relu_with_its_jacobian(self):
        x = torch.tensor([1.5, -0.3, 0.7], dtype=DOUBLE)
        identity, zero = torch.eye(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)

        def project(x):
            return solve_qp(identity, -x, G=-identity, h=zero).y

        torch.testing.assert_close(project(x), relu(x))
        J = torch.autograd.functional.jacobian
        torch.testing.assert_close(J(project, x), J(relu, x))

    def test_linear_program_has_derivative_zero_in_its_cost_and_follows_its_constraints(self):
        identity = torch.eye(2, dtype=DOUBLE)
        p = torch.tensor([1.0, -2.0], dtype=DOUBLE, requires_grad=True)
        h = torch.ones(4, dtype=DOUBLE, requires_grad=True)
        y = solve_qp(torch.zeros(2, 2, dtype=DOUBLE), p, G=torch.cat([identity, -identity]), h=h).y
        torch.testing.assert_close(y, torch.tensor([-1.0, 1.0], dtype=DOUBLE))
        dp, dh = torch.autograd.grad(y[0], (p, h))
        torch.testing.assert_close(dp, torch.zeros_like(dp))
        torch.testing.assert_close(dh, torch.tensor([0.0, 0, -1, 0], dtype=DOUBLE))

    def test_where_too_many_walls_meet_the_least_norm_share_moves_the_corner_and_the_duals_raise(self):
        """y₁ ≤ 1, y₂ ≤ 1 and y₁ + y₂ ≤ 2: the three rows times (⅓, ⅓, ⅔) are the shortest way to (1, 1)."""
        G = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
        h = torch.tensor([1.0, 1.0, 2.0], dtype=DOUBLE, requires_grad=True)
        s = solve_qp(torch.eye(2, dtype=DOUBLE), torch.tensor([-5.0, -5.0], dtype=DOUBLE), G=G, h=h)
        (share,) = torch.autograd.grad(s.y.sum(), h, retain_graph=True)
        torch.testing.assert_close(share, torch.linalg.pinv(G.T).sum(-1))
        with pytest.raises(SolverError, match="degenerate"):
            torch.autograd.grad(s.inequality_dual.sum(), h)

    def test_a_weakly_active_constraint_counts_as_inactive(self):
        x = torch.zeros(1, dtype=DOUBLE, requires_grad=True)
        one = torch.ones(1, 1, dtype=DOUBLE)
        y = solve_qp(one, -x, G=-one, h=torch.zeros(1, dtype=DOUBLE)).y
        assert torch.autograd.grad(y.sum(), x)[0] == 1

    def test_a_solution_that_is_not_unique_raises_in_the_backward_pass(self):
        Q = torch.diag(torch.tensor([1.0, 0.0], dtype=DOUBLE)).requires_grad_()
        solution = solve_qp(Q, torch.tensor([1.0, 0.0], dtype=DOUBLE))
        assert solution.converged
        with pytest.raises(SolverError, match="not unique"):
            solution.y.sum().backward()


class TestTransforms:
    def test_vmap_jacrev_jacfwd(self):
        data = random_qp((3,), 4, 5, 1, seed=6)

        def one(*d):
            return solve_qp(*d).y

        torch.testing.assert_close(torch.func.vmap(one)(*data), solve_qp(*data).y)
        every = tuple(range(6))
        reverse = torch.func.vmap(torch.func.jacrev(one, argnums=every))(*data)
        forward = torch.func.vmap(torch.func.jacfwd(one, argnums=every))(*data)
        for i in range(3):
            expected = torch.autograd.functional.jacobian(one, tuple(t[i] for t in data))
            for r, f, e in zip(reverse, forward, expected, strict=True):
                torch.testing.assert_close(r[i], e)
                torch.testing.assert_close(f[i], e)

    def test_vmap_over_one_argument_of_a_batched_call(self):
        Q, p, _, _, G, h = random_qp((3,), 4, 5, 0, seed=7)

        def over(Q):
            return solve_qp(Q, p, G=G, h=h).y

        torch.testing.assert_close(torch.func.vmap(over)(Q), torch.stack([over(q) for q in Q]))

    def test_compiled_callers(self):
        """torch.compile breaks the graph at the solver and gives the same numbers."""
        Q, p, A, b, G, h = random_qp((2,), 3, 4, 1, seed=8)

        def layer(p):
            return solve_qp(Q, 2 * p, A, b, G, h).y.square().sum()

        p = p.requires_grad_()
        expected = torch.autograd.grad(layer(p), p)[0]
        compiled = torch.compile(layer, backend="eager")
        torch.testing.assert_close(torch.autograd.grad(compiled(p), p)[0], expected)


class TestShapes:
    @pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
    def test_any_batch_shape(self, batch):
        data = random_qp(batch, 3, 4, 1, seed=9)
        s = solve_qp(*data)
        assert s.y.shape == (*batch, 3) and s.equality_dual.shape == (*batch, 1)
        assert s.inequality_dual.shape == s.slack.shape == (*batch, 4)
        assert s.value.shape == s.converged.shape == s.iterations.shape == s.residual.shape == batch

    def test_batches_broadcast(self):
        Q, p, A, b, G, h = random_qp((), 3, 4, 1, seed=10)
        ps = torch.stack([p, p + 0.1, p - 0.1])[:, None]  # (3, 1, n)
        hs = torch.stack([h, h + 0.5])  # (2, m)
        y = solve_qp(Q, ps, A, b, G, hs).y
        assert y.shape == (3, 2, 3)
        for i in range(3):
            for j in range(2):
                torch.testing.assert_close(y[i, j], solve_qp(Q, ps[i, 0], A, b, G, hs[j]).y)

    def test_empty_batch(self):
        data = tuple(t.requires_grad_() for t in random_qp((0,), 3, 4, 1))
        s = solve_qp(*data)
        assert s.y.shape == (0, 3)
        s.y.sum().backward()
        assert data[0].grad.shape == (0, 3, 3)

    def test_absent_blocks_equal_blocks_without_rows(self):
        Q, p, A, b, G, h = random_qp((), 4, 3, 2, seed=11)
        torch.testing.assert_close(solve_qp(Q, p).y, -torch.linalg.solve(Q, p))
        torch.testing.assert_close(solve_qp(Q, p, A, b).y, solve_qp(Q, p, A, b, G[:0], h[:0]).y)
        torch.testing.assert_close(solve_qp(Q, p, G=G, h=h).y, solve_qp(Q, p, A[:0], b[:0], G, h).y)


class TestHardData:
    def test_redundant_equalities(self):
        Q, p, A, b, G, h = random_qp((3,), 6, 5, 2, seed=12)
        doubled = solve_qp(Q, p, torch.cat([A, 2 * A], -2), torch.cat([b, 2 * b], -1), G, h)
        torch.testing.assert_close(doubled.y, solve_qp(Q, p, A, b, G, h).y)

    def test_infinite_bounds_are_no_constraints(self):
        Q, p, A, b, G, h = random_qp((3,), 6, 5, 2, seed=13)
        h = h.clone()
        h[0, 0] = math.inf
        s = solve_qp(Q, p, A, b, G, h.requires_grad_())
        expected = solve_qp(Q[0], p[0], A[0], b[0], G[0, 1:], h[0, 1:])
        torch.testing.assert_close(s.y[0], expected.y)
        assert s.inequality_dual[0, 0] == 0 and s.slack[0, 0] == math.inf
        (gradient,) = torch.autograd.grad(s.y.sum(), h)
        assert torch.isfinite(gradient).all() and gradient[0, 0] == 0

    def test_more_active_constraints_than_variables(self):
        """Twelve constraints meet in one vertex."""
        g = torch.Generator().manual_seed(0)
        G = torch.randn(12, 3, dtype=DOUBLE, generator=g)
        vertex = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
        p = -(torch.rand(12, dtype=DOUBLE, generator=g) @ G)
        s = solve_qp(torch.eye(3, dtype=DOUBLE) * 1e-3, p - 1e-3 * vertex, G=G, h=G @ vertex)
        torch.testing.assert_close(s.y, vertex, rtol=1e-6, atol=1e-6)
        assert s.residual <= 1e-9

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_badly_scaled_rows_and_variables(self, scale):
        Q, p, A, b, G, h = random_qp((4,), 5, 6, 1, seed=14)
        d = torch.logspace(0, math.log10(scale), 5, dtype=DOUBLE)
        g = torch.logspace(0, -math.log10(scale), 6, dtype=DOUBLE)
        y = solve_qp(Q, p, A, b, G, h).y
        scaled = solve_qp(d[:, None] * Q * d, d * p, A * d, b, g[:, None] * G * d, g * h)
        torch.testing.assert_close(d * scaled.y, y, rtol=1e-5, atol=1e-6)

    def test_singular_q_with_a_unique_solution(self):
        data = random_qp((4,), 8, 20, 2, seed=15, rank=3)
        s = solve_qp(*data)
        for i in range(4):
            _, _, value = clarabel(*(t[i].numpy() for t in data))
            np.testing.assert_allclose(s.value[i].item(), value, rtol=1e-7, atol=1e-7)
        assert kkt_violation(s, *data) <= 1e-8

    def test_random_linear_programs_reach_clarabels_optimum(self):
        g = torch.Generator().manual_seed(3)
        G = torch.randn(6, 15, 5, dtype=DOUBLE, generator=g)
        lam = torch.rand(6, 15, dtype=DOUBLE, generator=g)
        p = -(G.mT @ lam.unsqueeze(-1)).squeeze(-1)  # dual feasible, so bounded
        h = torch.rand(6, 15, dtype=DOUBLE, generator=g)
        s = solve_qp(torch.zeros(5, 5, dtype=DOUBLE), p, G=G, h=h)
        for i in range(6):
            y = cp.Variable(5)
            problem = cp.Problem(cp.Minimize(p[i].numpy() @ y), [G[i].numpy() @ y <= h[i].numpy()])
            np.testing.assert_allclose(s.value[i].item(), problem.solve(solver=cp.CLARABEL), rtol=1e-7)


@pytest.mark.parametrize("problem", classic_qps.PROBLEMS, ids=lambda problem: problem.__name__)
def test_classic_problems_reach_their_published_optima(problem):
    *data, constant, optimum = problem()
    solution = solve_qp(*data)
    assert solution.value.item() + constant == pytest.approx(optimum, rel=1e-8, abs=1e-8)
    assert solution.residual <= 1e-9


@pytest.mark.data
@pytest.mark.parametrize("name", ["CVXQP1_S", "DUAL4", "DUALC1", "GENHS28", "HS21", "HS35", "HS76", "QAFIRO", "QPTEST"])
def test_maros_meszaros_problems_to_1e_6(name, real_data):
    d = np.load(real_data / "maros" / f"{name}.npz")
    P, q, A, lower, upper = (d[key] for key in ("P", "q", "A", "l", "u"))
    equal = upper - lower < 1e-12
    G = np.concatenate([A[~equal], -A[~equal]])
    h = np.concatenate([upper[~equal], -lower[~equal]])
    finite = h < 1e19
    s = solve_qp(*(torch.tensor(v) for v in (P, q, A[equal], lower[equal], G, np.where(finite, h, np.inf))))
    _, _, value = clarabel(P, q, A[equal], lower[equal], G[finite], h[finite])
    assert abs(s.value.item() - value) <= 1e-6 * max(1, abs(value))
    y = s.y.numpy()
    assert max((A @ y - upper).max(), (lower - A @ y).max()) <= 1e-6


def test_a_solution_as_guess_costs_one_iteration_and_a_wrong_guess_nothing_but_time():
    data = random_qp((8,), 10, 15, 3, seed=16)
    cold = solve_qp(*data)
    warm = solve_qp(*data, init=cold)
    assert warm.iterations.max() <= 1 < cold.iterations.min()
    torch.testing.assert_close(warm.y, cold.y)
    Q, p, A, b, G, h = data
    moved = solve_qp(Q, -p, A, b, G, h, init=cold)
    torch.testing.assert_close(moved.y, solve_qp(Q, -p, A, b, G, h).y)


def test_a_singular_element_costs_the_dual_method_no_iterations():
    Q, p, A, b, G, h = random_qp((2,), 6, 8, 0, seed=17)
    Q[1] = 0
    qp = flatten((Q, p, A, b, G, h), torch.Size([2]), torch.zeros(2, 1, dtype=DOUBLE))
    point, iterations = solve_dual(qp, 60)
    assert iterations[0] > 0 == iterations[1]
    assert torch.isfinite(point.y[0]).all() and not torch.isfinite(point.y[1]).any()


class TestFailures:
    """Between [-1, 1], an empty interval, and [1, 2]."""

    G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=DOUBLE)
    h = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [2.0, -1.0]], dtype=DOUBLE)
    identity = torch.eye(2, dtype=DOUBLE)
    p = torch.tensor([0.3, 1.0], dtype=DOUBLE)

    def test_infeasible_elements_are_named(self):
        with pytest.raises(SolverError, match="infeasible") as error:
            solve_qp(self.identity, self.p, G=self.G, h=self.h)
        assert error.value.indices == [(1,)]

    def test_inconsistent_equalities_are_infeasible(self):
        A = torch.ones(2, 2, dtype=DOUBLE)
        with pytest.raises(SolverError, match="infeasible"):
            solve_qp(self.identity, self.p, A, torch.tensor([0.0, 1.0], dtype=DOUBLE))

    def test_unbounded_elements_are_named(self):
        Q = torch.diag(torch.tensor([1.0, 0.0], dtype=DOUBLE))
        p = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=DOUBLE)
        with pytest.raises(SolverError, match="unbounded") as error:
            solve_qp(Q, p, G=self.G, h=self.h[0])
        assert error.value.indices == [(1,)]

    def test_random_infeasible_and_unbounded_problems_are_told_apart(self):
        g = torch.Generator().manual_seed(1)
        G = torch.randn(10, 6, 4, dtype=DOUBLE, generator=g)
        contradiction = torch.cat([G, -G[:, :1]], dim=1)
        h = torch.rand(10, 6, dtype=DOUBLE, generator=g)
        h = torch.cat([h, -h[:, :1] - 1], dim=1)  # g₁ᵀy ≤ h₁ and g₁ᵀy ≥ h₁ + 1
        with pytest.raises(SolverError, match="infeasible") as error:
            solve_qp(torch.eye(4, dtype=DOUBLE), G[:, 0], G=contradiction, h=h)
        assert len(error.value.indices) == 10
        with pytest.raises(SolverError, match="unbounded") as error:
            solve_qp(torch.zeros(4, 4, dtype=DOUBLE), torch.ones(10, 4, dtype=DOUBLE), G=G[:, :2], h=h[:, :2])
        assert len(error.value.indices) == 10

    def test_status_and_certificates_prove_what_they_say(self):
        """The interval [1, −1] is empty: λ = ½ (1, 1) proves it. Without a wall y₂ falls for ever: d = (0, −1)."""
        h = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=DOUBLE)
        s = solve_qp(self.identity, self.p, G=self.G, h=h, on_failure="nan")
        assert s.status.tolist() == [1, 2] and s.converged.tolist() == [True, False]
        expected = torch.tensor([0.5, 0.5], dtype=DOUBLE)
        torch.testing.assert_close(s.infeasible_because[1], expected, rtol=1e-6, atol=1e-6)
        assert s.infeasible_because[0].isnan().all() and s.unbounded_because.isnan().all()
        flat = torch.diag(torch.tensor([1.0, 0.0], dtype=DOUBLE))
        s = solve_qp(flat, self.p, G=self.G, h=h[0], on_failure="nan")
        assert s.status == 3 and s.infeasible_because.isnan().all()
        expected = torch.tensor([0.0, -1.0], dtype=DOUBLE)
        torch.testing.assert_close(s.unbounded_because, expected, rtol=1e-6, atol=1e-6)

    def test_nan_marks_solution_and_gradient_and_leaves_the_rest(self):
        h = self.h.clone().requires_grad_()
        s = solve_qp(self.identity, self.p, G=self.G, h=h, on_failure="nan")
        assert s.converged.tolist() == [True, False, True] and s.status.tolist() == [1, 2, 1]
        (gradient,) = torch.autograd.grad(s.y.sum(), h)
        assert s.y[1].isnan().all() and gradient[1].isnan().all()
        alone = self.h[[0, 2]].clone().requires_grad_()
        expected = solve_qp(self.identity, self.p, G=self.G, h=alone)
        torch.testing.assert_close(s.y[[0, 2]], expected.y)
        torch.testing.assert_close(gradient[[0, 2]], torch.autograd.grad(expected.y.sum(), alone)[0])

    def test_closest_solves_on_the_nearest_feasible_constraints_and_is_differentiable(self):
        """y₁ ≤ −1 and y₁ ≥ 1 are missed least, in the sense of least squares, halfway."""
        h = self.h.clone().requires_grad_()
        s = solve_qp(self.identity, self.p, G=self.G, h=h, on_failure="closest")
        torch.testing.assert_close(s.y[1], torch.tensor([0.0, -1.0], dtype=DOUBLE), rtol=0, atol=1e-6)
        torch.testing.assert_close(s.y[[0, 2]], solve_qp(self.identity, self.p, G=self.G, h=self.h[[0, 2]]).y)
        (gradient,) = torch.autograd.grad(s.y[1, 0], h)
        torch.testing.assert_close(gradient[1], torch.tensor([0.5, -0.5], dtype=DOUBLE), rtol=0, atol=1e-6)

        def closest(h):
            return solve_qp(self.identity, self.p, G=self.G, h=h, on_failure="closest").y

        assert torch.autograd.gradcheck(closest, h)

    def test_too_few_iterations_say_so(self):
        with pytest.raises(SolverError, match="did not reach a KKT residual"):
            solve_qp(*random_qp((2,), 20, 60, 0, rank=15), max_iterations=1)


class TestBadInput:
    Q, p, A, b, G, h = random_qp((2,), 3, 4, 1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"Q": torch.eye(2, dtype=DOUBLE)}, r"Q must end in the shape \(3, 3\)"),
            ({"A": torch.ones(2, 3, dtype=DOUBLE)}, r"A must end in the shape \(1, 3\)"),
            ({"G": torch.ones(4, 2, dtype=DOUBLE)}, r"G must end in the shape \(4, 3\)"),
            ({"p": torch.ones(5, 3, dtype=DOUBLE)}, "batch dimensions must broadcast"),
            ({"h": torch.ones(4)}, "h must have the dtype of p"),
            ({"p": torch.tensor([1.0, math.nan, 0], dtype=DOUBLE)}, "p must be finite"),
            ({"h": torch.tensor([1.0, math.nan, 0, 0], dtype=DOUBLE)}, "h must be finite or"),
            ({"h": torch.tensor([1.0, -math.inf, 0, 0], dtype=DOUBLE)}, "h must be finite or"),
            ({"b": None}, "must be given together"),
            ({"Q": torch.eye(3, dtype=torch.int64)}, "Q must be float32 or float64"),
            ({"on_failure": "ignore"}, "on_failure must be one of"),
        ],
    )
    def test_named_argument(self, change, message):
        arguments = dict(Q=self.Q, p=self.p, A=self.A, b=self.b, G=self.G, h=self.h) | change
        with pytest.raises(ValueError, match=message):
            solve_qp(**arguments)


@pytest.mark.parametrize("tiny", [0.0, 5.6e-17, -5.6e-17, 1e-12])
def test_smoothing_at_a_kink_does_not_depend_on_how_small_a_price_is(tiny):
    p = torch.tensor([[tiny], [0.3]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    y = solve_qp(one, p, G=-one, h=torch.zeros(1, dtype=torch.float64), smoothing=0.1).y
    (slopes,) = torch.autograd.grad(y.sum(), p)
    torch.testing.assert_close(slopes, -(1 - p / (p * p + 0.4).sqrt()).detach() / 2)
