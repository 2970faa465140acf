"""Numbers of very different size in one quadratic program: what is inactive, dear or far away changes nothing else."""

import math

import numpy as np
import pytest
import torch

from diffopt_lib.layers import solve_qp
from diffopt_lib.layers.qp.certificate import is_mirage
from diffopt_lib.layers.qp.program import QP, Point

DOUBLE = torch.float64


def nonnegative_programs(batch=40, n=5, seed=3):
    """min ½ yᵀQy + pᵀy s.t. y ≥ 0, with about half of y at 0."""
    g = torch.Generator().manual_seed(seed)
    R = torch.randn(batch, n, n, dtype=DOUBLE, generator=g)
    Q = R @ R.mT / n + 0.2 * torch.eye(n, dtype=DOUBLE)
    return Q, torch.randn(batch, n, dtype=DOUBLE, generator=g), torch.eye(n, dtype=DOUBLE)


def solution_and_gradient(Q, p, G, h):
    p = p.clone().requires_grad_()
    solution = solve_qp(Q, p, G=G, h=h)
    weights = torch.arange(1.0, p.shape[-1] + 1, dtype=DOUBLE)
    return solution, torch.autograd.grad((solution.y * weights).sum(), p)[0]


@pytest.mark.parametrize("upper", [3e3, 2e5, 7e7, 4e8, 5e9, 2e12, 3e15, 9e18, 1e20, 1e25, math.inf])
def test_an_upper_bound_out_of_reach_changes_neither_solution_nor_gradient(upper):
    """ "No bound" is 1e20 in OSQP and in proxsuite's data: Simple-Robotics/proxsuite#46, #307, #445."""
    Q, p, identity = nonnegative_programs()
    zero = torch.zeros(5, dtype=DOUBLE)
    expected, of_expected = solution_and_gradient(Q, p, -identity, zero)
    h = torch.cat([zero, torch.full_like(zero, upper)])
    found, of_found = solution_and_gradient(Q, p, torch.cat([-identity, identity]), h)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_found, of_expected, rtol=1e-9, atol=1e-9)
    assert found.y.min() >= -1e-12


