"""Doubly stochastic matrices against cone programs, closed forms and plain Sinkhorn iterations; hard permutations."""

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import Cones, gumbel_sinkhorn, match, sinkhorn_operator, solve_assignment, solve_cone
from diffopt_lib.memory import peak_memory

DOUBLE = torch.float64
CLARABEL = {"solver": cp.CLARABEL, "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


def randn(*shape, generator):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def plain_sinkhorn(scores, tau, iterations):
    """The textbook loop: normalise rows and columns in turn, in logarithms."""
    log_p = scores / tau
    for _ in range(iterations):
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        log_p = log_p - log_p.logsumexp(-2, keepdim=True)
    return log_p.exp()


def by_cone_program(scores, tau):
    """Problem (1) for a = b = 1 as max ⟨S, P⟩ + τ Σ t over t_ij ≤ −P_ij log P_ij, that is (t_ij, P_ij, 1) ∈ K_exp."""
    n = scores.shape[-1]
    rows = torch.eye(n, dtype=DOUBLE).repeat_interleave(n, 1)
    columns = torch.eye(n, dtype=DOUBLE).repeat(1, n)[:-1]  # the last one follows from the others
    sums = torch.cat([rows, columns])
    A = torch.zeros(2 * n - 1 + 3 * n * n, 2 * n * n, dtype=DOUBLE)  # variables (P, t)
    b = torch.zeros(len(A), dtype=DOUBLE)
    A[: 2 * n - 1, : n * n] = sums
    b[: 2 * n - 1] = 1
    for i in range(n * n):
        row = 2 * n - 1 + 3 * i
        A[row, n * n + i] = -1
        A[row + 1, i] = -1
        b[row + 2] = 1
    c = torch.cat([-scores.reshape(-1), -tau * torch.ones(n * n, dtype=DOUBLE)])
    return solve_cone(c, A, b, Cones(zero=2 * n - 1, exp=n * n)).x[: n * n].reshape(n, n)


class TestAgainstOthers:
    @pytest.mark.parametrize("tau", [1.0, 0.2])
    def test_value_and_jacobian_are_those_of_the_cone_program(self, tau, generator):
        S = randn(3, 3, generator=generator)
        torch.testing.assert_close(sinkhorn_operator(S, tau), by_cone_program(S, tau), rtol=0, atol=1e-8)
        jacobian = torch.autograd.functional.jacobian
        ours = jacobian(lambda S: sinkhorn_operator(S, tau), S)
        torch.testing.assert_close(ours, jacobian(lambda S: by_cone_program(S, tau), S), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
    def test_clarabel_finds_the_same_with_given_marginals(self, shape, generator):
        S = randn(*shape, generator=generator)
        a = torch.rand(shape[0], dtype=DOUBLE, generator=generator) + 0.2
        b = torch.rand(shape[1], dtype=DOUBLE, generator=generator) + 0.2
        b = b * a.sum() / b.sum()
        P = cp.Variable(shape)
        objective = cp.Maximize(cp.sum(cp.multiply(S.numpy(), P)) + 0.5 * cp.sum(cp.entr(P)))
        cp.Problem(objective, [cp.sum(P, 1) == a.numpy(), cp.sum(P, 0) == b.numpy()]).solve(**CLARABEL)
        np.testing.assert_allclose(sinkhorn_operator(S, 0.5, rows=a, columns=b).numpy(), P.value, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # Clarabel's, where slacks are zero
    @pytest.mark.parametrize("mass", [1.0, 2.9, 3.0])
    def test_clarabel_finds_the_same_partial_assignment(self, mass, generator):
        S = randn(3, 4, generator=generator)
        P = cp.Variable((3, 4))
        entropy = cp.sum(cp.entr(P)) + cp.sum(cp.entr(1 - cp.sum(P, 1))) + cp.sum(cp.entr(1 - cp.sum(P, 0)))
        problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(S.numpy(), P)) + 0.5 * entropy), [cp.sum(P) == mass])
        problem.solve(**CLARABEL)
        ours = sinkhorn_operator(S, 0.5, mass=mass)
        np.testing.assert_allclose(ours.numpy(), P.value, atol=1e-4)
        assert abs(ours.sum().item() - mass) < 1e-10
        assert ours.sum(-1).max() < 1 + 1e-10 and ours.sum(-2).max() < 1 + 1e-10

    @pytest.mark.parametrize("tau", [1.0, 0.3])
    def test_plain_iterations_and_their_gradient_tend_to_it(self, tau, generator):
        S, weight = randn(2, 5, 5, generator=generator), randn(5, 5, generator=generator)
        S.requires_grad_()
        ours, plain = sinkhorn_operator(S, tau), plain_sinkhorn(S, tau, 2000)
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
        gradients = (torch.autograd.grad((weight * P).sum(), S)[0] for P in (ours, plain))
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-8)

    def test_two_by_two_is_a_sigmoid(self):
        """P_11 = σ((S_11 + S_22 − S_12 − S_21) / 2τ), with its first and second derivatives at any temperature."""
        for tau, gap in itertools.product([1.0, 0.1, 1e-2, 1e-3], [0.0, 0.3, 8.0]):
            S = torch.zeros(2, 2, dtype=DOUBLE)
            S[0, 0] = gap * tau
            S.requires_grad_()
            t = torch.tensor(tau, dtype=DOUBLE, requires_grad=True)
            P = sinkhorn_operator(S, t)[0, 0]
            exact = torch.sigmoid((S[0, 0] + S[1, 1] - S[0, 1] - S[1, 0]) / (2 * t))
            torch.testing.assert_close(P, exact, rtol=1e-9, atol=0)
            first = [torch.autograd.grad(p, (S, t), create_graph=True) for p in (P, exact)]
            second = [torch.autograd.grad((g.square().sum() + h), (S, t), retain_graph=True) for g, h in first]
            for ours, theirs in (*zip(*first, strict=True), *zip(*second, strict=True)):
                torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 / tau)


