"""What other differentiable controllers get wrong, one row of a list after the other: here it must be right.

The 27 % by which mpc.pytorch 0.0.6 is off on the pendulum are in tests/controllers/test_mpc.py, with their number.
"""

import inspect

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from diffopt_lib import SolverError
from diffopt_lib.controllers import CartPole, LinearDynamics, Pendulum, cem, lqr, mpc

DOUBLE = torch.float64
A = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=DOUBLE)
B = torch.tensor([[0.0], [0.1]], dtype=DOUBLE)
F = torch.cat([A, B], 1)
C, c = torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE)), torch.zeros(3, dtype=DOUBLE)
WEIGHTS, GOAL = torch.tensor([1.0, 1.0, 0.1], dtype=DOUBLE), torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)


def swing_up(x, u):
    return 0.5 * ((WEIGHTS * (x - GOAL).square()).sum(-1) + 0.001 * u.square().sum(-1))


def upright(angle, velocity=0.0):
    angle = torch.as_tensor(angle, dtype=DOUBLE)
    return Pendulum.state(angle, torch.full_like(angle, velocity))


def unstable():
    """A = I + .2 N(0, 1), 8 states, 4 controls, spectral radius 1.54."""
    rng = np.random.RandomState(42)
    A, B = np.eye(8) + 0.2 * rng.randn(8, 8), rng.randn(8, 4)
    assert np.abs(np.linalg.eigvals(A)).max() == pytest.approx(1.54, abs=0.01)
    F = torch.from_numpy(np.concatenate([A, B], 1))
    return torch.from_numpy(rng.randn(32, 8)), torch.eye(12, dtype=DOUBLE), torch.zeros(12, dtype=DOUBLE), F


class TestMpcPytorch:
    def test_the_backward_pass_with_bounds_works_on_an_unstable_system_where_its_own_raises(self):
        x_init, C, c, F = unstable()
        bound = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
        solution = mpc(x_init, (C, c), F, 21, u_lower=-bound, u_upper=bound)
        assert solution.converged.all() and (solution.u.abs() == 1).any()
        direction = torch.randn(solution.u.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        (ours,) = torch.autograd.grad((solution.u * direction).sum(), bound)
        h = 1e-6
        ends = [mpc(x_init, (C, c), F, 21, u_lower=-b, u_upper=b).u for b in (1 + h, 1 - h)]
        assert ours.item() == pytest.approx(((ends[0] - ends[1]) * direction).sum().item() / (2 * h), rel=1e-5)

    def test_what_did_not_converge_is_named_marked_or_returned_with_a_gradient_but_never_detached(self):
        """locuslab/mpc.pytorch#46."""
        x_init = upright([0.1, 2.5]).requires_grad_()
        options = dict(u_lower=-6.0, u_upper=6.0, max_iterations=3)
        with pytest.raises(SolverError, match="no convergence") as error:
            mpc(x_init, swing_up, Pendulum(), 15, **options)
        assert error.value.indices == [(1,)]
        marked = mpc(x_init, swing_up, Pendulum(), 15, on_failure="nan", **options)
        assert marked.status.tolist() == [1, 4] and marked.u[1].isnan().all() and marked.u[0].isfinite().all()
        returned = mpc(x_init, swing_up, Pendulum(), 15, on_failure="return", **options)
        assert returned.converged.tolist() == [True, False] and returned.u.isfinite().all()
        (g,) = torch.autograd.grad(returned.u.sum(), x_init)
        assert (g != 0).any(-1).all()

    def test_what_a_user_leaves_out_of_the_loss_adds_nothing_to_the_gradient(self):
        x_init = upright([0.1, 2.5]).requires_grad_()
        options = dict(u_lower=-6.0, u_upper=6.0, max_iterations=3, on_failure="return")
        solution = mpc(x_init, swing_up, Pendulum(), 15, **options)
        (g,) = torch.autograd.grad(solution.u[solution.converged].sum(), x_init)
        alone = x_init[:1].detach().requires_grad_()
        (expected,) = torch.autograd.grad(mpc(alone, swing_up, Pendulum(), 15, **options).u.sum(), alone)
        torch.testing.assert_close(g[:1], expected)
        assert (g[1] == 0).all()

    def test_states_may_be_constrained_too(self):
        """locuslab/mpc.pytorch#41: a wall for the position, against Clarabel."""
        start, T = torch.tensor([1.0, -3.0], dtype=DOUBLE), 15
        ours = mpc(start, (C, c), F, T, u_lower=-6.0, u_upper=6.0, constraints=lambda x, u: 0.1 - x[..., :1])
        x, u = cp.Variable((T, 2)), cp.Variable((T, 1))
        cost = sum(0.5 * cp.quad_form(cp.hstack([x[t], u[t]]), C.numpy()) for t in range(T))
        rows = [x[0] == start.numpy(), cp.abs(u) <= 6, x[:, 0] >= 0.1]
        rows += [x[t + 1] == F.numpy() @ cp.hstack([x[t], u[t]]) for t in range(T - 1)]
        cp.Problem(cp.Minimize(cost), rows).solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_feas=1e-11)
        np.testing.assert_allclose(ours.x, x.value, atol=1e-6)
        assert (ours.constraint_dual > 0).any()


