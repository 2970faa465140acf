"""Rows that leave a batch: every element gets what it would have got alone, whatever the others do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from diffopt_lib.batch.rows import iterate, map_rows, relay, scatter, select, where

DOUBLE = torch.float64


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Nest:
    pair: Pair
    rest: tuple[Tensor, ...]
    name: str


@dataclass(frozen=True)
class Counted:
    """A state of its own kind, which knows how to be narrowed."""

    rows: int

    def select(self, keep: Tensor) -> Counted:
        return Counted(int(keep.sum()))


def nest(n: int) -> Nest:
    rows = torch.arange(n, dtype=DOUBLE)
    return Nest(Pair(rows, rows.reshape(n, 1, 1) * torch.ones(2, 3)), (torch.full((1, 2), 7.0), rows > 1), "shared")


class Halving(NamedTuple):
    """A number that is halved until it is less than 1."""

    x: Tensor


def halve(x: Tensor, limit: int = 100, sizes: list[int] | None = None) -> tuple[Tensor, Tensor]:
    def look(at: Halving, k: int):
        if sizes is not None:
            sizes.append(len(at.x))
        return at, (at.x < 1).flatten(), (at.x, torch.full_like(at.x, k))

    return iterate(Halving(x), look, lambda at: Halving(at.x / 2), limit)


class TestTake:
    def test_one_row_that_all_share_stays(self):
        shared = torch.ones(1, 3)
        assert select(shared, torch.tensor([True, False, True])) is shared

    @pytest.mark.parametrize("keep", [True, False])
    def test_the_only_row_of_a_batch_of_one_is_not_shared(self, keep):
        assert len(select(torch.ones(1, 3), torch.tensor([keep]))) == int(keep)


class TestSelect:
    def test_goes_through_tuples_and_dataclasses_to_the_tensors(self):
        chosen = select(nest(4), torch.tensor([False, True, False, True]))
        assert chosen.pair.a.tolist() == [1, 3]
        assert chosen.pair.b.shape == (2, 2, 3) and chosen.pair.b[1].unique().tolist() == [3]
        assert chosen.rest[0].shape == (1, 2) and chosen.rest[1].tolist() == [False, True]
        assert chosen.name == "shared" and isinstance(chosen.pair, Pair)

    def test_asks_objects_that_narrow_themselves(self):
        counted, x = select((Counted(3), torch.arange(3)), torch.tensor([True, False, True]))
        assert counted.rows == 2 and x.tolist() == [0, 2]

    def test_gradients_go_to_the_chosen_rows(self):
        x = torch.ones(3, dtype=DOUBLE, requires_grad=True)
        (chosen,) = select((x,), torch.tensor([True, False, True]))
        (g,) = torch.autograd.grad(chosen.sum(), x)
        assert g.tolist() == [1, 0, 1]


def test_what_was_selected_is_scattered_back_to_its_place():
    state, left = (torch.arange(4.0), torch.arange(8.0).reshape(4, 2)), torch.tensor([True, False, False, True])
    part = map_rows(torch.neg, select(state, left))
    a, b = scatter(state, left, part)
    assert a.tolist() == [0, 1, 2, -3]
    assert b.tolist() == [[0, -1], [2, 3], [4, 5], [-6, -7]]
    torch.testing.assert_close((a, b), where(left, map_rows(torch.neg, state), state))


class TestIterate:
    def test_each_element_stops_on_its_own_and_keeps_its_place(self):
        x, steps = halve(torch.tensor([5.0, 0.5, 1.0, 100.0, 3.0]))
        assert steps.tolist() == [3, 0, 1, 7, 2]
        assert x.tolist() == [5 / 8, 0.5, 0.5, 100 / 128, 3 / 4]

    def test_finished_elements_cost_nothing_more(self):
        sizes: list[int] = []
        halve(torch.tensor([[0.5], [1.0], [2.0], [2.0]]), sizes=sizes)
        assert sizes == [4, 3, 2]

    def test_all_stop_at_the_limit(self):
        x, steps = halve(torch.tensor([0.5, 1.0, 64.0]), limit=3)
        assert x.tolist() == [0.5, 0.5, 8.0] and steps.tolist() == [0, 1, 3]

    def test_a_batch_is_the_sum_of_its_elements(self, generator):
        x = 100 * torch.rand(20, 1, dtype=DOUBLE, generator=generator)
        alone = [halve(row.unsqueeze(0)) for row in x]
        together = halve(x)
        torch.testing.assert_close(together, tuple(torch.cat(pieces) for pieces in zip(*alone, strict=True)))

    def test_an_empty_batch_has_an_empty_result(self):
        x, steps = halve(torch.ones(0, 2))
        assert x.shape == steps.shape == (0, 2)

    def test_derivatives_are_those_of_the_steps_taken(self):
        x = torch.tensor([5.0, 0.5, 3.0], dtype=DOUBLE, requires_grad=True)
        (g,) = torch.autograd.grad(halve(x)[0].sum(), x)
        assert g.tolist() == [1 / 8, 1, 1 / 4]


class TestRelay:
    @staticmethod
    def run(x: Tensor, calls: list[tuple[str, int]]) -> Pair:
        """Square roots by three methods, each of which can only do larger numbers than the one before."""

        def attempt(name: str, most: float):
            def solve(x: tuple[Tensor, Tensor], result: Pair | None = None) -> Pair:
                calls.append((name, len(x[0])))
                return Pair(torch.where(x[0] <= most, x[0].sqrt(), torch.nan), x[0])

            return solve

        attempts = [attempt("small", 1.0), attempt("larger", 10.0), attempt("all", torch.inf)]
        return relay((x, torch.ones(1)), attempts, lambda result: ~result.a.isnan())

    def test_each_attempt_sees_only_who_is_left(self):
        calls: list[tuple[str, int]] = []
        x = torch.tensor([4.0, 0.25, 100.0, 1.0])
        assert self.run(x, calls).a.tolist() == [2.0, 0.5, 10.0, 1.0]
        assert calls == [("small", 4), ("larger", 2), ("all", 1)]

    def test_no_attempt_is_made_for_nobody(self):
        calls: list[tuple[str, int]] = []
        self.run(torch.tensor([0.25, 1.0]), calls)
        assert calls == [("small", 2)]

    def test_where_nobody_was_solved_nothing_is_copied(self):
        calls: list[tuple[str, int]] = []
        assert self.run(torch.tensor([9.0, 4.0]), calls).a.tolist() == [3.0, 2.0]
        assert calls == [("small", 2), ("larger", 2)]
