"""Nonlinear MPC: derivatives of the true optimality conditions, constraints, warm starts, honest failures."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from diffopt_lib import SolverError
from diffopt_lib.controllers import CartPole, LinearDynamics, MLPDynamics, Pendulum, lqr, mpc
from diffopt_lib.controllers.mpc.stage import takes_time

DOUBLE = torch.float64
WEIGHTS = torch.tensor([1.0, 1.0, 0.1, 0.001], dtype=DOUBLE)
GOAL = torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)


def swing_up(x, u):
    """½ (x − goal)ᵀ diag(1, 1, .1) (x − goal) + ½ · .001 u²."""
    return 0.5 * ((WEIGHTS[:3].to(x) * (x - GOAL.to(x)).square()).sum(-1) + WEIGHTS[3].to(x) * u.square().sum(-1))


def upright(angle, velocity=0.0):
    return Pendulum.state(
        *torch.broadcast_tensors(torch.as_tensor(angle, dtype=DOUBLE), torch.tensor(velocity, dtype=DOUBLE))
    )


def finite_differences(f, values, step):
    """Central differences of f, of tensors to a tensor, with one Richardson extrapolation, in each of the values."""
    columns = []
    for i, value in enumerate(values):
        for j in range(value.numel()):

            def at(h, i=i, j=j):
                moved = [v.clone() for v in values]
                moved[i].view(-1)[j] += h
                return f(*moved)

            coarse = (at(2 * step) - at(-2 * step)) / (4 * step)
            fine = (at(step) - at(-step)) / (2 * step)
            columns.append((4 * fine - coarse) / 3)
    return torch.stack(columns, -1)


def derivative(f, values):
    values = [v.clone().requires_grad_() for v in values]
    out = f(*values)
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(o, values, retain_graph=True)]) for o in out.flatten()
    ]
    return torch.stack(rows)


class TestExactDerivatives:
    """Against finite differences of optima that Newton's method polished: relative error at most 1e-6."""

    @staticmethod
    def agree(f, values, step=1e-3, tolerance=1e-6):
        ours, reference = derivative(f, values), finite_differences(f, values, step)
        reference = reference.reshape(ours.shape)
        assert (ours - reference).abs().max() <= tolerance * reference.abs().max()
        return ours, reference

    parameters = (torch.tensor(10.0, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))

    @pytest.mark.parametrize("angle", [1.0, 2.0, -0.5])
    def test_of_the_first_control_in_gravity_mass_and_length(self, angle):
        def first(gravity, mass, length):
            system = Pendulum(gravity, mass, length)
            return mpc(upright(angle), swing_up, system, 10, tolerance=1e-10).u[0]

        self.agree(first, self.parameters)

    def test_where_the_public_code_is_a_quarter_off(self):
        """mpc.pytorch 0.0.6 at these settings: the same control to 12 digits, and this derivative of it."""
        public = torch.tensor([-0.4306, -14.1106, -23.9152], dtype=DOUBLE)

        def first(*parameters):
            return mpc(upright(1.0), swing_up, Pendulum(*parameters), 10).u[0]

        torch.testing.assert_close(first(*self.parameters), torch.tensor([-16.5824537566], dtype=DOUBLE))
        exact, reference = self.agree(first, self.parameters)
        assert 0.26 < (public - reference[0]).norm() / reference.norm() < 0.28

    def test_without_curvature_they_are_biased_the_more_the_larger_the_costates(self):
        def first(*parameters, angle, gradient):
            return mpc(upright(angle), swing_up, Pendulum(*parameters), 20, gradient=gradient).u[0]

        errors = []
        for angle in (0.5, 2.0):
            exact, dropped = (
                derivative(lambda *p, g=g, a=angle: first(*p, angle=a, gradient=g), self.parameters)
                for g in ("implicit", "gauss_newton")
            )
            errors.append((dropped - exact).norm() / exact.norm())
        assert 0.003 < errors[0] < 0.01 and 0.3 < errors[1] < 0.5

    def test_of_all_controls_with_some_at_their_bounds_in_parameters_bounds_and_x_init(self):
        def controls(gravity, mass, length, bound, x_init):
            options = dict(u_lower=-bound, u_upper=bound, tolerance=1e-10)
            return mpc(x_init, swing_up, Pendulum(gravity, mass, length), 12, **options).u.flatten()

        values = (*self.parameters, torch.tensor(6.0, dtype=DOUBLE), upright(1.5, 0.3))
        at_bound = (controls(*values).abs() == 6.0).sum()
        assert 1 <= at_bound <= 10
        self.agree(controls, values, step=3e-4)

    def test_of_a_cart_pole_whose_hamiltonian_is_indefinite(self):
        q = torch.tensor([0.1, 0.1, 1.0, 1.0, 0.1], dtype=DOUBLE)
        goal = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=DOUBLE)

        def cost(x, u):
            return 0.5 * ((q * (x - goal).square()).sum(-1) + 0.001 * u.square().sum(-1))

        x_init = CartPole.state(*torch.tensor([0.2, -0.1, 0.8, 0.3], dtype=DOUBLE))

        def first(gravity, cart, pole, length):
            return mpc(x_init, cost, CartPole(gravity, cart, pole, length), 15, tolerance=1e-10).u[0]

        values = tuple(torch.tensor(v, dtype=DOUBLE) for v in (9.8, 1.0, 0.1, 0.5))
        self.agree(first, values)
        solution = mpc(x_init, cost, CartPole(*values), 15)
        tau = torch.cat([solution.x, solution.u], -1)

        def hamiltonian(tau, costate):
            return cost(tau[:5], tau[5:]) + costate @ CartPole(*values)(tau[:5], tau[5:])

        H = torch.func.vmap(torch.func.hessian(hamiltonian))(tau[:-1], solution.costate[1:])
        assert torch.linalg.eigvalsh(H).min() < -1e-2

    def test_in_everything_a_constraint_closes_over(self):
        def controls(limit, mass):
            def slow(x, u):
                return x[..., 2:] - limit

            return mpc(upright(-1.0), swing_up, Pendulum(mass=mass), 10, constraints=slow, tolerance=1e-9).u.flatten()

        values = (torch.tensor(1.5, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))
        self.agree(controls, values)

    def test_in_the_weights_of_a_module_that_cost_and_dynamics_share(self):
        torch.manual_seed(0)
        network = MLPDynamics(2, 1, (4,), dtype=DOUBLE)
        x_init = torch.tensor([0.7, -0.4], dtype=DOUBLE)

        def cost(x, u):
            return x.square().sum(-1) + 0.1 * u.square().sum(-1) + network(x, u)[..., 0].square()

        def controls():
            return mpc(x_init, cost, network, 6, tolerance=1e-11).u.flatten()

        weight = network.network[0].weight
        (ours,) = torch.autograd.grad(controls().sum(), weight)
        with torch.no_grad():
            columns = []
            for j in range(weight.numel()):
                sums = []
                for h in (1e-4, -1e-4):
                    weight.view(-1)[j] += h
                    sums.append(controls().sum())
                    weight.view(-1)[j] -= h
                columns.append((sums[0] - sums[1]) / 2e-4)
        reference = torch.stack(columns).reshape(weight.shape)
        assert (ours - reference).abs().max() <= 1e-6 * reference.abs().max()


