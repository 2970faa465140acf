"""Sequential quadratic programming for a generator's schedule, as published, and with a line search for every day.

Each step minimises the quadratic model of the expected cost at the last schedule, within the ramp limits. The models
are solved exactly, by :mod:`diffopt_lib.tasks.ramps`, so that what fails is the method.

Source: Donti, Amos & Kolter 2017, §4.2. Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.electricity import pjm
from ..tasks import ramps, scheduling


@dataclass(frozen=True)
class Quadratic:
    """Costs ½ h (z − z₀)² + g (z − z₀) for :mod:`diffopt_lib.tasks.ramps`."""

    z0: Tensor
    g: Tensor
    h: Tensor

    def slopes(self, z: Tensor, links: slice = slice(None)) -> tuple[Tensor, Tensor]:
        return self.g[:, links] + self.h[:, links] * (z - self.z0[:, links]), self.h[:, links]


def newton(
    mean: Tensor, std: Tensor, ramp: float, *, damped: bool, steps: int = 50, tolerance: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequential quadratic programming from μ, ``(N, 24)``: where it ends, each day's iterations, and its longest step.

    A step minimises the quadratic model within the ramps; μ itself need not be within them, so the first step is taken
    whole in any case. Damped, later ones are halved until they decrease the cost. A day is done when its step is
    shorter than the tolerance; a day that is not done after all steps counts as one more.
    """
    one = torch.ones_like(mean[:, :1])
    under, over, r = scheduling.UNDER * one, scheduling.OVER * one, ramp * one
    z, taken, longest = mean, torch.full_like(mean[:, 0], steps + 1), torch.zeros_like(mean[:, 0])
    for k in range(steps):
        t = (z - mean) / std
        g = scheduling.slope(t, std, under, over)
        h = scheduling.curvature(t, std, under, over)
        chains = ramps.Chains(Quadratic(z, g, h), z - g / h, r)
        found = ramps.find_active(chains)
        step = ramps.Blocks.of(found.side).places(found.level, r) - z
        length = step.abs().amax(1)
        longest = torch.maximum(longest, length)
        taken = torch.where((length <= tolerance) & (taken > steps), k, taken)
        if (taken <= steps).all():
            break
        share = torch.ones_like(one)
        while damped and k:
            worse = expected(z + share * step, mean, std) > expected(z, mean, std) + 1e-4 * (share * step * g).sum(
                1, keepdim=True
            )
            if not (worse & (share > 1e-10)).any():
                break
            share = torch.where(worse, share / 2, share)
        z = z + share * step
    return z, taken, longest


def expected(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return scheduling.expected_loss(z, mean, std).unsqueeze(-1)


def solver_figures() -> dict[str, float | None]:
    """On the first 200 days: tomorrow is forecast as today, with σ per hour from the errors of that."""
    load = pjm("2008-11").load[:200]
    mean, std = load[:-1], (load[1:] - load[:-1]).std(0).expand(199, -1)
    figures: dict[str, float | None] = {}
    every = pjm("2008-11").load
    wide, errors = every[:-1], (every[1:] - every[:-1]).std(0)
    for ramp in (0.4, 0.1, 0.05):
        z = scheduling.decide(wide, errors, ramp=ramp)
        share = ((z.diff(dim=-1).abs() - ramp).abs() < 1e-9).double().mean().item()
        figures[f"ramps that are active, %, limit {ramp}"] = 100 * share
    for noise, ramp in ((1.0, 0.4), (0.25, 0.05)):
        for damped in (False, True):
            _, taken, longest = newton(mean, noise * std, ramp, damped=damped)
            name = f"{'damped' if damped else 'undamped'} SQP, σ × {noise:g}, limit {ramp}"
            figures[f"{name}: steps"] = taken[taken <= 50].max().item()
            figures[f"{name}: days of 199 that fail"] = float((taken > 50).sum())
            figures[f"{name}: longest step"] = longest.max().item()
    return figures
