"""A small experiment that trains in a moment; under torchrun each process writes what it learned to its own file."""

import sys
from pathlib import Path

import torch
from torch import nn

from diffopt_lib.experiments import Outcome, Run, epochs, train


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
    return Outcome({"test error": error}, {"line": model.state_dict()})


def squared_error(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((model(x).squeeze(-1) - y) ** 2).mean()


if __name__ == "__main__":
    from diffopt_lib.experiments.distributed import join_processes

    folder = Path(sys.argv[1])
    with join_processes("cpu") as (processes, device):
        weights = fit_line(Run(3, device, folder, processes=processes)).weights["line"]
        torch.save(weights, folder / f"weights {processes.rank} of {processes.count}.pt")