def test_the_smallest_such_program():
    one, zero = torch.eye(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    y = solve_qp(one, zero + 4, G=torch.cat([one, -one]), h=torch.cat([zero + 1e20, zero])).y
    torch.testing.assert_close(y, zero)


@pytest.mark.parametrize("cap", [4e6, 3e9, 8e13])
def test_a_cap_in_dollars_over_all_variables(cap):
    Q, p, identity = nonnegative_programs(seed=4)
    rows = torch.cat([-identity, torch.ones(1, 5, dtype=DOUBLE)])
    h = torch.cat([torch.zeros(5, dtype=DOUBLE), torch.tensor([cap], dtype=DOUBLE)])
    expected = solve_qp(Q, p, G=-identity, h=h[:5]).y
    torch.testing.assert_close(solve_qp(Q, p, G=rows, h=h).y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("upper", [5e5, 6e8, 3e11])
def test_a_large_bound_that_binds_holds(upper):
    """min ½ y₁² − 10 u y₁ + ½ (y₂ − 1)² s.t. y₁ ≤ u is (u, 1)."""
    G = torch.tensor([[1.0, 0.0]], dtype=DOUBLE)
    p = torch.tensor([-10 * upper, -1.0], dtype=DOUBLE)
    y = solve_qp(torch.eye(2, dtype=DOUBLE), p, G=G, h=torch.tensor([upper], dtype=DOUBLE)).y
    torch.testing.assert_close(y, torch.tensor([upper, 1.0], dtype=DOUBLE), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("price", [3e3, 2e5, 4e6, 7e8, 3e10])
def test_one_price_that_nobody_pays_hides_nothing_elsewhere(price):
    Q, p, identity = nonnegative_programs(seed=5)
    p[:, 2] = price
    others = [0, 1, 3, 4]
    y = solve_qp(Q, p, G=-identity, h=torch.zeros(5, dtype=DOUBLE)).y
    part = solve_qp(Q[:, others][:, :, others], p[:, others], G=-identity[:4, :4], h=torch.zeros(4, dtype=DOUBLE)).y
    torch.testing.assert_close(y[:, others], part, rtol=0, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9])
def test_the_unit_of_y_is_free(unit):
    """The solution for unit · (p, b, h) is unit times that for (p, b, h)."""
    Q, p, identity = nonnegative_programs(seed=6)
    A, b, h = torch.ones(1, 5, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE), torch.full((5,), 0.1, dtype=DOUBLE)
    expected = solve_qp(Q, p, A, b, -identity, h).y
    found = solve_qp(Q, unit * p, A, unit * b, -identity, unit * h).y
    torch.testing.assert_close(found / unit, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e5, 1e9])
def test_the_unit_of_the_objective_is_free(unit):
    Q, p, identity = nonnegative_programs(seed=7)
    h = torch.full((5,), 0.3, dtype=DOUBLE)
    expected = solve_qp(Q, p, G=-identity, h=h)
    found = solve_qp(unit * Q, unit * p, G=-identity, h=h)
    torch.testing.assert_close(found.y, expected.y, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(found.inequality_dual / unit, expected.inequality_dual, rtol=1e-9, atol=1e-10)


def test_a_hard_neighbour_in_the_batch_does_not_spoil_an_element():
    Q, p, identity = nonnegative_programs(batch=3, seed=8)
    h = torch.zeros(3, 10, dtype=DOUBLE)
    h[:, 5:] = torch.tensor([[2.0], [1e14], [3e-7]], dtype=DOUBLE)
    p[1, 0] = 1e9
    G = torch.cat([-identity, identity])
    together = solve_qp(Q, p, G=G, h=h).y
    alone = torch.stack([solve_qp(Q[i], p[i], G=G, h=h[i]).y for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("far", [1e4, 1e9, 1e13, 1e16, 1e18, 4e18, 9.9e19])
@pytest.mark.parametrize("n", [3, 5, 20])
@pytest.mark.parametrize("share", [0.4, 1.0], ids=["some bounds far", "all bounds far"])
def test_linear_programs_do_not_see_how_far_away_their_bounds_are(far, n, share, generator):
    p = torch.randn(12, n, dtype=torch.float64, generator=generator)
    one, eye = torch.ones(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    upper = torch.full((n,), 1.5, dtype=torch.float64)
    upper[: max(1, round(share * n))] = far
    b = torch.full((1,), 0.7, dtype=torch.float64, requires_grad=True)
    h = torch.cat([upper, torch.zeros(n, dtype=torch.float64)])
    found = solve_qp(torch.zeros(n, n, dtype=torch.float64), p, one, b, torch.cat([eye, -eye]), h)
    best = torch.nn.functional.one_hot(p.argmin(-1), n).double()
    torch.testing.assert_close(found.y, 0.7 * best, rtol=0, atol=1e-10)
    (slope,) = torch.autograd.grad(found.value.sum(), b)
    torch.testing.assert_close(slope, p.amin(-1).sum().reshape(1))


@pytest.mark.parametrize("far", [1e6, 1e12, 1e17, 1e18, 2e18, 5e18, 9.9e19])
@pytest.mark.parametrize("near", [None, 1e-9], ids=["", "a tiny wall beside"])
def test_linear_programs_that_need_not_go_anywhere_do_not_see_far_bounds_either(far, near, generator):
    """min pᵀy s.t. Σy ≤ 1, 0 ≤ y ≤ far, and perhaps y₁ ≤ 1e-9: 0 is feasible, and the answer is the cheapest corner."""
    n = 5
    p = torch.randn(30, n, dtype=DOUBLE, generator=generator)
    identity = torch.eye(n, dtype=DOUBLE)
    G = torch.cat([torch.ones(1, n, dtype=DOUBLE), -identity, identity, identity[:1]])
    h = torch.tensor([1.0, *[0.0] * n, *[far] * n, far if near is None else near], dtype=DOUBLE)
    y = solve_qp(torch.zeros(n, n, dtype=DOUBLE), p, G=G, h=h).y
    capped = p if near is None else torch.cat([torch.full_like(p[:, :1], torch.inf), p[:, 1:]], dim=1)
    best = capped.amin(-1, keepdim=True).clamp_max(0)
    expected = ((capped == best) & (best < 0)).double()
    if near is not None:  # what there is room for of the first, instead of the cheapest
        dearer = torch.minimum(best, torch.zeros_like(best)) - p[:, :1]
        expected = torch.where(dearer > 0, expected * (1 - near), expected)
        expected[:, 0] = torch.where(dearer[:, 0] > 0, near, 0.0)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)


def sizes_apart(seed):
    """A program with solution x, some slacks between 1e6 and 1e20, all else in one unit, and perhaps the zeros of b, h
    and p rounded to numbers around 1e-17 of it."""
    r = np.random.default_rng(seed)
    n, k, unit = int(r.integers(2, 7)), 1, 10.0 ** r.choice([0, 0, -9, 9, -6, 6])
    M = r.standard_normal((n, int(r.integers(0, n + 1))))
    Q, A = M @ M.T, r.standard_normal((k, n))
    G = np.vstack([r.standard_normal((4, n)), -np.eye(n)])
    x = unit * r.standard_normal(n) * (r.random(n) < 0.7)
    active = r.random(len(G)) < 0.5
    slack = np.where(active, 0, unit * (0.1 + r.random(len(G))))
    far = ~active & (r.random(len(G)) < 0.5)
    slack[far] = 10.0 ** r.uniform(6, 19.9, far.sum())
    lam = np.where(active, 0.1 + r.random(len(G)), 0) * unit
    p = -Q @ x - A.T @ r.standard_normal(k) * unit - G.T @ lam
    b, h = A @ x, G @ x + slack
    if seed % 2 and x.any():  # at x = 0 dust would be all there is
        p, b, h = (np.where(v == 0, 1e-17 * unit * r.standard_normal(v.shape), v) for v in (p, b, h))
    return unit, x, [torch.from_numpy(v) for v in (Q, p, A, b, G, h)]


@pytest.mark.parametrize("seed", range(120))
def test_dust_usual_numbers_and_giants_in_one_program(seed):
    unit, x, data = sizes_apart(seed)
    y = solve_qp(*data).y.numpy()
    Q, p, A, b, G, h = (t.numpy() for t in data)
    assert np.abs(A @ y - b).max() <= 1e-9 * (unit + np.abs(A) @ np.abs(y)).max()
    assert (G @ y - h <= 1e-9 * (unit + np.abs(G) @ np.abs(y))).all()
    gain = (0.5 * y @ Q @ y + p @ y) - (0.5 * x @ Q @ x + p @ x)
    assert abs(gain) <= 1e-9 * (unit**2 + np.abs(p) @ (np.abs(x) + np.abs(y)))


def test_rounded_zeros_are_no_unit():
    """Of 1e-17, which stand for 0 in a bound and a price that were computed."""
    G, h = -torch.eye(2, dtype=DOUBLE), torch.tensor([-3.5e-18, 0.0], dtype=DOUBLE)
    p, A = torch.tensor([1.0, 2 / 3], dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
    y = solve_qp(torch.zeros(2, 2, dtype=DOUBLE), p, A, torch.ones(1, dtype=DOUBLE), G, h).y
    torch.testing.assert_close(y, torch.tensor([0.0, 1.0], dtype=DOUBLE), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "mirage"), [(0.0, False), (1.0, False), (1e17, True)])
def test_a_point_that_gains_only_rounding_is_no_solution(length, mirage):
    """Of min ½ (fᵀy)² + pᵀy with 0 feasible, far along fᵀy = 0: what is added up there is too large for p to count."""
    r = np.random.default_rng(0)
    f, p, G = r.standard_normal(6), 1e-10 * r.standard_normal(6), r.standard_normal((1, 6))
    y = r.standard_normal(6)
    y = length * (y - f * (f @ y) / (f @ f))
    data = (np.outer(f, f), p[:, None], np.zeros((0, 6)), np.zeros((0, 1)), G, np.array([[1e18]]), np.zeros((1, 1)))
    qp = QP(*(torch.from_numpy(v)[None] for v in data))
    slack = torch.from_numpy(1e18 - G @ y).reshape(1, 1, 1)
    point = Point(torch.from_numpy(y).reshape(1, 6, 1), qp.b, torch.zeros_like(slack), slack)
    assert is_mirage(qp, point).item() == mirage