def test_first_and_second_derivatives_pass_gradcheck_with_active_bounds():
    def outputs(mass, bound, x_init, goal):
        def cost(x, u):
            return (x - goal).square().sum(-1) + 0.01 * u.square().sum(-1)

        s = mpc(x_init, cost, Pendulum(mass=mass), 4, u_lower=-bound, u_upper=bound, tolerance=1e-11)
        return s.u, s.x, s.cost, s.upper_dual, s.lower_dual

    x_init = upright(torch.tensor([0.4, 2.0], dtype=DOUBLE))
    values = [torch.tensor(v, dtype=DOUBLE) for v in ([1.0, 1.2], 5.0)] + [x_init, GOAL.clone()]
    values[1] = torch.tensor(5.0, dtype=DOUBLE)
    inputs = [v.requires_grad_() for v in values]
    assert 0 < sum((d > 0).sum() for d in outputs(*inputs)[3:]) < 8
    assert gradcheck(outputs, inputs)
    assert gradgradcheck(outputs, inputs)


def test_unrolled_and_one_step_gradients_are_exact_at_convergence():
    def gradients(gradient):
        mass, x_init = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True), upright(1.2).requires_grad_()
        bound = torch.tensor(7.0, dtype=DOUBLE, requires_grad=True)
        options = dict(u_lower=-bound, u_upper=bound, gradient=gradient, tolerance=1e-10)
        u = mpc(x_init, swing_up, Pendulum(mass=mass), 8, **options).u
        return torch.cat([g.flatten() for g in torch.autograd.grad(u.sum(), (mass, x_init, bound))])

    exact = gradients("implicit")
    torch.testing.assert_close(gradients("one_step"), exact, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradients("unroll"), exact, rtol=1e-4, atol=1e-6)


