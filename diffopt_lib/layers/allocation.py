"""Sharing a budget: separable problems that one sum ties together.

    y*(t, s) = argmin_y  Σᵢ φ(yᵢ) − tᵢ yᵢ   s.t.  Σᵢ yᵢ = s                                        (1)

Simplex projection, sparsemax, softmax with caps and soft top-k are all of this form, each with its own convex φ (which
is infinite outside the bounds on yᵢ). With the multiplier ν of the sum, stationarity φ'(yᵢ) = tᵢ + ν decouples the
coordinates. Write m = (φ')⁻¹ for the *response*, which is nondecreasing. Then one scalar equation is left,

    yᵢ = m(tᵢ + ν),        Σᵢ m(tᵢ + ν) = s                                                        (2)

and the implicit function theorem on it gives ν̇ = (ṡ − Σ dᵢ ṫᵢ) / Σ dᵢ with dᵢ = m'(tᵢ + ν), hence

    ∂y/∂t = diag(d) − d dᵀ / Σ d,        ∂y/∂s = d / Σ d.                                          (3)

Where all d vanish (every yᵢ at a bound, or so close that d underflows) ν is not unique, y does not depend on it, and
(3) is taken as 0.

**The algorithm** is Newton's method on (2), inside a bracket and with bisection where it does not make progress. Each
response looks at the sum through a function that makes it nearly linear in ν. No sorting: a pass over t costs far less
than finding its largest k entries does.

**Rounding.** In single precision 10⁴ and its neighbour are 10⁻³ apart, as far as a temperature may be. So the input is
measured from a centre c, t = (x − c) / τ, which changes nothing in exact arithmetic, and the equation is solved twice:
the second time with c at the threshold, x = −ντ, near which x − c has no rounding error.

Chapter: book/2_differentiable/06_top_k. Source: Patriksson, A survey on the continuous nonlinear resource allocation
problem, 2008, §2; with φ' linear, Newton's method is that of Michelot 1986.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..implicit import _attach
from ..linear import LinearOperator
from ..opaque import opaque
from ..validate import check_finite, check_floating, check_same_kind

MAX_ITERATIONS = 200  # some 25 are the most that was seen; y is corrected for what is left of the excess


@dataclass(frozen=True)
class Response:
    """How a coordinate responds to the price ν: the function m of (2), with an upper bound u on y.

    Attributes:
        value: m(a, u), differentiable in both.
        slope: ∂m/∂a as a function of y = m(a, u): ``slope(y, u)``.
        inverse: m⁻¹(y), for y strictly within the bounds.
        balance: ``balance(a, u, s)``, the :class:`Balance` of every row of arguments a, which it may overwrite.
        step: ``step(balance, s, n)``, the Newton step for ν; of the many equivalents of (2), a response has its own
            that is nearly linear in ν.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    balance: Callable[[Tensor, Tensor, Tensor], Balance]
    step: Callable[[Balance, Tensor, int], Tensor]


