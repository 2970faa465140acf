"""Schedules against a sample average in cvxpy, the optimality conditions, and finite differences."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffopt_lib.tasks import ramps, scheduling

torch_double = {"dtype": torch.float64}


def days(*shape, seed=0, roughness=0.3, noise=0.1):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 + roughness * torch.randn(*shape, generator=generator, **torch_double)
    return mean, noise * (0.5 + torch.rand(*shape, generator=generator, **torch_double))


def optimality(z, mean, std, ramp, under=50.0, over=0.5):
    """The largest violation, by scipy's normal distribution and not by ours: slopes add up to the multipliers."""
    z, mean, std = (v.numpy() for v in (z, mean, std))
    t = (z - mean) / std
    slopes = over * norm.cdf(t) - under * norm.sf(t) + z - mean
    push, step = slopes.cumsum(-1), np.diff(z, axis=-1)
    limited = push[..., :-1]
    wrong = np.maximum(np.abs(step) - ramp, 0).max(initial=0)
    at_top, at_bottom = np.abs(step - ramp) < 1e-9, np.abs(step + ramp) < 1e-9
    of_push = np.where(at_top, np.minimum(limited, 0), np.where(at_bottom, np.maximum(limited, 0), limited))
    of_push = np.where(at_top & at_bottom, 0, of_push)
    return max(wrong, np.abs(of_push).max(initial=0), np.abs(push[..., -1]).max())


@pytest.mark.parametrize("ramp", [0.0, 1e-6, 0.02, 0.1, 0.4, 1e20])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 10.0])
def test_schedules_are_optimal(ramp, noise):
    mean, std = days(50, 24, noise=noise)
    z = scheduling.decide(mean, std, ramp=ramp)
    tightness = 50 / noise * 1e-13  # how far the slope moves if z does by its last digits
    assert optimality(z, mean, std, ramp) < 1e-9 + 100 * tightness


def test_the_sample_average_of_cvxpy_is_met_as_samples_grow():
    mean, std = days(1, 8, seed=1)
    z = scheduling.decide(mean, std, ramp=0.15)[0]
    grid = norm.ppf((np.arange(4000) + 0.5) / 4000)  # a quadrature in place of random samples
    loads = mean[0].numpy() + std[0].numpy() * grid[:, None]
    x = cp.Variable(8)
    missing = loads - cp.reshape(x, (1, 8), order="C")
    cost = (50 * cp.sum(cp.pos(missing)) + 0.5 * cp.sum(cp.neg(missing))) / 4000 + 0.5 * cp.sum_squares(x - mean[0])
    cp.Problem(cp.Minimize(cost), [cp.abs(cp.diff(x)) <= 0.15]).solve(cp.CLARABEL)
    assert np.abs(z.numpy() - x.value).max() < 5e-4


def test_both_searches_find_the_same_active_ramps():
    mean, std = days(300, 24, seed=2)
    one = torch.ones(300, 1, **torch_double)
    costs = scheduling.Expected(mean, std, 50 * one, 0.5 * one)
    chains = ramps.Chains(costs, scheduling._unlimited(mean, std, 50 * one, 0.5 * one), 0.1 * one)
    fast, sure = ramps.settle(chains), ramps.dynamic_programming(chains)
    assert 0.2 < fast.confirmed.float().mean() < 1  # days without a pattern are hard for it, and it says so
    assert torch.equal(fast.side[fast.confirmed], sure.side[fast.confirmed])
    assert (sure.side != 0).float().mean() > 0.5


def test_without_ramps_and_without_squares_it_is_the_newsvendor_s_quantile():
    mean, std = days(3, 24)
    z = scheduling.decide(1e6 * mean, 1e6 * std, ramp=1e20, under=3e9, over=1e9)
    assert torch.allclose(z, 1e6 * (mean + std * norm.ppf(0.75)), rtol=1e-3)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_in_all_five_arguments(check):
    mean, std = days(2, 6, seed=3, roughness=0.6, noise=0.4)
    ramp = torch.tensor([0.2, 0.5], **torch_double)
    under, over = torch.tensor(3.0, **torch_double), torch.tensor([0.5, 0.1], **torch_double)
    inputs = [t.requires_grad_() for t in (mean, std, ramp, under, over)]

    def f(mean, std, ramp, under, over):
        return scheduling.decide(mean, std, ramp=ramp, under=under, over=over)

    steps = f(*inputs).detach().diff(dim=-1).abs()
    active = (steps - ramp[:, None].detach()).abs() < 1e-9
    assert active.any() and not active.all()
    assert check(f, inputs)


def test_active_ramps_tie_hours_together_and_others_keep_them_apart():
    mean = torch.tensor([0.0, 0.0, 1.0, 1.0], **torch_double)
    std = torch.full_like(mean, 0.3)
    J = torch.func.jacrev(lambda m: scheduling.decide(m, std, ramp=0.2))(mean)
    assert torch.allclose(J.sum(-1), torch.ones(4, **torch_double))  # a day that shifts shifts its schedule
    J_free = torch.func.jacrev(lambda m: scheduling.decide(m, std, ramp=5.0))(mean)
    assert torch.allclose(J_free, torch.eye(4, **torch_double))
    assert (J[0, :3] > 0).all() and J[0, 3] == 0  # a block of three hours and one of one


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_units_do_not_matter(scale):
    mean, std = days(20, 24, seed=4)
    z = scheduling.decide(mean, std, ramp=0.1)
    scaled = scheduling.decide(scale * mean, scale * std, ramp=0.1 * scale, under=50 * scale, over=0.5 * scale)
    assert torch.allclose(scaled / scale, z, rtol=1e-8)


