"""A battery's problem as its solver has it, and the checks on its arguments.

    min Σ_t ½ τ_tᵀ C τ_t + c_tᵀ τ_t   s.t.  x_{t+1} = eᵀ τ_t,   0 ≤ E τ_t ≤ U                       (1)

for τ_t = (x_{t−1}, a_t, b_t); the rows of E are those of a, of b, and e = (1, η, −1), the level after the hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ...controllers.boxed import TimeFirst
from ...validate import NO_BOUND


class Terms(NamedTuple):
    """What the user gives: prices ``(*batch, T)``, and the others ``(*batch, 1)``."""

    prices: Tensor
    flexibility: Tensor
    health: Tensor
    capacity: Tensor
    efficiency: Tensor
    charge_rate: Tensor
    discharge_rate: Tensor
    start: Tensor


@dataclass(frozen=True)
class Battery(TimeFirst):
    """Problem (1), time first: C ``(1, N, 3, 3)``, c ``(T, N, 3, 1)``, E and U ``(1, N, 3, ·)``; x_0, the capacity and
    the size of the objective's slopes, ``(1, N, 1, 1)``."""

    C: Tensor
    c: Tensor
    E: Tensor
    upper: Tensor
    start: Tensor
    capacity: Tensor
    size: Tensor

    @property
    def to_level(self) -> Tensor:
        """e, a row."""
        return self.E[..., 2:, :]


def make_battery(terms: Terms) -> Battery:
    """Problem (1) for rows ``(N, ·)``."""
    prices, flexibility, health, capacity, efficiency, charge_rate, discharge_rate, start = terms
    one, none = torch.ones_like(efficiency), torch.zeros_like(efficiency)
    e = torch.cat([one, efficiency, -one], -1)
    E = torch.stack([torch.cat([none, one, none], -1), torch.cat([none, none, one], -1), e], -2)
    wear = torch.diag_embed(torch.cat([none, health, health], -1))
    C = 2 * (wear + flexibility[..., None] * e[:, :, None] * e[:, None, :])
    pull = (flexibility * capacity)[..., None] * e.unsqueeze(-2)  # (N, 1, 3)
    c = torch.stack([torch.zeros_like(prices), prices, -prices], -1) - pull
    upper = torch.cat([charge_rate, discharge_rate, capacity], -1)
    upper = torch.where(upper >= NO_BOUND, torch.inf, upper)
    size = largest(c, (1, 2)) + largest(C, (1, 2)) * capacity.squeeze(-1)
    c, upper, size = c.movedim(1, 0)[..., None], upper[None, ..., None], size[None, :, None, None]
    return Battery(C[None], c, E[None], upper, start[None, ..., None], capacity[None, ..., None], size)


def room_of(battery: Battery, tau: Tensor) -> Tensor:
    """E τ and U − E τ, ``(T, N, 3, 2)``."""
    v = torch.matmul(battery.E, tau)
    return torch.cat([v, battery.upper - v], -1)


def check(terms: Terms) -> None:
    def demand(holds: Tensor, name: str, expected: str, value: Tensor) -> None:
        if not holds.all():
            raise ValueError(f"{name} must be {expected}, got {value[~holds.expand(value.shape)][0].item():g}")

    demand(terms.flexibility >= 0, "flexibility", "at least 0", terms.flexibility)
    for name in ("health", "capacity", "charge_rate", "discharge_rate"):
        value = getattr(terms, name)
        demand(value > 0, name, "positive", value)
    eta = terms.efficiency
    demand((eta > 0) & (eta <= 1), "efficiency", "greater than 0 and at most 1", eta)
    start, capacity = torch.broadcast_tensors(terms.start, terms.capacity)
    demand((start >= 0) & (start <= capacity), "start", "between 0 and the capacity", start)
