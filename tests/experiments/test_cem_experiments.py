"""Energies and planners learned through the cross-entropy method: the pieces, and what the shipped weights can do."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from diffopt_lib import pretrained
from diffopt_lib.controllers import Pendulum
from diffopt_lib.experiments import Run, cem_pendulum, cem_regression, find
from diffopt_lib.experiments.cem_regression import Networks, network

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parabola(x, y):
    """An energy whose minimizer is sin x."""
    return 0.5 * (y - x.sin()).square()


def test_each_network_is_the_one_with_its_own_weights():
    model = Networks((3, 8, 8, 1), [seeded(0), seeded(1)])
    inputs = torch.randn(2, 5, 3, generator=seeded(2))
    found = model(network, inputs)
    for i in range(2):
        weights = [w[i] for w in model.weights]
        layers = [nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1)]
        for layer, (weight, bias) in zip(layers[::2], zip(weights[::2], weights[1::2], strict=True), strict=True):
            layer.weight.data, layer.bias.data = weight.data, bias.data
        torch.testing.assert_close(found[i], nn.Sequential(*layers)(inputs[i]).squeeze(-1))


def test_descent_is_ten_steps_of_a_tenth():
    x = torch.linspace(0, 6, 7, dtype=DOUBLE)
    torch.testing.assert_close(cem_regression.descend(parabola, x, 10), (1 - 0.9**10) * x.sin())


def test_search_and_grid_find_the_minimum_of_an_energy():
    x = torch.linspace(0, 6, 7, dtype=DOUBLE)
    y = cem_regression.search(parabola, x, 40, seeded())
    torch.testing.assert_close(y, x.sin(), rtol=0, atol=0.02)
    torch.testing.assert_close(cem_regression.grid_minimum(parabola, x), x.sin(), rtol=0, atol=0.006, check_dtype=False)


def test_only_gradients_that_are_too_long_are_cut_and_each_network_by_itself():
    model = Networks((2, 4, 1), [seeded(0), seeded(1)])
    for p in model.parameters():
        p.grad = torch.ones_like(p) * torch.tensor([10.0, 1e-3]).view(2, *(1 for _ in p.shape[1:]))
    before = [p.grad.clone() for p in model.parameters()]
    cem_regression.clip(model)
    norm = torch.stack([p.grad.flatten(1).square().sum(1) for p in model.parameters()]).sum(0).sqrt()
    torch.testing.assert_close(norm[0], torch.tensor(1.0))
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad[1], old[1])


def test_updates_see_the_points_that_their_number_determines(tmp_path):
    run = Run(0, torch.device("cpu"), tmp_path)
    batch = cem_regression.visits(run)
    x, steps = batch(7)
    assert (
        x.shape == (cem_regression.BATCH, cem_regression.SEEDS) and (x >= 0).all() and (x <= 2 * math.pi + 1e-6).all()
    )
    torch.testing.assert_close(batch(7)[0], x)
    assert not torch.equal(batch(8)[0], x)
    drawn = torch.stack([batch(i)[1][0, 1] for i in range(200)])
    assert drawn.min() >= 1 and drawn.max() <= cem_regression.MOST and drawn.unique().numel() > 15


@pytest.mark.parametrize("network_number", [0, 1])
def test_the_shipped_energies_are_what_the_chapter_says(network_number):
    saved = pretrained.load("cem_regression")
    x = torch.linspace(0, 2 * math.pi, 25)

    def error(name, solve):
        weights = [saved[f"{name}.weights.{i}"][network_number] for i in range(8)]
        y = solve(partial(cem_regression.energy, weights), x)
        return (y - cem_regression.target(x)).square().mean().item()

    descend, search = cem_regression.descend, partial(cem_regression.search, generator=seeded())
    own, more = (error("gradient descent", partial(descend, iterations=n)) for n in (10, 50))
    assert own < 0.7 and more > 10 * own
    own, twice, more = (error("cross-entropy", partial(search, iterations=n)) for n in (10, 20, 50))
    assert abs(more - own) < 0.3 and abs(more - twice) < 0.01
    assert abs(error("cross-entropy", cem_regression.grid_minimum) - more) < 0.01


# The pendulum.


def test_energy_is_that_of_a_rod_and_is_kept_without_torque():
    x = Pendulum.state(torch.tensor([0.0, 2.0], dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE))
    assert cem_pendulum.energy_gap(x)[0] == 0
    fine = Pendulum(*(torch.tensor(v, dtype=DOUBLE) for v in (10.0, 1.0, 1.0)), dt=1e-3, integrator="rk4")
    start, no_torque = cem_pendulum.energy_gap(x), torch.zeros(2, 1, dtype=DOUBLE)
    for _ in range(500):
        x = fine(x, no_torque)
    torch.testing.assert_close(cem_pendulum.energy_gap(x), start, rtol=1e-6, atol=1e-9)


def test_an_episode_pays_the_stage_costs_of_its_states(monkeypatch):
    monkeypatch.setattr(cem_pendulum, "STEPS", 4)
    x = cem_pendulum.starts(3, seeded()).double()
    paid, states = cem_pendulum.closed_loop(x, 2, lambda x, guess: torch.full_like(guess, 0.7))
    u = torch.full((3, 1), 0.7, dtype=DOUBLE)
    torch.testing.assert_close(paid, sum(cem_pendulum.stage(states[:, t], u) for t in range(4)))
    step = cem_pendulum.pendulum(x)
    for t in range(4):
        torch.testing.assert_close(states[:, t + 1], step(states[:, t], u))


def test_plans_respect_the_torque_and_repeat_with_their_seed():
    x = cem_pendulum.starts(5, seeded(3))
    mean = torch.zeros(5, cem_pendulum.HORIZON)
    first, second = (cem_pendulum.plan(x, mean, cem_pendulum.distance, seeded(1)) for _ in range(2))
    assert first.abs().max() <= cem_pendulum.LIMIT
    torch.testing.assert_close(first, second)


def test_the_closed_loop_is_differentiated_in_the_value_only_with_soft_elites(monkeypatch):
    monkeypatch.setattr(cem_pendulum, "STEPS", 1)  # later plans start from a shifted plan that is held
    x = cem_pendulum.starts(4, seeded(4)).double()

    def paid(multiple, tau):
        return cem_pendulum.episode(x, cem_pendulum.scaled(cem_pendulum.distance, multiple), seeded(5), tau)[0].sum()

    multiple = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(partial(paid, tau=0.3), (multiple,), eps=1e-5, atol=1e-4, rtol=1e-3)
    assert not paid(multiple, 0.0).requires_grad


def test_evolution_estimates_the_gradient_of_what_is_paid(monkeypatch):
    """With a planner that pays a linear function of one weight, whose gradient is known."""
    monkeypatch.setattr(cem_pendulum, "episode", lambda x, V, generator: (V(x), x))
    monkeypatch.setattr(cem_pendulum, "value", lambda weights, x: 5 * weights[-1].sum())
    model = Networks((3, 2, 1), [seeded(0), seeded(1)])
    total = torch.zeros(2, 1)
    for seed in range(50):
        model.zero_grad()
        batch = torch.zeros(16, 2, 3), torch.full((16, 1), seed)
        batch[1][1] += 1000
        cem_pendulum.evolved(model, *batch).backward()
        total += model.weights[-1].grad / 50
    torch.testing.assert_close(total, torch.full((2, 1), 5.0), rtol=0.3, atol=0)


@pytest.mark.parametrize("name", ["cem_regression", "cem_pendulum"])
def test_the_experiment_is_found(name):
    assert find(name).chapter == "book/2_differentiable/11_cem"