class TestMarginals:
    @pytest.mark.parametrize("tau", [1.0, 0.1, 1e-2, 1e-3])
    @pytest.mark.parametrize("shape", [(20, 20), (30, 12), (12, 30), (1, 4), (4, 1), (1, 1)])
    def test_reach_their_tolerance_at_every_temperature(self, shape, tau, device, generator):
        n, m = shape
        S = randn(8, n, m, generator=generator).to(device)
        solution = solve_assignment(S, tau)
        assert solution.converged.all() and (solution.iterations < 100).all()
        torch.testing.assert_close(solution.P.sum(-1), torch.ones_like(S[..., 0]), rtol=0, atol=1e-9)
        torch.testing.assert_close(solution.P.sum(-2), torch.full_like(S[:, 0], n / m), rtol=1e-9, atol=0)
        f, g = solution.row_potential, solution.column_potential
        from_potentials = n / m * ((S + f.unsqueeze(-1) + g.unsqueeze(-2)) / tau).exp()
        torch.testing.assert_close(from_potentials, solution.P, rtol=1e-6, atol=1e-12)

    @pytest.mark.parametrize(
        "scores",
        [
            pytest.param(lambda g: torch.randint(0, 3, (8, 15, 15), generator=g).double(), id="ties"),
            pytest.param(lambda g: 10 * randn(8, 15, 15, generator=g) ** 3, id="heavy tails"),
            pytest.param(lambda g: randn(8, 15, 1, generator=g) * torch.arange(15), id="rank one"),
            pytest.param(lambda g: torch.zeros(8, 15, 15, dtype=DOUBLE), id="zero"),
            pytest.param(
                lambda g: 1e3 * randn(8, 15, 1, generator=g) + randn(8, 15, 15, generator=g), id="row offsets"
            ),
            pytest.param(lambda g: 1e3 * randn(8, 1, 15, generator=g) + randn(8, 15, 15, generator=g), id="offsets"),
        ],
    )
    def test_hard_scores_at_low_temperature(self, scores, generator):
        solution = solve_assignment(scores(generator), 1e-3)
        assert (solution.iterations < 100).all()
        assert (solution.P.sum(-1) - 1).abs().max() < 1e-8 and (solution.P.sum(-2) - 1).abs().max() < 1e-8

    @pytest.mark.parametrize("spread", [1.0, 10.0, 29.0, 31.0])
    def test_hot_problems_take_few_newton_steps(self, spread, generator):
        """None where plain iterations suffice, and not many more where they do not: they are a start at least."""
        S = torch.rand(8, 41, 40, dtype=DOUBLE, generator=generator)
        S = (S - S.amin((1, 2), keepdim=True)) / (S.amax((1, 2), keepdim=True) - S.amin((1, 2), keepdim=True))
        solution = solve_assignment(spread * S)
        assert solution.iterations.max() == 0 if spread <= 10 else (solution.iterations < 20).all()
        torch.testing.assert_close(solution.P, plain_sinkhorn(spread * S, 1.0, 300) * 41 / 40, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("scale, tau", [(1.0, 1e-3), (1e4, 1e-2)])
    def test_one_row_more_than_columns(self, scale, tau, generator):
        """Every row then has a part of every optimal chain of pairs, and the weights range from 1 to 1/m."""
        solution = solve_assignment(scale * randn(8, 41, 40, generator=generator), tau)
        assert (solution.iterations < 150).all()
        assert (solution.P.sum(-1) - 1).abs().max() < 1e-8
        assert (solution.P.sum(-2) - 41 / 40).abs().max() < 1e-8

    def test_uneven_weights_and_zeros(self, generator):
        S = randn(6, 5, generator=generator)
        a = torch.tensor([0.0, 1e-6, 0.1, 0.4, 0.0, 0.499999], dtype=DOUBLE)
        b = torch.tensor([0.0, 0.2, 1e-9, 0.3, 0.499999999], dtype=DOUBLE)
        P = sinkhorn_operator(S, 0.1, rows=a, columns=b)
        torch.testing.assert_close(P.sum(-1), a, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(P.sum(-2), b, rtol=1e-8, atol=1e-12)
        assert (P[0] == 0).all() and (P[:, 0] == 0).all()

    def test_a_weight_of_zero_has_its_one_sided_derivative(self, generator):
        S = randn(4, 3, generator=generator)
        a = torch.tensor([0.0, 0.3, 0.4, 0.3], dtype=DOUBLE, requires_grad=True)
        b = torch.tensor([0.5, 0.0, 0.5], dtype=DOUBLE, requires_grad=True)
        P = sinkhorn_operator(S, 0.3, rows=a, columns=b)
        gradients = torch.autograd.grad((P * S).sum(), (a, b))
        to_the_zero = torch.tensor([1.0, 0, 0, -1], dtype=DOUBLE), torch.tensor([0.0, 1, -1], dtype=DOUBLE)
        for i, direction in enumerate(to_the_zero):
            step = 1e-6 * direction
            moved = sinkhorn_operator(S, 0.3, rows=a + step if i == 0 else a, columns=b + step if i == 1 else b)
            slope = ((moved - P) * S).sum() / 1e-6
            torch.testing.assert_close(gradients[i] @ direction, slope, rtol=1e-4, atol=0, check_dtype=False)


class TestLimits:
    def test_cold_is_the_best_permutation_and_hot_is_uniform(self, generator):
        S = randn(16, 10, 10, generator=generator)
        best = match(S)
        values = torch.stack([(best * S).sum((-1, -2)), (sinkhorn_operator(S, 1e-3) * S).sum((-1, -2))])
        assert (values[0] - values[1] < 1e-3 * 10 * np.log(10) + 1e-9).all()  # the entropy is at most n log n
        assert (values[0] - values[1] > -1e-9).all()
        torch.testing.assert_close(sinkhorn_operator(S, 1e-4)[:4], best[:4], rtol=0, atol=1e-3)
        torch.testing.assert_close(sinkhorn_operator(S, 1e9), torch.full_like(S, 0.1), rtol=0, atol=1e-8)

    def test_equally_good_permutations_are_mixed(self):
        S = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=DOUBLE)
        expected = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]], dtype=DOUBLE)
        torch.testing.assert_close(sinkhorn_operator(S, 1e-3), expected, rtol=0, atol=1e-10)

    def test_sorting_by_permutation(self, generator):
        x = randn(12, generator=generator)
        P = sinkhorn_operator(x * torch.arange(12, dtype=DOUBLE).unsqueeze(-1), 1e-4)
        torch.testing.assert_close(P @ x, x.sort().values, rtol=0, atol=1e-6)


