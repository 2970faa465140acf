"""What a user may hand to a controller: any units, far bounds, constraints that can't be met, half precision."""

import math

import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.controllers import LinearDynamics, Pendulum, cem, lqr, mpc
from diffopt_lib.layers import solve_qp

DOUBLE = torch.float64
A = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=DOUBLE)
B = torch.tensor([[0.0], [0.1]], dtype=DOUBLE)
F = torch.cat([A, B], 1)
C, c = torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE)), torch.zeros(3, dtype=DOUBLE)
STARTS = torch.tensor([[1.0, 0.0], [2.0, -0.2]], dtype=DOUBLE)
SCALES = [1e-9, 1e-6, 1e6, 1e9]
BOX = dict(u_lower=-3.0, u_upper=3.0)


def swing_up(x, u):
    weights, goal = torch.tensor([1.0, 1.0, 0.1], dtype=DOUBLE), torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)
    return 0.5 * ((weights * (x - goal).square()).sum(-1) + 0.001 * u.square().sum(-1))


def upright(angle, velocity=0.0):
    angle = torch.as_tensor(angle, dtype=DOUBLE)
    return Pendulum.state(angle, torch.full_like(angle, velocity))


class TestUnits:
    """Multiplied by nine orders of magnitude either way, nothing changes but the units."""

    @pytest.mark.parametrize("scale", SCALES)
    def test_of_the_cost(self, scale):
        torch.testing.assert_close(mpc(STARTS, (scale * C, c), F, 20, **BOX).u, mpc(STARTS, (C, c), F, 20, **BOX).u)
        torch.testing.assert_close(lqr(STARTS, scale * C, c, F, horizon=20).u, lqr(STARTS, C, c, F, horizon=20).u)
        x_init, box = upright([1.0, 2.5]), dict(u_lower=-4.0, u_upper=4.0)
        scaled = mpc(x_init, lambda x, u: scale * swing_up(x, u), Pendulum(), 12, **box)
        plain = mpc(x_init, swing_up, Pendulum(), 12, **box)
        torch.testing.assert_close(scaled.u, plain.u)
        torch.testing.assert_close(scaled.lower_dual / scale, plain.lower_dual)

    @pytest.mark.parametrize("scale", SCALES)
    def test_of_states_and_controls(self, scale):
        expected = mpc(STARTS, (C, c), F, 20, **BOX).u

        def cost(x, u):
            return (
                0.5 * ((x / scale).square() * torch.tensor([1.0, 0.1], dtype=DOUBLE)).sum(-1) + 0.005 * u[..., 0] ** 2
            )

        def in_small_controls(x, u):
            return 0.5 * torch.einsum("...i,ij,...j->...", v := torch.cat([x, u / scale], -1), C, v)

        of_states = mpc(scale * STARTS, cost, LinearDynamics(A, scale * B), 20, **BOX).u
        torch.testing.assert_close(of_states, expected, rtol=1e-6, atol=1e-7)
        bounds = dict(u_lower=-3.0 * scale, u_upper=3.0 * scale)
        of_controls = mpc(STARTS, in_small_controls, LinearDynamics(A, B / scale), 20, **bounds).u
        torch.testing.assert_close(of_controls / scale, expected, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("scale", SCALES)
    def test_of_a_constraint(self, scale):
        x_init = upright([1.0, 2.5])
        as_rows = mpc(x_init, swing_up, Pendulum(), 12, constraints=lambda x, u: scale * torch.cat([u - 4, -u - 4], -1))
        torch.testing.assert_close(as_rows.u, mpc(x_init, swing_up, Pendulum(), 12, u_lower=-4.0, u_upper=4.0).u)


def test_bounds_of_1e20_are_none_for_every_controller():
    x_init = upright([1.0, 2.5])
    for far in (1e20, 1e25, math.inf, torch.tensor(1e20, dtype=DOUBLE)):
        torch.testing.assert_close(
            mpc(x_init, swing_up, Pendulum(), 8, u_lower=-far, u_upper=far).u, mpc(x_init, swing_up, Pendulum(), 8).u
        )
        torch.testing.assert_close(
            mpc(STARTS, (C, c), F, 8, u_lower=-far, u_upper=far).u, lqr(STARTS, C, c, F, horizon=8).u
        )
        start = torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
        a, b = (
            cem(lambda y: (y - 1).square().sum(-1), *start, generator=torch.Generator().manual_seed(0), **bounds).y
            for bounds in (dict(lower=-far, upper=far), {})
        )
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("wrong", [math.inf, 1e20, math.nan])
def test_a_lower_bound_that_nothing_is_above_is_refused(wrong):
    with pytest.raises(ValueError, match="u_lower must be below"):
        mpc(STARTS, (C, c), F, 8, u_lower=wrong)
    with pytest.raises(ValueError, match="lower must be below"):
        cem(lambda y: y.square().sum(-1), torch.zeros(2), torch.ones(2), lower=wrong)
    with pytest.raises(ValueError, match="lower must not be above upper"):
        cem(lambda y: y.square().sum(-1), torch.zeros(2), torch.ones(2), lower=1.0, upper=0.0)


def test_a_long_horizon_with_a_box_and_one_with_an_unstable_system():
    assert mpc(STARTS, (C, c), F, 300, u_lower=-1.0, u_upper=1.0).residual.max() <= 1e-8
    uncontrollable = torch.cat([1.5 * torch.eye(2, dtype=DOUBLE), torch.tensor([[1.0], [0.5]], dtype=DOUBLE)], 1)
    assert lqr(STARTS, C, c, uncontrollable, horizon=300).residual.max() <= 1e-12
    with pytest.raises(SolverError, match="too large for a number"):  # 1.5^4000
        lqr(STARTS, C, c, uncontrollable, horizon=2000)


def test_a_control_that_costs_nothing_and_does_nothing_is_said_to_have_no_unique_minimum():
    with pytest.raises(SolverError, match="t = 6"):
        mpc(STARTS, (torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)), c), F, 6, **BOX)
    with pytest.raises(SolverError, match="no strict minimum"):
        mpc(upright([0.3]), lambda x, u: x[..., 1].square(), Pendulum(), 6, **BOX)


