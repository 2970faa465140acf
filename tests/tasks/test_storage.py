"""Plans against cvxpy, mpc with the level as a constraint, and finite differences."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib.controllers import mpc
from diffopt_lib.data import storage_market
from diffopt_lib.tasks import storage

NAMES = ("flexibility", "health", "capacity", "efficiency", "charge_rate", "discharge_rate", "start")
SETTINGS = [(0.1, 0.05), (1.0, 0.5), (10.0, 5.0), (35.0, 15.0)]
double = torch.float64


def random_prices(*shape, seed=0):
    return 40 + 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=double)


def by_cvxpy(p, flexibility=0.1, health=0.05, capacity=1.0, eta=0.9, charge=0.5, discharge=0.2, start=0.5):
    a, b = cp.Variable(len(p)), cp.Variable(len(p))
    x = start + cp.cumsum(eta * a - b)
    cost = p @ (a - b) + flexibility * cp.sum_squares(x - capacity / 2) + health * cp.sum_squares(cp.hstack([a, b]))
    bounds = [a >= 0, b >= 0, a <= charge, b <= discharge, x >= 0, x <= capacity]
    program = cp.Problem(cp.Minimize(cost), bounds)
    program.solve(cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return a.value, b.value, program.value


@pytest.mark.parametrize(("flexibility", "health"), SETTINGS)
def test_plans_are_those_of_cvxpy(flexibility, health):
    prices = random_prices(10, 24)
    plan = storage.decide(prices, flexibility=flexibility, health=health)
    cost = storage.loss(plan, prices, flexibility=flexibility, health=health)
    assert plan.converged.all()
    for k, p in enumerate(prices.numpy()):
        a, b, value = by_cvxpy(p, flexibility, health)
        assert np.abs(plan.charge[k].numpy() - a).max() < 1e-5 and np.abs(plan.discharge[k].numpy() - b).max() < 1e-5
        assert abs(cost[k].item() - value) < 1e-7 * (1 + abs(value))


def test_negative_prices_charge_and_discharge_at_once_as_cvxpy_has_it():
    prices = torch.full((1, 24), -20.0, dtype=double)
    plan = storage.decide(prices)
    a, b, value = by_cvxpy(prices[0].numpy())
    assert storage.loss(plan, prices).item() == pytest.approx(value, rel=1e-8)
    assert ((plan.charge > 0.01) & (plan.discharge > 0.01)).any()


def test_mpc_with_the_level_as_a_constraint_finds_the_same_plan():
    prices = random_prices(2, 8, seed=1)

    def cost(x, u, t):
        level = x[..., 0] + 0.9 * u[..., 0] - u[..., 1]
        trade = prices[..., t].squeeze(-1) if t.ndim else prices.index_select(-1, t.reshape(1)).squeeze(-1)
        return trade * (u[..., 0] - u[..., 1]) + 10 * (level - 0.5) ** 2 + 5 * u.square().sum(-1)

    def dynamics(x, u):
        return x + 0.9 * u[..., :1] - u[..., 1:]

    def constraints(x, u):
        level = dynamics(x, u)
        return torch.cat([-level, level - 1], -1)

    upper = torch.tensor([0.5, 0.2], dtype=double)
    start = torch.full((2, 1), 0.5, dtype=double)
    solution = mpc(start, cost, dynamics, 8, u_lower=0.0, u_upper=upper, constraints=constraints)
    plan = storage.decide(prices, flexibility=10.0, health=5.0)
    assert torch.allclose(solution.u[..., 0], plan.charge, atol=1e-6)
    assert torch.allclose(solution.u[..., 1], plan.discharge, atol=1e-6)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_in_all_arguments(check):
    prices = 0.5 * torch.randn(2, 5, generator=torch.Generator().manual_seed(20), dtype=double)
    settings = [torch.tensor(v, dtype=double) for v in (0.3, 0.4, 1.0, 0.9, 0.5, 0.2, 0.15)]

    def f(prices, *settings):
        plan = storage.decide(prices, **dict(zip(NAMES, settings, strict=True)))
        return plan.charge, plan.discharge, plan.level

    charge, discharge, level = f(prices, *settings)
    inside = [(v > 1e-6) & (v < top - 1e-6) for v, top in ((charge, 0.5), (discharge, 0.2), (level, 1.0))]
    assert all(free.any() and not free.all() for free in inside)
    assert check(f, [t.requires_grad_() for t in (prices, *settings)])


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e9])
@pytest.mark.parametrize("energy", [1e-6, 1.0, 1e6])
def test_units_of_money_and_energy_do_not_matter(scale, energy):
    prices = random_prices(20, 24, seed=3)
    plan = storage.decide(prices, flexibility=10.0, health=5.0)
    wide = dict(capacity=energy, charge_rate=0.5 * energy, discharge_rate=0.2 * energy, start=0.5 * energy)
    quadratic = dict(flexibility=10.0 * scale / energy, health=5.0 * scale / energy)
    scaled = storage.decide(scale * prices, **quadratic, **wide)
    assert scaled.converged.all()
    assert torch.allclose(scaled.charge / energy, plan.charge, atol=1e-7)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_battery_that_begins_full_or_empty(start):
    prices = random_prices(20, 24, seed=4)
    plan = storage.decide(prices, start=start)
    assert plan.converged.all()
    assert (plan.level > -1e-9).all() and (plan.level < 1 + 1e-9).all()
    a, *_ = by_cvxpy(prices[0].numpy(), start=start)
    assert np.abs(plan.charge[0].numpy() - a).max() < 1e-5


def test_a_plan_in_which_every_bound_is_degenerate_has_a_finite_gradient():
    prices = torch.ones(1, 24, dtype=double, requires_grad=True)  # dear to charge, empty: nothing to do
    plan = storage.decide(prices, flexibility=0.0, start=0.0)
    assert plan.converged.all() and plan.charge.abs().max() < 1e-8
    (g,) = torch.autograd.grad(plan.charge.sum() + plan.level.sum(), prices)
    assert torch.isfinite(g).all() and g.abs().max() < 1e-6


def test_prices_whose_bounds_are_met_to_the_last_digit():
    """A path that is followed too far ends in slacks that the recursion can't bear."""
    prices = [14.33, 14.08, 14.19, 13.41, 14.05, 15.4, 16.26, 17.56, 19.53, 19.58, 20.56, 21.14]
    prices += [21.63, 22.03, 21.21, 19.62, 19.34, 19.4, 19.29, 19.47, 19.67, 18.96, 18.87, 17.83]
    plan = storage.decide(torch.tensor(prices, dtype=double), flexibility=1.0, health=1.0)
    a, b, _ = by_cvxpy(np.array(prices), 1.0, 1.0)
    assert np.abs(plan.charge.numpy() - a).max() < 1e-6 and np.abs(plan.discharge.numpy() - b).max() < 1e-6


