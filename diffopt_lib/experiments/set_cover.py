"""Learning a set cover from cheapest covers (CombOptNet, Paulus et al. 2021).

    y*(c) = argmin_y  cᵀy   s.t.   Σ_{j ∋ e} yⱼ ≥ 1 for every element e,   y ∈ {0, 1}ⁿ,       c ≥ 0

Which subset covers which elements is hidden. The learner is that of :mod:`.integer_constraints`: as many rows as there
are elements, started at random, with nothing said about their being zeros and ones. Subsets have at most 3 elements and
every element is in at least two. Published: 8, 12, 16 and 20 subsets of 4, 6, 8, 10 elements, 100 epochs, Adam with a
rate of 5e-4, 10 seeds. Here: without the largest, whose box has 2²⁰ points, and with the seeds, epochs and rate of
:mod:`.integer_constraints`.

Source: Paulus, Rolínek, Musil, Amos & Martius 2021, section 5.2. Chapter: book/2_differentiable/15_integer_programs.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from .harness.experiment import Experiment, Outcome, Run
from .integer_constraints import (
    EPOCHS,
    SEEDS,
    TRAIN,
    Examples,
    decide,
    draw_costs,
    exactly_right,
    learn,
    predict,
    relax,
    summary,
)

SIZES = ((8, 4), (12, 6), (16, 8))
LARGEST_SUBSET = 3


def draw_cover(subsets: int, elements: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A ``(elements, subsets)``, −1 where a subset has an element, and b = −1: subsets that are all different."""
    possible = [s for size in range(1, LARGEST_SUBSET + 1) for s in combinations(range(elements), size)]
    while True:
        chosen = torch.randperm(len(possible), generator=generator)[:subsets].tolist()
        A = torch.zeros(elements, subsets, dtype=torch.float64)
        for j, k in enumerate(chosen):
            A[list(possible[k]), j] = -1
        if (A.sum(-1) <= -2).all():
            return A, -torch.ones(elements, dtype=torch.float64)


def run(run: Run) -> Outcome:
    """Every size."""
    figures: dict[str, float | None] = {}
    share = 1 / (len(SIZES) * 2)
    for n, m in SIZES:
        generators = [run.generator(seed) for seed in range(SEEDS)]
        covers = [draw_cover(n, m, g) for g in generators]
        hidden = [torch.stack(part) for part in zip(*covers, strict=True)]
        costs = draw_costs(n, False, generators)
        examples = Examples(costs, decide(costs, *hidden))
        of = f"exactly right, %, {n} subsets of {m} elements"
        right, _ = learn(run, f"{of} integer program", examples, m, EPOCHS, share)
        figures |= summary(f"{of}: CombOptNet", right)
        figures |= summary(f"{of}: network", predict(run, f"{of} network", examples, share))
        figures |= summary(f"{of}: true relaxation, rounded", exactly_right(relax(costs[:, TRAIN:], *hidden), examples))
    return Outcome(figures)


EXPERIMENT = Experiment(
    name="set_cover",
    claim="The sets of a set cover problem can be learned from cheapest covers by the gradient of CombOptNet.",
    published={},
    source="Paulus, Rolínek, Musil, Amos & Martius 2021, section 5.2",
    chapter="book/2_differentiable/15_integer_programs",
    run=run,
)
