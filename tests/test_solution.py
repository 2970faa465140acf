"""Solutions are frozen, errors name what failed, NaN marks spoil gradients too."""

import dataclasses

import pytest
import torch

from diffopt_lib import Solution, SolverError
from diffopt_lib.solution import failed_indices, mark_failures


def test_solution_is_frozen():
    solution = Solution(*(torch.zeros(1) for _ in range(5)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution.y = torch.ones(1)


def test_error_lists_the_first_few_indices_and_their_number():
    error = SolverError("no luck.", [(i, 0) for i in range(7)])
    assert str(error).startswith("no luck. Batch elements: (0, 0), (1, 0)")
    assert "…" in str(error) and "7 in all" in str(error)


def test_error_without_batch_names_no_elements():
    assert str(SolverError("no luck.", [()])) == "no luck."


def test_failed_indices_of_a_batch_and_of_a_scalar():
    assert failed_indices(torch.tensor([[False, True], [True, False]])) == [(0, 1), (1, 0)]
    assert failed_indices(torch.tensor(True)) == [()]


def test_nan_marks_value_and_gradient_of_the_failed_element_only():
    y = torch.ones(2, 3, requires_grad=True)
    marked = mark_failures(y, torch.tensor([True, False]), "nan")
    marked.sum().backward()
    assert marked[1].isnan().all() and y.grad[1].isnan().all()
    assert (marked[0] == 1).all() and (y.grad[0] == 1).all()
    assert mark_failures(y, torch.tensor([True, False]), "return") is y
