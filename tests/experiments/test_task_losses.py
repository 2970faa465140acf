"""The parts of the experiments on task losses: data, solvers, and trainings that end in time."""

import copy

import pytest
import torch
from torch import nn

from diffopt_lib.experiments import inventory, scheduling, sqp, storage
from diffopt_lib.experiments.forecasting import Forecaster, Split, descend_until, hold_out, squared_error
from diffopt_lib.tasks import scheduling as task


def test_the_data_are_those_of_the_paper(real_data):
    known, test = scheduling.load_data()
    assert known.x.shape == (2553, 149) and test.x.shape == (639, 149)
    assert known.y.shape[1] == 24 and torch.equal(known.x[1:100, :24], known.y[: 100 - 1])  # yesterday's load
    known, test = storage.load_data()
    assert torch.isfinite(known.x).all() and torch.isfinite(test.y).all()
    assert known.y.exp().max() <= 500 * (1 + 1e-5) and len(known.x) > 1700


def test_a_damped_newton_method_ends_at_the_schedule_and_an_undamped_one_need_not():
    generator = torch.Generator().manual_seed(0)
    mean = 1.5 + 0.3 * torch.randn(8, 24, generator=generator, dtype=torch.float64)
    std = torch.full_like(mean, 0.02)
    z, taken, _ = sqp.newton(mean, std, 0.05, damped=True)
    assert (taken <= 50).all()
    assert torch.allclose(z, task.decide(mean, std, ramp=0.05), atol=1e-6)
    _, undamped, far = sqp.newton(mean, std, 0.05, damped=False, steps=15)
    assert (undamped > 15).any() and far.max() > 10


def test_outputs_are_projected_on_what_the_ramps_allow():
    outputs = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(scheduling.project(outputs, 0.5), torch.tensor([[0.0, 0.25, 0.75, 1.0]], dtype=torch.float64))
    z = scheduling.project(torch.randn(5, 24, dtype=torch.float64), 0.1)
    assert (z.diff(dim=-1).abs() <= 0.1 + 1e-12).all()


def small_split(count=60):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, generator=generator)
    return Split(x, x @ torch.randn(4, 3, generator=generator) + 0.1 * torch.randn(count, 3, generator=generator))


def test_a_forecaster_begins_beside_the_least_squares_fit():
    data = small_split()
    model = Forecaster(data, hidden=8).eval()
    design = torch.cat([data.x, torch.ones(60, 1)], 1)
    fit = design @ torch.linalg.lstsq(design, data.y).solution
    assert torch.allclose(model.linear((data.x - model.mean) / model.scale), fit, atol=1e-4)


def test_the_weights_of_the_best_look_are_kept_and_are_copies():
    train, held_out = hold_out(small_split(), 0.25, torch.Generator().manual_seed(2))
    assert len(train.x) == 45 and len(held_out.x) == 15
    model = nn.Linear(4, 3)
    seen = []

    def loss(model, x, y):
        value = squared_error(model, x, y)
        if not model.training:
            seen.append((value.item(), copy.deepcopy(model.state_dict())))
        return value

    best = descend_until(model, train, held_out, loss, steps=40, rate=0.5, patience=5)
    values = [value for value, _ in seen]
    assert best == values.index(min(values)) and len(values) == min(best + 6, 41) and best < 40
    assert all(torch.equal(model.state_dict()[key], seen[best][1][key]) for key in model.state_dict())


def test_runs_of_an_inventory_do_not_see_each_other():
    generator = torch.Generator().manual_seed(3)
    x, label = inventory.draw("quadratic", 50, generator)
    assert x.shape == (10, 50, 20) and label.max() <= 4
    model = inventory.Networks((20, 5), generator)
    loss = inventory.task_loss(model, x, label)
    (g,) = torch.autograd.grad(loss[2], model.weights[0])
    assert g[2].abs().max() > 0 and g[[0, 1, 3]].abs().max() == 0


@pytest.mark.parametrize("experiment", [inventory.EXPERIMENT, scheduling.EXPERIMENT, storage.EXPERIMENT])
def test_each_names_its_chapter_and_claim(experiment):
    assert experiment.name and experiment.chapter.endswith("12_task_losses") and experiment.claim.endswith(".")


def test_the_task_loss_has_a_gradient_in_the_forecaster():
    data = small_split()
    model = Forecaster(Split(data.x, data.y.repeat(1, 8)), hidden=8)
    scheduling.task_loss(torch.full((24,), 0.3), 0.1, model, data.x, data.y.repeat(1, 8)).backward()
    assert model.net[0].weight.grad.abs().max() > 0
    assert task.decide(torch.zeros(24), torch.ones(24), ramp=1.0).shape == (24,)