def test_a_cost_that_is_not_a_number_for_one_element_leaves_the_others_alone():
    def cost(x, u):
        return swing_up(x, u) * torch.tensor([1.0, math.nan, 1.0])

    x_init = upright([1.0, 2.5, -0.3])
    with pytest.raises(SolverError, match="not finite") as error:
        mpc(x_init, cost, Pendulum(), 8)
    assert error.value.indices == [(1,)]
    marked = mpc(x_init, cost, Pendulum(), 8, on_failure="nan")
    torch.testing.assert_close(marked.u[[0, 2]], mpc(x_init[[0, 2]], swing_up, Pendulum(), 8).u)


def test_easy_hard_and_infeasible_elements_in_one_batch_do_not_touch_each_other():
    def within(x, u):
        return x[..., 2:].abs() - 3.0

    options = dict(u_lower=-6.0, u_upper=6.0, constraints=within)
    x_init = torch.cat([upright([0.05, 2.8]), upright([0.5], velocity=5.0)]).requires_grad_()
    marked = mpc(x_init, swing_up, Pendulum(), 15, on_failure="nan", **options)
    assert marked.status.tolist() == [1, 1, 2] and marked.iterations[0] < marked.iterations[1]
    (g,) = torch.autograd.grad(marked.u.sum(), x_init)
    for i in (0, 1):
        alone = x_init[i].detach().requires_grad_()
        single = mpc(alone, swing_up, Pendulum(), 15, **options)
        torch.testing.assert_close(marked.u[i], single.u, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(g[i], torch.autograd.grad(single.u.sum(), alone)[0], rtol=1e-6, atol=1e-8)
    assert g[2].isnan().all()


class TestClosest:
    """Constraints that can't be met give way by the least sum of squares."""

    T = 10

    def condensed(self, x_init, limit, bound):
        """The program in the controls alone, x_t = Φ_t x_init + Γ_t u, with soft speeds ≥ −limit and hard bounds."""
        k, one = self.T, torch.eye(self.T, dtype=DOUBLE)
        states, forced = [x_init], [torch.zeros(2, k, dtype=DOUBLE)]
        for t in range(k - 1):
            states.append(A @ states[-1])
            forced.append(A @ forced[-1] + B @ one[t : t + 1])
        Q = sum(G.mT @ C[:2, :2] @ G for G in forced) + C[2, 2] * one
        p = sum(G.mT @ C[:2, :2] @ x for G, x in zip(forced, states, strict=True))
        rows = torch.stack([-G[1] for G in forced])
        h = torch.stack([limit + x[1] for x in states])
        give = torch.zeros(k, k, dtype=DOUBLE)  # bounds stay hard: elastic are the rows of speeds, with slack variables
        soft = 1e-7
        Q = torch.block_diag(Q, one / soft)
        G = torch.cat([torch.cat([rows, -one], 1), torch.cat([one, give], 1), torch.cat([-one, give], 1)])
        h = torch.cat([h, bound.expand(2 * k)])
        return solve_qp(Q, torch.cat([p, torch.zeros(k, dtype=DOUBLE)]), G=G, h=h)

    @pytest.mark.parametrize(("speed", "bound"), [(-0.8, 4.0), (-0.8, 0.5), (-3.0, 1.0)])
    def test_it_is_the_program_with_elastic_rows_and_hard_bounds_and_so_is_its_derivative(self, speed, bound):
        x_init = torch.tensor([2.0, speed], dtype=DOUBLE, requires_grad=True)
        limit, bound = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.5, bound))

        def slow(x, u):
            return -limit - x[..., 1:]

        with pytest.raises(SolverError, match="x_init itself"):
            mpc(x_init, (C, c), F, self.T, u_lower=-bound, u_upper=bound, constraints=slow)
        ours = mpc(x_init, (C, c), F, self.T, u_lower=-bound, u_upper=bound, constraints=slow, on_failure="closest")
        assert ours.status == 1
        program = self.condensed(x_init, limit, bound).y[: self.T]
        torch.testing.assert_close(ours.u[:, 0], program, rtol=1e-4, atol=1e-4)
        weight = torch.randn(self.T, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        for a, b in zip(
            *(torch.autograd.grad((u * weight).sum(), (x_init, limit, bound)) for u in (ours.u[:, 0], program)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)

    def test_feasible_elements_are_solved_as_they_are_and_the_cost_is_the_cost(self):
        x_init = torch.tensor([[2.0, 0.0], [2.0, -0.8]], dtype=DOUBLE)
        options = dict(u_lower=-4.0, u_upper=4.0, constraints=lambda x, u: -0.5 - x[..., 1:])
        ours = mpc(x_init, (C, c), F, 10, on_failure="closest", **options)
        torch.testing.assert_close(ours.u[0], mpc(x_init[0], (C, c), F, 10, **options).u)
        tau = torch.cat([ours.x, ours.u], -1)
        torch.testing.assert_close(ours.cost, 0.5 * torch.einsum("bti,ij,btj->b", tau, C, tau))

    def test_of_a_pendulum_its_gradient_is_that_of_finite_differences(self):
        def angle(x):
            return torch.atan2(x[..., 1], x[..., 0])

        def plan(limit, velocity):
            return mpc(
                torch.stack([torch.tensor(0.2, dtype=DOUBLE).cos(), torch.tensor(0.2, dtype=DOUBLE).sin(), velocity]),
                swing_up,
                Pendulum(),
                8,
                u_lower=-8.0,
                u_upper=8.0,
                constraints=lambda x, u: angle(x).unsqueeze(-1) - limit,
                on_failure="closest",
                tolerance=1e-10,
            ).x[:, :2]

        values = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.25, 3.0)]
        assert angle(plan(*values)).max() > 0.26
        assert torch.autograd.gradcheck(plan, values, eps=1e-5, atol=1e-5, rtol=1e-4)

    def test_smoothing_is_refused_with_it(self):
        with pytest.raises(ValueError, match="smoothing"):
            mpc(STARTS, (C, c), F, 5, constraints=lambda x, u: x - 9, on_failure="closest", smoothing=1e-3)