class TestInvariances:
    def test_permuted_scores_give_the_permuted_matrix(self, generator):
        S = randn(5, 7, generator=generator)
        rows, columns = torch.randperm(5, generator=generator), torch.randperm(7, generator=generator)
        permuted = sinkhorn_operator(S[rows][:, columns], 0.1)
        torch.testing.assert_close(permuted, sinkhorn_operator(S, 0.1)[rows][:, columns], rtol=0, atol=1e-9)

    def test_offsets_of_rows_and_columns_do_not_matter_and_scores_scale_with_temperature(self, generator):
        S = randn(6, 6, generator=generator)
        P = sinkhorn_operator(S, 0.1)
        shifted = S + 3 * randn(6, 1, generator=generator) + randn(1, 6, generator=generator)
        torch.testing.assert_close(sinkhorn_operator(shifted, 0.1), P, rtol=0, atol=1e-9)
        torch.testing.assert_close(sinkhorn_operator(50 * S, 5.0), P, rtol=0, atol=1e-9)

    def test_transposed(self, generator):
        S = randn(4, 6, generator=generator)
        P = sinkhorn_operator(S.mT, 0.1, rows=4 / 6, columns=1.0)
        torch.testing.assert_close(P.mT, sinkhorn_operator(S, 0.1), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3), (2, 0, 3)])
    def test_batches_of_any_shape(self, batch, dtype, device, generator):
        S = torch.randn(*batch, 4, 5, dtype=dtype, generator=generator).to(device)
        solution = solve_assignment(S, 0.3)
        assert solution.P.shape == S.shape and solution.P.dtype == dtype and solution.P.device == S.device
        assert solution.converged.shape == batch and solution.residual.dtype == dtype
        assert solution.row_potential.shape == (*batch, 4) and solution.column_potential.shape == (*batch, 5)
        for one, row in zip(S.reshape(-1, 4, 5), solution.P.reshape(-1, 4, 5), strict=True):
            torch.testing.assert_close(sinkhorn_operator(one, 0.3), row, rtol=0, atol=1e-6)

    def test_temperatures_and_marginals_broadcast(self, generator):
        S, tau = randn(3, 4, generator=generator), torch.tensor([[0.1], [1.0]], dtype=DOUBLE)
        rows = torch.tensor([[1.0, 1, 1], [1, 2, 3]], dtype=DOUBLE)
        P = sinkhorn_operator(S, tau, rows=rows)
        assert P.shape == (2, 2, 3, 4)
        for i, j in itertools.product(range(2), range(2)):
            one = sinkhorn_operator(S, tau[i, 0].item(), rows=rows[j])
            torch.testing.assert_close(P[i, j], one, rtol=0, atol=1e-9)


