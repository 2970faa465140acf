"""Bounds and prices that have nothing to do with the solution: they may be as large as people write them.

The first is what users of CVXPY layers run into who bound every variable "to be safe", or write 1e20 for "no bound" as
OSQP and SCS have it; the second, who price a slack so that it stays 0.
"""

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import Cones, from_cvxpy, solve_cone
from diffopt_lib.layers.cone.outside import own_path_only

DOUBLE = torch.float64
HUGE = [1e5, 1e7, 1e9, 1e12, 1e16, 1e20]


@pytest.fixture(autouse=True)
def own_path():
    with own_path_only():
        yield


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def objective(kind, x, q):
    n = len(q.value) if q.value is not None else q.size
    M = np.random.default_rng(3).standard_normal((n, n))
    if kind == "second-order":
        return cp.norm(M @ (x - q)) + 0.1 * cp.norm(x, 2)
    if kind == "exponential":
        return cp.sum(cp.exp(x)) - q @ x
    if kind == "entropy":
        return -cp.sum(cp.entr(x + 1e-3)) - q @ x
    if kind == "semidefinite":
        return cp.lambda_max(cp.diag(x) + 0.3 * (M + M.T)) - 0.2 * q @ x
    return cp.sum_squares(M @ (x - q)) + cp.norm(x - 1)


KINDS = ["second-order", "exponential", "entropy", "semidefinite", "quadratic and norm"]


def solve(kind, upper, q, bounds=()):
    n = q.shape[-1]
    x, parameter = cp.Variable(n), cp.Parameter(n)
    constraints = [x >= 0, cp.sum(x) <= 4, *(f(x) for f in bounds)]
    if upper is not None:
        constraints.append(x <= upper)
    (found,) = from_cvxpy(cp.Problem(cp.Minimize(objective(kind, x, parameter)), constraints), [parameter], [x])(q)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upper", HUGE)
def test_a_bound_that_is_not_active_costs_nothing(kind, upper):
    q = (1.5 * normal(20, 5, seed=1)).requires_grad_()
    cotangent = normal(20, 5, seed=2)
    expected, found = solve(kind, None, q), solve(kind, upper, q)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    gradients = [torch.autograd.grad((x * cotangent).sum(), q)[0] for x in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-8)


def test_bounds_of_all_sizes_at_once():
    q = normal(30, 6, seed=4)
    uppers = np.array([1e3, 1e6, 1e9, 1e12, 1e18, 1e25])
    bounds = [lambda x: x <= uppers, lambda x: x >= -uppers, lambda x: cp.norm(x) <= 1e11]
    found = solve("second-order", None, q, bounds)
    torch.testing.assert_close(found, solve("second-order", None, q), rtol=1e-8, atol=1e-8)


def test_clarabel_finds_the_same_with_the_bound():
    q = normal(3, 5, seed=5)
    found = solve("second-order", 1e8, q)
    for i in range(3):
        x = cp.Variable(5)
        parameter = cp.Parameter(5, value=q[i].numpy())
        problem = cp.Problem(cp.Minimize(objective("second-order", x, parameter)), [x >= 0, cp.sum(x) <= 4, x <= 1e8])
        problem.solve(solver=cp.CLARABEL)
        assert (found[i] - torch.tensor(x.value)).abs().max() < 1e-3