NEARLY_DEGENERATE = [
    # Bounds hold or do not by a millionth, which float32 wrote into these days of the market: at λ, ε = .1, .05 the
    # prices of two hours are nearly equal, and at 1, .5 five hours of discharge just empty a full battery.
    ((0.1, 0.05), "35.16 34.4 30.82 27.25 26.13 23.76 22.18 20.86 22.28 24.76 27.71 29.22 31.13 31.73 36.11 39.44 41.47"
     " 41.47 42.2 49.42 57.97 49.29 41.32 41.31"),
    ((1.0, 0.5), "35.72 32.59 29.52 27.57 27.05 24.6 23.16 22.19 20.87 20.92 20.74 22.02 23.93 26.33 29.11 32.07 34.74"
     " 36.37 38.83 37.41 38.69 35.93 35.21 34.93"),
]  # fmt: skip


@pytest.mark.parametrize(("weights", "day"), NEARLY_DEGENERATE)
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-7, 1e-6, 1e-5])
def test_days_whose_bounds_hold_by_a_millionth_converge(weights, day, noise):
    """Which bounds are active isn't seen from the end of the path, where slacks and multipliers are about 1e-6."""
    prices = torch.tensor([float(p) for p in day.split()], dtype=double).log().float().double().exp()
    generator = torch.Generator().manual_seed(6)
    prices = prices * (1 + noise * torch.randn(300, 24, generator=generator, dtype=double))
    plan = storage.decide(prices, flexibility=weights[0], health=weights[1])
    assert plan.residual.max() < 5e-9
    a, b, value = by_cvxpy(prices[0].numpy(), *weights)
    assert np.abs(plan.charge[0].numpy() - a).max() < 5e-5 and np.abs(plan.discharge[0].numpy() - b).max() < 5e-5
    cost = storage.loss(plan, prices, flexibility=weights[0], health=weights[1])
    assert cost[0].item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("weights", SETTINGS)
