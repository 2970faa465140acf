"""A batch of objectives f(·; x) that can be narrowed to the elements still being worked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """f(·; x) for a batch whose elements are rows: y is ``(k, n)`` and a value ``(k,)``, whatever the batch dims of f.

    Attributes:
        f: the caller's function, ``f(y, *x)`` with y ``(*batch, n)``.
        x: its context.
        batch: the batch dimensions that f sees.
        rows: which rows of the batch the k rows of y are; None for all of them, in order.
        others: when ``rows`` is given, the whole batch ``(N, n)``, for f to be called on.
        sliced: which x have been found to be batched, so that f may be called on some rows only; None if not yet known.
    """

    f: Callable[..., Tensor]
    x: tuple[Tensor, ...]
    batch: torch.Size
    rows: Tensor | None = None
    others: Tensor | None = None
    sliced: tuple[bool, ...] | None = None

    def value(self, y: Tensor) -> Tensor:
        """f at each row, ``(k,)``."""
        if self.rows is None or self.others is None:
            return self.f(y.reshape(*self.batch, y.shape[-1]), *self.x).reshape(-1)
        everything = self.others.index_copy(0, self.rows, y)
        return self.f(everything.reshape(*self.batch, y.shape[-1]), *self.x).reshape(-1)[self.rows]

    def value_and_gradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f ``(k,)`` and ∇f ``(k, n)``. Rows don't interact, so the gradient of the sum holds every row's gradient."""

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

    def select(self, keep: Tensor, y: Tensor) -> Objective:
        """The objective of the rows where ``keep`` ``(k,)`` is True; y are the present rows.

        If f can be evaluated on a part of the batch, it will be, and the finished elements cost nothing more.
        Otherwise (a shared x that looks batched, a closed-over constant of the size of the batch) f goes on being
        called on the whole batch, which is slower and never wrong.
        """
        if self.rows is None:
            sliced = self._find_sliced(y) if self.sliced is None else self.sliced
            if sliced:
                x = _slice(self.x, sliced, self.batch, keep)
                return replace(self, x=x, batch=torch.Size([int(keep.sum())]), sliced=sliced)
            return replace(self, rows=keep.nonzero().squeeze(-1), others=y.detach())
        return replace(self, rows=self.rows[keep])

    @torch.no_grad()
    def _find_sliced(self, y: Tensor) -> tuple[bool, ...]:
        """Which x have the batch dimensions, if slicing those and y gives the slices of f; empty if it doesn't.

        Shapes alone can't tell a batched x from a shared one whose first dimension happens to be as long, so f is asked
        at a point near y. A random point, as at a special one (y = 0) f may not depend on the x in question.
        """
        if not self.batch or len(y) < 2:
            return ()
        candidate = tuple(x.shape[: len(self.batch)] == self.batch for x in self.x)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype).to(y.device)
        y = y + 1e-3 * (1 + y.abs()) * noise
        half = torch.arange(len(y), device=y.device) % 2 == 1
        whole = self.value(y)[half]
        try:
            part = self.f(y[half], *_slice(self.x, candidate, self.batch, half))
        except (RuntimeError, ValueError, IndexError):  # whatever shape error a caller's f may raise
            return ()
        tolerance = 1e-10 if y.dtype == torch.float64 else 1e-4
        same = part.shape == whole.shape and torch.allclose(part, whole, rtol=tolerance, atol=tolerance)
        return (*candidate, True) if same else ()  # y itself is the last, so that the tuple is never empty


def _slice(x: tuple[Tensor, ...], sliced: tuple[bool, ...], batch: torch.Size, keep: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.reshape(-1, *t.shape[len(batch) :])[keep] if s else t for t, s in zip(x, sliced, strict=False))