class Balance(NamedTuple):
    """Where the sum in (2) stands at some ν, each ``(N, 1)``.

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


def allocate(response: Response, x: Tensor, total: Tensor, tau: Tensor, upper: Tensor, infeasible: str) -> Tensor:
    """The solution of (1) for t = x/τ and s = ``total``, ``(*batch, n)``; differentiable in all four, at any order.

    Args:
        response: m.
        x: ``(*batch, n)``.
        total, tau: with as many dimensions as x, the last of size 1; the others broadcast to those of x.
        upper: likewise, the last of size 1 or n; infinite for no bound.
        infeasible: the complaint if the total is not between 0 and the sum of the upper bounds. At either end y is
            0 or ``upper``, exactly, for then ν is −∞ or ∞.

    Raises:
        ValueError: the complaint.
    """
    residual = partial(_excess, response)
    centre, nu, correction = opaque(partial(_solve, response, infeasible), residual, x, total, tau, upper)
    t = (x - centre) / tau
    nu = _attach(residual, _solve_scalar, nu, t, total, upper)
    return response.value(t + nu, upper) + correction


def _excess(response: Response, nu: Tensor, t: Tensor, total: Tensor, upper: Tensor) -> Tensor:
    """The residual of (2), ``(*batch, 1)``."""
    return response.value(t + nu, upper).sum(-1, keepdim=True) - total


def _solve_scalar(operator: LinearOperator, b: Tensor) -> Tensor:
    """b / Σd, and 0 where Σd = 0."""
    slope = operator.matvec(torch.ones_like(b))
    return torch.where(slope == 0, 0, b / slope)


def _solve(
    response: Response, infeasible: str, _f: object, x: Tensor, total: Tensor, tau: Tensor, upper: Tensor
) -> tuple[Tensor, ...]:
    """The centre c and the multiplier ν, ``(*batch, 1)``, and what rounding took from y, ``(*batch, n)``."""
    batch, n = x.shape[:-1], x.shape[-1]

    def flatten(v: Tensor) -> Tensor:
        return v.expand(*batch, v.shape[-1]).reshape(batch.numel(), v.shape[-1])

    x, total, tau, upper = (flatten(v) for v in (x, total, tau, upper))
    most = upper.sum(-1, keepdim=True) if upper.shape[-1] == n else n * upper
    slack = 4 * torch.finfo(x.dtype).eps  # an upper bound s/n may have been rounded
    if ((total < 0) | (total > most * (1 + slack))).any():
        raise ValueError(infeasible)
    empty, full = total == 0, total >= most * (1 - slack)
    inside = ~(empty | full)
    total = torch.where(inside, total, most.clamp_max(1) / 2)

    centre = (x / n).sum(-1, keepdim=True)
    nu, _ = find_multiplier(response, (x - centre) / tau, total, upper, response.inverse(total / n))
    centre = centre - tau * nu
    t = (x - centre) / tau
    nu, rest = find_multiplier(response, t, total, upper, torch.zeros_like(nu))
    nu, rest = torch.where(inside, nu, torch.where(empty, -torch.inf, torch.inf)), torch.where(inside, rest, 0)

    y = response.value(t + nu, upper)
    corrected = torch.addcmul(y, response.slope(y, upper), rest).clamp(torch.zeros_like(upper), upper)
    return tuple(v.reshape(*batch, v.shape[-1]) for v in (centre, nu, corrected.sub_(y)))


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
    last = torch.full_like(nu, torch.inf)
    found, rest, rows = torch.empty_like(nu), torch.empty_like(nu), torch.arange(len(nu), device=nu.device)
    for _ in range(MAX_ITERATIONS):
        balance = response.balance(t + nu, upper, total)
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


def per_problem(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """A number or a tensor ``(*batch,)`` that belongs to whole problems, as a tensor ``(*batch, 1)`` like x."""
    if isinstance(value, Tensor):
        check_same_kind("x", x, [(name, value)])
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    check_finite(name, value)
    return value.unsqueeze(-1)


def align(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors ``(*batch, ·)``, the first of them x, with batch dimensions that broadcast, as many in each.

    x gets the whole batch.
    """
    x = tensors[0]
    try:
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in tensors))
    except RuntimeError:
        shapes = ", ".join(str(tuple(v.shape[:-1])) for v in tensors)
        raise ValueError(f"the batch dimensions of the arguments must broadcast, got {shapes}") from None
    rest = (v.reshape((1,) * (len(batch) + 1 - v.ndim) + v.shape) for v in tensors[1:])
    return x.expand(*batch, x.shape[-1]), *rest


def check_vectors(x: Tensor) -> None:
    """x is ``(*batch, n)`` with n ≥ 1, finite."""
    check_floating("x", x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have shape (*batch, n) with n ≥ 1, got {tuple(x.shape)}")
    check_finite("x", x)