def test_days_in_float32_s_logarithms_converge(weights):
    """Prices in cents with ties, as a forecaster of log prices has them."""
    generator = torch.Generator().manual_seed(5)
    walk = 35 + torch.randn(2000, 24, generator=generator, dtype=double).cumsum(-1)
    prices = (2 * walk).round().clamp_min(1).div(2).log().float().double().exp()
    plan = storage.decide(prices, flexibility=weights[0], health=weights[1])
    assert plan.residual.max() < 5e-9


def test_every_day_of_the_market_converges(real_data):
    prices = storage_market().price
    for flexibility, health in SETTINGS:
        plan = storage.decide(prices, flexibility=flexibility, health=health)
        assert plan.converged.all() and plan.residual.max() < 5e-9


def test_many_days_of_all_kinds_converge():
    generator = torch.Generator().manual_seed(11)
    size = 10 ** (4 * torch.rand(2000, 1, generator=generator, dtype=double) - 2)
    prices = size * (torch.randn(2000, 24, generator=generator, dtype=double) + 1)
    quadratic = [10 ** (6 * torch.rand(2000, generator=generator, dtype=double) - 4) for _ in range(2)]
    start = torch.rand(2000, generator=generator, dtype=double).round(decimals=1)
    plan = storage.decide(prices, flexibility=quadratic[0], health=quadratic[1], start=start)
    assert plan.converged.all() and plan.iterations.max() < 40
    assert (plan.level > -1e-7).all() and (plan.level < 1 + 1e-7).all()


def test_no_price_and_equal_prices():
    nothing = storage.decide(torch.zeros(2, 24, dtype=double))
    assert nothing.charge.abs().max() < 1e-9 and nothing.discharge.abs().max() < 1e-9
    sold = storage.decide(torch.full((24,), 50.0, dtype=double))
    assert sold.level[-1].item() == pytest.approx(0, abs=1e-9)  # what is in it is sold, and no more


def test_rates_without_bound_float32_autocast_vmap_one_hour_and_no_day():
    prices = random_prices(3, 24, seed=5)
    free = storage.decide(prices, charge_rate=1e20, discharge_rate=float("inf"), health=5.0)
    a, *_ = by_cvxpy(prices[0].numpy(), health=5.0, charge=1e3, discharge=1e3)
    assert np.abs(free.charge[0].numpy() - a).max() < 1e-5
    plan = storage.decide(prices)
    single = storage.decide(prices.float())
    assert single.charge.dtype == torch.float32
    assert torch.allclose(storage.loss(single, prices.float()).double(), storage.loss(plan, prices), rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(storage.decide(prices.float()).charge, single.charge)
    mapped = torch.func.vmap(lambda p: storage.decide(p).level)(prices)
    assert torch.allclose(mapped, plan.level, atol=1e-9)
    assert storage.decide(prices[:, :1]).level.shape == (3, 1)
    assert storage.decide(prices[:0]).level.shape == (0, 24)
    assert storage.decide(prices[:, None], flexibility=torch.tensor([1.0, 2.0], dtype=double)).level.shape == (3, 2, 24)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prices": torch.full((24,), torch.nan)}, "prices must be finite"),
        ({"start": 1.5}, "start must be between 0 and the capacity, got 1.5"),
        ({"start": -0.1}, "start must be between 0 and the capacity"),
        ({"health": 0.0}, "health must be positive"),
        ({"efficiency": 1.1}, "efficiency must be greater than 0 and at most 1"),
        ({"charge_rate": 0.0}, "charge_rate must be positive"),
        ({"flexibility": -1.0}, "flexibility must be at least 0"),
        ({"on_failure": "shrug"}, "on_failure must be one of"),
    ],
)
def test_bad_input_is_named(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        storage.decide(**({"prices": torch.ones(24)} | change))


def test_a_plan_s_cost_needs_a_price_for_every_hour():
    plan = storage.decide(random_prices(2, 6))
    with pytest.raises(ValueError, match="outcome must have 6 entries, as decision has, got 1"):
        storage.loss(plan, torch.ones(2, 1, dtype=double))
