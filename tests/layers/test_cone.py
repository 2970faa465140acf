"""Cone programs: solutions and duals that Clarabel finds, exact derivatives, certificates, honest failures."""

import contextlib
from dataclasses import replace

import cvxpy as cp
import pytest
import torch
from cone_problems import (
    PROBLEMS,
    in_cvxpy,
    infeasible_program,
    random_program,
    times,
    unbounded_program,
)

from diffopt_lib import SolverError
from diffopt_lib.layers.cone import solve_cone
from diffopt_lib.layers.cone.outside import own_path_only
from diffopt_lib.layers.cones import Cones, project, project_dual

DOUBLE = torch.float64
NAMES = list(PROBLEMS)


@pytest.fixture(autouse=True, params=["own path", "from outside"])
def start(request):
    """Every test runs from the library's own path, and once more from Clarabel's solutions where they are used."""
    with own_path_only() if request.param == "own path" else contextlib.nullcontext():
        yield request.param


def optimality_violation(solution, c, A, b, cones):
    """The largest violation of the optimality conditions, computed from the arguments alone."""
    x, y, s = solution.x, solution.y, solution.s
    parts = [
        times(A.mT, y) + c,
        times(A, x) + s - b,
        project(s, cones) - s,
        project_dual(y, cones) - y,
        (s * y).sum(-1, keepdim=True),
    ]
    return max(part.abs().max().item() for part in parts if part.numel())


