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

**Rounding.** In single precision 10⁴ and its neighbour are 10⁻³ apart, as far as a temperature may be. So the input is
measured from a centre c, t = (x − c) / τ, which changes nothing in exact arithmetic, and the equation is solved twice:
the second time with c at the threshold, x = −ντ, near which x − c has no rounding error.

Sources: Patriksson, A survey on the continuous nonlinear resource allocation problem, 2008, for (1) and (2), whose
solution is :mod:`.multiplier`. Chapter: book/2_differentiable/06_top_k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..autograd.forward_mode import forward_rule
from ..autograd.opaque import batch_first
from ..autograd.precision import without_autocast
from ..solution import failed_indices, name_elements
from ..validate import check_finite
from .multiplier import Response, find_multiplier

FAR_BELOW = 2000.0  # how far a masked entry is put below all others, in units of τ: exp(−2000) is 0 in any dtype


def fill_masked(x: Tensor, masked: Tensor, tau: Tensor) -> Tensor:
    """x ``(*batch, n)`` with masked entries so far below all others that m is exactly 0 there, at every solution with
    something left to give. They are constants, so nothing depends on them."""
    lowest = torch.where(masked, torch.inf, x.detach()).amin(-1, keepdim=True)
    lowest = torch.where(lowest == torch.inf, 0, lowest)
    gap = FAR_BELOW * tau.detach() + 8 * torch.finfo(x.dtype).eps * lowest.abs()
    return torch.where(masked, lowest - gap, x)


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
        ValueError: the complaint; an upper bound is negative; x/τ overflows.
    """
    y, _, _ = _Allocation.apply(response, infeasible, x, total, tau, upper)
    return y


class _Allocation(torch.autograd.Function):
    """(x, s, τ, u) ↦ (y, ν, c) with the derivative (3), written in y and ν, so that it has derivatives itself.

    Backwards, with cotangents g of y and h of ν: the price p = (h + Σ d g) / Σ d is that of the total, and what is
    left of g, g − p, goes to t with the factor d, and to u with ∂m/∂u. The centre c is a number: moving it would move
    ν by as much, and y not at all.
    """

    @staticmethod
    @without_autocast
    def forward(response, infeasible, x, total, tau, upper):
        return _solve(response, infeasible, x, total, tau, upper)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.response, _, x, _, tau, upper = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(x, tau, upper, *output)
        ctx.save_for_forward(x, tau, upper, *output)

    @staticmethod
    @without_autocast
    def backward(ctx, g, h, _):
        tau, t, d, d_upper, slope = _linearize(ctx.response, *ctx.saved_tensors)
        price = (h + (g * d).sum(-1, keepdim=True)) / slope
        net = g - price
        of_x = net * d / tau
        of_tau = -(of_x * t).sum(-1, keepdim=True) if ctx.needs_input_grad[4] else None
        of_upper = (net * d_upper).sum_to_size(d_upper.shape) if ctx.needs_input_grad[5] else None
        return None, None, of_x, price, of_tau, of_upper

    @staticmethod
    @without_autocast
    def jvp(ctx, _response, _infeasible, x_dot, total_dot, tau_dot, upper_dot):
        with forward_rule(ctx) as saved:
            tau, t, d, d_upper, slope = _linearize(ctx.response, *saved)
            t_dot = (x_dot - t * tau_dot) / tau
            at_this_price = d * t_dot + d_upper * upper_dot
            nu_dot = (total_dot - at_this_price.sum(-1, keepdim=True)) / slope
            return at_this_price + d * nu_dot, nu_dot, None

    @staticmethod
    def vmap(info, in_dims, response, infeasible, *tensors):
        return _Allocation.apply(response, infeasible, *batch_first(info, in_dims[2:], tensors)), (0, 0, 0)


def _linearize(
    response: Response, x: Tensor, tau: Tensor, upper: Tensor, y: Tensor, nu: Tensor, centre: Tensor
) -> tuple[Tensor, ...]:
    """τ, t, ∂m/∂a, ∂m/∂u and Σ ∂m/∂a, where division by the last gives 0 if all ∂m/∂a vanish."""
    t = (x - centre) / tau
    d, d_upper = response.slopes(y, t + nu, upper)
    slope = d.sum(-1, keepdim=True)
    return tau, t, d, d_upper, torch.where(slope == 0, torch.inf, slope)


def _solve(
    response: Response, infeasible: str, x: Tensor, total: Tensor, tau: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y ``(*batch, n)``, the multiplier ν and the centre c, ``(*batch, 1)``."""
    batch, n = x.shape[:-1], x.shape[-1]
    x, total, tau, caps = (v.reshape(batch.numel(), v.shape[-1]) for v in (x, total, tau, upper))
    if not (caps >= 0).all():
        raise ValueError(f"upper must be at least 0, got {caps.min().item():g}")
    most = caps.sum(-1, keepdim=True) if caps.shape[-1] == n else n * caps
    slack = 4 * torch.finfo(x.dtype).eps  # an upper bound s/n may have been rounded
    outside = (total < 0) | (total > most * (1 + slack))
    if outside.any():
        raise ValueError(f"{infeasible}.{name_elements(failed_indices(outside.reshape(batch)))}")
    empty, full = total == 0, total >= most * (1 - slack)
    inside = ~(empty | full)
    # What is decided already gets some problem that has a solution.
    caps = torch.where(most > 0, caps, 1)
    total = torch.where(inside, total, torch.where(most > 0, most, 1).clamp_max(1) / 2)

    centre = x @ x.new_full((n, 1), 1 / n)
    t = (x - centre).div_(tau)
    nu, _ = find_multiplier(response, t, total, caps, response.inverse(total / n))
    centre = centre - tau * nu
    t = torch.sub(x, centre, out=t).div_(tau)
    check_finite("x / tau", t)
    nu, rest = find_multiplier(response, t, total, caps, torch.zeros_like(nu))
    nu, rest = torch.where(inside, nu, torch.where(empty, -torch.inf, torch.inf)), torch.where(inside, rest, 0)

    a, rest = t.add_(nu).reshape(*batch, n), rest.reshape(*batch, 1)
    y = response.value(a, upper)
    slope, _ = response.slopes(y, a, upper)
    y = y.addcmul_(slope, rest).clamp_(torch.zeros_like(upper), upper)  # what rounding took from the sum
    return y, nu.reshape(*batch, 1), centre.reshape(*batch, 1)