@pytest.mark.parametrize("std", [1e-9, 1e-4])
def test_a_forecast_that_is_nearly_certain(std):
    mean, _ = days(30, 24, seed=5)
    z = scheduling.decide(mean, torch.full_like(mean, std), ramp=1e20)
    assert torch.allclose(z, mean + std * norm.ppf(50 / 50.5), atol=10 * std)
    limited = scheduling.decide(mean, torch.full_like(mean, std), ramp=0.1)
    assert (limited.diff(dim=-1).abs() <= 0.1 + 1e-12).all()
    x = cp.Variable(24)
    missing = mean[0].numpy() - x
    cost = cp.sum(50 * cp.pos(missing) + 0.5 * cp.neg(missing)) + 0.5 * cp.sum_squares(missing)
    cp.Problem(cp.Minimize(cost), [cp.abs(cp.diff(x)) <= 0.1]).solve(cp.CLARABEL)
    assert np.abs(limited[0].numpy() - x.value).max() < 50 * std + 1e-5


def test_one_hour_one_day_no_day_and_hours_of_one_week():
    mean, std = days(1, 168, seed=6)
    assert optimality(scheduling.decide(mean, std, ramp=0.05), mean, std, 0.05) < 1e-9
    assert scheduling.decide(mean[0, :24], std[0, :24], ramp=0.1).shape == (24,)
    assert scheduling.decide(mean[:, :1], std[:, :1], ramp=0.1).shape == (1, 1)
    assert scheduling.decide(mean[:0], std[:0], ramp=0.1).shape == (0, 168)
    assert scheduling.decide(mean[None], std[0], ramp=torch.tensor([0.1, 0.2], **torch_double)[:, None]).shape == (
        2,
        1,
        168,
    )


def test_float32_autocast_and_vmap():
    mean, std = days(5, 24, seed=7)
    z = scheduling.decide(mean, std, ramp=0.1)
    single = scheduling.decide(mean.float(), std.float(), ramp=0.1)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), z, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scheduling.decide(mean.float(), std.float(), ramp=0.1), single)
    mapped = torch.func.vmap(lambda m, s: scheduling.decide(m, s, ramp=0.1))(mean, std)
    assert torch.allclose(mapped, z, rtol=1e-12)
    of_std = torch.func.vmap(torch.func.jacrev(lambda m: scheduling.decide(m, std[0], ramp=0.1)))(mean)
    assert of_std.shape == (5, 24, 24) and torch.isfinite(of_std).all()


def test_the_expected_loss_is_the_mean_of_the_loss():
    mean, std = days(2, 24, seed=8)
    z = scheduling.decide(mean, std, ramp=0.1)
    grid = torch.tensor(norm.ppf((np.arange(20000) + 0.5) / 20000))
    samples = scheduling.loss(z[:, None].expand(2, 20000, 24), mean[:, None] + std[:, None] * grid[:, None])
    assert torch.allclose(samples.mean(-1), scheduling.expected_loss(z, mean, std), rtol=1e-3)
    shifted = scheduling.expected_loss(z + 1e-3, mean, std)
    assert (scheduling.expected_loss(z, mean, std) < shifted).all()


def test_a_network_trained_on_an_own_cost_learns_through_the_schedule():
    mean, std = days(10, 8, seed=9)
    shift = torch.zeros(8, **torch_double, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.05)
    costs = []
    for _ in range(20):
        z = scheduling.decide(mean + shift, std, ramp=0.1)
        cost = (z - mean).abs().mean() + 0.1 * z.clamp_min(2.2).mean()  # a cost that the library has not
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.8 * costs[0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"std": torch.zeros(24)}, "std must be positive, got 0; a forecast that is certain"),
        ({"mean": torch.full((24,), torch.nan)}, "mean must be finite"),
        ({"std": torch.ones(23)}, "std must have 24 entries"),
        ({"ramp": -0.1}, "ramp must be at least 0"),
        ({"ramp": float("nan")}, "ramp must be at least 0"),
        ({"under": -1.0}, "under must be at least 0"),
        ({"ramp": "fast"}, "ramp must be a number or a tensor"),
        ({"std": torch.ones(24, dtype=torch.float64)}, "std must have the dtype of mean"),
    ],
)
def test_bad_input_is_named(change, complaint):
    arguments = {"mean": torch.ones(24), "std": torch.ones(24), "ramp": 0.1} | change
    with pytest.raises(ValueError, match=complaint):
        scheduling.decide(**arguments)


def test_an_expected_loss_needs_a_deviation():
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        scheduling.expected_loss(torch.ones(24), torch.ones(24), torch.zeros(24))


def test_a_deviation_below_all_others_gives_a_finite_derivative():
    """(z − μ)/σ and its square would overflow."""
    mean = torch.tensor([1.0, 1.5, 1.2, 2.0, 1.8, 1.0], **torch_double)
    std = torch.full_like(mean, 1e-300).requires_grad_()
    z = scheduling.decide(mean, std, ramp=0.2)
    certain = scheduling.decide(mean, torch.full_like(mean, 1e-9), ramp=0.2)
    assert torch.allclose(z, certain, atol=1e-7)
    (g,) = torch.autograd.grad(z.sum(), std)
    assert torch.isfinite(g).all()


def test_a_cost_is_of_as_many_hours_as_the_schedule():
    z = torch.ones(2, 6, **torch_double)
    for outcome in (torch.ones(3, **torch_double), torch.ones(2, 1, **torch_double)):
        with pytest.raises(ValueError, match="outcome must have 6 entries, as decision has"):
            scheduling.loss(z, outcome)
        with pytest.raises(ValueError, match="mean must have 6 entries, as decision has"):
            scheduling.expected_loss(z, outcome, torch.ones(6, **torch_double))
    with pytest.raises(ValueError, match="must broadcast"):
        scheduling.loss(z, torch.ones(3, 6, **torch_double))