class TestDerivatives:
    @pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (1, 3)])
    def test_first_and_second_of_scores_and_temperature(self, shape, generator):
        S = randn(2, *shape, generator=generator).requires_grad_()
        tau = torch.tensor([0.5, 0.2], dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(sinkhorn_operator, (S, tau))
        assert torch.autograd.gradgradcheck(sinkhorn_operator, (S, tau))

    @pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
    def test_first_and_second_of_marginals(self, shape, generator):
        S = randn(2, *shape, generator=generator).requires_grad_()
        a = (torch.rand(shape[0], dtype=DOUBLE, generator=generator) + 0.3).requires_grad_()
        b = torch.rand(2, shape[1], dtype=DOUBLE, generator=generator) + 0.3
        b = (b * a.detach().sum() / b.sum(-1, keepdim=True)).requires_grad_()

        def layer(S, a, b):
            return sinkhorn_operator(S, 0.5, rows=a, columns=b)

        assert torch.autograd.gradcheck(layer, (S, a, b))
        assert torch.autograd.gradgradcheck(layer, (S, a, b))

    def test_first_and_second_of_partial_assignments(self, generator):
        S = randn(2, 3, 2, generator=generator).requires_grad_()
        a = (torch.rand(3, dtype=DOUBLE, generator=generator) + 0.5).requires_grad_()
        b = (torch.rand(2, 2, dtype=DOUBLE, generator=generator) + 0.5).requires_grad_()
        mass = torch.tensor([0.4, 0.8], dtype=DOUBLE, requires_grad=True)

        def layer(S, a, b, mass):
            return sinkhorn_operator(S, 0.5, rows=a, columns=b, mass=mass)

        assert torch.autograd.gradcheck(layer, (S, a, b, mass))
        assert torch.autograd.gradgradcheck(layer, (S, a, b, mass))

    def test_full_mass_has_the_derivative_of_the_feasible_side(self, generator):
        S = randn(3, 5, generator=generator).requires_grad_()
        assert torch.autograd.gradcheck(lambda S: sinkhorn_operator(S, 0.5, mass=3.0), S)
        mass = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
        P = sinkhorn_operator(S.detach(), 0.5, mass=mass)
        (gradient,) = torch.autograd.grad((P * S.detach()).sum(), mass)
        less = sinkhorn_operator(S.detach(), 0.5, mass=3 - 1e-5)
        slope = ((P.detach() - less) * S.detach()).sum() / 1e-5
        torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=0)

    @pytest.mark.parametrize("tau", [0.05, 1e-2, 1e-3])
    def test_finite_differences_at_low_temperature(self, tau, generator):
        # Scores close enough to each other for entries between 0 and 1, and one block that is far from the rest.
        S = 3 * tau * randn(6, 6, generator=generator)
        S[:3, 3:] -= 1
        S[3:, :3] -= 1
        S.requires_grad_()
        weight, direction = randn(6, 6, generator=generator), randn(6, 6, generator=generator)
        (gradient,) = torch.autograd.grad((weight * sinkhorn_operator(S, tau)).sum(), S)
        step = 1e-5 * tau
        plus, minus = (sinkhorn_operator(S.detach() + e * direction, tau) for e in (step, -step))
        slope = (weight * (plus - minus)).sum() / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6 / tau)

    def test_a_matrix_that_is_a_permutation_to_working_precision_has_derivative_zero(self):
        S = torch.eye(5, dtype=DOUBLE).requires_grad_()
        tau = torch.tensor(1e-3, dtype=DOUBLE, requires_grad=True)
        P = sinkhorn_operator(S, tau)
        torch.testing.assert_close(P, torch.eye(5, dtype=DOUBLE), rtol=0, atol=1e-12)
        of_scores, of_tau = torch.autograd.grad((P * torch.arange(25.0).reshape(5, 5)).sum(), (S, tau))
        assert of_scores.abs().max() < 1e-12 * 24 / 1e-3  # relative to what entries between 0 and 1 would have
        assert of_tau.abs() < 1e-12 * 24 / 1e-3**2

    def test_vmap_and_jacobians(self, generator):
        S = randn(3, 4, 3, generator=generator)
        tau = torch.tensor([0.3, 0.5, 1.0], dtype=DOUBLE)
        vmap, jacrev, jacfwd = torch.func.vmap, torch.func.jacrev, torch.func.jacfwd
        torch.testing.assert_close(vmap(sinkhorn_operator)(S, tau), sinkhorn_operator(S, tau), rtol=0, atol=1e-9)
        torch.testing.assert_close(vmap(match)(S), match(S))
        J = vmap(jacrev(sinkhorn_operator, argnums=(0, 1)))(S, tau)
        torch.testing.assert_close(vmap(jacfwd(sinkhorn_operator, argnums=(0, 1)))(S, tau), J)
        whole = torch.autograd.functional.jacobian(lambda S: sinkhorn_operator(S, tau), S)
        torch.testing.assert_close(J[0], torch.stack([whole[i, :, :, i] for i in range(3)]), rtol=0, atol=1e-9)
        H = torch.func.hessian(lambda S: sinkhorn_operator(S, 0.5).square().sum())(S[0])
        torch.testing.assert_close(H.reshape(12, 12), H.reshape(12, 12).mT, rtol=0, atol=1e-9)

    def test_memory_does_not_grow_with_iterations(self, generator):
        S = randn(16, 20, 20, generator=generator).requires_grad_()

        def ours(tau):
            return torch.autograd.grad(sinkhorn_operator(S, tau).square().sum(), S)

        def unrolled():
            return torch.autograd.grad(plain_sinkhorn(S, 0.1, 200).square().sum(), S)

        assert peak_memory(lambda: ours(1e-2)) < 1.2 * peak_memory(lambda: ours(1.0))
        assert peak_memory(lambda: ours(0.1)) < 0.1 * peak_memory(unrolled)


