"""Where things are in the vector z = (τ, λ, ν, μ) of a control problem, and in the factorisation kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.columns import as_columns
from ..riccati import Factor
from .kkt import KKT, solve_system


class Layout(NamedTuple):
    """T times, n states, m controls, k rows of constraints."""

    T: int
    n: int
    m: int
    k: int

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Of τ_t, λ_t, the multiplier ν_t of the bounds and μ_t of the rows."""
        return self.n + self.m, self.n, self.m, self.k

    def split(self, z: Tensor) -> list[Tensor]:
        """τ, λ, ν, μ, each ``(*batch, T, ·)``."""
        parts = z.split([self.T * width for width in self.widths], dim=-1)
        return [p.reshape(*z.shape[:-1], self.T, width) for p, width in zip(parts, self.widths, strict=True)]

    def join(self, *parts: Tensor) -> Tensor:
        """The vector z ``(*batch, T Σ widths)``."""
        return torch.cat([part.flatten(-2) for part in parts], dim=-1)

    def next_state(self, values: Tensor) -> Tensor:
        """Of the values of a stage: cost, next state, rows."""
        return values[..., 1 : 1 + self.n]

    def rows(self, values: Tensor) -> Tensor:
        return values[..., 1 + self.n :]


def solve_for(layout: Layout, kkt: KKT, rhs: Tensor, active: Sequence[Tensor]) -> Tensor:
    """w with K w = rhs, for the symmetric matrix K of (1) of :mod:`.kkt` in the order of z.

    Args:
        layout: of z.
        kkt: the factorised system.
        rhs: ``(*batch', ·)``; may have batch dimensions that ``active`` lacks.
        active: begins with ``(*batch, T, m)`` and ``(*batch, T, k)``, not 0 where a bound or row is active.
    """
    side, rows = active[:2]
    columns, restore = as_columns(rhs, side.shape[:-2])
    r = columns.double()
    parts = []
    for part, width in zip(r.split([layout.T * width for width in layout.widths], dim=1), layout.widths, strict=True):
        parts.append(part.reshape(len(r), layout.T, width, r.shape[-1]).movedim(1, 0))
    of_tau, of_costate, of_nu, of_mu = parts
    held, on = (time_first(t) != 0 for t in (side, rows))
    solution, mu = solve_system(
        kkt, -of_tau, of_costate[1:].neg(), -of_costate[0], torch.where(held, of_nu, 0), torch.where(on, of_mu, 0)
    )
    nu, mu = torch.where(held, solution.nu, -of_nu), torch.where(on, mu, -of_mu)
    answer = [v.movedim(0, 1).flatten(1, 2) for v in (solution.tau, solution.costate, nu, mu)]
    return restore(torch.cat(answer, dim=1).to(rhs.dtype))


def time_first(v: Tensor) -> Tensor:
    """``(*batch, T, ·)`` as columns ``(T, N, ·, 1)``."""
    return v.reshape(v.shape[:-2].numel(), *v.shape[-2:]).movedim(1, 0).unsqueeze(-1)


def store(kkt: KKT, batch: torch.Size) -> list[Tensor]:
    """The tensors of a system with the batch dimensions in front."""
    parts = [*kkt.factor[:-1], *kkt[1:]]
    return [p.movedim(0, 1).reshape(*batch, p.shape[0], *p.shape[2:]) for p in parts]


def load(stored: Sequence[Tensor], batch: torch.Size) -> KKT:
    """The system that :func:`store` put away, for batch dimensions that may be 1 where a transform has added some."""

    def back(t: Tensor) -> Tensor:
        for i, size in enumerate(batch):
            t = t.narrow(i, 0, size)
        return t.reshape(batch.numel(), *t.shape[-3:]).movedim(1, 0)

    closed, K, V, inverse, C, F, held, *rest = (back(t) for t in stored)
    return KKT(Factor(closed, K, V, inverse, C, F, held, sound=V.new_ones(())), *rest)


STORED = 11  # tensors in what :func:`store` gives