def test_a_smoothed_gradient_is_not_zero_where_every_control_is_at_its_bound():
    x_init = upright(3.0, 0.3).requires_grad_()
    options = dict(u_lower=-0.5, u_upper=0.5)
    sharp, smooth = (mpc(x_init, swing_up, Pendulum(), 8, smoothing=mu, **options) for mu in (0.0, 1e-3))
    torch.testing.assert_close(smooth.u, sharp.u)
    moving = sharp.u[:-1]
    assert (moving.abs() == 0.5).all()
    assert (torch.autograd.grad(moving.sum(), x_init)[0] == 0).all()
    assert (torch.autograd.grad(smooth.u[:-1].sum(), x_init)[0] != 0).any()


def test_the_gradient_of_the_cost_alone_is_the_envelope_theorems():
    def value(mass, x_init):
        return mpc(x_init, swing_up, Pendulum(mass=mass), 8, u_lower=-5.0, u_upper=5.0, tolerance=1e-10).cost

    assert gradcheck(value, (torch.tensor(1.0, dtype=DOUBLE, requires_grad=True), upright(1.2).requires_grad_()))


class TestConstraints:
    @staticmethod
    def double_integrator():
        A = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=DOUBLE)
        B = torch.tensor([[0.0], [0.1]], dtype=DOUBLE)
        C = torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE))
        return (C, torch.zeros(3, dtype=DOUBLE)), torch.cat([A, B], 1)

    @staticmethod
    def clarabel(C, F, x_init, T, bound, limit):
        x, u = cp.Variable((T, 2)), cp.Variable((T, 1))
        cost = sum(0.5 * cp.quad_form(cp.hstack([x[t], u[t]]), C.numpy()) for t in range(T))
        rows = x[:, 1] >= -limit
        constraints = [x[0] == x_init.numpy(), cp.abs(u) <= bound, rows]
        constraints += [x[t + 1] == F.numpy() @ cp.hstack([x[t], u[t]]) for t in range(T - 1)]
        cp.Problem(cp.Minimize(cost), constraints).solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
        )
        return x.value, u.value, rows.dual_value

    def test_a_speed_limit_with_bounded_force_is_clarabels_solution(self):
        (C, c), F = self.double_integrator()
        starts = torch.tensor([[2.0, 0.0], [0.1, 0.0], [1.0, -0.3]], dtype=DOUBLE)
        options = dict(u_lower=-4.0, u_upper=4.0, constraints=lambda x, u: -0.5 - x[..., 1:])
        solution = mpc(starts, (C, c), F, 20, **options)
        assert solution.converged.all() and (solution.x[..., 1] >= -0.5 - 1e-8).all()
        for i in range(3):
            x, u, dual = self.clarabel(C, F, starts[i], 20, 4.0, 0.5)
            np.testing.assert_allclose(solution.x[i], x, atol=1e-6)
            np.testing.assert_allclose(solution.u[i], u, atol=1e-5)
            np.testing.assert_allclose(solution.constraint_dual[i, :, 0], dual, atol=1e-4)
        assert (solution.constraint_dual[0] > 0).any() and not (solution.constraint_dual[1] > 0).any()

    def test_an_x_init_that_violates_a_constraint_is_infeasible_and_does_not_touch_the_others(self):
        cost, F = self.double_integrator()
        starts = torch.tensor([[2.0, 0.0], [2.0, -1.0]], dtype=DOUBLE)
        options = dict(constraints=lambda x, u: -0.5 - x[..., 1:])
        with pytest.raises(SolverError, match="x_init itself violates") as error:
            mpc(starts, cost, F, 12, **options)
        assert error.value.indices == [(1,)]
        starts.requires_grad_()
        marked = mpc(starts, cost, F, 12, on_failure="nan", **options)
        alone = mpc(starts[0], cost, F, 12, **options)
        torch.testing.assert_close(marked.u[0], alone.u)
        assert marked.u[1].isnan().all()
        (g,) = torch.autograd.grad(marked.u.sum(), starts, retain_graph=True)
        (e,) = torch.autograd.grad(alone.u.sum(), starts)
        torch.testing.assert_close(g[0], e[0])
        assert g[1].isnan().all()

    def test_constraints_that_no_control_can_satisfy_are_infeasible(self):
        cost, F = self.double_integrator()
        x_init = torch.tensor([2.0, -0.4], dtype=DOUBLE)
        with pytest.raises(SolverError, match="can't be satisfied"):  # it can't brake that fast
            mpc(
                x_init,
                cost,
                F,
                6,
                u_lower=-0.1,
                u_upper=0.1,
                constraints=lambda x, u, t: (0.3 - 0.2 * (t > 2)) * (t > 1) - x[..., 1:] - 0.5,
            )

    def test_started_at_its_solution_it_takes_at_most_one_iteration_and_has_the_same_sensitivity(self):
        cost, F = self.double_integrator()
        limit = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
        x_init = torch.tensor([2.0, 0.0], dtype=DOUBLE, requires_grad=True)
        options = dict(u_lower=-4.0, u_upper=4.0, constraints=lambda x, u: -limit - x[..., 1:])
        cold = mpc(x_init, cost, F, 20, **options)
        warm = mpc(x_init, cost, F, 20, u_init=cold.u.detach(), **options)
        assert warm.iterations <= 1 < cold.iterations
        torch.testing.assert_close(warm.u, cold.u, rtol=1e-8, atol=1e-8)
        for a, b in zip(*(torch.autograd.grad(s.u[:5].sum(), (x_init, limit)) for s in (cold, warm)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

    def test_a_state_fixed_by_two_inequalities_has_the_derivative_of_an_equality(self):
        (C, c), F = self.double_integrator()
        x_init = torch.tensor([1.0, 0.0], dtype=DOUBLE, requires_grad=True)
        v = torch.tensor(-0.2, dtype=DOUBLE, requires_grad=True)

        def fixed(x, u, t):
            off = torch.where(t == 1, x[..., 1] - v, 0)
            return torch.stack([off, -off], -1)

        solution = mpc(x_init, (C, c), F, 10, constraints=fixed)
        torch.testing.assert_close(solution.x[1, 1], v, rtol=0, atol=1e-8)
        # x_1 = x_0 + .1 u_0 fixes u_0; what follows is the regulator from there.
        u0 = (v - x_init[1]) / 0.1
        second = torch.stack([x_init[0] + 0.1 * x_init[1], v])
        expected = torch.cat([u0.reshape(1, 1), lqr(second, C, c, F, horizon=9).u])
        torch.testing.assert_close(solution.u, expected, rtol=1e-6, atol=1e-7)
        weight = torch.randn(10, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        ours, reference = (torch.autograd.grad((u * weight).sum(), (x_init, v)) for u in (solution.u, expected))
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)

    def test_a_limit_on_the_angle_of_a_pendulum_is_kept_and_can_be_impossible_to_keep(self):
        def lean(x, u):
            goal = torch.tensor([math.cos(0.5), math.sin(0.5), 0.0], dtype=DOUBLE)
            return (x - goal).square().sum(-1) + 0.001 * u.square().sum(-1)

        def within(x, u):
            return math.cos(0.35) - x[..., :1]

        x_init = upright(torch.tensor([0.3, -0.2], dtype=DOUBLE))
        options = dict(u_lower=-6.0, u_upper=6.0)
        free = mpc(x_init, lean, Pendulum(), 20, **options)
        solution = mpc(x_init, lean, Pendulum(), 20, constraints=within, **options)
        assert (free.x[..., 0].amin(1) < math.cos(0.36)).any()
        assert solution.x[..., 0].min() >= math.cos(0.35) - 1e-8 and (solution.constraint_dual > 0).any()
        with pytest.raises(SolverError, match="can't be satisfied") as error:  # at 2 rad/s it can't be stopped in time
            fast = upright(torch.tensor([0.3, -0.2], dtype=DOUBLE), 2.0)
            mpc(fast, lean, Pendulum(), 20, constraints=within, **options)
        assert error.value.indices == [(0,)]


class TestWarmStarts:
    def test_started_at_its_solution_it_takes_at_most_one_iteration_and_has_the_same_gradient(self):
        mass = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
        x_init = upright(torch.tensor([1.0, 2.5, -0.7], dtype=DOUBLE))
        options = dict(u_lower=-6.0, u_upper=6.0)
        cold = mpc(x_init, swing_up, Pendulum(mass=mass), 15, **options)
        warm = mpc(x_init, swing_up, Pendulum(mass=mass), 15, u_init=cold.u.detach(), **options)
        assert (warm.iterations <= 1).all() and (cold.iterations > 1).all()
        torch.testing.assert_close(warm.u, cold.u)
        a, b = (torch.autograd.grad(s.u[:, :4].sum(), mass)[0] for s in (cold, warm))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)

    def test_a_receding_horizon_takes_fewer_iterations_from_the_shifted_plan_and_stands_the_pendulum_up(self):
        system, x, plan, warm, cold = Pendulum(), upright(torch.tensor([1.0, -2.0], dtype=DOUBLE)), None, [], []
        options = dict(u_lower=-12.0, u_upper=12.0)
        with torch.no_grad():
            for _ in range(40):
                solution = mpc(x, swing_up, system, 15, u_init=plan, **options)
                warm.append(solution.iterations.sum().item())
                cold.append(mpc(x, swing_up, system, 15, **options).iterations.sum().item())
                x = system(x, solution.u[..., 0, :])
                plan = torch.cat([solution.u[..., 1:, :], solution.u[..., -1:, :]], dim=-2)
        assert sum(warm[1:]) < sum(cold[1:])
        assert (x[:, 0] > 0.99).all()


class TestTime:
    reference = torch.sin(torch.arange(8, dtype=DOUBLE) / 2).unsqueeze(-1)

    def test_references_and_terminal_costs_come_in_through_t(self):
        A, B = torch.eye(1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE)

        def cost(x, u, t):
            stage = 0.5 * (x - self.reference[t]).square().sum(-1)
            return torch.where(t == 7, 10 * stage, stage) + 0.05 * u.square().sum(-1)

        weight = torch.ones(8, dtype=DOUBLE)
        weight[-1] = 10
        C = torch.diag_embed(torch.stack([weight, torch.full((8,), 0.1, dtype=DOUBLE)], -1))
        c = torch.stack([-weight * self.reference[:, 0], torch.zeros(8, dtype=DOUBLE)], -1)
        x_init = torch.zeros(2, 1, dtype=DOUBLE)
        ours = mpc(x_init, cost, LinearDynamics(A, B), 8)
        torch.testing.assert_close(ours.u, lqr(x_init, C, c, torch.cat([A, B], 1)).u)

    def test_dynamics_may_have_a_table_of_one_time_less_and_gradients_reach_it(self):
        wind = (0.1 * torch.arange(7, dtype=DOUBLE)).unsqueeze(-1).requires_grad_()
        C, c = torch.eye(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
        x_init, F = torch.ones(1, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
        ours = mpc(x_init, (C, c), lambda x, u, t: x + u + wind[t], 8)
        regulator = lqr(x_init, C, c, F, wind, horizon=8)
        torch.testing.assert_close(ours.u, regulator.u)
        for a, b in zip(*(torch.autograd.grad(s.u.sum(), wind) for s in (ours, regulator)), strict=True):
            torch.testing.assert_close(a, b)

    def test_a_price_on_changing_the_control_needs_the_last_control_in_the_state(self):
        rate, x_init = 2.0, torch.tensor([1.0, 0.3], dtype=DOUBLE)  # x and the control before the first

        def cost(x, u):
            return 0.5 * (x[..., :1].square() + 0.1 * u.square() + rate * (u - x[..., 1:]).square()).sum(-1)

        solution = mpc(x_init, cost, lambda x, u: torch.cat([x[..., :1] + u, u], -1), 6, controls=1)
        x, u = cp.Variable(6), cp.Variable(6)
        objective = cp.sum_squares(x) + 0.1 * cp.sum_squares(u) + rate * cp.sum_squares(u - cp.hstack([0.3, u[:-1]]))
        cp.Problem(cp.Minimize(objective / 2), [x[0] == 1, x[1:] == x[:-1] + u[:-1]]).solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(solution.u[:, 0], u.value, atol=1e-5)

    def test_a_third_argument_without_a_default_is_the_time(self):
        assert takes_time(lambda x, u, t: x) and not takes_time(lambda x, u: x)
        assert not takes_time(lambda x, u, scale=1: x) and not takes_time(Pendulum())


def test_a_stage_cost_with_an_indefinite_cross_term_is_solved_where_a_minimum_exists():
    H = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE)

    def cost(x, u, t):
        tau = torch.cat([x, u], -1)
        return torch.where(t == 0, 0.5 * torch.einsum("...i,ij,...j->...", tau, H, tau), 4 * tau.square().sum(-1))

    C = torch.cat([H[None], 8 * torch.eye(2, dtype=DOUBLE).expand(4, 2, 2)])
    F = torch.tensor([[1.0, 1.0]], dtype=DOUBLE)
    x_init, c = torch.ones(1, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    ours = mpc(x_init, cost, lambda x, u: x + u, 5, controls=1)
    torch.testing.assert_close(ours.u, lqr(x_init, C, c, F).u)


def test_from_the_saddle_of_a_pendulum_that_hangs_still_it_goes_down_to_a_minimum():
    hanging = mpc(upright(torch.tensor([math.pi, 1.0], dtype=DOUBLE)), swing_up, Pendulum(), 20)
    still = Pendulum.state(torch.tensor(math.pi, dtype=DOUBLE), torch.tensor(0.0, dtype=DOUBLE))
    at_rest = 20 * swing_up(still, torch.zeros(1, dtype=DOUBLE))
    assert hanging.converged.all() and hanging.cost[0] < at_rest - 1
    alone = mpc(upright(1.0), swing_up, Pendulum(), 20)
    torch.testing.assert_close(hanging.u[1], alone.u)


def test_where_there_is_no_minimum_it_says_so():
    with pytest.raises(SolverError):
        mpc(torch.ones(1, dtype=DOUBLE), lambda x, u: -u.square().sum(-1), lambda x, u: x + u, 3, controls=1)


@pytest.mark.parametrize("batch", [(0,), (), (2, 3)])
@pytest.mark.parametrize("horizon", [1, 4])
def test_any_batch_and_a_horizon_of_one(batch, horizon, device):
    angle = torch.linspace(-1, 1, math.prod(batch), dtype=DOUBLE, device=device).reshape(batch)
    x_init = Pendulum.state(angle, torch.zeros_like(angle))
    solution = mpc(x_init, swing_up_on(device), Pendulum().to(device), horizon, u_upper=3.0)
    assert solution.u.shape == (*batch, horizon, 1) and solution.cost.shape == batch
    assert solution.converged.all() and solution.u.device.type == device


def swing_up_on(device):
    weights, goal = WEIGHTS.to(device), GOAL.to(device)
    return lambda x, u: 0.5 * ((weights[:3] * (x - goal).square()).sum(-1) + weights[3] * u.square().sum(-1))


def test_parameters_with_a_batch_are_solved_and_differentiated_each_for_itself():
    mass = torch.tensor([0.7, 1.0, 1.5], dtype=DOUBLE, requires_grad=True)
    x_init = upright(1.0)
    family = mpc(x_init, swing_up, Pendulum(mass=mass), 8)
    (g,) = torch.autograd.grad(family.u[:, 0].sum(), mass)
    for i in range(3):
        one = mass[i].detach().requires_grad_()
        single = mpc(x_init, swing_up, Pendulum(mass=one), 8)
        torch.testing.assert_close(family.u[i], single.u)
        torch.testing.assert_close(g[i], torch.autograd.grad(single.u[0].sum(), one)[0])


def test_a_batched_backward_pass_and_vmap_and_forward_mode_agree():
    x_init = upright(torch.tensor([1.0, 0.5, -0.3], dtype=DOUBLE))
    options = dict(u_lower=-5.0, u_upper=5.0)

    def u(x_init, mass):
        return mpc(x_init, swing_up, Pendulum(mass=mass), 5, **options).u

    mass = torch.tensor([1.0, 1.1, 0.9], dtype=DOUBLE)
    torch.testing.assert_close(torch.func.vmap(u)(x_init, mass), u(x_init, mass))
    reverse = torch.func.jacrev(u, argnums=(0, 1))(x_init[0], mass[0])
    forward = torch.func.jacfwd(u, argnums=(0, 1))(x_init[0], mass[0])
    for a, b in zip(reverse, forward, strict=True):
        torch.testing.assert_close(a, b)


def test_float32_agrees_with_float64():
    x_init = upright(torch.tensor([1.0, -0.5], dtype=DOUBLE))
    solutions = [
        mpc(x_init.to(t), swing_up, Pendulum(), 10, u_lower=-6.0, u_upper=6.0) for t in (torch.float32, DOUBLE)
    ]
    assert solutions[0].u.dtype == torch.float32
    torch.testing.assert_close(solutions[0].u.double(), solutions[1].u, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cost=lambda x, u: x), "cost"),
        (dict(dynamics=lambda x, u: x[..., :2]), "dynamics"),
        (dict(dynamics=lambda x, u: x), "nothing says how many controls"),
    ],
)
def test_bad_functions_are_named(change, message):
    arguments = dict(x_init=upright(torch.zeros(5)), cost=swing_up, dynamics=Pendulum(), horizon=4) | change
    if "controls" not in message:
        arguments["controls"] = 1
    with pytest.raises(ValueError, match=message):
        mpc(**arguments)


