"""Linear-quadratic MPC: Clarabel's solutions and duals, KKT conditions to 1e-8, exact derivatives, bounds included."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from diffopt_lib import SolverError
from diffopt_lib.controllers import lqr, mpc
from diffopt_lib.layers import solve_qp

DOUBLE = torch.float64


def random_problem(batch, T, n, m, seed=0, dtype=DOUBLE):
    """x_init, C, c, F, f with C ≻ 0; controls of size about 1."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, dtype=DOUBLE, generator=g)

    X = normal(T, n + m, n + m)
    C = X @ X.mT / (n + m) + 0.5 * torch.eye(n + m, dtype=DOUBLE)
    A = torch.eye(n, dtype=DOUBLE) + 0.2 * normal(T - 1, n, n)
    F = torch.cat([A, normal(T - 1, n, m)], dim=-1)
    return tuple(t.to(dtype) for t in (normal(n), C, normal(T, n + m), F, 0.3 * normal(T - 1, n)))


def unstable_system(batch, bound, T=21):
    """The problem of the public code: A = I + .2 N(0, 1), 8 states, 4 controls, spectral radius 1.54."""
    rng = np.random.RandomState(42)
    A, B = np.eye(8) + 0.2 * rng.randn(8, 8), rng.randn(8, 4)
    F = torch.from_numpy(np.concatenate([A, B], 1))
    x_init = torch.from_numpy(rng.randn(batch, 8))
    C, c = torch.eye(12, dtype=DOUBLE), torch.zeros(12, dtype=DOUBLE)
    return x_init, C, c, F, dict(horizon=T, u_lower=-bound, u_upper=bound)


def clarabel(x_init, C, c, F, f, lower, upper):
    x_init, C, c, F, f = (t.numpy() for t in (x_init, C, c, F, f))
    T, k, n = *c.shape, len(x_init)
    x, u = cp.Variable((T, n)), cp.Variable((T, k - n))
    taus = [cp.hstack([x[t], u[t]]) for t in range(T)]
    objective = sum(0.5 * cp.quad_form(taus[t], cp.psd_wrap((C[t] + C[t].T) / 2)) + c[t] @ taus[t] for t in range(T))
    low, high = u >= lower, u <= upper
    motion = [x[0] == x_init] + [x[t + 1] == F[t] @ taus[t] + f[t] for t in range(T - 1)]
    problem = cp.Problem(cp.Minimize(objective), [*motion, low, high])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return x.value, u.value, problem.value, low.dual_value, high.dual_value


def relative_kkt_violation(solution, x_init, C, c, F, f, lower, upper):
    """The largest violation of the optimality conditions, from the arguments alone, relative to the largest costate."""
    x, u, costate = solution.x, solution.u, solution.costate
    tau = torch.cat([x, u], -1)
    n = x.shape[-1]
    stationarity = torch.einsum("...ij,...tj->...ti", C, tau) + c
    stationarity[..., :-1, :] += torch.einsum("...ij,...ti->...tj", F, costate[..., 1:, :])
    stationarity[..., :n] -= costate
    stationarity[..., n:] += solution.upper_dual - solution.lower_dual
    motion = torch.einsum("...ij,...tj->...ti", F, tau[..., :-1, :]) + f - x[..., 1:, :]
    parts = [stationarity, motion, x[..., 0, :] - x_init, (lower - u).clamp_min(0), (u - upper).clamp_min(0)]
    parts += [(-solution.lower_dual).clamp_min(0), (-solution.upper_dual).clamp_min(0)]
    parts += [solution.lower_dual * (u - lower), solution.upper_dual * (upper - u)]
    worst = torch.stack([p.abs().flatten(1).amax(1) for p in parts]).amax(0)
    return worst / costate.abs().flatten(1).amax(1)


