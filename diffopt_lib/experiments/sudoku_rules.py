"""How much the Sudoku layer is told by its number of equations.

The layer of :mod:`.sudoku` has forty equations, and forty is the rank of the rules it is to find. OptNet's own code
takes the number from the true matrix as well. Here the same layer is given fewer and more, with the same examples,
learning rate and number of passes for all: two passes, in batches of 60. With a few more or fewer than forty, four too.

With fewer equations than rules the layer can't hold them all. With more, random equations that are true of no board
have to be turned into true ones, or into multiples of one another, before any solution is left to find.

A board counts as wrong if any of its 16 cells is. The boards that are counted come from grids kept out of training.

Source: none; Amos & Kolter 2017, §4.4, do not vary the number. Chapter: book/2_differentiable/04_quadratic_programs.
"""

from __future__ import annotations

import torch

from .harness.experiment import Experiment, Outcome, Run
from .harness.training import epochs, train
from .sudoku import LEARNING_RATE, TRAIN, SudokuLayer, data, loss, wrong

EQUATIONS = (32, 36, 40, 44, 48)
AGAIN = (36, 44)  # with twice the passes
BATCH = 60
FEW, MORE = 2, 4  # passes over the examples


def wrong_with(equations: int, passes: int) -> str:
    """The figure's name."""
    return f"fresh boards wrong, %: {equations} equations, {passes} passes"


def run(run: Run) -> Outcome:
    """Train the layer with each number of equations, and count the boards of unseen grids that it gets wrong."""
    training, _, unseen = data(run)
    tensors = tuple(tensor.to(run.device) for tensor in training)
    batches = epochs(*tensors, batch_size=BATCH, seed=run.seed)
    settings = [*((FEW, equations) for equations in EQUATIONS), *((MORE, equations) for equations in AGAIN)]
    figures: dict[str, float | None] = {}
    for passes, equations in settings:
        with run.seeded(1):
            layer = SudokuLayer(equations).to(run.device)
        optimizer = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE)
        steps = passes * TRAIN // BATCH
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        name = f"{equations} equations, {passes} passes, start 1"
        share = passes / sum(passes for passes, _ in settings)
        train(run, name, layer, optimizer, loss, batches, steps=steps, schedule=schedule, share=share)
        figures[wrong_with(equations, passes)] = wrong(layer, unseen, run.device)
    return Outcome(figures)


EXPERIMENT = Experiment(
    name="sudoku_rules",
    claim="The Sudoku layer needs to be given about as many equations as there are independent rules.",
    published={},
    source="no paper varies the number; the setting is that of Amos & Kolter 2017, §4.4",
    chapter="book/2_differentiable/04_quadratic_programs",
    run=run,
)
