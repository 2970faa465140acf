"""The derivative of a quadratic program is that of its active set: it has to be the right one, or the user is told."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from diffopt_lib.layers import from_cvxpy, solve_qp
from diffopt_lib.layers.qp import solver

DOUBLE = torch.float64


def cvar_portfolio(assets=8, scenarios=80, seed=4):
    rng = np.random.default_rng(seed)
    w, level = cp.Variable(assets), cp.Variable()
    R, mean = cp.Parameter((scenarios, assets)), cp.Parameter(assets)
    shortfall = cp.sum(cp.pos(-R @ w - level)) / (0.05 * scenarios)
    cost = level + shortfall - mean @ w + 0.02 * cp.sum_squares(w)
    problem = cp.Problem(cp.Minimize(cost), [cp.sum(w) == 1, w >= 0])
    returns = torch.tensor(0.04 * rng.normal(size=(scenarios, assets)))
    return from_cvxpy(problem, [R, mean], [w]), returns, torch.tensor(0.01 * rng.normal(size=assets))


@pytest.mark.parametrize("seed", [1, 4, 6])
def test_a_portfolio_with_conditional_value_at_risk_has_the_gradient_of_its_finite_differences(seed):
    """cvxgrp/cvxpylayers#135, #145; cvxgrp/diffcp#57."""
    layer, returns, mean = cvar_portfolio(seed=seed)
    assert torch.autograd.gradcheck(
        lambda m: layer(returns, m)[0], mean.requires_grad_(), eps=1e-8, atol=1e-3, rtol=1e-3
    )


def test_slacks_that_cost_nothing_and_are_not_used_raise_no_alarm():
    """min ‖y − c‖² + ‖e‖² s.t. y ≤ 1 + e, e ≥ 0 with c < 1: every e is 0 with multiplier 0."""
    identity, n = torch.eye(3, dtype=DOUBLE), 3
    Q = torch.block_diag(2 * identity, 2e4 * identity)
    c = torch.tensor([0.5, -2.0, 0.9], dtype=DOUBLE)
    G = torch.cat([torch.cat([identity, -identity], 1), torch.cat([0 * identity, -identity], 1)])
    h = torch.tensor([1.0] * n + [0.0] * n, dtype=DOUBLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = solve_qp(Q, torch.cat([-2 * c, 0 * c]), G=G, h=h)
    torch.testing.assert_close(s.y, torch.cat([c, 0 * c]), rtol=0, atol=1e-12)


def test_an_active_set_that_is_not_confirmed_is_reported(monkeypatch):
    monkeypatch.setattr(solver, "CONFIRMED", -1.0)  # nothing is
    one = torch.eye(2, dtype=DOUBLE)
    with pytest.warns(UserWarning, match=r"unconfirmed active set. Batch elements: \(0,\), \(1,\)"):
        solve_qp(one, torch.tensor([[1.0, -1.0], [2.0, 3.0]], dtype=DOUBLE), G=-one, h=torch.zeros(2, dtype=DOUBLE))


@pytest.mark.parametrize("integer", [False, True])
def test_linear_programs_reach_the_optimum_of_highs(integer):
    g = torch.Generator().manual_seed(9)
    size = (25, 14, 5)
    G = torch.randint(-3, 4, size, generator=g).double() if integer else torch.randn(size, generator=g, dtype=DOUBLE)
    p = -(G.mT @ torch.randint(0, 3, (25, 14, 1), generator=g).double()).squeeze(-1)
    h = torch.randint(0, 4, (25, 14), generator=g).double()
    s = solve_qp(torch.zeros(5, 5, dtype=DOUBLE), p, G=G, h=h)
    for i in range(25):
        found = linprog(p[i].numpy(), G[i].numpy(), h[i].numpy(), bounds=(None, None))
        np.testing.assert_allclose(s.value[i].item(), found.fun, rtol=1e-8, atol=1e-8)
        assert (G[i] @ s.y[i] - h[i]).max() <= 1e-10


def test_rows_that_are_said_twice_change_nothing():
    g = torch.Generator().manual_seed(10)
    R = torch.randn(20, 4, 4, generator=g, dtype=DOUBLE)
    Q, p = R @ R.mT + 0.1 * torch.eye(4, dtype=DOUBLE), torch.randn(20, 4, generator=g, dtype=DOUBLE)
    G, h = torch.randn(20, 6, 4, generator=g, dtype=DOUBLE), torch.rand(20, 6, generator=g, dtype=DOUBLE)
    A, b = torch.randn(20, 1, 4, generator=g, dtype=DOUBLE), torch.zeros(20, 1, dtype=DOUBLE)
    expected = solve_qp(Q, p, A, b, G, h).y
    s = solve_qp(
        Q, p, torch.cat([A, -3 * A], 1), torch.cat([b, b], 1), torch.cat([G, G, 5 * G], 1), torch.cat([h, h, 5 * h], 1)
    )
    torch.testing.assert_close(s.y, expected, rtol=1e-10, atol=1e-11)


def test_a_program_without_an_objective_finds_a_feasible_point():
    g = torch.Generator().manual_seed(12)
    G, A, y = (torch.randn(10, *shape, generator=g, dtype=DOUBLE) for shape in ((8, 5), (2, 5), (5, 1)))
    h, b = (G @ y).squeeze(-1) + torch.rand(10, 8, generator=g, dtype=DOUBLE), (A @ y).squeeze(-1)
    s = solve_qp(torch.zeros(5, 5, dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE), A, b, G, h)
    y = s.y.unsqueeze(-1)
    assert ((G @ y).squeeze(-1) <= h + 1e-12).all() and ((A @ y).squeeze(-1) - b).abs().max() <= 1e-12


@pytest.mark.data
@pytest.mark.parametrize("name", ["CVXQP1_S", "DUAL4", "DUALC1", "GENHS28", "HS21", "HS35", "HS76", "QAFIRO", "QPTEST"])
def test_maros_meszaros_problems_without_their_quadratic_terms(name, real_data):
    d = np.load(real_data / "maros" / f"{name}.npz")
    q, A, lower, upper = (d[key] for key in ("q", "A", "l", "u"))
    equal = upper - lower < 1e-12
    G, h = np.concatenate([A[~equal], -A[~equal]]), np.concatenate([upper[~equal], -lower[~equal]])
    data = (torch.tensor(v) for v in (q, A[equal], lower[equal], G, h))
    s = solve_qp(torch.zeros(len(q), len(q), dtype=DOUBLE), *data)
    keep = h < 1e19
    found = linprog(q, G[keep], h[keep], A[equal], lower[equal], bounds=(None, None))
    np.testing.assert_allclose(s.value.item(), found.fun, rtol=1e-9, atol=1e-9)