@pytest.mark.parametrize(("T", "n", "m", "bound"), [(5, 2, 1, 0.3), (12, 4, 2, 0.5), (8, 3, 3, 0.1), (1, 2, 2, 0.2)])
def test_states_controls_value_and_duals_equal_clarabels(T, n, m, bound):
    data = random_problem((3,), T, n, m)
    x_init, C, c, F, f = data
    solution = mpc(x_init, (C, c), (F, f), T, u_lower=-bound, u_upper=2 * bound)
    at_bound = (solution.lower_dual > 0) | (solution.upper_dual > 0)
    assert at_bound.any()
    for i in range(3):
        x, u, value, low, high = clarabel(*(t[i] for t in data), -bound, 2 * bound)
        np.testing.assert_allclose(solution.x[i], x, atol=1e-6)
        np.testing.assert_allclose(solution.u[i], u, atol=1e-6)
        np.testing.assert_allclose(solution.cost[i], value, rtol=1e-8)
        np.testing.assert_allclose(solution.lower_dual[i], low, atol=1e-5)
        np.testing.assert_allclose(solution.upper_dual[i], high, atol=1e-5)


@pytest.mark.parametrize("cheap", [[4, 5], [5]])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_controls_without_curvature_are_found_where_their_bounds_hold_them(cheap, scale):
    """Bang-bang control: the minimum is unique, though no control block of the recursion is positive definite."""
    x_init, C, c, F, f = random_problem((3,), 5, 4, 2)
    C = C.clone()
    C[..., cheap, :], C[..., :, cheap] = 0, 0
    solution = mpc(x_init, (scale * C, scale * c), (F, f), 5, u_lower=-1.0, u_upper=2.0)
    for i in range(3):
        _, u, value, _, _ = clarabel(*(t[i] for t in (x_init, C, c, F, f)), -1.0, 2.0)
        np.testing.assert_allclose(solution.u[i], u, atol=1e-5)
        np.testing.assert_allclose(solution.cost[i] / scale, value, rtol=1e-7)
    assert (solution.u[..., -1, cheap[-1] - 4].abs() >= 1).all()
    with pytest.raises(SolverError, match="no unique minimum"):
        mpc(x_init, (C, c), (F, f), 5, u_lower=-1.0)


@pytest.mark.parametrize("bound", [1.0, 0.2, 5.0])
def test_a_tightly_bounded_unstable_system_is_solved_to_1e_8(bound, device):
    x_init, C, c, F, options = unstable_system(32, bound)
    x_init, C, c, F = (t.to(device) for t in (x_init, C, c, F))
    solution = mpc(x_init, (C, c), F, **options)
    assert solution.converged.all()
    assert relative_kkt_violation(solution, x_init, C, c, F, 0, -bound, bound).max() <= 1e-8


def test_the_value_on_the_unstable_system_is_clarabels():
    x_init, C, c, F, options = unstable_system(32, 1.0)
    solution = mpc(x_init, (C, c), F, **options)
    for i in (0, 7):
        data = (
            x_init[i],
            C.expand(21, 12, 12),
            c.expand(21, 12),
            F.expand(20, 8, 12),
            torch.zeros(20, 8, dtype=DOUBLE),
        )
        _, _, value, _, _ = clarabel(*data, -1.0, 1.0)
        assert solution.cost[i].item() == pytest.approx(value, rel=1e-7)


def test_without_bounds_it_is_the_linear_quadratic_regulator():
    x_init, C, c, F, f = random_problem((4,), 7, 3, 2, seed=1)
    ours, regulator = mpc(x_init, (C, c), (F, f), 7), lqr(x_init, C, c, F, f)
    for name in ("x", "u", "cost", "costate"):
        torch.testing.assert_close(getattr(ours, name), getattr(regulator, name))
    infinite = mpc(x_init, (C, c), (F, f), 7, u_lower=-torch.inf, u_upper=1e20)
    torch.testing.assert_close(infinite.u, regulator.u)