def test_a_stage_that_is_indefinite_with_a_convex_block_of_states_and_one_of_controls():
    """google/trajax#16: projecting Q and R leaves [[1, 2], [2, 1]] as it is, with eigenvalue −1."""
    H = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE)
    assert torch.linalg.eigvalsh(H)[0] == pytest.approx(-1)

    def cost(x, u, t):
        tau = torch.cat([x, u], -1)
        first = 0.5 * torch.einsum("...i,ij,...j->...", tau, H, tau) + 0.1 * tau.pow(4).sum(-1)
        return torch.where(t == 0, first, 4 * tau.square().sum(-1))

    x_init = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    solution = mpc(x_init, cost, lambda x, u: (x + u).sin(), 5, controls=1)

    def total(u):
        x, value = x_init.detach(), 0.0
        for t in range(5):
            value = value + cost(x, u[t], torch.tensor(t))
            x = (x + u[t]).sin()
        return value

    u = solution.u.detach()
    assert torch.func.grad(total)(u).abs().max() <= 1e-8
    assert torch.linalg.eigvalsh(torch.func.hessian(total)(u).reshape(5, 5)).min() > 0


class TestAcados:
    def test_started_at_its_solution_the_sensitivity_is_the_same(self):
        """acados/acados#912: a double integrator."""
        x_init = torch.tensor([1.0, 0.3], dtype=DOUBLE, requires_grad=True)
        options = dict(u_lower=-2.0, u_upper=2.0)
        cost, dynamics = (lambda x, u: 0.5 * (x.square().sum(-1) + u.square().sum(-1))), LinearDynamics(A, B)
        cold = mpc(x_init, cost, dynamics, 20, **options)
        warm = mpc(x_init, cost, dynamics, 20, u_init=cold.u.detach(), **options)
        assert warm.iterations <= 1
        rows = [torch.autograd.grad(s.u[0, 0], x_init)[0] for s in (cold, warm)]
        torch.testing.assert_close(*rows, rtol=1e-8, atol=1e-10)
        regulator = lqr(x_init, torch.eye(3, dtype=DOUBLE), c, F, horizon=20).u
        if (cold.u.abs() < 2).all():
            torch.testing.assert_close(rows[0], torch.autograd.grad(regulator[0, 0], x_init)[0])

    def test_dependent_constraints_have_a_gradient(self):
        """acados/acados#1131: a state that is fixed by two inequalities, twice over."""
        v = torch.tensor(-0.2, dtype=DOUBLE, requires_grad=True)

        def fixed(x, u, t):
            off = torch.where(t == 1, x[..., 1] - v, 0)
            return torch.stack([off, -off, 2 * off, -3 * off], -1)

        solution = mpc(torch.tensor([1.0, 0.0], dtype=DOUBLE), (C, c), F, 8, constraints=fixed)
        torch.testing.assert_close(solution.x[1, 1], v)
        torch.testing.assert_close(torch.autograd.grad(solution.u[0, 0], v)[0].item(), 10.0)


def test_a_cart_poles_gradient_is_exact_where_the_hamiltonian_is_indefinite():
    """leap-c/leap-c, pull request 212: tests on linear systems alone do not see it."""
    x_init = CartPole.state(*torch.tensor([0.0, 0.5, 1.2, -0.4], dtype=DOUBLE))

    def first(length, pole):
        def cost(x, u):
            upright = 1 - x[..., 2] + 0.05 * x[..., 4].square()
            return upright + 0.1 * x[..., 0].square() + 0.001 * u.square().sum(-1)

        return mpc(x_init, cost, CartPole(pole=pole, length=length), 12, u_lower=-20.0, u_upper=20.0, tolerance=1e-10).u

    values = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.5, 0.1)]
    assert gradcheck(first, values, eps=1e-5, atol=1e-4, rtol=1e-5)


