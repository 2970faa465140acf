"""Jigsaw puzzles: cutting and laying out, the greedy baseline against all permutations, and what the weights can do."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from diffopt_lib import pretrained
from diffopt_lib.data.mnist import Digits
from diffopt_lib.experiments import Run, find, jigsaw

DOUBLE = torch.float64


@pytest.fixture
def digits() -> torch.Tensor:
    """Packaged digits, enlarged to the size of MNIST's."""
    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
    return torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear").squeeze(1)


def total(right, below, layout, side):
    """The sum of misfits of a layout, one pair of neighbours after the other."""
    value = 0.0
    for place, piece in enumerate(layout):
        if place % side:
            value += right[layout[place - 1], piece].item()
        if place >= side:
            value += below[layout[place - side], piece].item()
    return value


def test_pieces_are_rows_of_the_picture(generator):
    image = torch.rand(2, 3, 7, 10, generator=generator)
    pieces = jigsaw.cut(image, 2, gap=1)
    assert pieces.shape == (2, 4, 3, 3, 4)
    torch.testing.assert_close(pieces[1, 1], image[1, :, :3, 5:9])
    torch.testing.assert_close(pieces[1, 2], image[1, :, 4:7, :4])


def test_the_right_permutation_lays_shuffled_pieces_out(generator):
    pieces = torch.rand(5, 9, 4, 4, generator=generator)
    mixed, place = jigsaw.shuffle(pieces, generator)
    P = torch.nn.functional.one_hot(place, 9).float()
    torch.testing.assert_close(jigsaw.lay_out(P, mixed), pieces)
    assert jigsaw.wrong(jigsaw.lay_out(P, mixed), pieces) == (0, 0)
    assert len(torch.unique(place, dim=0)) == 5


def test_wrong_counts_places_and_puzzles():
    pieces = torch.arange(8.0).view(2, 4, 1, 1)
    laid_out = pieces.clone()
    laid_out[1, [0, 1]] = pieces[1, [1, 0]]
    assert jigsaw.wrong(laid_out, pieces) == (25, 50)
    pieces[1, 1] = pieces[1, 0]
    assert jigsaw.wrong(pieces[:, [1, 0, 2, 3]], pieces) == (25, 50)  # equal pieces may be exchanged, the others not


def test_misfits_against_loops(generator):
    pieces = torch.rand(2, 4, 3, 5, 6, generator=generator)
    right, below = jigsaw.misfits(pieces)
    for b, i, j in itertools.product(range(2), range(4), range(4)):
        one, other = pieces[b, i].numpy(), pieces[b, j].numpy()
        np.testing.assert_allclose(right[b, i, j], ((one[:, :, -1] - other[:, :, 0]) ** 2).sum(), rtol=1e-5)
        np.testing.assert_allclose(below[b, i, j], ((one[:, -1] - other[:, 0]) ** 2).sum(), rtol=1e-5)


def test_greedy_layout_is_a_permutation_near_the_best(generator):
    right, below = torch.rand(20, 4, 4, generator=generator), torch.rand(20, 4, 4, generator=generator)
    layouts = jigsaw.greedy_layout(right, below, 2)
    assert torch.equal(layouts.sort(-1).values, torch.arange(4).expand(20, 4))
    for r, b, layout in zip(right, below, layouts.tolist(), strict=True):
        totals = sorted(total(r, b, list(p), 2) for p in itertools.permutations(range(4)))
        assert totals[0] - 1e-6 <= total(r, b, layout, 2) <= totals[12]


def test_greedy_layout_finds_what_fits_exactly(generator):
    """Neighbours of the hidden layout have misfit 0 and all other pairs at least 0.1."""
    hidden = torch.stack([torch.randperm(9, generator=generator) for _ in range(10)])
    right, below = (torch.rand(10, 9, 9, generator=generator) + 0.1 for _ in range(2))
    for r, b, layout in zip(right, below, hidden.tolist(), strict=True):
        for place, piece in enumerate(layout):
            if place % 3:
                r[layout[place - 1], piece] = 0
            if place >= 3:
                b[layout[place - 3], piece] = 0
    assert torch.equal(jigsaw.greedy_layout(right, below, 3), hidden)


def test_scores_do_not_depend_on_the_order_of_the_pieces(run: Run, generator):
    with run.seeded():
        model = jigsaw.PieceScores()
    pieces = torch.rand(3, 9, 10, 10, generator=generator)
    mixed, place = jigsaw.shuffle(pieces, generator)
    expected = model(pieces)[torch.arange(3).unsqueeze(-1), place]
    torch.testing.assert_close(model(mixed), expected)


def test_pixel_loss_has_the_gradient_of_finite_differences(run: Run, generator):
    with run.seeded():
        model = jigsaw.PieceScores(size=4, places=4, channels=2, hidden=3).to(DOUBLE)
    pieces = torch.rand(2, 4, 4, 4, dtype=DOUBLE, generator=generator)
    jigsaw.pixel_loss(model, pieces).backward()
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        start = parameter.detach().clone()
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.copy_(start + step * direction)
                values.append(jigsaw.pixel_loss(model, pieces))
        with torch.no_grad():
            parameter.copy_(start)
        difference = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close((parameter.grad * direction).sum(), difference, rtol=1e-4, atol=1e-8)


def test_pixel_loss_of_certain_scores_is_zero(generator):
    pieces = torch.rand(3, 9, 4, 4, generator=generator)

    class Knows(torch.nn.Module):
        def forward(self, pieces):
            return 50 * torch.eye(9).expand(len(pieces), 9, 9)

    assert jigsaw.pixel_loss(Knows(), pieces) < 1e-12
    assert jigsaw.place_loss(Knows(), pieces) < 1e-12


def test_shipped_weights_on_test_digits(real_data, run: Run):
    model = jigsaw.PieceScores()
    model.load_state_dict(pretrained.load("jigsaw"))
    pieces = jigsaw.puzzles("test")[:1000]
    shipped = jigsaw.wrong_of_model(model, pieces, run.generator())
    greedy = jigsaw.wrong_of_greedy(pieces, run.generator())
    assert shipped[0] < 15 and shipped[1] < 45
    assert greedy[0] > 2 * shipped[0]


def test_a_small_run_from_end_to_end(run: Run, digits, monkeypatch):
    monkeypatch.setattr(jigsaw, "mnist", lambda part: Digits(digits[:60], torch.zeros(60)))
    for constant, value in {"SEEDS": 2, "TRAIN": 40, "TEST": 20, "BATCH": 10, "STEPS": 4}.items():
        monkeypatch.setattr(jigsaw, constant, value)
    outcome = find("jigsaw").run(run)
    assert run.is_complete and len(run.trainings) == 4
    assert len(outcome.figures) == 14 and all(0 <= value <= 100 for value in outcome.figures.values())
    again = find("jigsaw").run(run)  # everything is found in the checkpoints
    assert all(torch.equal(again.weights["jigsaw"][key], value) for key, value in outcome.weights["jigsaw"].items())
