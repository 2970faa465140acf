"""The two OptNet layers against cvxpy and finite differences, and what their shipped weights can do."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from diffopt_lib import pretrained
from diffopt_lib.data import grids, one_hot, piecewise_constant, puzzles
from diffopt_lib.experiments import Run, denoising, find, sudoku

DOUBLE = torch.float64


@pytest.fixture
def layer(run: Run):
    with run.seeded():
        return sudoku.SudokuLayer(rules=5)


@pytest.fixture
def denoiser(generator):
    layer = denoising.DenoisingLayer(7.0, length=12).to(DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
    return layer


def test_sudoku_layer_solves_its_program(layer, generator):
    puzzle = one_hot(puzzles(2, generator).puzzle)
    A, zeta = layer.A.detach().numpy(), layer.zeta.detach().numpy()
    for x, y in zip(puzzle, layer(puzzle).detach(), strict=True):
        v = cp.Variable(64, nonneg=True)
        objective = 0.05 * cp.sum_squares(v) - x.flatten().numpy() @ v
        cp.Problem(cp.Minimize(objective), [A @ v == A @ np.exp(zeta)]).solve(cp.CLARABEL)
        np.testing.assert_allclose(y.flatten().numpy(), v.value, atol=1e-5)


def test_sudoku_layer_has_the_gradient_of_finite_differences(layer, generator):
    boards = puzzles(3, generator)
    sudoku.loss(layer, *boards).backward()
    for parameter in layer.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        target = one_hot(boards.solution).double()

        def at(step, parameter=parameter, direction=direction, target=target):
            with torch.no_grad():
                parameter += step * direction
                value = ((layer(one_hot(boards.puzzle)) - target) ** 2).mean()
                parameter -= step * direction
            return value

        difference = (at(1e-6) - at(-1e-6)) / 2e-6
        torch.testing.assert_close((parameter.grad * direction).sum(), difference, rtol=1e-4, atol=1e-7)


def test_shipped_sudoku_weights_solve_fresh_boards(run: Run):
    layer = sudoku.SudokuLayer()
    layer.load_state_dict(pretrained.load("sudoku"))
    training = sudoku.data(run)[0]  # of another seed than the weights', so no help
    assert sudoku.wrong(layer, puzzles(300, run.generator(5), but=training.puzzle), run.device) <= 1.0


def test_sudoku_data_are_disjoint_as_stated(run: Run):
    training, test, unseen = sudoku.data(run)

    def keys(boards):
        return {tuple(board.flatten().tolist()) for board in boards}

    assert [len(keys(part.puzzle)) for part in (training, test, unseen)] == [9000, 1000, 1000]
    assert not keys(training.puzzle) & keys(test.puzzle)
    assert not keys(training.solution) & keys(unseen.solution)
    assert keys(unseen.solution) | keys(training.solution) == keys(grids())


def test_denoising_layer_starts_as_total_variation(generator):
    signals = piecewise_constant(3, generator, length=30)
    found = denoising.DenoisingLayer(11.0, length=30).to(DOUBLE)(signals.noisy.double())
    for x, y in zip(signals.noisy, found.detach(), strict=True):
        v = cp.Variable(30)
        cp.Problem(cp.Minimize(0.5 * cp.sum_squares(v - x.numpy()) + 11.0 * cp.tv(v))).solve(cp.CLARABEL)
        np.testing.assert_allclose(y.numpy(), v.value, atol=1e-4)


def test_denoising_layer_solves_its_primal_program(denoiser, generator):
    """The dual form that it computes with is the program (2) of its module."""
    x = 10 * torch.randn(12, generator=generator, dtype=DOUBLE)
    L, W, D, lam = (t.detach() for t in (denoiser.L.tril(), denoiser.W, denoiser.D, denoiser.log_lam.exp()))
    Q = torch.linalg.inv(L @ L.T)
    y, t = cp.Variable(12), cp.Variable(11)
    objective = 0.5 * cp.quad_form(y, cp.psd_wrap((Q + Q.T).numpy() / 2)) - (W @ x).numpy() @ y + lam.numpy() @ t
    cp.Problem(cp.Minimize(objective), [D.numpy() @ y <= t, -t <= D.numpy() @ y]).solve(cp.CLARABEL)
    np.testing.assert_allclose(denoiser(x).detach().numpy(), y.value, atol=1e-4)


def test_denoising_layer_passes_gradcheck(denoiser, generator):
    x = 10 * torch.randn(2, 12, generator=generator, dtype=DOUBLE)

    def output(L, W, D, log_lam):
        return torch.func.functional_call(denoiser, {"L": L, "W": W, "D": D, "log_lam": log_lam}, (x,))

    parameters = [t.detach().clone().requires_grad_() for t in denoiser.parameters()]
    assert torch.autograd.gradcheck(output, parameters, fast_mode=True, atol=1e-5)


def test_shipped_denoiser_beats_total_variation_on_fresh_signals(run: Run):
    signals = piecewise_constant(300, run.generator(5))
    shipped = denoising.DenoisingLayer(1.0)
    shipped.load_state_dict(pretrained.load("denoising"))
    tuned = min(denoising.error(denoising.DenoisingLayer(lam), signals) for lam in (15.0, 18.0, 21.0, 24.0))
    assert denoising.error(shipped, signals) < 0.95 * tuned


def test_total_variation_finds_the_best_weight(generator):
    signals = piecewise_constant(40, generator)
    lam = denoising.total_variation(signals)
    assert 10 < lam < 30
    best = denoising.error(denoising.DenoisingLayer(lam), signals)
    assert all(best <= denoising.error(denoising.DenoisingLayer(other), signals) + 1e-3 for other in (10.0, 30.0))


@pytest.mark.parametrize("name", ["sudoku", "denoising"])
def test_a_small_run_from_end_to_end(name, run: Run, monkeypatch):
    """The whole experiment at a hundredth of its size: a figure for each that the paper has, and weights that load."""
    if name == "sudoku":
        for constant, value in {"TRAIN": 60, "TEST": 20, "BATCH": 30, "EPOCHS": 2, "BASELINE_EPOCHS": 2}.items():
            monkeypatch.setattr(sudoku, constant, value)
    else:
        small = {"TRAIN": 40, "VALIDATION": 10, "TEST": 10, "BATCH": 20, "HIDDEN": (5, 6), "EPOCHS": 1}
        for constant, value in (small | {"EPOCHS_BASELINE": 2}).items():
            monkeypatch.setattr(denoising, constant, value)
    outcome = find(name).run(run)
    assert set(find(name).published) <= set(outcome.figures)
    assert run.is_complete and all(record.losses for record in run.trainings.values())
    again = find(name).run(run)  # everything is found in the checkpoints
    assert all(torch.equal(again.weights[name][key], value) for key, value in outcome.weights[name].items())


def test_standardised_network_sees_units_of_spread():
    class Double(torch.nn.Module):
        def forward(self, z):
            return 2 * z

    model = denoising.Standardised(Double(), mean=50.0, spread=10.0)
    torch.testing.assert_close(model(torch.tensor([20.0, 50.0, 80.0])), torch.tensor([-10.0, 50.0, 110.0]))