def test_first_and_second_derivatives_with_active_bounds_also_in_the_bounds():
    x_init, C, c, F, f = random_problem((2,), 4, 2, 2, seed=2)
    lower = torch.full((2,), -0.4, dtype=DOUBLE)
    upper = 0.5 + 0.1 * torch.rand(2, 4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    data = [t.requires_grad_() for t in (x_init, C, c, F, f, lower, upper)]

    def outputs(x_init, C, c, F, f, lower, upper):
        s = mpc(x_init, (C, c), (F, f), 4, u_lower=lower, u_upper=upper)
        return s.x, s.u, s.cost, s.costate, s.lower_dual, s.upper_dual

    active = torch.cat([v.flatten() for v in outputs(*data)[-2:]]) > 0
    assert 2 <= active.sum() < 12
    assert gradcheck(outputs, data)
    assert gradgradcheck(outputs, data)


def test_where_all_controls_are_at_their_bounds_only_the_bounds_have_a_gradient():
    x_init, C, c, F, options = unstable_system(1, 1.0, T=3)
    tensors = [t.clone().requires_grad_() for t in (10 * x_init, C, c, F)]
    bound = torch.tensor(1e-3, dtype=DOUBLE, requires_grad=True)
    solution = mpc(tensors[0], (tensors[1], tensors[2]), tensors[3], 3, u_lower=-bound, u_upper=bound)
    moving = solution.u[:, :-1]  # the last control is free of charge, and 0
    assert (moving.abs() == bound).all()
    gradients = torch.autograd.grad(moving.sum(), [*tensors, bound])
    assert all((g == 0).all() for g in gradients[:-1])
    torch.testing.assert_close(gradients[-1], moving.sign().sum())


def test_controls_whose_bounds_meet_are_held_there_whatever_their_sign():
    x_init, C, c, F, f = random_problem((3,), 6, 2, 2, seed=3)
    lower = torch.tensor([0.3, -1.0], dtype=DOUBLE)
    upper = torch.tensor([0.3, 1.0], dtype=DOUBLE)
    solution = mpc(x_init, (C, c), (F, f), 6, u_lower=lower, u_upper=upper)
    assert (solution.u[..., 0] == 0.3).all()
    x, u, value, _, _ = clarabel(*(t[0] for t in (x_init, C, c, F, f)), lower.numpy(), upper.numpy())
    np.testing.assert_allclose(solution.u[0], u, atol=1e-6)


def test_started_at_its_solution_it_takes_one_iteration_and_has_the_same_gradient():
    x_init, C, c, F, options = unstable_system(8, 1.0)
    x_init.requires_grad_()
    cold = mpc(x_init, (C, c), F, **options)
    warm = mpc(x_init, (C, c), F, u_init=cold.u.detach(), **options)
    assert cold.iterations.max() > 1 and (warm.iterations <= 1).all()
    torch.testing.assert_close(warm.u, cold.u)
    (g_cold,), (g_warm,) = (torch.autograd.grad(s.u.sum(), x_init) for s in (cold, warm))
    torch.testing.assert_close(g_warm, g_cold)


def test_elements_of_a_batch_do_not_touch_each_other():
    x_init, C, c, F, f = random_problem((3,), 5, 2, 2, seed=4)
    C = C.clone()
    C[1, 4, 2:, 2:] = -torch.eye(2, dtype=DOUBLE)  # no minimum without bounds
    options = dict(u_lower=-torch.tensor([[[0.1]], [[torch.inf]], [[3.0]]], dtype=DOUBLE))
    with pytest.raises(SolverError, match="t = 5") as error:
        mpc(x_init, (C, c), (F, f), 5, **options)
    assert error.value.indices == [(1,)]
    data = [t.requires_grad_() for t in (x_init, C, c, F, f)]
    marked = mpc(data[0], (data[1], data[2]), (data[3], data[4]), 5, on_failure="nan", **options)
    gradients = torch.autograd.grad(marked.u.sum(), data)
    for i in (0, 2):
        alone = [t[i].detach().requires_grad_() for t in data]
        single = mpc(alone[0], (alone[1], alone[2]), (alone[3], alone[4]), 5, u_lower=options["u_lower"][i])
        torch.testing.assert_close(marked.u[i], single.u)
        for g, e in zip(gradients, torch.autograd.grad(single.u.sum(), alone), strict=True):
            torch.testing.assert_close(g[i], e)
            assert g[1].isnan().all()
    assert marked.u[1].isnan().all() and marked.converged.tolist() == [True, False, True]


def test_float32_has_the_active_set_and_the_gradient_of_float64():
    x_init, C, c, F, options = unstable_system(16, 1.0)
    single = [t.float().requires_grad_() for t in (x_init, C, c, F)]
    double = [t.detach().double().requires_grad_() for t in single]
    a, b = (mpc(d[0], (d[1], d[2]), d[3], **options) for d in (single, double))
    assert a.u.dtype == torch.float32
    assert ((a.upper_dual > 0) == (b.upper_dual > 0)).all() and ((a.lower_dual > 0) == (b.lower_dual > 0)).all()
    for g, e in zip(torch.autograd.grad(a.u.sum(), single), torch.autograd.grad(b.u.sum(), double), strict=True):
        assert (g - e).abs().max() <= 1e-4 * e.abs().max()


class TestSmoothing:
    def test_the_solution_stays_exact_and_has_the_derivative_of_the_central_path(self):
        """min ½ (u − a)² s.t. u ≥ 0 has the path u = (a + √(a² + 4μ)) / 2."""
        a = torch.tensor([-1.0, 0.0, 1e-3, 0.1, 1.0], dtype=DOUBLE, requires_grad=True)
        C, c = torch.eye(2, dtype=DOUBLE), torch.stack([torch.zeros(5, dtype=DOUBLE), -a], -1).unsqueeze(-2)
        F = torch.ones(1, 2, dtype=DOUBLE)
        solution = mpc(torch.zeros(5, 1, dtype=DOUBLE), (C, c), F, 1, u_lower=0.0, smoothing=1e-2)
        u, path = solution.u[:, 0, 0], (a + (a.square() + 4e-2).sqrt()) / 2
        torch.testing.assert_close(u.detach(), a.detach().relu())
        ours, expected = (torch.autograd.grad(v.sum(), a, create_graph=True)[0] for v in (u, path))
        torch.testing.assert_close(ours, expected)
        ours, expected = (torch.autograd.grad(g.sum(), a)[0] for g in (ours, expected))
        torch.testing.assert_close(ours, expected)

    def test_it_is_that_of_solve_qp_on_the_same_problem(self):
        x_init, C, c, F, f = random_problem((2,), 3, 2, 1, seed=6)
        x_init.requires_grad_()
        ours = mpc(x_init, (C, c), (F, f), 3, u_lower=-0.4, u_upper=0.6, smoothing=1e-3).u.flatten(1)
        Q, A = torch.zeros(2, 9, 9, dtype=DOUBLE), torch.zeros(2, 6, 9, dtype=DOUBLE)
        for t in range(3):
            Q[:, 3 * t : 3 * t + 3, 3 * t : 3 * t + 3] = C[:, t]
            A[:, 2 * t : 2 * t + 2, 3 * t : 3 * t + 2] = -torch.eye(2, dtype=DOUBLE)
            if t:
                A[:, 2 * t : 2 * t + 2, 3 * t - 3 : 3 * t] = F[:, t - 1]
        b = -torch.cat([x_init, f[:, 0], f[:, 1]], 1)
        rows = torch.eye(9, dtype=DOUBLE)[2::3]
        h = torch.tensor([0.6] * 3 + [0.4] * 3, dtype=DOUBLE)
        program = solve_qp(Q, c.flatten(1), A, b, torch.cat([rows, -rows]), h, smoothing=1e-3).y[:, 2::3]
        torch.testing.assert_close(ours, program)
        for k in range(3):
            a, e = (torch.autograd.grad(u[:, k].sum(), x_init, retain_graph=True)[0] for u in (ours, program))
            torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-9)


