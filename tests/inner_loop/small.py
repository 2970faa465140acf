"""A small module, its tasks, and hyper-gradients two ways: by autograd and by central differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

DOUBLE = torch.float64


def network(dtype: torch.dtype = DOUBLE, device: str = "cpu") -> nn.Module:
    """2 → 3 → 1 with a smooth activation; 13 weights."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(device, dtype)


def tasks(generator: torch.Generator, *batch: int, points: int = 6, dtype: torch.dtype = DOUBLE, device: str = "cpu"):
    """Inputs, targets and weights of the points of regression tasks."""
    x = torch.randn(*batch, points, 2, generator=generator, dtype=DOUBLE)
    y = torch.randn(*batch, points, 1, generator=generator, dtype=DOUBLE)
    weights = torch.rand(*batch, points, generator=generator, dtype=DOUBLE) + 0.5
    return tuple(t.to(device, dtype) for t in (x, y, weights))


def loss(predict: Callable[[Tensor], Tensor], data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, y, weights = data
    return (weights * (predict(x) - y).square().squeeze(-1)).mean()


def outer(fast: Mapping[str, Tensor]) -> Tensor:
    """Some smooth function of the weights."""
    return sum(((1 + i) * w).sin().sum() for i, w in enumerate(fast.values()))


def relative_error(f: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor, step: float = 1e-4) -> float:
    """Of the gradient of a number f(x), along one random direction, against two central differences (error ~ step⁴)."""
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(7)).to(x.device)
    direction = direction / direction.norm()

    def slope(h: float) -> Tensor:
        with torch.no_grad():
            return (f(x + h * direction) - f(x - h * direction)) / (2 * h)

    expected = (4 * slope(step) - slope(2 * step)) / 3
    return ((gradient * direction).sum() - expected).abs().item() / expected.abs().item()
