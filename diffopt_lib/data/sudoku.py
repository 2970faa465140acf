"""4 × 4 Sudoku puzzles with exactly one solution.

A grid holds the digits 1 … 4 so that each row, column and 2 × 2 block has all four. A puzzle shows some cells of a grid
and has a single solution. There are only 288 grids, so that two large sets of puzzles can't have different solutions
throughout; *disjoint* means here that no puzzle of the test set is in the training set. A third set comes from grids
that were kept out of training altogether: it tells what was learned of the rules from what was remembered of the grids.

The paper uses 9,000 training and 1,000 test puzzles and does not say how they were made. Ours start from a uniform
random grid and take cells away in a random order, as long as the solution stays unique and more cells are shown than a
number drawn uniformly from 4 … 8 (no puzzle with fewer than 4 has a unique solution).

Source: Amos & Kolter 2017, §4.4.
Chapter: book/2_differentiable/04_quadratic_programs.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 4
BLOCK = 2
FEWEST_CLUES, MOST_CLUES = 4, 8
AT_A_TIME = 500


class Puzzles(NamedTuple):
    """Puzzles and their solutions, ``(count, 4, 4)`` int64; 0 is an empty cell."""

    puzzle: Tensor
    solution: Tensor


@cache
def grids() -> Tensor:
    """All 288 grids, ``(288, 4, 4)``."""
    partial: list[list[tuple[int, ...]]] = [[]]
    for _ in range(SIDE):
        partial = [[*grid, row] for grid in partial for row in permutations(range(1, SIDE + 1)) if _fits(grid, row)]
    return torch.tensor(partial)


def _fits(grid: list[tuple[int, ...]], row: tuple[int, ...]) -> bool:
    """Whether a row may stand below the rows of an incomplete grid: no digit twice in a column or a block."""
    band = grid[len(grid) // BLOCK * BLOCK :]  # the rows above it in the same blocks
    in_column = (digit == above[j] for above in grid for j, digit in enumerate(row))
    in_block = (digit in above[j // BLOCK * BLOCK :][:BLOCK] for above in band for j, digit in enumerate(row))
    return not any(in_column) and not any(in_block)


def solutions(puzzle: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Every grid ``(k, 4, 4)`` that agrees with the shown cells of a puzzle ``(4, 4)``."""
    candidates = grids() if candidates is None else candidates
    agrees = (puzzle == 0) | (candidates == puzzle)
    return candidates[agrees.flatten(1).all(1)]


def one_hot(board: Tensor) -> Tensor:
    """Boards ``(*batch, 4, 4)`` as ``(*batch, 4, 4, 4)``: entry (i, j, d) is 1 if cell (i, j) shows the digit d + 1."""
    return (board.unsqueeze(-1) == torch.arange(1, SIDE + 1, device=board.device)).float()


def board_of(scores: Tensor) -> Tensor:
    """The digits with the largest scores: the inverse of :func:`one_hot` on complete boards."""
    return scores.argmax(-1) + 1


def puzzles(count: int, generator: torch.Generator, among: Tensor | None = None, but: Tensor | None = None) -> Puzzles:
    """``count`` different puzzles.

    Args:
        count: how many.
        generator: a CPU generator.
        among: the grids they may have as solutions, ``(k, 4, 4)``; all by default.
        but: puzzles ``(m, 4, 4)`` that must not be among them.
    """
    among = grids() if among is None else among
    seen = {_key(puzzle) for puzzle in but} if but is not None else set()
    found: list[Puzzles] = []
    while len(found) < count:
        drawn = among[torch.randint(len(among), (AT_A_TIME,), generator=generator)]
        for puzzle, solution in zip(_take_away(drawn, generator), drawn, strict=True):
            if _key(puzzle) not in seen and len(found) < count:
                seen.add(_key(puzzle))
                found.append(Puzzles(puzzle, solution))
    return Puzzles(*(torch.stack(part) for part in zip(*found, strict=True)))


def _take_away(solution: Tensor, generator: torch.Generator) -> Tensor:
    """Empty cells of the grids ``(count, 4, 4)`` in a random order, where the solution stays unique."""
    count = len(solution)
    clues = torch.randint(FEWEST_CLUES, MOST_CLUES + 1, (count,), generator=generator)
    order = torch.rand(count, SIDE * SIDE, generator=generator).argsort(-1)
    bit = 2 ** torch.arange(SIDE * SIDE)  # a set of cells as an integer
    cells = solution.flatten(1)
    alike = ((cells.unsqueeze(1) == grids().flatten(1)) * bit).sum(
        -1
    )  # (count, 288): where a grid is like the solution
    shown = bit.sum().expand(count)
    for cell in order.unbind(1):
        fewer = shown & ~bit[cell]
        unique = (alike & fewer.unsqueeze(1) == fewer.unsqueeze(1)).sum(-1) == 1
        above = ((shown.unsqueeze(1) & bit) > 0).sum(-1) > clues
        shown = torch.where(unique & above, fewer, shown)
    return torch.where((shown.unsqueeze(1) & bit) > 0, cells, 0).view_as(solution)


def _key(puzzle: Tensor) -> bytes:
    return puzzle.numpy().tobytes()