class TestPrecision:
    @pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3])
    def test_float32_at_ten_thousand(self, tau, device, generator):
        S = (1e4 * (2 * torch.rand(4, 8, 8, generator=generator) - 1)).to(device).requires_grad_()
        P = sinkhorn_operator(S, tau)
        assert P.dtype == torch.float32
        exact = sinkhorn_operator(S.detach().double(), tau)
        torch.testing.assert_close(P.double(), exact, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(P.square().sum(), S)
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("tau", [1e-6, 1e-9, 1e-12, 1e-16])
    def test_marginals_hold_and_the_best_permutation_is_found_however_cold(self, tau, device, generator):
        S = randn(8, 7, 7, generator=generator).to(device)
        solution = solve_assignment(S, tau)
        for sums in (solution.P.sum(-1), solution.P.sum(-2)):
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-9)
        torch.testing.assert_close(solution.P, match(S), rtol=0, atol=1e-3)
        partial = sinkhorn_operator(S, tau, mass=3.0)
        torch.testing.assert_close(partial.sum((-1, -2)), torch.full_like(S[:, 0, 0], 3), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("tau", [1e-3, 2.0**-20, 2.0**-30])
    def test_small_differences_of_large_scores(self, tau):
        """P_11 of a 2 × 2 matrix is a sigmoid of a difference that the four scores still know exactly."""
        S = 1e4 + torch.tensor([[3.0, 1.0], [-2.0, 5.0]], dtype=DOUBLE)
        S[0, 0] = S[0, 1] + S[1, 0] - S[1, 1] + 2.0**-20
        P = sinkhorn_operator(S, tau)
        exact = torch.sigmoid(torch.tensor(2.0**-20 / (2 * tau), dtype=DOUBLE))
        rounding = 1e4 * torch.finfo(DOUBLE).eps / tau  # of one score, in units of the temperature
        torch.testing.assert_close(P[0, 0], exact, rtol=0, atol=1e-9 + rounding)
        torch.testing.assert_close(P.sum(-1), torch.ones(2, dtype=DOUBLE), rtol=0, atol=1e-9)

    def test_tiny_scores(self, generator):
        S = 1e-30 * randn(3, 3, generator=generator)
        torch.testing.assert_close(sinkhorn_operator(S, 1e-30), sinkhorn_operator(1e30 * S), rtol=0, atol=1e-9)


class TestWarmStart:
    @pytest.mark.parametrize("options", [{}, {"mass": 4.0}])
    @pytest.mark.parametrize("tau", [1.0, 1e-2, 1e-3])
    def test_at_the_solution_takes_at_most_one_iteration(self, tau, options, dtype, generator):
        for shape in ((5, 6, 5), (5, 5, 6)):
            S = torch.randn(shape, dtype=dtype, generator=generator)
            solution = solve_assignment(S, tau, **options)
            again = solve_assignment(S, tau, init=solution, **options)
            assert (again.iterations <= 1).all()
            torch.testing.assert_close(again.P, solution.P, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-9)

    def test_near_the_solution_saves_iterations_and_far_from_it_does_no_harm(self, generator):
        S = randn(8, 10, 10, generator=generator)
        solution = solve_assignment(S, 0.01)
        near = S + 1e-4 * randn(8, 10, 10, generator=generator)
        assert (solve_assignment(near, 0.01, init=solution).iterations < solution.iterations / 2).all()
        far = randn(8, 10, 10, generator=generator)
        P = sinkhorn_operator(far, 0.01, init=solution)
        torch.testing.assert_close(P, sinkhorn_operator(far, 0.01), rtol=0, atol=1e-8)

    def test_from_potentials_a_thousand_times_as_large_as_the_temperature(self, generator):
        far = solve_assignment(1e4 * randn(8, 10, 10, generator=generator), 10.0)
        S = randn(8, 10, 10, generator=generator)
        assert far.column_potential.abs().max() > 1e3
        torch.testing.assert_close(sinkhorn_operator(S, init=far), sinkhorn_operator(S), rtol=0, atol=1e-9)

    def test_of_another_shape_is_refused(self):
        solution = solve_assignment(torch.zeros(3, 3))
        with pytest.raises(ValueError, match="init must be the solution of a problem of this shape"):
            solve_assignment(torch.zeros(4, 4), init=solution)


class TestFailures:
    def test_too_few_iterations_raise_and_name_the_elements(self, generator):
        S = randn(3, 5, 5, generator=generator)
        S[1] = 0
        with pytest.raises(SolverError, match="marginals are off by .* after 2 iterations") as caught:
            sinkhorn_operator(S, 0.01, max_iterations=2)
        assert caught.value.indices == [(0,), (2,)]

    def test_marked_as_nan_with_their_gradients(self, generator):
        S = randn(3, 5, 5, generator=generator)
        S[1] = 0
        S.requires_grad_()
        P = sinkhorn_operator(S, 0.01, max_iterations=2, on_failure="nan")
        (gradient,) = torch.autograd.grad(P.sum(), S)
        for marked in (P, gradient):
            assert marked[[0, 2]].isnan().all() and marked[1].isfinite().all()


class TestGumbelSinkhorn:
    def test_same_seed_same_samples_in_a_leading_dimension(self, dtype, device, generator):
        S = torch.randn(2, 4, 4, dtype=dtype, generator=generator).to(device)

        def draw(seed):
            return gumbel_sinkhorn(S, 0.5, samples=3, generator=torch.Generator().manual_seed(seed))

        samples = draw(0)
        assert samples.shape == (3, 2, 4, 4) and samples.dtype == dtype
        assert torch.equal(samples, draw(0)) and not torch.equal(samples, draw(1))
        torch.testing.assert_close(samples.sum(-1), torch.ones_like(samples[..., 0]))

    def test_each_element_of_a_vmapped_batch_has_its_own_noise(self):
        S = torch.zeros(2, 3, 3)
        samples = torch.func.vmap(lambda S: gumbel_sinkhorn(S, samples=4), randomness="different")(S)
        assert samples.shape == (2, 4, 3, 3) and not torch.equal(samples[0], samples[1])
        torch.testing.assert_close(samples.sum(-1), torch.ones(2, 4, 3))

    def test_without_noise_it_is_the_sinkhorn_operator(self, generator):
        S = randn(4, 4, generator=generator)
        samples = gumbel_sinkhorn(S, 0.5, samples=2, generator=generator, noise=0.0)
        torch.testing.assert_close(samples, sinkhorn_operator(S, 0.5).expand(2, 4, 4))

    def test_noise_is_gumbel(self, generator):
        """For 1 × m scores the cold sample picks column j with probability softmax(S)_j, the Gumbel-max trick."""
        S = torch.tensor([[0.0, 1.0, 2.0]], dtype=DOUBLE)
        samples = gumbel_sinkhorn(S, 0.5, samples=20000, generator=generator, rows=1.0, columns=1.0, mass=1.0)
        frequency = torch.nn.functional.one_hot(samples[:, 0].argmax(-1), 3).double().mean(0)
        torch.testing.assert_close(frequency, S[0].softmax(-1), rtol=0, atol=0.015)  # four standard deviations

    def test_gradient_holds_the_noise(self, generator):
        S = randn(2, 3, 3, generator=generator).requires_grad_()
        tau = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
        noise = torch.tensor([0.5, 1.0], dtype=DOUBLE, requires_grad=True)

        def layer(S, tau, noise):
            return gumbel_sinkhorn(S, tau, 2, torch.Generator().manual_seed(0), noise=noise)

        assert torch.autograd.gradcheck(layer, (S, tau, noise))

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
            gumbel_sinkhorn(torch.zeros(2, 2), samples=0)
        with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
            gumbel_sinkhorn(torch.zeros(2, 2), noise=-1.0)


class TestMatch:
    @pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 1)])
    def test_no_other_assignment_is_better(self, shape, dtype, generator):
        S = torch.randn(2, *shape, dtype=dtype, generator=generator)
        P = match(S)
        assert P.dtype == dtype and ((P == 0) | (P == 1)).all()
        assert P.sum(-1).max() == 1 and P.sum(-2).max() == 1 and (P.sum((-1, -2)) == min(shape)).all()
        tall = S if shape[0] >= shape[1] else S.mT
        n, m = tall.shape[-2:]
        choices = torch.tensor(list(itertools.permutations(range(n), m)))
        values = tall[:, choices, torch.arange(m)].sum(-1)
        torch.testing.assert_close((P * S).sum((-1, -2)), values.amax(-1))

    @pytest.mark.parametrize("batch", [(), (0,), (2, 0), (2, 3)])
    def test_ties_and_batches_of_any_shape(self, batch):
        P = match(torch.ones(*batch, 3, 2))
        assert P.shape == (*batch, 3, 2)
        assert (P.sum(-2) == 1).all() and (P.sum((-1, -2)) == 2).all()

    def test_carries_no_gradient(self):
        assert not match(torch.rand(2, 3, 3, requires_grad=True)).requires_grad


