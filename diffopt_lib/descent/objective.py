"""A batch of objectives f(·; x), with their derivatives in y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch.function import RowFunction


@dataclass(frozen=True)
class Objective:
    """A scalar function of every row, with its derivatives. Rows don't interact."""

    value: RowFunction

    @classmethod
    def of(cls, f: Callable[..., Tensor], x: tuple[Tensor, ...], y0: Tensor) -> Objective:
        """f(·, *x) for the batch of y0 ``(*batch, n)``."""
        return cls(RowFunction(f, x, y0.shape[:-1], y0.detach().reshape(-1, y0.shape[-1])))

    def value_and_gradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f ``(k,)`` and ∇f ``(k, n)``: the gradient of the sum holds every row's gradient."""

        def total(y):
            value = self.value(y)
            return value.sum(), value

        gradient, value = torch.func.grad(total, has_aux=True)(y)
        return value, gradient

    def hessian(self, y: Tensor) -> Tensor:
        """∇²f at each row, ``(k, n, n)``, one Hessian–vector product per coordinate, all rows at once."""
        n = y.shape[-1]
        _, product = torch.func.vjp(lambda y: self.value_and_gradient(y)[1], y)
        basis = torch.eye(n, dtype=y.dtype, device=y.device)
        columns = torch.func.vmap(lambda e: product(e.expand(y.shape))[0])(basis)
        return columns.movedim(0, -1)