class TestSolutions:
    @pytest.mark.parametrize("name", NAMES)
    def test_optimality_conditions(self, name, start):
        cones, n = PROBLEMS[name]
        data = random_program(cones, n, (8,))
        solution = solve_cone(*data, cones)
        assert optimality_violation(solution, *data, cones) < 1e-10
        assert solution.converged.all() and (solution.status == 1).all() and solution.residual.max() < 1e-10
        assert solution.iterations.max() <= (10 if start == "own path" else 20) and solution.confirmed.all()
        torch.testing.assert_close(solution.value, (data[0] * solution.x).sum(-1))

    @pytest.mark.parametrize("name", NAMES)
    def test_clarabel_finds_the_same(self, name):
        cones, n = PROBLEMS[name]
        data = random_program(cones, n, (2,), seed=1)
        solution = solve_cone(*data, cones)
        for i in range(2):
            x, problem = in_cvxpy(*(t[i] for t in data), cones)
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
            assert abs(problem.value - solution.value[i].item()) < 1e-7 * (1 + abs(problem.value))
            assert (torch.tensor(x.value) - solution.x[i]).abs().max() < 1e-4
            duals = [float(c.dual_value[0]) for c in problem.constraints[: cones.zero + cones.nonneg]]
            ours = solution.y[i, : cones.zero + cones.nonneg].clone()
            ours[: cones.zero] *= -1  # CVXPY has the multiplier of b − Ax = 0
            torch.testing.assert_close(ours, torch.tensor(duals, dtype=DOUBLE), rtol=1e-4, atol=1e-4)

    def test_duals_are_those_that_diffcp_returns(self):
        import diffcp
        import scipy.sparse as sp

        cones, n = PROBLEMS["product"]
        c, A, b = random_program(cones, n, seed=2)
        dims = {"z": cones.zero, "l": cones.nonneg, "q": list(cones.soc), "s": list(cones.psd), "ep": cones.exp}
        x, y, s, _, _ = diffcp.solve_and_derivative(sp.csc_matrix(A.numpy()), b.numpy(), c.numpy(), dims, eps=1e-11)
        solution = solve_cone(c, A, b, cones)
        for ours, theirs in ((solution.x, x), (solution.y, y), (solution.s, s)):
            torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-4, atol=1e-4)

    def test_analytic_solutions(self):
        # min x₁ s.t. ‖(x₂, x₃)‖ ≤ x₁, x₂ = 3, x₃ = 4.
        A = torch.cat([torch.eye(3)[1:], -torch.eye(3)]).double()
        b = torch.tensor([3.0, 4, 0, 0, 0], dtype=DOUBLE)
        c = torch.tensor([1.0, 0, 0], dtype=DOUBLE)
        x = solve_cone(c, A, b, Cones(zero=2, soc=[3])).x
        torch.testing.assert_close(x, torch.tensor([5.0, 3, 4], dtype=DOUBLE))
        # max x s.t. y exp(x/y) ≤ z with y = 2, z = 6: x = 2 log 3.
        A = torch.cat([torch.eye(3)[1:], -torch.eye(3)]).double()
        b = torch.tensor([2.0, 6, 0, 0, 0], dtype=DOUBLE)
        x = solve_cone(-c, A, b, Cones(zero=2, exp=1)).x
        torch.testing.assert_close(x[0], 2 * torch.tensor(3.0, dtype=DOUBLE).log())
        # The largest eigenvalue of a symmetric M: min t s.t. t I − M ⪰ 0.
        M = torch.tensor([[2.0, 1.0], [1.0, -1.0]], dtype=DOUBLE)
        A, b = -torch.tensor([[1.0], [0], [1]], dtype=DOUBLE), -torch.tensor([2, 2**0.5, -1], dtype=DOUBLE)
        x = solve_cone(torch.ones(1, dtype=DOUBLE), A, b, Cones(psd=[2])).x
        torch.testing.assert_close(x[0], torch.linalg.eigvalsh(M)[-1])

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_badly_scaled_data(self, scale):
        cones, n = PROBLEMS["product"]
        c, A, b = random_program(cones, n, (3,))
        columns = torch.logspace(-6, 6, n, dtype=DOUBLE)
        for data in ((scale * c, A, b), (c, scale * A, b), (c, A, scale * b), (c * columns, A * columns, b)):
            solution = solve_cone(*data, cones)
            assert solution.residual.max() < 1e-8

    def test_redundant_equalities_and_points_without_interior(self):
        identity = torch.eye(3, dtype=DOUBLE)
        c = torch.tensor([1.0, 2, 3], dtype=DOUBLE)
        A, b = torch.cat([torch.ones(2, 3, dtype=DOUBLE), -identity]), torch.tensor([1.0, 1, 0, 0, 0], dtype=DOUBLE)
        x = solve_cone(c, A, b, Cones(zero=2, nonneg=3)).x
        torch.testing.assert_close(x, identity[0], atol=1e-9, rtol=0)
        A, b = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), torch.tensor([2.0, -2.0], dtype=DOUBLE)
        x = solve_cone(torch.ones(1, dtype=DOUBLE), A, b, Cones(nonneg=2)).x  # 2 ≤ x ≤ 2
        torch.testing.assert_close(x, torch.tensor([2.0], dtype=DOUBLE))

    def test_nothing_to_do(self):
        c = torch.zeros(3, dtype=DOUBLE)
        A, b = torch.zeros(0, 3, dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE)
        assert (solve_cone(c, A, b, Cones()).x == 0).all()
        with pytest.raises(SolverError, match="unbounded"):
            solve_cone(c + 1, A, b, Cones())


