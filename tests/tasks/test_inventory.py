"""Orders against a brute-force search, cvxpy, and finite differences."""

import cvxpy as cp
import pytest
import torch

from diffopt_lib import SolverError
from diffopt_lib.tasks import inventory

DEMAND = torch.tensor([1.0, 2.0, 5.0, 10.0, 20.0], dtype=torch.float64)


def random_p(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def expected(z, p, demand, **costs):
    return (p * inventory.loss(z.unsqueeze(-1).expand(p.shape), demand.expand(p.shape), **costs)).sum(-1)


def test_no_order_on_a_fine_grid_costs_less():
    p = 4 * torch.rand(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = p.softmax(-1)
    z = inventory.decide(p, DEMAND)
    grid = torch.linspace(0, 25, 5001, dtype=torch.float64)
    costs = expected(grid.expand(200, -1).reshape(-1), p.repeat_interleave(5001, 0), DEMAND).reshape(200, -1)
    assert (expected(z, p, DEMAND) <= costs.min(-1).values + 1e-12).all()
    assert ((z - grid[costs.argmin(-1)]).abs() <= 5e-3).all()


def test_it_is_the_solution_of_the_paper_s_quadratic_program():
    for p in random_p(5, 5, seed=1):
        z, short, over = cp.Variable(), cp.Variable(5), cp.Variable(5)
        cost = 10 * z + cp.square(z) + p.numpy() @ (30 * short + 7 * short**2 + 10 * over + over**2)
        program = cp.Problem(
            cp.Minimize(cost), [z >= 0, short >= 0, over >= 0, short >= DEMAND.numpy() - z, over >= z - DEMAND.numpy()]
        )
        program.solve(cp.CLARABEL)
        assert abs(inventory.decide(p, DEMAND).item() - z.value) < 1e-4


def test_unsorted_demands_and_ties_make_no_difference():
    p, shuffle = random_p(7, 5), torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(inventory.decide(p, DEMAND), inventory.decide(p[:, shuffle], DEMAND[shuffle]))
    twice = torch.cat([p, p], -1) / 2
    assert torch.allclose(inventory.decide(p, DEMAND), inventory.decide(twice, DEMAND.repeat(2)), rtol=1e-12)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_in_probabilities_demands_and_all_costs(check):
    p = random_p(3, 5, seed=2).requires_grad_()
    demand = (
        DEMAND + torch.rand(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ).requires_grad_()
    costs = [torch.tensor(c, dtype=torch.float64, requires_grad=True) for c in (1.0, 0.2, 30, 14, 10, 2)]

    def f(p, demand, *c):
        return inventory.decide(p, demand, order=c[:2], shortage=c[2:4], excess=c[4:])

    assert check(f, (p, demand, *costs))


def test_at_a_demand_the_order_follows_the_demand_and_not_the_probabilities():
    p = torch.tensor([0.05, 0.9, 0.05], dtype=torch.float64, requires_grad=True)
    demand = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    z = inventory.decide(p, demand, order=(1.0, 0.0), shortage=(3.0, 0.0), excess=(1.0, 0.0))
    assert z.item() == 4.0
    of_p, of_demand = torch.autograd.grad(z, (p, demand))
    assert torch.equal(of_p, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(of_demand, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_a_newsvendor_orders_the_quantile():
    demand = torch.rand(99, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    p = torch.full((99,), 1 / 99, dtype=torch.float64)
    z = inventory.decide(p, demand, order=(0.0, 0.0), shortage=(3.0, 0.0), excess=(1.0, 0.0))
    assert z == demand.sort().values[74]  # 3 / (3 + 1) of 99


def test_nothing_is_ordered_where_goods_cost_more_than_they_spare():
    assert inventory.decide(random_p(5), DEMAND, order=(1000.0, 2.0)).item() == 0


def test_vmap_batches_and_float32():
    p = random_p(4, 5)
    assert torch.allclose(torch.func.vmap(lambda p: inventory.decide(p, DEMAND))(p), inventory.decide(p, DEMAND))
    assert inventory.decide(p.float(), DEMAND.float()).dtype == torch.float32
    q = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert inventory.decide(p[:, None], DEMAND, order=(10.0, q)).shape == (4, 3)
    assert inventory.decide(p[:0], DEMAND).shape == (0,)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"p": torch.tensor([0.5, -0.1, 0.6])}, "p must not be negative"),
        ({"p": torch.tensor([0.5, torch.nan, 0.5])}, "p must be finite"),
        ({"p": torch.tensor([0.5, 0.5])}, "demand must have as many entries as p"),
        ({"order": (1.0, -1.0)}, r"order\[1\] must be at least 0"),
        ({"shortage": (-3.0, 0.0), "excess": (1.0, 0.0)}, r"shortage\[0\] \+ excess\[0\]"),
        ({"order": 3.0}, "order must be a pair"),
        ({"order": (1.0, 2.0, 3.0)}, "order must be a pair"),
    ],
)
def test_bad_input_is_named(change, complaint):
    arguments = {"p": torch.tensor([0.2, 0.3, 0.5]), "demand": torch.tensor([1.0, 2.0, 3.0])} | change
    with pytest.raises(ValueError, match=complaint):
        inventory.decide(**arguments)


def test_a_cost_without_minimum_is_an_error_that_names_its_elements():
    free = {"order": (torch.tensor([1.0, -5.0]), 0.0), "shortage": (1.0, 0.0), "excess": (1.0, 0.0)}
    with pytest.raises(SolverError, match="falls without end") as error:
        inventory.decide(torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([1.0, 2.0]), **free)
    assert error.value.indices == [(1,)]


def test_orders_and_demands_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match="must broadcast against each other, got decision"):
        inventory.loss(torch.ones(3), torch.ones(2))