class TestSmoothingWithConstraints:
    def program(self, x_init, limit, mu):
        T, k = 8, 3
        Q, one = torch.block_diag(*[C] * T), torch.eye(k * T, dtype=DOUBLE)
        rows = torch.zeros(2 * T, k * T, dtype=DOUBLE)
        for t in range(T):
            rows[2 * t : 2 * t + 2, k * t : k * t + 2] = -torch.eye(2, dtype=DOUBLE)
            if t:
                rows[2 * t : 2 * t + 2, k * t - k : k * t] = F
        b = torch.cat([-x_init, torch.zeros(2 * T - 2, dtype=DOUBLE)])
        G = torch.cat([-one[1::3], one[2::3], -one[2::3]])
        h = torch.cat([limit.expand(T), torch.full((2 * T,), 4.0, dtype=DOUBLE)])
        return solve_qp(Q, torch.zeros(k * T, dtype=DOUBLE), rows, b, G, h, smoothing=mu).y[2::3]

    @pytest.mark.parametrize("mu", [1e-2, 1e-4])
    def test_it_is_that_of_solve_qp(self, mu):
        x_init = torch.tensor([2.0, -0.3], dtype=DOUBLE, requires_grad=True)
        limit = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
        options = dict(u_lower=-4.0, u_upper=4.0, constraints=lambda x, u: -limit - x[..., 1:])
        ours = mpc(x_init, (C, c), F, 8, smoothing=mu, **options)
        assert (ours.constraint_dual > 0).any()
        program = self.program(x_init, limit, mu)
        torch.testing.assert_close(ours.u[:, 0], program)
        weight = torch.randn(8, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        for a, b in zip(
            *(torch.autograd.grad((u * weight).sum(), (x_init, limit)) for u in (ours.u[:, 0], program)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

    def test_controls_whose_bounds_meet_stay_held(self):
        upper = torch.tensor([[0.3], [3.0], [3.0]], dtype=DOUBLE)
        lower = torch.tensor([[0.3], [-3.0], [-3.0]], dtype=DOUBLE)
        x_init = STARTS.clone().requires_grad_()
        solution = mpc(x_init, (C, c), F, 3, u_lower=lower, u_upper=upper, smoothing=1e-3)
        assert (solution.u[:, 0] == 0.3).all()
        assert (torch.autograd.grad(solution.u[:, 0].sum(), x_init, retain_graph=True)[0] == 0).all()
        assert (torch.autograd.grad(solution.u[:, 1].sum(), x_init)[0] != 0).any()

    def test_where_nothing_is_strictly_inside_it_says_so(self):
        start = torch.tensor([[2.0, -0.5], [2.0, 0.0]], dtype=DOUBLE)  # the first is on the limit itself
        options = dict(constraints=lambda x, u: -0.5 - x[..., 1:], smoothing=1e-3)
        with pytest.raises(SolverError, match="strictly") as error:
            mpc(start, (C, c), F, 6, **options)
        assert error.value.indices == [(0,)]
        start.requires_grad_()
        marked = mpc(start, (C, c), F, 6, on_failure="nan", **options)
        (g,) = torch.autograd.grad(marked.u.sum(), start)
        assert g[0].isnan().all() and g[1].isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 1e-2])
def test_vmap_with_constraints_is_a_batch(smoothing):
    def u(x_init):
        bounds = dict(u_lower=-2.0, u_upper=2.0)
        return mpc(x_init, (C, c), F, 6, constraints=lambda x, u: -0.5 - x[..., 1:], smoothing=smoothing, **bounds).u

    torch.testing.assert_close(torch.func.vmap(u)(STARTS), u(STARTS))
    rows = torch.func.vmap(torch.func.jacrev(u))(STARTS)
    torch.testing.assert_close(rows, torch.stack([torch.func.jacrev(u)(x) for x in STARTS]))


def test_a_closed_loop_with_a_limit_on_the_change_of_the_control_keeps_it_and_comes_to_rest():
    """The last control is part of the state; the limit is a constraint on both."""

    def dynamics(z, u):
        return torch.cat([z[..., :2] @ A.mT + u @ B.mT, u], -1)

    def cost(z, u):
        return 0.5 * (z[..., 0].square() + 0.1 * z[..., 1].square()) + 0.005 * u[..., 0].square()

    def slow(z, u):
        return torch.cat([u - z[..., 2:] - 0.4, z[..., 2:] - u - 0.4], -1)

    z, plan, iterations = torch.cat([STARTS, torch.zeros(2, 1, dtype=DOUBLE)], -1), None, []
    for _ in range(40):
        solution = mpc(z, cost, dynamics, 20, u_init=plan, constraints=slow, controls=1)
        assert (solution.u[:, 0] - z[:, 2:]).abs().max() <= 0.4 + 1e-8
        z = dynamics(z, solution.u[:, 0])
        plan = torch.cat([solution.u[:, 1:], solution.u[:, -1:]], 1)
        iterations.append(solution.iterations.max().item())
    assert z[:, 0].abs().max() < 0.1 and sum(iterations[1:]) / 39 < iterations[0]


def squares(x, u):
    return x.square().sum(-1) + u.square().sum(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cost=lambda x, u: x.square().sum(-1, keepdim=True)), r"cost\(x, u\) must have the shape \(\*batch\)"),
        (dict(cost=lambda x, u: x.square().sum()), r"cost\(x, u\) must have the shape \(\*batch\).*got \(\)"),
        (dict(dynamics=lambda x, u: x.sum(0)), r"dynamics\(x, u\) must have the shape \(\*batch, n\)"),
        (dict(constraints=lambda x, u: x[..., 0] - 9), r"constraints\(x, u\) must have the shape \(\*batch, k\)"),
        (dict(constraints=lambda x, u: x.max() - 9), r"constraints\(x, u\) must have the shape \(\*batch, k\)"),
    ],
)
def test_functions_that_tie_the_elements_of_a_batch_together_are_refused(change, message):
    """A sum over the batch, or constraints without their last dimension, would be solved as another problem."""
    arguments = dict(cost=squares, dynamics=LinearDynamics(A, B), constraints=lambda x, u: u - 9, controls=1) | change
    with pytest.raises(ValueError, match=message):
        mpc(STARTS, arguments.pop("cost"), arguments.pop("dynamics"), 4, **arguments)