class TestNoBound:
    cones = Cones(nonneg=3, soc=(3,))

    def program(self, bound):
        """min −x₁ − x₂ + x₃ s.t. x₁ ≤ bound, x₂ ≤ 1, x₃ ≥ 0, ‖(x₁, x₂)‖ ≤ 2 + x₃."""
        A = torch.zeros(6, 3, dtype=DOUBLE)
        A[0, 0] = A[1, 1] = 1
        A[2, 2] = A[3, 2] = A[4, 0] = A[5, 1] = -1
        return torch.tensor([-1.0, -1, 2], dtype=DOUBLE), A, torch.tensor([bound, 1.0, 0, 2, 0, 0], dtype=DOUBLE)

    @pytest.mark.parametrize("bound", [1e20, 1e300, float("inf")])
    def test_it_is_no_constraint_and_its_slack_is_the_distance(self, bound):
        c, A, b = (t.requires_grad_() for t in self.program(bound))
        solution = solve_cone(c, A, b, self.cones)
        x = torch.tensor([3**0.5, 1.0, 0.0], dtype=DOUBLE)
        torch.testing.assert_close(solution.x, x)
        assert solution.y[0] == 0 and solution.s[0] == bound
        gradients = torch.autograd.grad(solution.x.square().sum() + solution.y.sum(), (c, A, b))
        assert all(torch.isfinite(g).all() for g in gradients)
        assert gradients[2][0] == 0 and (gradients[1][0] == 0).all()
        assert solve_cone(c, A, b, self.cones, init=solution).iterations <= 1

    def test_in_some_elements_only(self):
        bounds = [0.5, 1e20, 10.0, float("inf")]
        data = [torch.stack(ts) for ts in zip(*(self.program(bound) for bound in bounds), strict=True)]
        x = solve_cone(*data, self.cones).x
        assert abs(x[0, 0].item() - 0.5) < 1e-12
        torch.testing.assert_close(x[1:, 0], torch.full((3,), 3**0.5, dtype=DOUBLE))
        shared = solve_cone(data[0][0], data[1][0], data[2], self.cones).x  # a matrix that all share
        torch.testing.assert_close(shared, x)
        torch.testing.assert_close(
            torch.func.vmap(lambda b: solve_cone(data[0][0], data[1][0], b, self.cones).x)(data[2]), x
        )

    def test_minus_infinity_is_no_number_there(self):
        with pytest.raises(ValueError, match="b must be finite"):
            solve_cone(*self.program(-float("inf")), self.cones)


@pytest.mark.parametrize("price", [1e2, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("kind", ["second-order", "exponential", "semidefinite"])
def test_a_price_that_nobody_pays_costs_nothing(kind, price):
    q = normal(10, 5, seed=6).requires_grad_()
    x, slack, parameter = cp.Variable(5), cp.Variable(2, nonneg=True), cp.Parameter(5)
    hard = [x >= 0, cp.sum(x) <= 4, x[0] <= 2]
    soft = [x >= 0, cp.sum(x) <= 4 + slack[0], x[0] <= 2 + slack[1]]
    cost = objective(kind, x, parameter)
    (expected,) = from_cvxpy(cp.Problem(cp.Minimize(cost), hard), [parameter], [x])(q)
    problem = cp.Problem(cp.Minimize(cost + price * cp.sum(slack)), soft)
    found, unused = from_cvxpy(problem, [parameter], [x, slack])(q)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert unused.abs().max() < 1e-10
    gradients = [torch.autograd.grad(t.sin().sum(), q)[0] for t in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("price", [1e2, 1e4, 1e6, 1e9])
def test_a_soft_constraint_that_cannot_be_met_is_not_called_infeasible(price):
    x, slack, q = cp.Variable(3), cp.Variable(nonneg=True), cp.Parameter(3)
    constraints = [cp.norm(x - q) <= 1, cp.sum(x) >= 9 - slack]
    (found, gave) = from_cvxpy(cp.Problem(cp.Minimize(cp.norm(x) + price * slack), constraints), [q], [x, slack])(
        torch.tensor([[1.0, 2, 0], [0, 0, 0]], dtype=DOUBLE)
    )
    ones = torch.full((3,), 3**-0.5, dtype=DOUBLE)
    expected = torch.tensor([[1.0, 2, 0], [0, 0, 0]], dtype=DOUBLE) + ones  # as far towards the constraint as may be
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(gave.reshape(-1), 9 - found.sum(-1), rtol=1e-8, atol=1e-8)


def test_a_bound_that_cannot_be_met_is_called_infeasible_whatever_the_others():
    x = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x)), [x <= 1e15, x[0] >= 3, cp.norm(x) <= 2])
    with pytest.raises(SolverError, match="infeasible"):
        from_cvxpy(problem, [], [x])()


