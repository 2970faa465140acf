"""Inner loops on sinusoids, and how well a method reached and differentiated their weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from .method import Tensors, largest, rounded, to_numpy

WIDTHS = (1, 40, 40, 1)
SHAPES = tuple(shape for a, b in pairwise(WIDTHS) for shape in ((b, a), (b,)))
POINTS = 10


@dataclass(frozen=True)
class InnerLoop(Tensors):
    """Gradient descent on the squared error of a network 1–40–40–1 with tanh, for a batch of tasks.

    Attributes:
        start: where all tasks start, all weights as one vector ``(n,)``, in the order of ``SHAPES``.
        rate: the learning rate, ``()``.
        x, targets: ``(tasks, POINTS, 1)``.
        steps: how many.
    """

    start: Tensor
    rate: Tensor
    x: Tensor
    targets: Tensor
    steps: int

    @property
    def parameters(self) -> list[Tensor]:
        return [self.start, self.rate]

    @property
    def y_shape(self) -> torch.Size:
        return torch.Size([len(self.x), len(self.start)])

    @cached_property
    def exact(self) -> InnerLoop:
        return self.to(torch.device("cpu"), torch.float64)

    def accuracy(self, y: Tensor, gradients: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """Largest error of the weights, and of the gradients relative to the largest entry of the true ones."""
        problem = self.exact
        start, rate = inputs = [p.clone().requires_grad_() for p in problem.parameters]
        reached = by_formulas(start, rate, problem)
        true = torch.autograd.grad(reached, inputs, cotangent.double().cpu())
        errors = [
            largest(to_numpy(g) - to_numpy(t)) / largest(to_numpy(t)) for g, t in zip(gradients, true, strict=True)
        ]
        return {
            "solution_error": rounded(largest(to_numpy(y) - to_numpy(reached))),
            "gradient_error": rounded(max(errors)),
            "worst_gradient": ("start", "rate")[errors.index(max(errors))],
        }


def split(w: Tensor) -> list[Tensor]:
    """The weights of the layers, ``(*batch, *shape)``, of vectors ``(*batch, n)``."""
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    return [part.reshape(*w.shape[:-1], *shape) for part, shape in zip(w.split(sizes, -1), SHAPES, strict=True)]


def by_formulas(start: Tensor, rate: Tensor, problem: InnerLoop) -> Tensor:
    """w_K ``(tasks, n)``, with the network written out for the whole batch and torch's own double backward."""
    w = start.expand(problem.y_shape)
    for _ in range(problem.steps):
        W1, b1, W2, b2, W3, b3 = split(w)
        hidden = (problem.x @ W1.mT + b1.unsqueeze(1)).tanh()
        hidden = (hidden @ W2.mT + b2.unsqueeze(1)).tanh()
        error = hidden @ W3.mT + b3.unsqueeze(1) - problem.targets
        loss = error.square().mean((1, 2)).sum()
        (slope,) = torch.autograd.grad(loss, w, create_graph=True)
        w = w - rate * slope
    return w


def network() -> nn.Module:
    """The same network as a module."""
    layers: list[nn.Module] = []
    for a, b in pairwise(WIDTHS):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def random_inner_loop(tasks: int, steps: int) -> InnerLoop:
    """Sinusoids of random amplitude and phase."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x = 10 * uniform(tasks, POINTS, 1) - 5
    targets = (0.1 + 4.9 * uniform(tasks, 1, 1)) * (x + torch.pi * uniform(tasks, 1, 1)).sin()
    start = torch.cat([(2 * uniform(*shape) - 1).flatten() / shape[-1] ** 0.5 for shape in SHAPES])
    return InnerLoop(start, torch.tensor(0.01, dtype=torch.float64), x, targets, steps)