@pytest.mark.parametrize("on_failure", ["raise", "nan", "closest", "return"])
@pytest.mark.parametrize("options", [{}, dict(constraints=lambda x, u: u - 1), dict(u_upper=1.0, smoothing=1e-2)])
def test_an_empty_batch_gives_an_empty_solution(on_failure, options):
    for cost in ((C, c), lambda x, u: x.square().sum(-1) + u.square().sum(-1)):
        assert mpc(STARTS[:0], cost, F, 6, on_failure=on_failure, **options).u.shape == (0, 6, 1)


def test_under_autocast_controllers_answer_as_without():
    x_init, network = upright([1.0, -0.4]).float(), torch.nn.Linear(3, 1)

    def loss():
        mass = 1 + 0.1 * network(x_init).squeeze(-1).tanh()

        def cost(x, u):
            return swing_up(x.double(), u.double()).to(x.dtype)

        u = mpc(x_init, cost, Pendulum(mass=mass.float()), 8, u_lower=-4.0, u_upper=4.0).u.sum()
        tensors = (x_init[:, :2], C.float() + torch.eye(3) * mass.float().mean(), c.float(), F.float())
        u = u + lqr(*tensors, horizon=8).u.sum() + mpc(tensors[0], tensors[1:3], tensors[3], 8, **BOX).u.sum()
        search = cem(lambda y: (y - mass.float().unsqueeze(-1)).square().sum(-1), torch.zeros(2, 2), torch.ones(2, 2),
                     generator=torch.Generator().manual_seed(0))  # fmt: skip
        return u + search.y.sum()

    plain = loss()
    expected = torch.autograd.grad(plain, network.weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss()
        ours = torch.autograd.grad(cast, network.weight)[0]
    torch.testing.assert_close(cast, plain, rtol=2e-2, atol=2e-2)  # the network's own rounding
    torch.testing.assert_close(ours, expected, rtol=5e-2, atol=5e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tensors = (x_init[:, :2].bfloat16(), C.float(), c.float(), F.float())
        u = lqr(*tensors, horizon=8).u
    assert u.dtype == torch.float32
    torch.testing.assert_close(u, lqr(tensors[0].float(), *tensors[1:], horizon=8).u)


class TestTheGradientOfTheCost:
    """By the envelope theorem it costs no linear solve: neither a sweep nor a derivative of the conditions."""

    def solves(self, monkeypatch):
        from diffopt_lib.controllers.mpc import derivative, linear

        count = []
        for module in (derivative, linear):
            original = module.solve_for
            monkeypatch.setattr(module, "solve_for", lambda *a, f=original: count.append(1) or f(*a))
        return count

    def test_of_a_linear_problem_and_of_a_pendulum(self, monkeypatch):
        x_init, mass = upright([1.2]).requires_grad_(), torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
        starts = STARTS.clone().requires_grad_()
        linear = mpc(starts, (C, c), F, 10, **BOX)
        pendulum = mpc(x_init, swing_up, Pendulum(mass=mass), 8, u_lower=-5.0, u_upper=5.0)
        count = self.solves(monkeypatch)
        torch.autograd.grad(linear.cost.sum(), starts, retain_graph=True)
        torch.autograd.grad(pendulum.cost.sum(), (x_init, mass), retain_graph=True)
        assert not count
        torch.autograd.grad(linear.u.sum(), starts)
        torch.autograd.grad(pendulum.u.sum(), (x_init, mass))
        assert len(count) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cost=(C, c, c)), "cost must be a function"),
        (dict(cost="cost"), "cost must be a function"),
        (dict(dynamics=None), "dynamics must be a function"),
        (dict(constraints=1.0), "constraints must be a function"),
        (dict(horizon=2.0), "horizon must be an integer"),
        (dict(smoothing=-1.0), "smoothing must be at least 0"),
        (dict(tolerance=-1.0), "tolerance must be at least 0"),
        (dict(on_failure="ignore"), "on_failure must be one of"),
        (dict(x_init=torch.tensor([1, 2])), "x_init must be float32 or float64"),
        (dict(u_upper=[1.0, 2.0]), "u_upper must be a number"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(x_init=STARTS, cost=(C, c), dynamics=F, horizon=5) | change
    with pytest.raises(ValueError, match=message):
        mpc(**arguments)


def upright_at(cost_of_speed):
    return lambda x, u: 1 - x[..., 0] + cost_of_speed * x[..., 2].square() + 1e-3 * u.square().sum(-1)


class TestACostThatIsLinearInTheState:
    """1 − cos θ has no curvature in (cos θ, sin θ): Gauss and Newton's steps creep, and float32 sees 1e-7 of it."""

    ANGLES = torch.tensor([0.5, -0.7, 0.2], dtype=torch.float64)

    @pytest.mark.parametrize("mass", [0.55, 0.8, 1.05, 1.5])
    def test_few_iterations_are_enough(self, mass, dtype):
        x_init = Pendulum.state(self.ANGLES, torch.zeros(3, dtype=torch.float64)).to(dtype)
        solution = mpc(x_init, upright_at(0.1), Pendulum(mass=mass), 15, u_lower=-5.0, u_upper=5.0)
        assert solution.iterations.max() <= 20  # 200 were not enough
        exact = mpc(x_init.double(), upright_at(0.1), Pendulum(mass=mass), 15, u_lower=-5.0, u_upper=5.0)
        torch.testing.assert_close(solution.u.double(), exact.u, rtol=0, atol=1e-8 if dtype == torch.float64 else 1e-3)

    def test_a_closed_loop_in_float32_comes_to_rest_within_its_limit(self):
        system = Pendulum()
        x, plan = Pendulum.state(self.ANGLES, torch.zeros(3, dtype=torch.float64)).float(), None
        for _ in range(25):
            options = dict(u_lower=-5.0, u_upper=5.0, constraints=lambda x, u: math.cos(0.72) - x[..., :1])
            solution = mpc(x, upright_at(0.1), system, 15, u_init=plan, **options)
            x = system(x, solution.u[:, 0]).detach()
            plan = torch.cat([solution.u[:, 1:], solution.u[:, -1:]], 1).detach()
            assert (x[:, 0] >= math.cos(0.72) - 1e-5).all()
        assert x[:, 1].abs().max() < 0.1
