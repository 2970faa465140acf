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

MAX_ITERATIONS = 200  # some 25 are the most that was seen; y is corrected for what is left of the excess


@dataclass(frozen=True)
class Response:
    """How a coordinate responds to the price ν: the function m of (1), with an upper bound u on y.

    Attributes:
        value: y = m(a, u).
        slopes: ∂m/∂a and ∂m/∂u as functions ``slopes(y, a, u)``, differentiable in all three.
        inverse: m⁻¹(y), for y strictly within the bounds.
        balance: ``balance(a, u, s)``, the :class:`Balance` of every row of arguments a, which it may overwrite.
        step: ``step(balance, s, n)``, the Newton step for ν; of the many equivalents of (1), a response has its own
            that is nearly linear in ν.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor], Tensor]
    balance: Callable[[Tensor, Tensor, Tensor], Balance]
    step: Callable[[Balance, Tensor, int], Tensor]


class Balance(NamedTuple):
    """Where the sum in (1) stands at some ν, each ``(N, 1)``.

    Attributes:
        excess: Σ y − s.
        slope: its derivative Σ d.
        size: the sum of the magnitudes that were added up to get the excess.
        scale: an upper bound on size + Σ dᵢ |aᵢ|; rounding in y and a makes an error of ε times that in the excess.
    """

    excess: Tensor
    slope: Tensor
    size: Tensor
    scale: Tensor


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
    lower, higher = _bracket(response, t, total, upper)
    nu = torch.minimum(torch.maximum(start, lower), higher)
    last, work = torch.full_like(nu, torch.inf), torch.empty_like(t)
    found, rest, rows = torch.empty_like(nu), torch.empty_like(nu), torch.arange(len(nu), device=nu.device)
    for _ in range(MAX_ITERATIONS):
        balance = response.balance(torch.add(t, nu, out=work[: len(t)]), upper, total)
        error = balance.excess.abs()
        # ν is rounded too; and an error of less than ε² of the total shows nowhere.
        rounding = 8 * eps * (balance.scale + balance.slope * nu.abs() + eps * total)
        done = (~(error > rounding) | ~(lower < higher)).squeeze(-1)
        found[rows] = nu
        rest[rows] = torch.where(balance.slope > 0, -balance.excess / balance.slope, 0)
        if done.all():
            break
        if done.any():
            kept = (v[~done] for v in (rows, t, total, upper, lower, higher, nu, last, error, *balance))
            rows, t, total, upper, lower, higher, nu, last, error, *parts = kept
            balance = Balance(*parts)
        lower, higher = torch.where(balance.excess < 0, nu, lower), torch.where(balance.excess > 0, nu, higher)
        newton = nu + response.step(balance, total, n)
        trusted = (newton >= lower) & (newton <= higher) & (error <= last / 2)
        nu, last = torch.where(trusted, newton, (lower + higher) / 2), error
    return found, rest


def _bracket(response: Response, t: Tensor, total: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """A multiplier that is too low and one that is too high, ``(N, 1)`` each."""
    common, alone = response.inverse(total / t.shape[-1]), response.inverse(total)
    largest = t.amax(-1, keepdim=True)
    if upper.shape[-1] == 1:
        enough = common - t.amin(-1, keepdim=True)  # every y is at least the mean, s/n
        one_enough = torch.where(upper < total, torch.inf, alone - largest)  # the largest y is at least s
    else:
        enough = (response.inverse(torch.minimum(upper, total)) - t).amax(-1, keepdim=True)  # every y ≥ min(u, s)
        one_enough = torch.where(upper < total, torch.inf, alone - t).amin(-1, keepdim=True)
    return common - largest, torch.fmin(enough, one_enough)
