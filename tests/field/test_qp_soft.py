"""Soft constraints: programs with slacks at a price are always feasible, and have to be solved whatever the price."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib.layers import from_cvxpy, solve_qp

DOUBLE = torch.float64
PENALTIES = [1.0, 30.0, 2e3, 5e4, 3e6, 2e7, 1e9]


@pytest.mark.parametrize("weight", PENALTIES)
@pytest.mark.parametrize("x0", [-3.25, 0.4, 1.75, 6.5])
def test_quadratic_slacks_of_a_box(weight, x0):
    """min w (e₁² + e₂²) s.t. x = x₀, −2 − e₂ ≤ x ≤ 2 + e₁, e ≥ 0: cvxgrp/cvxpylayers#36, osqp/osqp#346."""
    Q = torch.diag(torch.tensor([0.0, 2 * weight, 2 * weight], dtype=DOUBLE))
    G = torch.tensor([[1, -1, 0], [-1, 0, -1], [0, -1, 0], [0, 0, -1.0]], dtype=DOUBLE)
    h = torch.tensor([2.0, 2.0, 0.0, 0.0], dtype=DOUBLE)
    A, b = torch.tensor([[1.0, 0, 0]], dtype=DOUBLE), torch.tensor([x0], dtype=DOUBLE)
    y = solve_qp(Q, torch.zeros(3, dtype=DOUBLE), A, b, G, h).y
    expected = torch.tensor([x0, max(x0 - 2, 0), max(-x0 - 2, 0)], dtype=DOUBLE)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", PENALTIES)
def test_linear_slacks_are_exact_where_the_price_is_higher_than_the_multiplier(weight):
    """min ½ (x − 3)² + w e s.t. x ≤ 1 + e, e ≥ 0: e = max(0, 2 − w)."""
    Q, p = torch.diag(torch.tensor([1.0, 0.0], dtype=DOUBLE)), torch.tensor([-3.0, weight], dtype=DOUBLE)
    G = torch.tensor([[1.0, -1.0], [0.0, -1.0]], dtype=DOUBLE)
    y = solve_qp(Q, p, G=G, h=torch.tensor([1.0, 0.0], dtype=DOUBLE)).y
    slack = max(0.0, 2 - weight)
    torch.testing.assert_close(y, torch.tensor([1 + slack, slack], dtype=DOUBLE), rtol=1e-9, atol=1e-9)


def barrier_programs(batch, penalty, seed=11):
    """min ‖u − u_ref‖² + w r s.t. Lg u + Lf ≤ r, r ≥ 0, |u| ≤ 1.5, as MIT-REALM/neural_clbf has them."""
    g = torch.Generator().manual_seed(seed)
    reference, Lg = (torch.randn(batch, 2, generator=g).double() for _ in range(2))
    Lf = 4 * torch.randn(batch, generator=g).double()
    Q = torch.diag(torch.tensor([2.0, 2.0, 0.0], dtype=DOUBLE))
    p = torch.cat([-2 * reference, torch.full((batch, 1), penalty, dtype=DOUBLE)], 1)
    box = torch.tensor([[0, 0, -1.0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=DOUBLE)
    G = torch.cat([torch.cat([Lg, -torch.ones(batch, 1, dtype=DOUBLE)], 1)[:, None], box.expand(batch, 5, 3)], 1)
    h = torch.cat([-Lf[:, None], torch.tensor([0, 1.5, 1.5, 1.5, 1.5], dtype=DOUBLE).expand(batch, 5)], 1)
    return Q, p, G, h


@pytest.mark.parametrize("penalty", PENALTIES)
def test_control_barrier_programs_are_solved_one_and_all(penalty):
    Q, p, G, h = barrier_programs(1000, penalty)
    s = solve_qp(Q, p, G=G, h=h)
    assert s.converged.all()
    for i in range(0, 1000, 250):
        y = cp.Variable(3)
        objective = cp.sum_squares(y[:2]) + p[i].numpy() @ y
        optimum = cp.Problem(cp.Minimize(objective), [G[i].numpy() @ y <= h[i].numpy()]).solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(s.value[i].item(), optimum, rtol=1e-6, atol=1e-6)


def soft_mpc(states=3, inputs=1, steps=4, seed=2):
    rng = np.random.default_rng(seed)
    A, B = np.eye(states) + 0.15 * rng.normal(size=(states, states)), 0.4 * rng.normal(size=(states, inputs))
    weights, x0 = cp.Parameter((states, states)), cp.Parameter(states)
    u, x, e = cp.Variable((inputs, steps)), cp.Variable((states, steps + 1)), cp.Variable((states, steps + 1))
    cost, constraints = 0, [x[:, 0] == x0, e >= 0, cp.abs(x) <= 1.2 + e, cp.abs(u) <= 0.7]
    for t in range(steps + 1):
        cost += cp.sum_squares(x[:, t]) + cp.sum_squares(weights @ e[:, t])
    for t in range(steps):
        cost += 0.2 * cp.sum_squares(u[:, t])
        constraints.append(x[:, t + 1] == A @ x[:, t] + B @ u[:, t])

    def cost_of(plan, x, penalty):
        total = 0.0
        for t in range(steps + 1):
            total += x @ x + penalty * np.square(np.maximum(np.abs(x) - 1.2, 0)).sum()
            if t < steps:
                total += 0.2 * plan[:, t] @ plan[:, t]
                x = A @ x + B @ plan[:, t]
        return total

    return cp.Problem(cp.Minimize(cost), constraints), weights, x0, u, cost_of


@pytest.mark.parametrize("penalty", [1e2, 4e4, 9e6])
def test_soft_mpc_from_any_start(penalty):
    """cvxgrp/cvxpylayers#36. Starts inside the limits, where all slacks are 0 at no price, and far outside."""
    problem, weights, x0, u, cost_of = soft_mpc()
    starts = 2 * torch.randn(24, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    starts[:4] *= 0.1
    root = penalty**0.5 * torch.eye(3, dtype=DOUBLE)
    (plan,) = from_cvxpy(problem, [weights, x0], [u])(root, starts)
    for i in (0, 5, 11):
        weights.value, x0.value = root.numpy(), starts[i].numpy()
        optimum = problem.solve(solver=cp.CLARABEL)
        assert plan[i].abs().max() <= 0.7 + 1e-9
        np.testing.assert_allclose(cost_of(plan[i].numpy(), starts[i].numpy(), penalty), optimum, rtol=1e-6)


def test_soft_mpc_has_the_gradient_of_its_finite_differences():
    problem, weights, x0, u, _ = soft_mpc()
    layer = from_cvxpy(problem, [weights, x0], [u])
    root = 2e3 * torch.eye(3, dtype=DOUBLE)
    start = torch.tensor([1.9, -0.8, 0.3], dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda x: layer(root, x)[0], start.requires_grad_(), eps=1e-6, atol=1e-5)
