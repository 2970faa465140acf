"""Learning the constraints of an integer program from its solutions (CombOptNet, Paulus et al. 2021).

    y*(c) = argmin_y  cᵀy   s.t.   Ay ≤ b,   y ∈ {0, 1}¹⁶

A and b are hidden; 1,600 pairs of c and y* are shown, and y* is asked for at 1,000 other c. The learner has an A and b
of its own, solves with them, and follows the squared error of y. Its rows are written about points of their own,
aᵢᵀ(y − oᵢ) + βᵢ ≤ 0 with ‖aᵢ‖ = 1, and all of aᵢ, oᵢ, βᵢ are learned, as in the paper.

The hidden rows are drawn as the public code draws them: aᵢ a unit vector, βᵢ = 0.2, oᵢ in the middle half of the box,
and the sign of a row such that a random corner is feasible. Costs are uniform, in [−1, 1] or in [0, 1]. The public
configuration writes ``positive_costs: flase``, a string, which counts as true, so its data have costs in [0, 1]. There
y = 0 is the solution for every c if it is feasible, which leaves nothing to learn; so both kinds are given.

Beside the learner stand: the box alone; a network with 512 hidden units that predicts y; and the linear relaxation with
the hidden rows themselves, rounded. Published: 100 epochs, Adam with a
rate of 5e-4, 10 seeds, and −5 … 5 beside 0, 1. Here: two seeds, binary only, and 8 epochs at a rate of 2e-3 (3 where
costs are ≥ 0), which is before convergence for the larger programs.

Source: Paulus, Rolínek, Musil, Amos & Martius 2021, section 5.1. Chapter: book/2_differentiable/15_integer_programs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.integer import solve_integer
from ..layers.qp import solve_qp
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import epochs, train

VARIABLES = 16
CONSTRAINTS = (1, 2, 4, 8)
SEEDS = 2
TRAIN, TEST = 1600, 1000
BATCH, LEARNING_RATE = 8, 2e-3
EPOCHS, EASY_EPOCHS = 8, 3  # of the integer program where costs are not negative
HIDDEN = 512
POINTS = 2**16


class Rows(NamedTuple):
    """Rows aᵀ(y − o) + β ≤ 0: a and o ``(seeds, m, n)``, β ``(seeds, m)``."""

    normals: Tensor
    centres: Tensor
    offsets: Tensor

    def constraints(self) -> tuple[Tensor, Tensor]:
        """A ``(seeds, m, n)`` with unit rows and b ``(seeds, m)``."""
        norm = self.normals.norm(dim=-1, keepdim=True)
        b = ((self.normals * self.centres).sum(-1) - self.offsets) / norm.squeeze(-1)
        return self.normals / norm, b


class Examples(NamedTuple):
    """Costs and solutions, ``(seeds, count, n)`` each."""

    costs: Tensor
    solutions: Tensor


def draw_rows(m: int, n: int, generators: list[torch.Generator], feasible_corner: bool) -> Rows:
    """Random rows for every seed."""
    drawn = []
    for g in generators:
        normals = torch.rand(m, n, generator=g, dtype=torch.float64) - 0.5
        normals = normals / normals.norm(dim=-1, keepdim=True)
        centres = 0.25 + 0.5 * torch.rand(m, n, generator=g, dtype=torch.float64)
        offsets = torch.full((m,), 0.2, dtype=torch.float64)
        if feasible_corner:
            corner = torch.randint(2, (n,), generator=g).double()
            sign = torch.where((normals * (corner - centres)).sum(-1) + offsets <= 0, 1.0, -1.0)
            normals, offsets = normals * sign.unsqueeze(-1), offsets * sign
        drawn.append(Rows(normals, centres, offsets))
    return Rows(*(torch.stack(part) for part in zip(*drawn, strict=True)))


def draw_costs(n: int, signed: bool, generators: list[torch.Generator]) -> Tensor:
    """Uniform in [−1, 1] or [0, 1], and then of length 1: that does not change the solution."""
    costs = [2 * torch.rand(TRAIN + TEST, n, generator=g, dtype=torch.float64) - 1 for g in generators]
    c = torch.stack(costs) if signed else torch.stack(costs).abs()
    return c / c.norm(dim=-1, keepdim=True)


def decide(costs: Tensor, A: Tensor, b: Tensor, **options: str) -> Tensor:
    """The binary solutions, ``(seeds, count, n)``, of constraints that each seed has its own of."""
    return solve_integer(costs, A.unsqueeze(1), b.unsqueeze(1), 0, 1, enumerate_up_to=POINTS, **options).y  # type: ignore[arg-type]


def relax(costs: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """The same without y ∈ Zⁿ. Rows that contradict each other are moved as little as it takes."""
    seeds, _, n = A.shape
    one = torch.eye(n, dtype=A.dtype, device=A.device).expand(seeds, n, n)
    G = torch.cat([A, one, -one], 1).unsqueeze(1)
    h = torch.cat([b, b.new_ones(seeds, n), b.new_zeros(seeds, n)], 1).unsqueeze(1)
    return solve_qp(torch.zeros_like(one[0]), costs, G=G, h=h, on_failure="closest").y


class Learner(nn.Module):
    """Rows that are learned, one set for each seed, in a program that is solved with them."""

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows = nn.ParameterList(rows)

    def constraints(self) -> tuple[Tensor, Tensor]:
        """A and b as they stand."""
        return Rows(*self.rows).constraints()

    def forward(self, costs: Tensor) -> Tensor:
        """y ``(seeds, N, n)``; if nothing is feasible, the point that violates the rows least."""
        return decide(costs, *self.constraints(), on_failure="closest")


class Networks(nn.Module):
    """c to y without a program: one hidden layer, one network for each seed."""

    def __init__(self, n: int, generators: list[torch.Generator]):
        super().__init__()

        def weights(rows: int, columns: int) -> nn.Parameter:
            drawn = [torch.randn(rows, columns, generator=g, dtype=torch.float64) for g in generators]
            return nn.Parameter(torch.stack(drawn) / rows**0.5)

        self.first, self.second = weights(n + 1, HIDDEN), weights(HIDDEN + 1, n)

    def forward(self, costs: Tensor) -> Tensor:
        """y in (0, 1), ``(seeds, N, n)``."""
        return torch.sigmoid(_affine(torch.relu(_affine(costs, self.first)), self.second))


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[:, :-1] + weights[:, -1:]


def squared_error(model: nn.Module, costs: Tensor, solutions: Tensor) -> Tensor:
    """The mean over a batch, ``(batch, seeds, n)`` as :func:`epochs` gives it, summed over seeds."""
    y = model(costs.transpose(0, 1))
    return (y - solutions.transpose(0, 1)).square().mean((1, 2)).sum()


def exactly_right(y: Tensor, examples: Examples) -> Tensor:
    """The share of test vectors that are right in every entry, ``(seeds,)``."""
    return (y.round() == examples.solutions[:, TRAIN:]).all(-1).double().mean(-1)


def fit(run: Run, name: str, model: nn.Module, examples: Examples, passes: int, share: float) -> None:
    """Adam on the training examples."""
    known = (part[:, :TRAIN].transpose(0, 1) for part in examples)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = passes * (TRAIN // BATCH)
    batches = epochs(*known, batch_size=BATCH, seed=run.seed)
    train(run, name, model, optimizer, squared_error, batches, steps=steps, share=share)


def learn(run: Run, name: str, examples: Examples, m: int, passes: int, share: float) -> tuple[Tensor, Learner]:
    """Learn m rows; the share of test vectors that the program with them has right, ``(seeds,)``, and the learner."""
    generators = [run.generator(1000 + seed) for seed in range(SEEDS)]
    learner = Learner(draw_rows(m, examples.costs.shape[-1], generators, feasible_corner=False))
    fit(run, name, learner, examples, passes, share)
    with torch.no_grad():
        y = decide(examples.costs[:, TRAIN:], *learner.constraints(), on_failure="closest")
    return exactly_right(y, examples), learner


def predict(run: Run, name: str, examples: Examples, share: float) -> Tensor:
    """The same for networks that know of no program."""
    networks = Networks(examples.costs.shape[-1], [run.generator(2000 + seed) for seed in range(SEEDS)])
    fit(run, name, networks, examples, EPOCHS, share)
    with torch.no_grad():
        return exactly_right(networks(examples.costs[:, TRAIN:]), examples)


def summary(what: str, shares: Tensor) -> dict[str, float | None]:
    """Mean and standard error over the seeds, in per cent."""
    error = shares.std() / len(shares) ** 0.5
    return {what: 100 * shares.mean().item(), f"{what}, standard error": 100 * error.item()}


def run(run: Run) -> Outcome:
    """Every number of hidden constraints, with costs of both kinds."""
    figures: dict[str, float | None] = {}
    weights: dict[str, Tensor] = {}
    share = 1 / (len(CONSTRAINTS) * 4)
    for m in CONSTRAINTS:
        for signed in (True, False):
            generators = [run.generator(seed) for seed in range(SEEDS)]
            hidden = draw_rows(m, VARIABLES, generators, feasible_corner=True).constraints()
            costs = draw_costs(VARIABLES, signed, generators)
            examples = Examples(costs, decide(costs, *hidden))
            of = f"exactly right, %, {m} constraint{'s' * (m > 1)}, costs {'of both signs' if signed else '≥ 0'}"
            box = (costs[:, TRAIN:] < 0).double()
            figures |= summary(f"{of}: box alone", exactly_right(box, examples))
            passes = EPOCHS if signed else EASY_EPOCHS
            right, learner = learn(run, f"{of} integer program", examples, m, passes, share)
            figures |= summary(f"{of}: CombOptNet", right)
            if not signed:
                continue
            weights |= {f"{m}.{name}": value for name, value in zip("Ab", learner.constraints(), strict=True)}
            if m > 2:
                right, _ = learn(run, f"{of} two rows", examples, 2, passes, share)
                figures |= summary(f"{of}: CombOptNet with 2 constraints", right)
            figures |= summary(
                f"{of}: true relaxation, rounded", exactly_right(relax(costs[:, TRAIN:], *hidden), examples)
            )
            figures |= summary(f"{of}: network", predict(run, f"{of} network", examples, share))
    return Outcome(figures, {"integer_constraints": {k: v.detach().float() for k, v in weights.items()}})


EXPERIMENT = Experiment(
    name="integer_constraints",
    claim="The constraints of an integer program can be learned from its solutions by the gradient of CombOptNet.",
    published={},
    source="Paulus, Rolínek, Musil, Amos & Martius 2021, section 5.1",
    chapter="book/2_differentiable/15_integer_programs",
    run=run,
)
