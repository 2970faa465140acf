"""OptNet learns the rules of 4 × 4 Sudoku from solved examples alone.

A puzzle x, one-hot in {0, 1}⁶⁴, goes in as the linear cost of a quadratic program whose equations are learned:

    y*(x) = argmin_y  ½ q ‖y‖² − xᵀy   s.t.   A y = A exp ζ,  y ≥ 0                                 (1)

A ∈ R⁴⁰ˣ⁶⁴ and ζ ∈ R⁶⁴ are the parameters, q = 0.1; a right side A exp ζ keeps the program feasible whatever is learned.
The rules of the game are equations of this kind, for the cells, rows, columns and blocks, of which 40 are independent;
nothing tells the layer which. The loss is the mean squared distance to the one-hot solution.

With the exact rules 40 equations and 48 active bounds meet at a solved board in R⁶⁴: they are linearly dependent, and
y* has a kink in the right side. A trained layer comes near that point without reaching it.

The learning rate was chosen on the data of seed 1 (:func:`data`); results are those of seed 0.

A board counts as wrong if any of its 16 cells is. The paper counts boards that break a rule, which are no more.

Source: Amos & Kolter 2017, §4.4. Chapter: book/2_differentiable/04_quadratic_programs.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..data.sudoku import SIDE, Puzzles, board_of, grids, one_hot, puzzles
from ..layers.qp import solve_qp
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import Batches, epochs, train

TRAIN, TEST = 9000, 1000
HELD_OUT_GRIDS = 29
CELLS = SIDE**3
BATCH = 150
EPOCHS, BASELINE_EPOCHS = 8, 100
LEARNING_RATE = 4e-2
RULES = 40


class SudokuLayer(nn.Module):
    """The layer (1): puzzles ``(*batch, 4, 4, 4)`` to scores of the same shape."""

    Q: Tensor
    G: Tensor
    h: Tensor

    def __init__(self, rules: int = RULES, q: float = 0.1):
        super().__init__()
        self.A = nn.Parameter(torch.rand(rules, CELLS, dtype=torch.float64))
        self.zeta = nn.Parameter(torch.zeros(CELLS, dtype=torch.float64))
        identity = torch.eye(CELLS, dtype=torch.float64)
        self.register_buffer("Q", q * identity, persistent=False)
        self.register_buffer("G", -identity, persistent=False)
        self.register_buffer("h", torch.zeros(CELLS, dtype=torch.float64), persistent=False)

    def forward(self, puzzle: Tensor) -> Tensor:
        p, b = -puzzle.flatten(-3).double(), self.A @ self.zeta.exp()
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
    steps = TRAIN // BATCH
    with run.seeded():
        layer, baseline = SudokuLayer().to(run.device), fully_connected().to(run.device)

    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BASELINE_EPOCHS * steps)
    total = BASELINE_EPOCHS * steps
    train(run, "fully connected", baseline, optimizer, loss, batches, steps=total, schedule=schedule, share=0.2)

    optimizer = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    errors = []
    for epoch in range(EPOCHS):
        of_epoch = partial(_shifted, batches, epoch * steps)
        name, share = f"epoch {epoch + 1}", 0.8 / EPOCHS
        train(run, name, layer, optimizer, loss, of_epoch, steps=steps, schedule=schedule, share=share)
        errors.append(wrong(layer, test, run.device))
    learned = [epoch for epoch, error in enumerate(errors, start=1) if error <= GOAL]
    figures: dict[str, float | None] = {
        EPOCHS_TO_GOAL: float(learned[0]) if learned else None,
        "test boards wrong, %": errors[-1],
        "test boards wrong whose grid training never showed, %": wrong(layer, unseen, run.device),
        "test boards wrong, %: fully connected": wrong(baseline, test, run.device),
        "the same, grid never shown, %: fully connected": wrong(baseline, unseen, run.device),
    }
    return Outcome(figures, {"sudoku": layer.state_dict()})


def _shifted(batches: Batches, by: int, step: int) -> tuple[Tensor, ...]:
    return batches(by + step)


GOAL = 1.0
EPOCHS_TO_GOAL = "epochs until at most 1 % of the test boards are wrong"

EXPERIMENT = Experiment(
    name="sudoku",
    claim="A quadratic program with learned equations solves 4 × 4 Sudoku after training on 9,000 examples.",
    published={EPOCHS_TO_GOAL: 3.0},
    source="Amos & Kolter 2017, §4.4",
    chapter="book/2_differentiable/04_quadratic_programs",
    run=run,
)
