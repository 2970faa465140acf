"""Puzzles have exactly one solution, sets do not overlap, and a seed gives the same ones."""

import pytest
import torch

from diffopt_lib.data import board_of, grids, one_hot, puzzles
from diffopt_lib.data.sudoku import solutions


def keys(boards):
    return {tuple(board.flatten().tolist()) for board in boards}


@pytest.fixture
def some(generator):
    return puzzles(300, generator)


def count_by_search(board):
    """The number of solutions by depth-first search, which knows the rules and not the list of grids."""
    empty = [(i, j) for i in range(4) for j in range(4) if board[i][j] == 0]
    if not empty:
        return 1
    i, j = empty[0]
    block = {board[r][c] for r in range(i // 2 * 2, i // 2 * 2 + 2) for c in range(j // 2 * 2, j // 2 * 2 + 2)}
    taken = block | set(board[i]) | {row[j] for row in board}
    count = 0
    for digit in {1, 2, 3, 4} - taken:
        board[i][j] = digit
        count += count_by_search(board)
        board[i][j] = 0
    return count


def test_there_are_288_grids_and_each_obeys_the_rules():
    assert grids().shape == (288, 4, 4)
    assert len(keys(grids())) == 288
    blocks = grids().unfold(1, 2, 2).unfold(2, 2, 2).reshape(288, 4, 4)
    for groups in (grids(), grids().mT, blocks):
        assert (groups.sort(-1).values == torch.arange(1, 5)).all()


def test_every_puzzle_has_exactly_one_solution(some):
    for puzzle, solution in zip(*some, strict=True):
        assert count_by_search(puzzle.tolist()) == 1
        assert torch.equal(solutions(puzzle), solution.unsqueeze(0))
        assert ((puzzle == 0) | (puzzle == solution)).all()


def test_every_number_of_clues_occurs_and_fewer_than_four_never(some):
    clues = (some.puzzle > 0).flatten(1).sum(1)
    assert set(clues.tolist()) == {4, 5, 6, 7, 8}


def test_solutions_of_an_ambiguous_board():
    assert len(solutions(torch.zeros(4, 4, dtype=torch.int64))) == 288
    row = torch.tensor([[1, 2, 3, 4], *[[0] * 4] * 3])
    assert len(solutions(row)) == count_by_search(row.tolist()) == 12


def test_puzzles_differ_and_avoid_those_they_are_told_to(generator, some):
    others = puzzles(300, generator, but=some.puzzle)
    assert len(keys(some.puzzle)) == len(keys(others.puzzle)) == 300
    assert not keys(some.puzzle) & keys(others.puzzle)


def test_solutions_come_from_the_grids_they_are_told_to(generator):
    among = grids()[:5]
    assert keys(puzzles(50, generator, among=among).solution) <= keys(among)


def test_a_seed_gives_the_same_puzzles():
    first, again, other = (puzzles(20, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.puzzle, again.puzzle) and torch.equal(first.solution, again.solution)
    assert not torch.equal(first.puzzle, other.puzzle)


def test_one_hot_and_back(some):
    encoded = one_hot(some.solution)
    assert encoded.shape == (300, 4, 4, 4)
    assert torch.equal(board_of(encoded), some.solution)
    assert torch.equal(one_hot(some.puzzle).sum(-1) > 0, some.puzzle > 0)
    assert encoded[0, 1, 2, some.solution[0, 1, 2] - 1] == 1