class TestBatches:
    def test_float32(self):
        cones, n = PROBLEMS["product"]
        data = random_program(cones, n, (4,))
        exact = solve_cone(*data, cones)
        solution = solve_cone(*(t.float() for t in data), cones)
        assert solution.x.dtype == solution.y.dtype == solution.residual.dtype == torch.float32
        torch.testing.assert_close(solution.x, exact.x.float(), rtol=1e-3, atol=1e-3)
        data = [t.float().requires_grad_() for t in data]
        gradients = torch.autograd.grad(solve_cone(*data, cones).x.sum(), data)
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)

    def test_on_every_device(self, device):
        cones, n = PROBLEMS["product"]
        data = random_program(cones, n, (3,))
        solution = solve_cone(*(t.to(device) for t in data), cones)
        assert solution.x.device.type == device
        torch.testing.assert_close(solution.x.cpu(), solve_cone(*data, cones).x, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("batched", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 0, 0)])
    def test_broadcasting_and_gradients_of_shared_arguments(self, batched):
        cones, n = PROBLEMS["second-order"]
        one, other = random_program(cones, n), random_program(cones, n, (3,))
        near = [t + 0.01 * u if is_batched else t for t, u, is_batched in zip(one, other, batched, strict=True)]
        near = [t.requires_grad_() for t in near]
        solution = solve_cone(*near, cones)
        gradients = torch.autograd.grad(solution.x.square().sum() + solution.y.sin().sum(), near)
        expanded = [t if is_batched else t.expand(3, *t.shape) for t, is_batched in zip(near, batched, strict=True)]
        if not any(batched):
            assert solution.x.shape == (n,)
            return
        whole = [t.detach().clone().requires_grad_() for t in expanded]
        reference = solve_cone(*whole, cones)
        torch.testing.assert_close(solution.x, reference.x)
        expected = torch.autograd.grad(reference.x.square().sum() + reference.y.sin().sum(), whole)
        for gradient, full, is_batched in zip(gradients, expected, batched, strict=True):
            torch.testing.assert_close(gradient, full if is_batched else full.sum(0), rtol=1e-8, atol=1e-8)

    def test_batch_dimensions_broadcast_against_each_other(self):
        cones, n = PROBLEMS["linear"]
        c, A, b = random_program(cones, n)
        c, b = (
            c + 1e-3 * torch.arange(2, dtype=DOUBLE)[:, None, None],
            b + 1e-3 * torch.arange(3, dtype=DOUBLE)[:, None],
        )
        solution = solve_cone(c, A, b, cones)
        assert solution.x.shape == (2, 3, n) and solution.converged.shape == (2, 3)
        torch.testing.assert_close(solution.x[1, 2], solve_cone(c[1, 0], A, b[2], cones).x)

    def test_empty_batch(self):
        cones, n = PROBLEMS["product"]
        data = [t.requires_grad_() for t in random_program(cones, n, (0,))]
        solution = solve_cone(*data, cones)
        assert solution.x.shape == (0, n) and solution.converged.shape == (0,)
        assert torch.autograd.grad(solution.x.sum(), data)[1].shape == (0, cones.rows, n)

    def test_elements_do_not_disturb_each_other(self):
        cones, n = PROBLEMS["product"]
        data = random_program(cones, n, (5,))
        together = solve_cone(*data, cones)
        for i in range(5):
            torch.testing.assert_close(together.x[i], solve_cone(*(t[i] for t in data), cones).x, rtol=1e-9, atol=1e-9)


class TestWarmStart:
    @pytest.mark.parametrize("name", NAMES)
    def test_at_the_solution_and_near_it(self, name):
        cones, n = PROBLEMS[name]
        c, A, b = random_program(cones, n, (3,))
        solution = solve_cone(c, A, b, cones)
        assert (solve_cone(c, A, b, cones, init=solution).iterations <= 1).all()
        near = b + 1e-5
        warm, cold = solve_cone(c, A, near, cones, init=solution), solve_cone(c, A, near, cones)
        assert (warm.iterations <= 4).all() and (warm.iterations < cold.iterations).all()
        torch.testing.assert_close(warm.x, cold.x, rtol=1e-8, atol=1e-8)

    def test_a_useless_guess_does_no_harm(self):
        cones, n = PROBLEMS["product"]
        data = random_program(cones, n, (3,))
        wrong = solve_cone(*random_program(cones, n, (3,), seed=9), cones)
        torch.testing.assert_close(
            solve_cone(*data, cones, init=wrong).x, solve_cone(*data, cones).x, rtol=1e-7, atol=1e-7
        )

    def test_a_guess_of_another_kind_or_shape_is_named(self):
        cones = Cones(nonneg=3)
        c, A, b = torch.ones(2), -torch.ones(3, 2), -torch.ones(3)
        A[1, 1], A[2, 0] = 0, 0
        guess = solve_cone(c, A, b, cones)
        with pytest.raises(ValueError, match="init must be a ConeSolution, got"):
            solve_cone(c, A, b, cones, init=guess.x)
        with pytest.raises(ValueError, match="c must have the dtype|init.x must have the dtype"):
            solve_cone(c.double(), A.double(), b.double(), cones, init=guess)
        with pytest.raises(ValueError, match="init.x must have"):
            solve_cone(c, A, b, cones, init=replace(guess, x=guess.x[:1]))
        with pytest.raises(ValueError, match="init.x must have the shape"):
            solve_cone(c, A, b, cones, init=replace(guess, x=guess.x.expand(4, 2)))


