"""A small experiment that trains in a moment, and as a program the command line on it.

If the environment variable LINE_FOLDER is set, its processes leave traces there: each appends to the file `steps` at
every step, and writes what it learned to a file of its own. LINE_PAUSE is how many seconds a step takes longer.
"""

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from diffopt_lib import experiments
from diffopt_lib.experiments import Experiment, Outcome, Run, __main__, epochs, train

FOLDER = os.environ.get("LINE_FOLDER")
PAUSE = float(os.environ.get("LINE_PAUSE", "0"))


def fit_line(run: Run) -> Outcome:
    """Least squares by Adam: noise-free data of a line in five variables."""
    generator = run.generator()
    x = torch.randn(64, 5, generator=generator)
    y = x @ torch.arange(5.0) + 1
    with run.seeded():
        model = nn.Linear(5, 1).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    batches = epochs(x.to(run.device), y.to(run.device), batch_size=16, seed=run.seed)
    train(run, "line", model, optimizer, squared_error, batches, steps=40, schedule=schedule)
    with torch.no_grad():
        error = squared_error(model, x.to(run.device), y.to(run.device)).item()
    if FOLDER:
        torch.save(model.state_dict(), Path(FOLDER) / f"{run.processes.rank} of {run.processes.count}.pt")
    return Outcome({"test error": error}, {"line": model.state_dict()})


def squared_error(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if FOLDER:
        with open(Path(FOLDER) / "steps", "a") as steps:
            steps.write(".")
        time.sleep(PAUSE)
    return ((model(x).squeeze(-1) - y) ** 2).mean()


LINE = Experiment("line", "A line is fitted.", {"test error": 0.5}, "nobody, 2000, table 1", "no chapter", fit_line)

if __name__ == "__main__":
    experiments.MODULES = ("line",)
    __main__.find = lambda name: LINE
    sys.exit(__main__.main(sys.argv[1:]))
