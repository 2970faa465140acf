"""A generator's days and a battery's days, and how well a method planned and differentiated them.

The battery's reference is its quadratic program in charge and discharge, solved by Clarabel and made exact by Newton's
method on its active set. The generator's is the recursion of :mod:`diffopt_lib.tasks.ramps` written anew for one day
with scipy's root finder and normal distribution, and central differences of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor

from .method import Tensors, checked, largest, rounded, to_numpy
from .qp_problems import Reference, gradients, reference

CHECKED = 3  # elements of a batch on which accuracy is measured
HOURS = 24
FLEXIBILITY, HEALTH = 10.0, 5.0
STEP = 1e-5  # of the central differences


@dataclass(frozen=True)
class Battery(Tensors):
    """Prices ``(days, 24)``; the answer is the charge beside the discharge, ``(days, 48)``."""

    prices: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        return [self.prices]

    @property
    def y_shape(self) -> torch.Size:
        return torch.Size((len(self.prices), 2 * HOURS))

    @cached_property
    def references(self) -> dict[int, tuple[list[np.ndarray], Reference]]:
        found = {}
        for i in checked(len(self.prices), CHECKED):
            program = battery_program(to_numpy(self.prices[i]))
            found[i] = program, reference(*program)
        return found

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        off, wrong = 0.0, 0.0
        for i, (program, exact) in self.references.items():
            off = max(off, largest(to_numpy(y[i]) - exact.y) / largest(exact.y))
            of_p = gradients(program, to_numpy(cotangent[i]), exact)[1]
            true = of_p[:HOURS] - of_p[HOURS:]
            wrong = max(wrong, largest(to_numpy(grads[0][i]) - true) / max(1e-300, largest(true)))
        return {"solution_error": rounded(off), "gradient_error": rounded(wrong), "worst_gradient": "prices"}


def battery_program(prices: np.ndarray) -> list[np.ndarray]:
    """Q, p, A, b, G, h of one day in w = (charge, discharge); the level after each hour is ½ + L w."""
    L = np.hstack([0.9 * np.tril(np.ones((HOURS, HOURS))), -np.tril(np.ones((HOURS, HOURS)))])
    eye = np.eye(2 * HOURS)
    Q = 2 * (FLEXIBILITY * L.T @ L + HEALTH * eye)
    rates = np.r_[np.full(HOURS, 0.5), np.full(HOURS, 0.2)]
    G, h = np.vstack([eye, -eye, L, -L]), np.r_[rates, np.zeros(2 * HOURS), np.full(2 * HOURS, 0.5)]
    return [Q, np.r_[prices, -prices], np.zeros((0, 2 * HOURS)), np.zeros(0), G, h]


@dataclass(frozen=True)
class Generator(Tensors):
    """Forecasts μ and σ ``(days, 24)`` and a ramp limit; the answer is the schedule."""

    mean: Tensor
    std: Tensor
    ramp: float

    @property
    def parameters(self) -> list[Tensor]:
        return [self.mean, self.std]

    @property
    def y_shape(self) -> torch.Size:
        return self.mean.shape

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        off, wrong = 0.0, 0.0
        for i in checked(len(self.mean), CHECKED):
            mean, std, g = (to_numpy(t[i]) for t in (self.mean, self.std, cotangent))
            exact = schedule(mean, std, self.ramp)
            off = max(off, largest(to_numpy(y[i]) - exact) / largest(exact))
            for k in range(2):
                true = np.empty(HOURS)
                for j in range(HOURS):
                    ends = []
                    for sign in (1, -1):
                        moved = [mean.copy(), std.copy()]
                        moved[k][j] += sign * STEP
                        ends.append(g @ schedule(moved[0], moved[1], self.ramp))
                    true[j] = (ends[0] - ends[1]) / (2 * STEP)
                wrong = max(wrong, largest(to_numpy(grads[k][i]) - true) / largest(true))
        return {"solution_error": rounded(off), "gradient_error": rounded(wrong), "worst_gradient": "mean or std"}


def schedule(mean: np.ndarray, std: np.ndarray, ramp: float, under: float = 50.0, over: float = 0.5) -> np.ndarray:
    """One day, hour by hour."""

    def own_slope(i: int, z: float) -> float:
        t = (z - mean[i]) / std[i]
        return over * ndtr(t) - under * ndtr(-t) + z - mean[i]

    best: list[float] = []

    def value_slope(z: float) -> float:
        total = own_slope(len(best), z)
        for j in reversed(range(len(best))):
            if abs(z - best[j]) <= ramp:
                break
            z += ramp if z < best[j] else -ramp
            total += own_slope(j, z)
        return total

    for _ in mean:
        best.append(brentq(value_slope, mean.min() - 60, mean.max() + 60, xtol=1e-14, rtol=1e-15))
    z = [best[-1]]
    for m in best[-2::-1]:
        z.insert(0, min(max(m, z[0] - ramp), z[0] + ramp))
    return np.array(z)


def random_days(layer: str, days: int, seed: int = 0) -> Battery | Generator:
    """Prices around 40; or loads of the size of PJM's, scaled, with a daily pattern."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(days, HOURS, generator=generator, dtype=torch.float64)
    hour = torch.arange(HOURS, dtype=torch.float64)
    pattern = -torch.cos(2 * torch.pi * (hour - 4) / HOURS)
    if layer == "storage":
        return Battery(40 + 12 * pattern + 6 * noise)
    walk = 0.08 * noise.cumsum(-1)
    return Generator(
        1.6 + 0.35 * pattern + walk, 0.08 + 0.1 * torch.rand(days, HOURS, generator=generator).double(), 0.1
    )