class TestDerivatives:
    @pytest.mark.parametrize("name", NAMES)
    def test_perturb_and_solve_again(self, name):
        cones, n = PROBLEMS[name]
        data = [t.requires_grad_() for t in random_program(cones, n, (4,), seed=3)]
        generator = torch.Generator().manual_seed(0)

        def like(t):
            return torch.randn(t.shape, dtype=DOUBLE, generator=generator)

        solution = solve_cone(*data, cones)
        weights = [like(t) for t in (solution.x, solution.y, solution.s)]

        def loss(solution):
            parts = zip(weights, (solution.x, solution.y, solution.s), strict=True)
            return sum((w * t).sum(-1) for w, t in parts)

        gradients = torch.autograd.grad(loss(solution).sum(), data)
        directions, e = [like(t) for t in data], 1e-6
        with torch.no_grad():
            up = solve_cone(*(t + e * d for t, d in zip(data, directions, strict=True)), cones, init=solution)
            down = solve_cone(*(t - e * d for t, d in zip(data, directions, strict=True)), cones, init=solution)
        difference = (loss(up) - loss(down)) / (2 * e)
        exact = sum((g * d).flatten(1).sum(-1) for g, d in zip(gradients, directions, strict=True))
        torch.testing.assert_close(exact, difference, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_gradcheck_and_gradgradcheck(self, name):
        cones = {
            "linear": Cones(zero=1, nonneg=4),
            "second-order": Cones(nonneg=1, soc=[3, 2]),
            "semidefinite": Cones(nonneg=1, psd=[2]),
            "exponential": Cones(nonneg=1, exp=1),
            "product": Cones(zero=1, nonneg=1, soc=[3], exp=1),
        }[name]
        data = [t.requires_grad_() for t in random_program(cones, 2 if name != "product" else 3, seed=4)]

        def layer(c, A, b):
            solution = solve_cone(c, A, b, cones)
            return solution.x, solution.y, solution.s, solution.value

        assert torch.autograd.gradcheck(layer, data, atol=1e-5, fast_mode=True)
        assert torch.autograd.gradgradcheck(layer, data, atol=1e-4, rtol=1e-3, fast_mode=True)

    def test_vmap_and_jacrev(self):
        cones, n = PROBLEMS["product"]
        c, A, b = random_program(cones, n, (3,))
        expected = solve_cone(c, A, b, cones).x
        torch.testing.assert_close(torch.func.vmap(lambda c, A, b: solve_cone(c, A, b, cones).x)(c, A, b), expected)
        shared = solve_cone(c, A[0], b[0], cones, on_failure="nan")
        vmapped = torch.func.vmap(lambda c: solve_cone(c, A[0], b[0], cones, on_failure="nan").x)(c)
        torch.testing.assert_close(vmapped, shared.x, equal_nan=True)
        J = torch.func.jacrev(lambda b: solve_cone(c[0], A[0], b, cones).x)(b[0])
        K = torch.func.jacfwd(lambda b: solve_cone(c[0], A[0], b, cones).x)(b[0])
        torch.testing.assert_close(J, K)
        h, e = torch.randn(len(b[0]), dtype=DOUBLE, generator=torch.Generator().manual_seed(0)), 1e-6
        difference = solve_cone(c[0], A[0], b[0] + e * h, cones).x - solve_cone(c[0], A[0], b[0] - e * h, cones).x
        torch.testing.assert_close(J @ h, difference / (2 * e), rtol=1e-5, atol=1e-5)
        batched = torch.func.vmap(torch.func.jacrev(lambda b, c, A: solve_cone(c, A, b, cones).x))(b, c, A)
        torch.testing.assert_close(batched[0], J)

    def test_redundant_equalities_have_a_derivative_in_x_and_none_in_y(self):
        identity = torch.eye(3, dtype=DOUBLE)
        A = torch.cat([torch.ones(2, 3, dtype=DOUBLE), -identity])
        t = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
        b = torch.cat([t.expand(2), torch.zeros(3, dtype=DOUBLE)])
        solution = solve_cone(torch.tensor([1.0, 2, 3], dtype=DOUBLE), A, b, Cones(zero=2, nonneg=3))
        assert abs(torch.autograd.grad(solution.x[0], t, retain_graph=True)[0].item() - 1) < 1e-6
        with pytest.raises(SolverError, match="the derivative is not determined"):
            torch.autograd.grad(solution.y[0], t)

    def test_solution_that_is_not_unique(self):
        # min 0ᵀx on the square: every x is optimal.
        A, b = torch.cat([torch.eye(2), -torch.eye(2)]).double(), torch.ones(4, dtype=DOUBLE)
        c = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
        solution = solve_cone(c, A, b, Cones(nonneg=4))
        with pytest.raises(SolverError, match="not unique"):
            torch.autograd.grad(solution.x.sum(), c)
        solution = solve_cone(c, A, b, Cones(nonneg=4), singular="least_norm")
        with pytest.warns(UserWarning, match="least-norm derivative"):
            assert torch.autograd.grad(solution.x.sum(), c)[0].abs().max() < 1e-9


class TestFailures:
    @pytest.mark.parametrize("name", NAMES)
    def test_certificates(self, name):
        cones, n = PROBLEMS[name]
        c, A, b = infeasible_program(cones, n, (3,))
        solution = solve_cone(c, A, b, cones, on_failure="nan")
        y = solution.infeasible_because
        assert (solution.status == 2).all() and not solution.converged.any()
        assert times(A.mT, y).abs().max() < 1e-7 and ((b * y).sum(-1) + 1).abs().max() < 1e-9
        torch.testing.assert_close(project_dual(y, cones), y, rtol=0, atol=1e-9)
        with pytest.raises(SolverError, match="infeasible"):
            solve_cone(c, A, b, cones)

        c, A, b = unbounded_program(cones, n, (3,))
        solution = solve_cone(c, A, b, cones, on_failure="nan")
        x = solution.unbounded_because
        assert (solution.status == 3).all()
        assert ((c * x).sum(-1) + 1).abs().max() < 1e-9
        torch.testing.assert_close(project(times(-A, x), cones), times(-A, x), rtol=0, atol=1e-7)
        with pytest.raises(SolverError, match="unbounded"):
            solve_cone(c, A, b, cones)

    @pytest.mark.parametrize("name", NAMES)
    def test_failed_elements_are_nan_and_leave_the_others_alone(self, name):
        cones, n = PROBLEMS[name]
        good, infeasible, unbounded = (
            f(cones, n, (2,)) for f in (random_program, infeasible_program, unbounded_program)
        )
        data = [torch.cat(ts).requires_grad_() for ts in zip(good, infeasible, unbounded, strict=True)]
        solution = solve_cone(*data, cones, on_failure="nan")
        assert solution.status.tolist() == [1, 1, 2, 2, 3, 3]
        gradients = torch.autograd.grad(solution.x.sum() + solution.y.sum(), data)
        alone = [t.requires_grad_() for t in good]
        reference = solve_cone(*alone, cones)
        expected = torch.autograd.grad(reference.x.sum() + reference.y.sum(), alone)
        torch.testing.assert_close(solution.x[:2], reference.x)
        for field in (solution.x, solution.y, solution.s, solution.value):
            assert torch.isfinite(field[:2]).all() and torch.isnan(field[2:]).all()
        for gradient, want in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient[:2], want, rtol=1e-8, atol=1e-8)
            assert torch.isnan(gradient[2:]).all()
        with pytest.raises(SolverError, match="infeasible") as error:
            solve_cone(*data, cones)
        assert error.value.indices == [(2,), (3,)]

    def test_too_few_iterations(self):
        cones, n = PROBLEMS["product"]
        data = random_program(cones, n, (2,))
        with own_path_only():
            with pytest.raises(SolverError, match="no convergence"):
                solve_cone(*data, cones, max_iterations=1)
            solution = solve_cone(*data, cones, max_iterations=1, on_failure="nan")
        assert (solution.status == 4).all() and torch.isnan(solution.x).all()

    def test_an_infimum_that_is_not_attained(self):
        # min x₁ s.t. [[x₁, 1], [1, x₂]] ⪰ 0 is 0, for x₂ → ∞.
        A = -torch.tensor([[1.0, 0], [0, 0], [0, 1]], dtype=DOUBLE)
        b = torch.tensor([0, 2**0.5, 0], dtype=DOUBLE)
        with pytest.raises(SolverError, match="no convergence"):
            solve_cone(torch.tensor([1.0, 0], dtype=DOUBLE), A, b, Cones(psd=[2]))