class TestBadInput:
    def test_values_that_only_the_solver_sees_under_vmap(self):
        S, vmap = torch.zeros(2, 3, 3), torch.func.vmap
        with pytest.raises(ValueError, match="tau must be positive"):
            vmap(sinkhorn_operator)(S, torch.tensor([1.0, -1.0]))
        with pytest.raises(ValueError, match="scores must be finite"):
            vmap(sinkhorn_operator)(S + torch.tensor([0.0, float("nan")])[:, None, None])
        with pytest.raises(ValueError, match="rows and columns must be at least 0"):
            vmap(lambda S, a: sinkhorn_operator(S, rows=a))(S, torch.tensor([[1.0, 1, 1], [1, -1, 1]]))
        with pytest.raises(ValueError, match="mass at most the total"):
            vmap(lambda S, mass: sinkhorn_operator(S, mass=mass))(S, torch.tensor([1.0, 3.5]))

    def test_scores_as_large_as_forbidden_ones(self):
        with pytest.raises(ValueError, match=r"less than 1e\+90"):
            sinkhorn_operator(torch.full((2, 2), 1e99, dtype=DOUBLE), mass=1.0)

    @pytest.mark.parametrize("layer", [sinkhorn_operator, gumbel_sinkhorn, match])
    def test_scores(self, layer):
        with pytest.raises(ValueError, match="scores must be finite, got 1 NaN"):
            layer(torch.tensor([[1.0, float("nan")], [0, 0]]))
        with pytest.raises(ValueError, match="scores must be float32 or float64, got torch.int64"):
            layer(torch.ones(2, 2, dtype=torch.int64))
        for shape in ((3,), (3, 0), (0, 3)):
            with pytest.raises(ValueError, match=r"scores must have shape \(\*batch, n, m\)"):
                layer(torch.zeros(shape))

    @pytest.mark.parametrize("tau", [0.0, -1.0, float("inf"), torch.tensor([1.0, 0.0]), torch.tensor(1, dtype=DOUBLE)])
    def test_temperature(self, tau):
        with pytest.raises(ValueError, match="tau must"):
            sinkhorn_operator(torch.zeros(2, 2, 2), tau)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"rows": torch.ones(3)}, r"rows must be a number or have shape \(\*batch, 2\), got \(3,\)"),
            ({"rows": torch.tensor([1.0, -1.0])}, "rows must be at least 0"),
            ({"columns": 0.0}, "columns must be at least 0 and not all 0"),
            ({"columns": float("nan")}, "columns must be finite"),
            ({"columns": 2.0}, "rows and columns must have the same total"),
            ({"mass": 0.0}, "mass must be positive"),
            ({"mass": 2.5}, "mass must be at most the total"),
            ({"on_failure": "ignore"}, "on_failure must be one of"),
            ({"max_iterations": -1}, "max_iterations must be at least 0"),
            ({"tau": torch.ones(3)}, "the batch dimensions must broadcast against each other, got scores"),
        ],
    )
    def test_the_message_names_the_argument(self, options, message):
        with pytest.raises(ValueError, match=message):
            sinkhorn_operator(torch.zeros(4, 2, 2), **options)
