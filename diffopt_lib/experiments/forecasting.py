"""What the experiments on task losses share: the forecaster, and trainings that end when a hold-out is no better."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

HIDDEN = 200
DROPOUT = 0.2
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of a model on features and outcomes, a mean


@dataclass(frozen=True)
class Split:
    """Features ``(days, k)`` and outcomes ``(days, 24)``, in time's order."""

    x: Tensor
    y: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Split:
        return Split(self.x[rows], self.y[rows])


class Forecaster(nn.Module):
    """Two hidden layers beside a linear map, which begins as the least squares fit; what they are given is standardised
    by the training set."""

    mean: Tensor
    scale: Tensor

    def __init__(self, known: Split, hidden: int = HIDDEN):
        super().__init__()
        scale = known.x.std(0)
        self.register_buffer("mean", known.x.mean(0))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1))
        k, n = known.x.shape[1], known.y.shape[1]
        self.linear = nn.Linear(k, n)
        layers: list[nn.Module] = []
        for width in (k, hidden):
            layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(DROPOUT)]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, n))
        with torch.no_grad():
            design = torch.cat([(known.x - self.mean) / self.scale, torch.ones_like(known.x[:, :1])], 1).double()
            fit = torch.linalg.lstsq(design, known.y.double(), driver="gelsd").solution.to(known.x.dtype)
            self.linear.weight.copy_(fit[:-1].T)
            self.linear.bias.copy_(fit[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.scale
        return self.linear(x) + self.net(x)


def hold_out(known: Split, share: float, generator: torch.Generator) -> tuple[Split, Split]:
    """A random part to train on and the rest."""
    order = torch.randperm(len(known.x), generator=generator)
    kept = round((1 - share) * len(order))
    return known[order[:kept]], known[order[kept:]]


def squared_error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (model(x) - y).square().mean()


def descend(model: nn.Module, data: Split, loss: Loss, *, steps: int, rate: float) -> None:
    """Full-batch Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        _step(model, optimizer, data, loss)


def descend_until(
    model: nn.Module,
    data: Split,
    held_out: Split,
    loss: Loss,
    *,
    steps: int,
    rate: float,
    patience: int,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> int:
    """Adam until the loss on the hold-out has not improved in so many looks, one after each step, or after each epoch
    if there are batches. The weights are a copy of those at the best look, which is what stays; returns its number."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    best, best_at, kept = float("inf"), 0, copy.deepcopy(model.state_dict())
    for k in range(steps + 1):
        model.eval()
        with torch.no_grad():
            value = loss(model, held_out.x, held_out.y).item()
        if value < best:
            best, best_at, kept = value, k, copy.deepcopy(model.state_dict())
        if k - best_at >= patience or k == steps:
            break
        model.train()
        for batch in batches(data, batch_size, generator):
            _step(model, optimizer, batch, loss)
    model.load_state_dict(kept)
    return best_at


def batches(data: Split, size: int | None, generator: torch.Generator | None) -> Iterator[Split]:
    """All of it, or an epoch of batches in random order, without the last rows that do not fill one."""
    if size is None:
        yield data
        return
    order = torch.randperm(len(data.x), generator=generator)
    for rows in order.split(size):
        if len(rows) == size:
            yield data[rows]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Split, loss: Loss) -> None:
    value = loss(model, data.x, data.y)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()


def spread(what: str, values: Tensor) -> dict[str, float | None]:
    """Mean and standard deviation over runs."""
    values = values.double()
    return {what: values.mean().item(), f"{what}, sd": values.std().item()}