def test_a_batched_backward_pass_twice_over():
    """pypose/pypose#344: an error about a tensor modified in place."""
    x_init = torch.randn(4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    Q = C.clone().requires_grad_()
    solution = mpc(x_init, (Q, c), F, 8, u_lower=-1.0, u_upper=1.0)
    first = torch.autograd.grad(solution.u.square().sum(), (x_init, Q), retain_graph=True)
    second = torch.autograd.grad(solution.u.square().sum(), (x_init, Q))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    for i in range(4):
        alone = x_init[i].detach().requires_grad_()
        u = mpc(alone, (C, c), F, 8, u_lower=-1.0, u_upper=1.0).u
        torch.testing.assert_close(torch.autograd.grad(u.square().sum(), alone)[0], first[0][i])


class TestTurboMPC:
    """Its status is always 0, and its constraints are those of the constructor."""

    def test_the_status_tells_solved_infeasible_and_unfinished_elements_apart(self):
        x_init = torch.tensor([[0.1, 0.0], [0.1, -0.9]], dtype=DOUBLE)
        options = dict(constraints=lambda x, u: -0.5 - x[..., 1:], on_failure="nan")
        assert mpc(x_init, (C, c), F, 8, **options).status.tolist() == [1, 2]
        hard = mpc(
            upright([0.1, 2.5]), swing_up, Pendulum(), 15, u_lower=-6.0, u_upper=6.0, max_iterations=3, on_failure="nan"
        )
        assert hard.status.tolist() == [1, 4]
        wild = mpc(torch.ones(1, 2, dtype=DOUBLE), lambda x, u: -u.square().sum(-1), lambda x, u: x, 2,
                   controls=1, on_failure="nan")  # fmt: skip
        assert wild.status.item() in (4, 5) and not wild.converged.item()

    def test_bounds_and_constraints_may_differ_from_element_to_element_and_from_call_to_call(self):
        x_init = torch.tensor([2.0, 0.0], dtype=DOUBLE).expand(3, 2)
        limit = torch.tensor([0.3, 0.6, 5.0], dtype=DOUBLE)
        slowest = mpc(x_init, (C, c), F, 20, constraints=lambda x, u: -limit[:, None] - x[..., 1:]).x[..., 1].amin(1)
        torch.testing.assert_close(slowest[:2], -limit[:2])
        assert slowest[2] < -0.6


def test_horizons_that_others_scan_have_boxes_too():
    """DiffMPC, MPX and diffilqrax have no box: a horizon of 128 with one, against the program with a KKT residual."""
    x_init = torch.tensor([[1.0, 0.0], [3.0, -1.0]], dtype=DOUBLE)
    solution = mpc(x_init, (C, c), F, 128, u_lower=-1.0, u_upper=1.0)
    assert solution.converged.all() and solution.residual.max() <= 1e-10 and (solution.u.abs() == 1).any()
    free = mpc(x_init, (C, c), F, 128, u_lower=-1e3, u_upper=1e3)
    torch.testing.assert_close(free.u, lqr(x_init, C, c, F, horizon=128).u)


class TestDCEM:
    """facebookresearch/dcem: raises with NumPy 2, takes scalar bounds alone, and stops a whole batch together."""

    def test_bounds_may_be_tensors_and_elements_stop_on_their_own(self):
        target = torch.tensor([[0.5, 3.0], [-2.0, 0.0]], dtype=DOUBLE)
        mean, std = torch.zeros(2, 2, dtype=DOUBLE), torch.tensor([[1.0, 1.0], [1e-2, 1e-2]], dtype=DOUBLE)
        solution = cem(
            lambda y: (y - target).square().sum(-1),
            mean,
            std,
            tau=0.0,
            iterations=40,
            upper=torch.tensor([1.0, 2.0], dtype=DOUBLE),
            tolerance=1e-3,
            generator=torch.Generator().manual_seed(0),
        )
        assert solution.y[0, 1] <= 2 and (solution.y[0] - torch.tensor([0.5, 2.0], dtype=DOUBLE)).abs().max() < 1e-2
        assert solution.iterations[0] != solution.iterations[1]

    def test_nothing_of_it_goes_through_numpy(self):
        from diffopt_lib.controllers import cross_entropy

        assert "numpy" not in inspect.getsource(cross_entropy)