class TestBadInput:
    def test_shapes(self):
        c, A, b = torch.ones(2), torch.ones(3, 2), torch.ones(3)
        with pytest.raises(ValueError, match="c must have one entry for each column of A, 2"):
            solve_cone(torch.ones(3), A, b, Cones(nonneg=3))
        with pytest.raises(ValueError, match="A and b must have 4 rows for these cones"):
            solve_cone(c, A, b, Cones(nonneg=4))
        with pytest.raises(ValueError, match="A must have at least 2 dimensions"):
            solve_cone(c, b, b, Cones(nonneg=3))
        with pytest.raises(ValueError, match="the batch dimensions must broadcast against each other, got c"):
            solve_cone(c.expand(2, 2), A, b.expand(3, 3), Cones(nonneg=3))

    def test_kinds(self):
        c, A, b = torch.ones(2), torch.ones(3, 2), torch.ones(3)
        with pytest.raises(ValueError, match="A must have the dtype of c"):
            solve_cone(c, A.double(), b, Cones(nonneg=3))
        for bad in (-b / 0, b / 0 * 0):
            with pytest.raises(ValueError, match="b must be finite"):
                solve_cone(c, A, bad, Cones(nonneg=3))
        with pytest.raises(ValueError, match="b must be finite"):
            solve_cone(c, A, b / 0, Cones(soc=[3]))  # only in a nonnegative row ∞ says something
        with pytest.raises(ValueError, match="cones must be a Cones, got dict"):
            solve_cone(c, A, b, {"l": 3})
        with pytest.raises(ValueError, match="on_failure must be one of"):
            solve_cone(c, A, b, Cones(nonneg=3), on_failure="ignore")


@pytest.mark.parametrize("option", [{"tolerance": "tight"}, {"tolerance": -1.0}, {"max_iterations": 2.5}])
def test_limits_that_are_none_are_refused(option):
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match=next(iter(option))):
        solve_cone(one, -torch.eye(1, dtype=torch.float64), 0 * one, Cones(nonneg=1), **option)