class TestAsSomeoneNewWouldUseIt:
    """A mass is learned by imitation, and a script that gives tensors goes on with modules."""

    def test_a_mass_is_learned_from_the_controls_of_an_expert(self):
        x_init = upright(torch.linspace(-1.5, 1.4, 4, dtype=DOUBLE))
        bounds = dict(u_lower=-6.0, u_upper=6.0)
        expert = mpc(x_init, swing_up, Pendulum(mass=1.0), 10, **bounds).u.detach()
        learner = Pendulum(gravity=torch.tensor(10.0), mass=2.0, length=torch.tensor(1.0))
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.2)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.92)
        plan = None
        for _ in range(50):
            solution = mpc(x_init, swing_up, learner, 10, u_init=plan, **bounds)
            loss = (solution.u - expert).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            plan = solution.u.detach()
        assert loss < 1e-2 and learner.mass.item() == pytest.approx(1.0, abs=0.05)

    def test_cost_and_dynamics_may_be_modules_or_tensors_in_any_combination(self):
        A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=DOUBLE), torch.tensor([[0.0], [0.1]], dtype=DOUBLE)
        C, c = torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE)), torch.zeros(3, dtype=DOUBLE)
        x_init = torch.tensor([[1.0, 0.0], [-2.0, 0.3]], dtype=DOUBLE)

        class Quadratic(torch.nn.Module):
            def forward(self, x, u):
                tau = torch.cat([x, u], -1)
                return 0.5 * torch.einsum("...i,ij,...j->...", tau, C, tau)

        bounds = dict(u_lower=-3.0, u_upper=3.0)
        reference = mpc(x_init, (C, c), torch.cat([A, B], 1), 12, **bounds)
        for cost in ((C, c), Quadratic()):
            for dynamics in (LinearDynamics(A, B), torch.cat([A, B], 1)):
                torch.testing.assert_close(mpc(x_init, cost, dynamics, 12, **bounds).u, reference.u)