def test_vmap_is_a_batch_and_jacobians_agree():
    x_init, C, c, F, f = random_problem((4,), 5, 2, 1, seed=5)

    def u(x_init, C, c):
        return mpc(x_init, (C, c), (F[0], f[0]), 5, u_lower=-0.3, u_upper=0.3).u

    torch.testing.assert_close(torch.func.vmap(u)(x_init, C, c), u(x_init, C, c))
    reverse = torch.func.jacrev(u)(x_init[0], C[0], c[0])
    forward = torch.func.jacfwd(u)(x_init[0], C[0], c[0])
    torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(u_lower=1.0, u_upper=-1.0), "u_lower must not be above"),
        (dict(u_lower=torch.zeros(3, dtype=DOUBLE)), "u_lower must be a number"),
        (dict(u_upper=torch.nan), "u_upper must be above"),
        (dict(u_init=torch.zeros(4, 1, dtype=DOUBLE)), "u_init must have shape"),
        (dict(gradient="exact"), "gradient must be one of"),
        (dict(horizon=0), "horizon"),
        (dict(x_init=torch.full((2,), torch.inf, dtype=DOUBLE)), "x_init must be finite"),
    ],
)
def test_bad_input_is_named(change, message):
    x_init, C, c, F, f = random_problem((), 5, 2, 1)
    arguments = dict(x_init=x_init, cost=(C, c), dynamics=(F, f), horizon=5) | change
    with pytest.raises(ValueError, match=message):
        mpc(**arguments)
