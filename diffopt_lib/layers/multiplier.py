"""One scalar equation: the multiplier ν at which the responses to it add up to the total.

    Σᵢ m(tᵢ + ν) = s                                                                               (1)

with m nondecreasing, for a batch of rows t, by Newton's method inside a bracket, with bisection where it does not make
progress. Each response looks at the sum through a function that makes it nearly linear in ν. No sorting: a pass over t
costs far less than finding its largest k entries does.

Source: Patriksson, A survey on the continuous nonlinear resource allocation problem, 2008, for methods of this kind.
For the simplex, Newton's method from where every entry is positive is the algorithm of Michelot 1986.
Chapter: book/2_differentiable/06_top_k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.rows import iterate

MAX_ITERATIONS = 200  # some 25 are the most that was seen; y is corrected for what is left of the excess


@dataclass(frozen=True)
class Response:
    """How a coordinate responds to the price ν: the function m of (1), with an upper bound u on y.

    Attributes:
        value: y = m(a, u).
        slopes: ∂m/∂a and ∂m/∂u as functions ``slopes(y, a, u)``, differentiable in all three.
        inverse: m⁻¹(y), for y strictly within the bounds.
        excess: ``excess(a, u, s)``, the :class:`Excess` of every row of arguments a, which it may overwrite.
        step: ``step(excess, s, n)``, the Newton step for ν; of the many equivalents of (1), a response has its own
            that is nearly linear in ν.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor], Tensor]
    excess: Callable[[Tensor, Tensor, Tensor], Excess]
    step: Callable[[Excess, Tensor, int], Tensor]


class Excess(NamedTuple):
    """By how much the sum in (1) is too large at some ν, each ``(N, 1)``.

    Attributes:
        value: Σ y − s.
        slope: its derivative Σ d.
        size: the sum of the magnitudes that were added up to get the excess.
        scale: an upper bound on size + Σ dᵢ |aᵢ|; rounding in y and a makes an error of ε times that in the excess.
    """

    value: Tensor
    slope: Tensor
    size: Tensor
    scale: Tensor


class Search(NamedTuple):
    """The rows t of (1) that are still looked at, the bracket around ν, and ν with the last error and the excess."""

    t: Tensor
    total: Tensor
    upper: Tensor
    lower: Tensor
    higher: Tensor
    nu: Tensor
    last: Tensor
    excess: Excess


def find_multiplier(
    response: Response, t: Tensor, total: Tensor, upper: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """ν with Σ m(tᵢ + ν) = s, up to rounding, and the Newton step that would be next, ``(N, 1)`` each.

    Args:
        response: m.
        t: ``(N, n)``.
        total: s, strictly between 0 and the sum of the upper bounds, ``(N, 1)``.
        upper: ``(N, n)`` or ``(N, 1)``.
        start: where to begin, ``(N, 1)``.
    """
    n, eps = t.shape[-1], torch.finfo(t.dtype).eps
    work = torch.empty_like(t)

    def look(at: Search, k: int) -> tuple[Search, Tensor, tuple[Tensor, Tensor]]:
        excess = response.excess(torch.add(at.t, at.nu, out=work[: len(at.t)]), at.upper, at.total)
        # ν is rounded too; and an error of less than ε² of the total shows nowhere.
        rounding = 8 * eps * (excess.scale + excess.slope * at.nu.abs() + eps * at.total)
        stop = ~(excess.value.abs() > rounding) | ~(at.lower < at.higher)
        rest = torch.where(excess.slope > 0, -excess.value / excess.slope, 0)
        return at._replace(excess=excess), stop.squeeze(-1), (at.nu, rest)

    def step(at: Search) -> Search:
        excess, error = at.excess.value, at.excess.value.abs()
        lower, higher = torch.where(excess < 0, at.nu, at.lower), torch.where(excess > 0, at.nu, at.higher)
        newton = at.nu + response.step(at.excess, at.total, n)
        trusted = (newton >= lower) & (newton <= higher) & (error <= at.last / 2)
        nu = torch.where(trusted, newton, (lower + higher) / 2)
        return at._replace(lower=lower, higher=higher, nu=nu, last=error)

    lower, higher = _bracket(response, t, total, upper)
    nu, unknown = torch.minimum(torch.maximum(start, lower), higher), torch.full_like(start, torch.inf)
    search = Search(t, total, upper, lower, higher, nu, unknown, Excess(unknown, unknown, unknown, unknown))
    return iterate(search, look, step, MAX_ITERATIONS)


def _bracket(response: Response, t: Tensor, total: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """A multiplier that is too low and one that is too high, ``(N, 1)`` each."""
    common, alone = response.inverse(total / t.shape[-1]), response.inverse(total)
    largest = t.amax(-1, keepdim=True)
    if upper.shape[-1] == 1:
        enough = common - t.amin(-1, keepdim=True)  # every y is at least the mean, s/n
        one_enough = torch.where(upper < total, torch.inf, alone - largest)  # the largest y is at least s
    else:
        most = torch.minimum(upper, total)  # shares of the total in proportion to these are within the bounds
        shares = most * (total / most.sum(-1, keepdim=True))
        enough = (response.inverse(shares) - t).amax(-1, keepdim=True)  # every y is at least its share
        one_enough = torch.where(upper < total, torch.inf, alone - t).amin(-1, keepdim=True)
    return common - largest, torch.fmin(enough, one_enough)