@pytest.mark.parametrize("upper", [1e4, 1e8, 1e12, 1e14, 1e16, 1e19])
def test_a_quadratic_objective_sees_no_bound_that_is_out_of_reach_where_nothing_else_has_a_size(upper):
    """min ½‖x‖² + cᵀx + 0.1 ‖x‖ s.t. 0 ≤ x ≤ u: all that is not u is 0, so u alone could be the unit of b."""
    n = 4
    c, one, zero = normal(20, n, seed=7), torch.eye(n + 1, dtype=DOUBLE), torch.zeros(n, dtype=DOUBLE)
    A = torch.cat([-one[:n], one, -one[n:], -one[:n]])
    b = torch.cat([zero, torch.full((n + 1,), upper, dtype=DOUBLE), torch.zeros(n + 1, dtype=DOUBLE)])
    P, tenth = torch.diag(torch.cat([zero + 1, zero[:1]])), torch.full((20, 1), 0.1, dtype=DOUBLE)
    x = solve_cone(torch.cat([c, tenth], 1), A, b, Cones(nonneg=2 * n + 1, soc=[n + 1]), P).x[:, :n]
    free = (-c).clamp_min(0)
    length = free.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(x, free * (1 - 0.1 / length).clamp_min(0), rtol=0, atol=1e-12)


def sizes_apart(seed):
    """A program with solution x, some slacks between 1e6 and 1e20, all else in one unit, and perhaps zeros of b and c
    rounded to numbers around 1e-17 of it."""
    r = np.random.default_rng(seed)
    n, m, unit = int(r.integers(2, 6)), 4, 10.0 ** r.choice([0, 0, -9, 9, -6, 6])
    A, x = r.standard_normal((1 + m + 3, n)), unit * r.standard_normal(n) * (r.random(n) < 0.7)
    active = r.random(m) < 0.5
    s, z = np.where(active, 0, unit * (0.1 + r.random(m))), np.where(active, 0.1 + r.random(m), 0)
    far = ~active & (r.random(m) < 0.5)
    s[far] = 10.0 ** r.uniform(6, 19.9, far.sum())
    u = r.standard_normal(2)
    edge = np.append(1, u / np.linalg.norm(u))
    M = r.standard_normal((n, int(r.integers(1, n + 1))))
    P, of_c = (M @ M.T, unit) if seed % 3 else (np.zeros((n, n)), 1.0)
    c = -A.T @ np.concatenate([r.standard_normal(1), z, 0.7 * edge * [1, -1, -1]]) * of_c - P @ x
    b = A @ x + np.concatenate([[0], s, 0.4 * unit * edge])
    if seed % 2:
        b, c = (np.where(v == 0, 1e-17 * of * r.standard_normal(v.shape), v) for v, of in ((b, unit), (c, of_c)))
    return unit, of_c, x, [torch.from_numpy(v) for v in (c, A, b)], torch.from_numpy(P) if seed % 3 else None


@pytest.mark.parametrize("seed", range(60))
def test_dust_usual_numbers_and_giants_in_one_program(seed):
    unit, of_c, x, data, P = sizes_apart(seed)
    found = solve_cone(*data, Cones(zero=1, nonneg=4, soc=[3]), P).x.numpy()
    c, A, b = (t.numpy() for t in data)
    curvature = np.zeros_like(np.outer(x, x)) if P is None else P.numpy()
    slack, size = b - A @ found, unit + np.abs(A) @ np.abs(found)
    assert abs(slack[0]) <= 1e-8 * size[0] and (slack[1:5] >= -1e-8 * size[1:5]).all()
    assert np.linalg.norm(slack[6:]) - slack[5] <= 1e-8 * size[5:].max()
    gain = (0.5 * found @ curvature @ found + c @ found) - (0.5 * x @ curvature @ x + c @ x)
    assert abs(gain) <= 1e-8 * (unit * of_c + np.abs(c) @ (np.abs(x) + np.abs(found)))
