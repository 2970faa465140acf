"""Programs whose linear relaxation has a whole solution: solved without a search, and only where that is proved."""

import itertools

import numpy as np
import pytest
import torch
from torch import tensor

from diffopt_lib.layers import solve_integer
from diffopt_lib.layers.integer import branching, relaxation

D = torch.float64


@pytest.fixture
def searches(monkeypatch):
    """How many programs were searched."""
    seen = []
    search = branching._solve
    monkeypatch.setattr(
        branching, "_solve", lambda element, **options: (seen.append(element), search(element, **options))[1]
    )
    return seen


def assignments(generator, count, people=4):
    """Cost matrices, flattened, and the rows which say that each person gets one task and each task one person."""
    c = torch.randn(count, people**2, generator=generator, dtype=D)
    one, every = torch.eye(people, dtype=D), torch.ones(1, people, dtype=D)
    rows = torch.cat([torch.kron(one, every), torch.kron(every, one)])
    ones = torch.ones(2 * people, dtype=D)
    return c, torch.cat([rows, -rows]), torch.cat([ones, -ones])


def test_assignments_take_no_search_and_are_the_best_permutations(searches):
    c, A, b = assignments(torch.Generator().manual_seed(0), 70)
    solution = solve_integer(c, A, b, 0, 1, enumerate_up_to=0)
    tables = [np.eye(4)[list(p)].ravel() for p in itertools.permutations(range(4))]
    best = (c @ tensor(np.array(tables)).T).amin(-1)
    torch.testing.assert_close(solution.value, best)
    assert not searches and (solution.iterations == 0).all() and solution.converged.all()
    assert torch.equal(solve_integer(c.float(), A.float(), b.float(), 0, 1, enumerate_up_to=0).y.double(), solution.y)


@pytest.mark.parametrize("of_costs", [1e-9, 1e9])
@pytest.mark.parametrize("of_rows", [1e-9, 1e9])
def test_units_do_not_matter_to_a_relaxation(of_costs, of_rows, searches):
    c, A, b = assignments(torch.Generator().manual_seed(1), 9)
    y = solve_integer(c, A, b, 0, 1, enumerate_up_to=0).y
    assert torch.equal(solve_integer(of_costs * c, of_rows * A, of_rows * b, 0, 1, enumerate_up_to=0).y, y)
    assert not searches


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_relaxation_solves_and_what_is_searched_agree_with_enumeration(whole, shared, searches):
    rng = np.random.default_rng(0)
    for _ in range(20):
        count, n, m = 12, 5, 3
        batch = () if shared else (count,)
        c = tensor(rng.normal(size=(count, n)))
        A = (
            tensor(rng.integers(-3, 4, (*batch, m, n)).astype(float))
            if whole
            else tensor(rng.normal(size=(*batch, m, n)))
        )
        b = tensor(rng.integers(-1, 5, (*batch, m)).astype(float))
        options = {"on_failure": "nan"}
        every = solve_integer(c, A, b, -1, 2, **options)
        found = solve_integer(c, A, b, -1, 2, enumerate_up_to=0, **options)
        assert torch.equal(found.status, every.status)
        torch.testing.assert_close(found.y, every.y, equal_nan=True)
    assert 0 < len(searches) < 240


def test_rows_with_two_sides():
    """1 ≤ y₁ + y₂ ≤ 2 is a row and its negative with different numbers."""
    c = tensor([[1.0, 2], [-1, -2], [-1, 1]], dtype=D)
    A, b = tensor([[1.0, 1], [-1, -1]], dtype=D), tensor([2.0, -1], dtype=D)
    assert solve_integer(c, A, b, 0, 5, enumerate_up_to=0).y.tolist() == [[1, 0], [0, 2], [2, 0]]


def test_one_without_a_solution_does_not_spoil_its_neighbours():
    c = tensor([[1.0, 1], [1, 1], [-1, 0], [2, 1]], dtype=D)
    b = tensor([[-1.0], [1.5], [-1], [-3]], dtype=D)
    upper = tensor([[4.0, 4], [4, 4], [torch.inf, 4], [4, 4]], dtype=D)
    lower = tensor([[0.0, 0], [0, 5], [0, 0], [0, 0]], dtype=D)
    solution = solve_integer(c, -torch.ones(1, 2, dtype=D), b, lower, upper, on_failure="nan", enumerate_up_to=0)
    assert solution.status.tolist() == [1, 2, 3, 1]
    assert solution.value[0] == 1 and solution.y[3].tolist() == [0, 3]


def test_only_few_neighbours_of_one_without_a_solution_are_searched(searches):
    c, A, b = assignments(torch.Generator().manual_seed(3), 30)
    several = b.repeat(30, 1)
    several[11, 0] = -1
    solution = solve_integer(c, A, several, 0, 1, enumerate_up_to=0, on_failure="nan")
    assert solution.status.tolist() == 11 * [1] + [2] + 18 * [1]
    others = [i for i in range(30) if i != 11]
    assert torch.equal(solution.y[others], solve_integer(c, A, b, 0, 1, enumerate_up_to=0).y[others])
    assert len(searches) <= 4


@pytest.mark.parametrize("wrong", ["x", "multipliers"])
def test_a_vertex_that_is_not_proved_is_searched(wrong, monkeypatch, searches):
    c, A, b = assignments(torch.Generator().manual_seed(2), 6)
    right = solve_integer(c, A, b, 0, 1, enumerate_up_to=0).y
    honest = relaxation.linprog

    def lying(*args, **options):
        result = honest(*args, **options)
        if wrong == "x":
            result.x[:16] = np.eye(4)[::-1].ravel()  # feasible, and not the best
        else:
            result.eqlin.marginals[:8] = 0
        return result

    monkeypatch.setattr(relaxation, "linprog", lying)
    assert not np.array_equal(right[0], np.eye(4)[::-1].ravel())
    assert torch.equal(solve_integer(c, A, b, 0, 1, enumerate_up_to=0).y, right)
    assert len(searches) == 1
