"""Solutions are frozen, errors name what failed, NaN marks spoil gradients too."""

import dataclasses

import pytest
import torch

from diffopt_lib import Solution, SolverError
from diffopt_lib.solution import SOLVED, STUCK, UNBOUNDED, failed_indices, mark_failures, raise_failed


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


class TestRaiseFailed:
    reasons = {UNBOUNDED: "it falls for ever.", STUCK: lambda failed: f"{failed.sum().item()} did not get there."}

    def test_where_all_is_well_nothing_happens(self):
        raise_failed(torch.tensor([SOLVED, SOLVED]), self.reasons)
        raise_failed(torch.empty(0, dtype=torch.int64), self.reasons)

    def test_the_first_reason_given_comes_first_and_names_its_own_elements(self):
        with pytest.raises(SolverError, match=r"^it falls for ever\. Batch elements: \(2,\) \(1 in all\)") as caught:
            raise_failed(torch.tensor([STUCK, SOLVED, UNBOUNDED]), self.reasons)
        assert caught.value.indices == [(2,)] and caught.value.reason == "it falls for ever."

    def test_a_reason_may_depend_on_who_failed(self):
        status = torch.tensor([[STUCK, SOLVED], [STUCK, SOLVED]])
        with pytest.raises(SolverError, match="2 did not get there") as caught:
            raise_failed(status, self.reasons)
        assert caught.value.indices == [(0, 0), (1, 0)]

    def test_without_a_batch_no_element_is_named(self):
        with pytest.raises(SolverError, match="^it falls for ever.$"):
            raise_failed(torch.tensor(UNBOUNDED), self.reasons)
