"""A function of a whole batch, called on the rows of it that are still being worked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .shapes import expand_guess


def start_batch(f: Callable[..., Tensor], y0: Tensor, x: tuple[Tensor, ...], value: Tensor) -> Tensor:
    """y0 ``(..., n)`` expanded to the batch of f(y0, *x) = ``value``, if f keeps that batch there."""
    start = expand_guess(y0, value)
    if start.shape != y0.shape:
        with torch.no_grad():
            whole = f(start.detach(), *x)
        if whole.shape != value.shape:  # an f that returns a vector for each element, say
            raise ValueError(
                f"f(y, *x) must have the batch shape of y, got {tuple(value.shape)} for y {tuple(y0.shape)} and "
                f"{tuple(whole.shape)} for y {tuple(start.shape)}"
            )
    return start


@dataclass(frozen=True)
class RowFunction:
    """f(·; x) for a batch whose elements are rows: y is ``(k, n)`` and f(y) ``(k, *event)``, whatever f's batch dims.

    Attributes:
        f: the caller's function, ``f(y, *x)`` with y ``(*batch, n)``, of shape ``(*batch, *event)``.
        x: its context.
        batch: the batch dimensions that f sees.
        whole: a point for every element of the batch, ``(N, n)``, detached.
        rows: which rows of the whole batch the k rows of y are; None for all that f sees, in order.
        sliced: which x have been found to be batched, so that f may be called on some rows only; None if not yet known.
    """

    f: Callable[..., Tensor]
    x: tuple[Tensor, ...]
    batch: torch.Size
    whole: Tensor
    rows: Tensor | None = None
    sliced: tuple[bool, ...] | None = None

    def __call__(self, y: Tensor) -> Tensor:
        """f at each row."""
        everything = y if self.rows is None else self.whole.index_copy(0, self.rows, y)
        value = self.f(everything.reshape(*self.batch, y.shape[-1]), *self.x)
        value = value.reshape(-1, *value.shape[len(self.batch) :])
        return value if self.rows is None else value[self.rows]

    def select(self, keep: Tensor) -> RowFunction:
        """The function of the rows where ``keep`` ``(k,)`` is True.

        If f can be evaluated on a part of the batch, it will be, and the finished elements cost nothing more.
        Otherwise (a shared x that looks batched, a closed-over constant of the size of the batch) f goes on being
        called on the whole batch, which is slower and never wrong.
        """
        if self.rows is not None:
            return replace(self, rows=self.rows[keep])
        sliced = self._find_sliced() if self.sliced is None else self.sliced
        if not sliced:
            return replace(self, rows=keep.nonzero().squeeze(-1), sliced=sliced)
        x = _slice(self.x, sliced, self.batch, keep)
        return replace(self, x=x, batch=torch.Size([int(keep.sum())]), whole=self.whole[keep], sliced=sliced)

    @torch.no_grad()
    def _find_sliced(self) -> tuple[bool, ...]:
        """Which x have the batch dimensions, if slicing those and y gives the slices of f; empty if it doesn't.

        Shapes alone can't tell a batched x from a shared one whose first dimension happens to be as long, so f is asked
        at a point near a known one. A random point, as at a special one (y = 0) f may not depend on the x in question.
        """
        y = self.whole
        if not self.batch or len(y) < 2:
            return ()
        candidate = tuple(x.shape[: len(self.batch)] == self.batch for x in self.x)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype).to(y.device)
        y = y + 1e-3 * (1 + y.abs()) * noise
        half = torch.arange(len(y), device=y.device) % 2 == 1
        whole = self(y)[half]
        try:
            part = self.f(y[half], *_slice(self.x, candidate, self.batch, half))
        except (RuntimeError, ValueError, IndexError):  # whatever shape error a caller's f may raise
            return ()
        tolerance = 1e-10 if y.dtype == torch.float64 else 1e-4
        same = part.shape == whole.shape and torch.allclose(part, whole, rtol=tolerance, atol=tolerance)
        return (*candidate, True) if same else ()  # y itself is the last, so that the tuple is never empty


def _slice(x: tuple[Tensor, ...], sliced: tuple[bool, ...], batch: torch.Size, keep: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.reshape(-1, *t.shape[len(batch) :])[keep] if s else t for t, s in zip(x, sliced, strict=False))
