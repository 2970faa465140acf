"""What chapter 15's experiments draw, against its definition, and that they run."""

import itertools
from functools import partial

import pytest
import torch

from diffopt_lib.experiments import Run, find, integer_constraints, knapsack, set_cover


@pytest.fixture
def generators():
    return [torch.Generator().manual_seed(seed) for seed in range(2)]


def test_a_corner_is_feasible_for_the_hidden_rows(generators):
    A, b = integer_constraints.draw_rows(8, 6, generators, feasible_corner=True).constraints()
    torch.testing.assert_close(A.norm(dim=-1), torch.ones(2, 8, dtype=torch.float64))
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    assert (b.unsqueeze(-1) >= A @ corners.T).all(1).any(-1).all()


def test_costs_have_the_sign_that_is_asked_for(generators):
    signed, positive = (integer_constraints.draw_costs(5, signed, generators) for signed in (True, False))
    assert (signed < 0).double().mean() == pytest.approx(0.5, abs=0.02) and (positive >= 0).all()
    torch.testing.assert_close(positive.norm(dim=-1), torch.ones(2, 2600, dtype=torch.float64))


def test_every_element_is_in_two_small_different_subsets(generators):
    A, b = set_cover.draw_cover(12, 6, generators[0])
    assert (A.sum(-1) <= -2).all() and (A.sum(0) >= -3).all() and (A.sum(0) <= -1).all()
    assert len({tuple(column) for column in A.T.tolist()}) == 12
    assert (b == -1).all()


def test_knapsacks_have_one_solution(generators):
    seen = knapsack.images()
    drawn = knapsack.draw(20, seen, generators[0])
    again = torch.Generator().manual_seed(0)
    labels = seen[1][torch.randint(len(seen[1]), (400, 10, 2), generator=again)]
    weights, prices = (knapsack.LEAST + knapsack.RANGE * labels / 9).double().unbind(-1)
    sets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10)), dtype=torch.float64)
    values = torch.where(weights @ sets.T <= 1 + 1e-9, prices @ sets.T, -1)
    best = values.topk(2, -1).values
    unique = (best[:, 0] - best[:, 1] > 1e-6).nonzero().squeeze(-1)[:20]
    assert torch.equal(drawn.solutions.double(), sets[values.argmax(-1)[unique]])


def test_the_relaxation_is_no_worse_than_the_program(generators):
    A, b = integer_constraints.draw_rows(2, 6, generators, feasible_corner=True).constraints()
    c = integer_constraints.draw_costs(6, True, generators)[:, :50]
    whole, partly = (solve(c, A, b) for solve in (integer_constraints.decide, integer_constraints.relax))
    assert ((c * partly).sum(-1) <= (c * whole).sum(-1) + 1e-8).all() and (whole != partly.round()).any()


@pytest.mark.parametrize("name", ["integer_constraints", "set_cover", "knapsack"])
def test_the_experiments_run(name, monkeypatch, tmp_path):
    short = {"TRAIN": 16, "TEST": 10, "SEEDS": 2}
    for module in (integer_constraints, set_cover, knapsack):
        for key in short.keys() & vars(module).keys():
            monkeypatch.setattr(module, key, short[key])
    for module in (integer_constraints, set_cover):
        monkeypatch.setattr(module, "EPOCHS", 1)
    monkeypatch.setattr(integer_constraints, "VARIABLES", 6)
    monkeypatch.setattr(integer_constraints, "EASY_EPOCHS", 1)
    monkeypatch.setattr(knapsack, "BATCH", 8)
    monkeypatch.setattr(knapsack, "EPOCHS", 1)
    monkeypatch.setattr(set_cover, "SIZES", ((6, 3),))
    outcome = find(name).run(Run(0, torch.device("cpu"), tmp_path))
    assert outcome.figures and all(0 <= v <= 100 for v in outcome.figures.values())


def test_prices_are_divided_by_their_length():
    """Otherwise all prices shrink together, to where the sigmoid is flat."""
    reader = knapsack.Reader(partial(knapsack.fill), True, [torch.Generator().manual_seed(0)])
    items = torch.rand(1, 5, 10, 128)
    weights = 0.15 + 0.2 * torch.rand(1, 5, 10)
    prices = reader.read(items)[1].detach().requires_grad_()
    y = knapsack.fill(prices / prices.norm(dim=-1, keepdim=True), weights)
    y.backward(torch.randn(1, 5, 10))
    torch.testing.assert_close((prices * prices.grad).sum(-1), torch.zeros(1, 5), atol=1e-6, rtol=0)
    assert torch.equal(reader(items, weights), y)
