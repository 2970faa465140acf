"""OptNet learns the rules of 4 × 4 Sudoku from solved examples alone.

A puzzle x, one-hot in {0, 1}⁶⁴, goes in as the linear cost of a quadratic program whose equalities are learned:

    y*(x) = argmin_y  ½ q ‖y‖² − xᵀy   s.t.   A y = A exp(ζ),  y ≥ 0                               (1)

A ∈ R⁴⁰ˣ⁶⁴ and ζ ∈ R⁶⁴ are the parameters; q = 0.1. The right-hand side A exp(ζ) keeps a positive point feasible
whatever A becomes. The rules of the game are of this form, with A y = 1 for the cells, rows, columns and blocks, which
make 40 independent equations; nothing tells the layer that. The loss is the mean squared distance to the one-hot
solution. A board counts as wrong if any of its 16 cells is (the paper counts boards that break a rule; ours are at
least as many).

Source: Amos & Kolter 2017, §4.4. Chapter: book/2_differentiable/04_quadratic_programs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.sudoku import SIDE, Puzzles, board_of, grids, one_hot, puzzles
from ..layers.qp import solve_qp
from .experiment import Experiment, Outcome, Run
from .training import epochs, train

TRAIN, TEST = 9000, 1000
HELD_OUT_GRIDS = 29
CELLS = SIDE**3
BATCH = 150
EPOCHS = 20
LEARNING_RATE = 1e-2
RULES = 40


class SudokuLayer(nn.Module):
    """The layer (1): puzzles ``(*batch, 4, 4, 4)`` to scores of the same shape."""

    def __init__(self, rules: int = RULES, q: float = 0.1):
        super().__init__()
        self.A = nn.Parameter(torch.rand(rules, CELLS, dtype=torch.float64))
        self.zeta = nn.Parameter(torch.zeros(CELLS, dtype=torch.float64))
        self.register_buffer("Q", q * torch.eye(CELLS, dtype=torch.float64), persistent=False)
        self.register_buffer("G", -torch.eye(CELLS, dtype=torch.float64), persistent=False)
        self.register_buffer("h", torch.zeros(CELLS, dtype=torch.float64), persistent=False)

    def forward(self, puzzle: Tensor) -> Tensor:
        p = -puzzle.flatten(-3).double()
        b = self.A @ self.zeta.exp()
        return solve_qp(self.Q, p, self.A, b, self.G, self.h).y.view_as(puzzle)


def fully_connected(hidden: int = 512) -> nn.Module:
    """A baseline without rules in its architecture: 64 → hidden → hidden → 64."""
    return nn.Sequential(
        nn.Flatten(-3),
        nn.Linear(CELLS, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, CELLS),
        nn.Unflatten(-1, (SIDE, SIDE, SIDE)),
    )


def data(run: Run) -> tuple[Puzzles, Puzzles, Puzzles]:
    """Training puzzles, test puzzles of the same grids, and test puzzles of grids that training never shows."""
    generator = run.generator()
    shuffled = grids()[torch.randperm(len(grids()), generator=generator)]
    unseen, seen = shuffled[:HELD_OUT_GRIDS], shuffled[HELD_OUT_GRIDS:]
    training = puzzles(TRAIN, generator, among=seen)
    return (
        training,
        puzzles(TEST, generator, among=seen, but=training.puzzle),
        puzzles(TEST, generator, among=unseen),
    )


def loss(model: nn.Module, puzzle: Tensor, solution: Tensor) -> Tensor:
    """Mean squared distance between the scores and the one-hot solution."""
    return nn.functional.mse_loss(model(one_hot(puzzle)).float(), one_hot(solution))


@torch.no_grad()
def wrong(model: nn.Module, boards: Puzzles, device: torch.device) -> float:
    """Per cent of the boards in which some cell is wrong."""
    found = board_of(model(one_hot(boards.puzzle.to(device)))).cpu()
    return 100 * (found != boards.solution).flatten(1).any(1).double().mean().item()


def run(run: Run) -> Outcome:
    """Train the layer and the baseline on the same 9,000 puzzles, and count the test boards they get wrong."""
    training, test, unseen = data(run)
    tensors = tuple(tensor.to(run.device) for tensor in training)
    batches = epochs(*tensors, batch_size=BATCH, seed=run.seed)
    steps = EPOCHS * TRAIN // BATCH
    with run.seeded():
        layer, baseline = SudokuLayer().to(run.device), fully_connected().to(run.device)

    figures = {}
    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-3)
    train(run, "baseline", baseline, optimizer, loss, batches, steps=5 * steps, share=0.2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    train(run, "layer", layer, optimizer, loss, batches, steps=steps, schedule=schedule, share=0.8)
    for name, model in (("OptNet", layer), ("fully connected", baseline)):
        figures[f"test boards wrong, %: {name}"] = wrong(model, test, run.device)
        figures[f"the same, solutions never seen: {name}"] = wrong(model, unseen, run.device)
    return Outcome(figures, {"sudoku": layer.state_dict()})


EXPERIMENT = Experiment(
    name="sudoku",
    claim="A quadratic program with learned equalities solves 4 × 4 Sudoku after training on 9,000 examples.",
    published={},
    source="Amos & Kolter 2017, §4.4",
    chapter="book/2_differentiable/04_quadratic_programs",
    run=run,
)
