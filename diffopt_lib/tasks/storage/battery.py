"""A battery's problem as its solver has it, and the checks on its arguments.

    min Σ_t ½ τ_tᵀ C τ_t + c_tᵀ τ_t   s.t.  x_{t+1} = eᵀ τ_t,   0 ≤ E τ_t ≤ U                       (1)

for τ_t = (x_{t−1}, a_t, b_t); the rows of E are those of a, of b, and e = (1, η, −1), the level after the hour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch.products import largest
from ...controllers.boxed import TimeFirst
from ...validate import NO_BOUND


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


def make_battery(
    prices: Tensor,
    flexibility: Tensor,
    health: Tensor,
    capacity: Tensor,
    efficiency: Tensor,
    charge_rate: Tensor,
    discharge_rate: Tensor,
    start: Tensor,
) -> Battery:
    """Problem (1) for rows ``(N, ·)``."""
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


def check(
    prices: Tensor,
    flexibility: Tensor,
    health: Tensor,
    capacity: Tensor,
    efficiency: Tensor,
    charge_rate: Tensor,
    discharge_rate: Tensor,
    start: Tensor,
) -> None:
    def demand(holds: Tensor, name: str, expected: str, value: Tensor) -> None:
        if not holds.all():
            raise ValueError(f"{name} must be {expected}, got {value[~holds.expand(value.shape)][0].item():g}")

    demand(flexibility >= 0, "flexibility", "at least 0", flexibility)
    positive = dict(health=health, capacity=capacity, charge_rate=charge_rate, discharge_rate=discharge_rate)
    for name, value in positive.items():
        demand(value > 0, name, "positive", value)
    demand((efficiency > 0) & (efficiency <= 1), "efficiency", "greater than 0 and at most 1", efficiency)
    start, capacity = torch.broadcast_tensors(start, capacity)
    demand((start >= 0) & (start <= capacity), "start", "between 0 and the capacity", start)
