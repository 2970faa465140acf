"""Integer programs with predicted costs, and how well a method solved and differentiated them.

The reference tries every path, and every set of items: a shortest path on a grid that only goes right and down, or a
knapsack of ten. The gradient that counts is that of blackbox differentiation, (y(c + λg) − y(c)) / λ, of its solutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np
import torch
from torch import Tensor

from .method import Tensors, largest, rounded, to_numpy

LAMBDA = 10.0
CAPACITY, ITEMS = 1.0, 10


@dataclass(frozen=True)
class Program(Tensors):
    """min cᵀy over Ay ≤ b, 0 ≤ y ≤ 1, whole: a batch of costs. ``side`` is that of the grid, 0 for a knapsack."""

    c: Tensor
    A: Tensor
    b: Tensor
    side: int

    @property
    def parameters(self) -> list[Tensor]:
        return [self.c]

    @property
    def y_shape(self) -> torch.Size:
        return self.c.shape

    @cached_property
    def points(self) -> np.ndarray:
        """All feasible points that can be best."""
        if self.side:
            return paths(self.side)
        sets = np.array(list(product((0.0, 1.0), repeat=ITEMS)))
        return sets[(sets @ to_numpy(self.A).T <= to_numpy(self.b)).all(1)]

    def best(self, c: np.ndarray) -> np.ndarray:
        return self.points[(c @ self.points.T).argmin(1)]

    def accuracy(self, y: Tensor, gradients: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """By how much y costs more than the best, relative to that, at worst; the worst error of the gradient."""
        c, found = to_numpy(self.c), to_numpy(y)
        exact, other = self.best(c), self.best(c + LAMBDA * to_numpy(cotangent))
        least = (c * exact).sum(1)
        gap = np.abs((c * found).sum(1) - least) / np.abs(least)
        outside = largest(found - self.points[np.abs(found[:, None] - self.points).sum(2).argmin(1)])
        wrong = largest(to_numpy(gradients[0]) - (other - exact) / LAMBDA) * LAMBDA
        return {"solution_error": rounded(max(largest(gap), outside)), "gradient_error": rounded(wrong)}


def paths(side: int) -> np.ndarray:
    """Every way right and down from corner to corner as an indicator of edges, in the order of :func:`edges`."""
    number = {edge: i for i, edge in enumerate(edges(side))}
    found = []
    for downs in combinations(range(2 * side - 2), side - 1):
        indicator, at = np.zeros(len(number)), 0
        for step in range(2 * side - 2):
            to = at + (side if step in downs else 1)
            indicator[number[at, to]] = 1
            at = to
        found.append(indicator)
    return np.array(found)


def edges(side: int) -> list[tuple[int, int]]:
    """Row by row: those to the right, then those down to the next row."""
    right = [[(i * side + j, i * side + j + 1) for j in range(side - 1)] for i in range(side)]
    down = [[(i * side + j, (i + 1) * side + j) for j in range(side)] for i in range(side - 1)]
    return [edge for row in range(side) for edge in right[row] + (down[row] if row < side - 1 else [])]


def shortest_path(batch: int, side: int, degree: int, noise: float, generator: torch.Generator) -> Program:
    """Costs as PyEPO draws them: ((Bx/√5 + 3)^degree + 1) / 3.5^degree, times 1 ± noise; x normal, B zeros and ones."""
    count = len(edges(side))
    B = torch.randint(2, (count, 5), generator=generator).double()
    x = torch.randn(batch, 5, generator=generator, dtype=torch.float64)
    c = ((x @ B.T / 5**0.5 + 3) ** degree + 1) / 3.5**degree
    c = c * (1 - noise + 2 * noise * torch.rand(batch, count, generator=generator, dtype=torch.float64))
    flow = torch.zeros(side * side, count, dtype=torch.float64)
    for i, (a, z) in enumerate(edges(side)):
        flow[a, i], flow[z, i] = -1, 1
    balance = torch.zeros(side * side, dtype=torch.float64)
    balance[0], balance[-1] = -1, 1
    return Program(c, torch.cat([flow, -flow]), torch.cat([balance, -balance]), side)


def knapsack(batch: int, generator: torch.Generator) -> Program:
    """Ten items of weights 0.15 … 0.35, the same for all, and prices 0.1 … 0.45 to be predicted."""
    weights = 0.15 + 0.2 * torch.rand(1, ITEMS, generator=generator, dtype=torch.float64)
    prices = 0.1 + 0.35 * torch.rand(batch, ITEMS, generator=generator, dtype=torch.float64)
    return Program(-prices, weights, torch.full((1,), CAPACITY, dtype=torch.float64), 0)


def problem(program: str, batch: int, seed: int = 0) -> Program:
    """A batch of either kind."""
    generator = torch.Generator().manual_seed(seed)
    return knapsack(batch, generator) if program == "knapsack" else shortest_path(batch, 5, 4, 0.5, generator)
