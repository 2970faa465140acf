"""Three ways to choose a step from M, ∇f and experience, for a batch of problems at once.

Each has

    start(D)                 its control of every element at the beginning, a tuple of tensors ``(N,)``
    propose(at, control)     the step d ``(N, n)`` of the free coordinates
    adapt(control, d, accepted, ratio)    the control after a step that was accepted or not; ``ratio`` is the decrease
                             of f, as a part of what the model predicted
    trusts(control)          whether the model is trusted so far that its step is about what is left to the minimum
    exhausted(control)       whether smaller steps than the next make no sense

Lengths are measured as ‖D^½ d‖ with D the largest diagonal of M so far, so that no unit of an unknown matters. D also
holds what M leaves undetermined: even where M is singular M + εD is not.

Sources: Marquardt 1963; Moré 1978 (D); Nielsen 1999 (growth of the damping); Powell 1970 (dogleg).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...batch.products import dot
from .normal import Normal

Control = tuple[Tensor, ...]
LEAST = 1e-12  # damping that is as good as none, relative to M; where M is singular it amplifies rounding by ε / LEAST
MOST = 1e18  # damping with which a step is below rounding


@dataclass(frozen=True)
class Place:
    """What a step is made of: M, ∇f and D, which coordinates are free to move, and damping that is as good as none."""

    normal: Normal
    gradient: Tensor
    D: Tensor
    free: Tensor
    least: Tensor

    def solve(self, damping: Tensor) -> Tensor:
        """−(M + damping D)⁻¹∇f on the free coordinates, damping ``(N,)``."""
        shift = torch.maximum(damping, self.least).unsqueeze(-1) * self.D
        return -self.normal.solve(shift, self.free, self.gradient)


class Method(Protocol):
    def start(self, D: Tensor) -> Control: ...
    def propose(self, at: Place, control: Control) -> Tensor: ...
    def adapt(self, control: Control, length: Tensor, accepted: Tensor, ratio: Tensor) -> Control: ...
    def trusts(self, control: Control) -> Tensor: ...
    def exhausted(self, control: Control) -> Tensor: ...


class LevenbergMarquardt:
    """(M + λD) d = −∇f. λ falls by up to 10 where the model predicts well, and grows ever faster while steps fail."""

    def start(self, D):
        one = D.new_ones(len(D))
        return 1e-3 * one, 2 * one

    def propose(self, at, control):
        return at.solve(control[0])

    def adapt(self, control, length, accepted, ratio):
        damping, growth = control
        eased = damping * (1 - (2 * ratio - 1).pow(3)).clamp(0.1, 2)
        damping = torch.where(accepted, eased, damping * growth)
        return damping, torch.where(accepted, 2, 2 * growth)

    def trusts(self, control):
        return control[0] <= 1e-2

    def exhausted(self, control):
        return control[0] > MOST


class GaussNewton:
    """M d = −∇f, and t d is tried with t = 1, ¼, 1/16, … until f decreases."""

    def start(self, D):
        return (D.new_ones(len(D)),)

    def propose(self, at, control):
        return control[0].unsqueeze(-1) * at.solve(at.least)

    def adapt(self, control, length, accepted, ratio):
        return (torch.where(accepted, 1, control[0] / 4),)

    def trusts(self, control):
        return control[0] == 1

    def exhausted(self, control):
        return control[0] < 1 / MOST


class Dogleg:
    """The path from 0 by the minimum along −D⁻¹∇f to the Gauss–Newton step, as far as the trust radius lets it go."""

    def start(self, D):
        return (D.new_full((len(D),), torch.inf),)

    def propose(self, at, control):
        radius = control[0].unsqueeze(-1)
        newton = at.solve(at.least)
        descent = -torch.where(at.free, at.gradient / at.D, 0)
        curvature = dot(descent, at.normal.times(descent), keepdim=True)
        slope = dot(descent, at.gradient, keepdim=True)
        cauchy = torch.where(curvature > 0, -slope / torch.where(curvature > 0, curvature, 1), 0) * descent
        short = _length(cauchy, at.D) >= radius
        along = cauchy * (radius / _length(cauchy, at.D).clamp_min(torch.finfo(radius.dtype).tiny))
        beyond = newton - cauchy
        a, b, c = (_product(u, v, at.D) for u, v in ((beyond, beyond), (cauchy, beyond), (cauchy, cauchy)))
        left = (radius.square() - c).clamp(0, torch.finfo(radius.dtype).max)
        t = left / (b + (b.square() + a * left).sqrt()).clamp_min(torch.finfo(radius.dtype).tiny)
        path = torch.where(short, along, cauchy + t.clamp(0, 1) * beyond)
        return torch.where(_length(newton, at.D) <= radius, newton, path)

    def adapt(self, control, length, accepted, ratio):
        (radius,) = control
        shrunk = torch.where(accepted & (ratio > 0.25), radius, 0.25 * length)
        return (torch.where(accepted & (ratio > 0.75), torch.maximum(radius, 3 * length), shrunk),)

    def trusts(self, control):
        return torch.ones_like(control[0], dtype=torch.bool)

    def exhausted(self, control):
        return control[0] < 1e-300


METHODS: dict[str, type[LevenbergMarquardt] | type[GaussNewton] | type[Dogleg]] = {
    "levenberg_marquardt": LevenbergMarquardt,
    "gauss_newton": GaussNewton,
    "dogleg": Dogleg,
}


def _product(u: Tensor, v: Tensor, D: Tensor) -> Tensor:
    return (D * u * v).sum(-1, keepdim=True)


def _length(u: Tensor, D: Tensor) -> Tensor:
    return _product(u, u, D).sqrt()
