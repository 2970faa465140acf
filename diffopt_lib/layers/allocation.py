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
from typing import NamedTuple

import torch
from torch import Tensor

from ..validate import check_finite, check_floating, check_same_kind

MAX_ITERATIONS = 200  # some 25 are the most that was seen; y is corrected for what is left of the excess


@dataclass(frozen=True)
class Response:
    """How a coordinate responds to the price ν: the function m of (2), with an upper bound u on y.

    Attributes:
        value: y = m(a, u).
        slopes: ∂m/∂a and ∂m/∂u as functions ``slopes(y, a, u)``, differentiable in all three.
        inverse: m⁻¹(y), for y strictly within the bounds.
        balance: ``balance(a, u, s)``, the :class:`Balance` of every row of arguments a, which it may overwrite.
        step: ``step(balance, s, n)``, the Newton step for ν; of the many equivalents of (2), a response has its own
            that is nearly linear in ν.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
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
        total, tau: ``(*batch, 1)``.
        upper: ``(*batch, n)`` or ``(*batch, 1)``; infinite for no bound.
        infeasible: the complaint if the total is not between 0 and the sum of the upper bounds. At either end y is
            0 or ``upper``, exactly, for then ν is −∞ or ∞.

    Raises:
        ValueError: the complaint.
    """
    y, _, _ = _Allocation.apply(response, infeasible, x, total, tau, upper)
    return y


class _Allocation(torch.autograd.Function):
    """(x, s, τ, u) ↦ (y, ν, c) with the derivative (3), written in y and ν, so that it has derivatives itself.

    The centre c is a number: moving it would move ν by as much, and y not at all.
    """

    @staticmethod
    def forward(response, infeasible, x, total, tau, upper):
        return _solve(response, infeasible, x, total, tau, upper)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.response, _, x, _, tau, upper = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(x, tau, upper, *output)
        ctx.save_for_forward(x, tau, upper, *output)

    @staticmethod
    def backward(ctx, g, g_nu, _):
        tau, t, d, d_upper, slope = _linearize(ctx)
        price = (g_nu + (g * d).sum(-1, keepdim=True)) / slope  # ∂ℓ/∂s
        net = g - price
        of_x = net * d / tau
        of_tau = -(of_x * t).sum(-1, keepdim=True) if ctx.needs_input_grad[4] else None
        of_upper = (net * d_upper).sum_to_size(d_upper.shape) if ctx.needs_input_grad[5] else None
        return None, None, of_x, price, of_tau, of_upper

    @staticmethod
    def jvp(ctx, _response, _infeasible, x_dot, total_dot, tau_dot, upper_dot):
        tau, t, d, d_upper, slope = _linearize(ctx)
        t_dot = (x_dot - t * tau_dot) / tau
        at_this_price = d * t_dot + d_upper * upper_dot
        nu_dot = (total_dot - at_this_price.sum(-1, keepdim=True)) / slope
        return at_this_price + d * nu_dot, nu_dot, None

    @staticmethod
    def vmap(info, in_dims, response, infeasible, *tensors):
        """A vmapped call is a call with one more batch dimension."""
        batched = (
            v.expand(info.batch_size, *v.shape) if dim is None else v.movedim(dim, 0)
            for v, dim in zip(tensors, in_dims[2:], strict=True)
        )
        return _Allocation.apply(response, infeasible, *batched), (0, 0, 0)


def _linearize(ctx) -> tuple[Tensor, ...]:
    """τ, t, ∂m/∂a, ∂m/∂u and Σ ∂m/∂a, where division by the last gives 0 if all ∂m/∂a vanish."""
    x, tau, upper, y, nu, centre = ctx.saved_tensors
    t = (x - centre) / tau
    d, d_upper = ctx.response.slopes(y, t + nu, upper)
    slope = d.sum(-1, keepdim=True)
    return tau, t, d, d_upper, torch.where(slope == 0, torch.inf, slope)


def _solve(
    response: Response, infeasible: str, x: Tensor, total: Tensor, tau: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y ``(*batch, n)``, the multiplier ν and the centre c, ``(*batch, 1)``."""
    batch, n = x.shape[:-1], x.shape[-1]
    x, total, tau, upper = (v.reshape(batch.numel(), v.shape[-1]) for v in (x, total, tau, upper))
    most = upper.sum(-1, keepdim=True) if upper.shape[-1] == n else n * upper
    slack = 4 * torch.finfo(x.dtype).eps  # an upper bound s/n may have been rounded
    if ((total < 0) | (total > most * (1 + slack))).any():
        raise ValueError(infeasible)
    empty, full = total == 0, total >= most * (1 - slack)
    inside = ~(empty | full)
    total = torch.where(inside, total, most.clamp_max(1) / 2)

    centre = x @ x.new_full((n, 1), 1 / n)
    t = (x - centre).div_(tau)
    nu, _ = find_multiplier(response, t, total, upper, response.inverse(total / n))
    centre = centre - tau * nu
    t = torch.sub(x, centre, out=t).div_(tau)
    nu, rest = find_multiplier(response, t, total, upper, torch.zeros_like(nu))
    nu, rest = torch.where(inside, nu, torch.where(empty, -torch.inf, torch.inf)), torch.where(inside, rest, 0)

    a = t.add_(nu)
    y = response.value(a, upper)
    slope, _ = response.slopes(y, a, upper)
    y = y.addcmul_(slope, rest).clamp_(torch.zeros_like(upper), upper)  # what rounding took from the sum
    return y.reshape(*batch, n), nu.reshape(*batch, 1), centre.reshape(*batch, 1)


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


def per_problem(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """A number or a tensor ``(*batch,)`` that belongs to whole problems, as a tensor ``(*batch, 1)`` like x."""
    if isinstance(value, Tensor):
        check_same_kind("x", x, [(name, value)])
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    check_finite(name, value)
    return value.unsqueeze(-1)


def align(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors ``(*batch, ·)``, with batch dimensions that broadcast, all with the whole batch."""
    try:
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in tensors))
    except RuntimeError:
        shapes = ", ".join(str(tuple(v.shape[:-1])) for v in tensors)
        raise ValueError(f"the batch dimensions of the arguments must broadcast, got {shapes}") from None
    return tuple(v.expand(*batch, v.shape[-1]) for v in tensors)


def check_vectors(x: Tensor) -> None:
    """x is ``(*batch, n)`` with n ≥ 1, finite."""
    check_floating("x", x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have shape (*batch, n) with n ≥ 1, got {tuple(x.shape)}")
    check_finite("x", x)
