"""The simplex with and without caps: Euclidean projections, sparsemax, and softargmax with an upper bound.

    project_simplex(x)         = argmin_y  ½‖y − x‖²         s.t.  Σ y = s,  y ≥ 0                       (1)
    sparsemax(x, τ)            = argmin_y  −xᵀy + ½τ‖y‖²     s.t.  Σ y = 1,  y ≥ 0                       (2)
    project_capped_simplex(x)  = argmin_y  ½‖y − x‖²         s.t.  Σ y = s,  0 ≤ y ≤ u                   (3)
    capped_softmax(x, u, τ)    = argmin_y  −xᵀy − τ H(y)     s.t.  Σ y = 1,  0 ≤ y ≤ u                   (4)

with H(y) = −Σ y log y. All are problem (1) of :mod:`.allocation`, with the responses

    y = min(max(t + ν, 0), u)   for (1)–(3),         y = min(exp(t + ν), u)   for (4),                    (5)

so that ∂y/∂t = diag(d) − d dᵀ / Σ d, where d is y' = 1 for (1)–(3) and y' = y for (4), and 0 where y is at a bound.

The projections have kinks, where an entry t + ν is exactly 0 or u: the bound is active with multiplier zero. There the
derivative is that of the side on which the entry is free, as it is for ``solve_qp``.

Sources: Held, Wolfe & Crowder 1974 and Michelot 1986 for (1); Martins & Astudillo 2016 for (2); Martins & Kreutzer
2017 for (4). Chapter: book/2_differentiable/06_top_k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..autograd.precision import full_precision
from ..batch.shapes import expand_vectors
from ..validate import as_tensor, check_masked_vectors, check_unmasked, check_vectors, per_problem, temperature
from .allocation import allocate, fill_masked
from .multiplier import Excess, Response


@full_precision
def project_simplex(x: Tensor, total: float | Tensor = 1.0) -> Tensor:
    """The Euclidean projection of x on the simplex {y ≥ 0, Σ y = total}, eq. (1) of this module.

    Args:
        x: ``(*batch, n)``, float32 or float64.
        total: s ≥ 0, a number or a tensor ``(*batch,)``. It gets its gradient too.

    Raises:
        ValueError: x is not floating point, has no entry, or has NaN or infinite ones; the total is negative.
    """
    check_vectors(x)
    total = per_problem("total", total, x)
    x, total, tau, upper = expand_vectors(
        x=x, total=total[..., None], tau=x.new_ones(1), upper=x.new_full((1,), torch.inf)
    )
    return allocate(RECTIFIER, x, total, tau, upper, "total must be at least 0")


@full_precision
def sparsemax(x: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """The projection of x/τ on the probability simplex, eq. (2) of this module: a softargmax with exact zeros.

    Args:
        x: ``(*batch, n)``, float32 or float64. −∞ is a mask: y is exactly 0 there and does not depend on it.
        tau: the temperature τ > 0, a number or a tensor ``(*batch,)``. It gets its gradient too.

    Raises:
        ValueError: x is not floating point, has no entry but −∞, or has some that are NaN or +∞; τ is not positive.
    """
    masked = check_masked_vectors(x)
    tau = temperature(tau, x)
    x, tau, one, upper = expand_vectors(x=x, tau=tau[..., None], total=x.new_ones(1), upper=x.new_full((1,), torch.inf))
    if masked is not None:
        check_unmasked("x", masked)
        x = fill_masked(x, masked, tau)
    return allocate(RECTIFIER, x, one, tau, upper, "")


@full_precision
def project_capped_simplex(x: Tensor, total: float | Tensor = 1.0, upper: float | Tensor = 1.0) -> Tensor:
    """The Euclidean projection of x on {0 ≤ y ≤ upper, Σ y = total}, eq. (3) of this module.

    Args:
        x: ``(*batch, n)``, float32 or float64.
        total: s, a number or a tensor ``(*batch,)``, between 0 and the sum of the upper bounds.
        upper: u ≥ 0, a number or a tensor that broadcasts against x, one bound for every entry; may be infinite. Both
            get their gradients too.

    Raises:
        ValueError: x is not floating point, has no entry, or has NaN or infinite ones; an upper bound is negative; the
            total is negative or more than the upper bounds allow.
    """
    check_vectors(x)
    total = per_problem("total", total, x)
    x, total, upper, tau = expand_vectors(x=x, total=total[..., None], upper=_caps(upper, x), tau=x.new_ones(1))
    return allocate(RECTIFIER, x, total, tau, upper, "total must be between 0 and the sum of the upper bounds")


@full_precision
def capped_softmax(x: Tensor, upper: float | Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Softargmax with at most ``upper`` for every entry, eq. (4) of this module.

    What an entry would have above its cap goes to the others, in proportion to exp(x/τ). With ``upper`` = 1/k, k times
    the result is another soft top-k, with exact ones.

    Args:
        x: ``(*batch, n)``, float32 or float64. −∞ is a mask: y is exactly 0 there and does not depend on it.
        upper: u ≥ 0 with a sum of at least 1 over the entries that are not masked, a number or a tensor that broadcasts
            against x.
        tau: the temperature τ > 0, a number or a tensor ``(*batch,)``. Both get their gradients too.

    Raises:
        ValueError: x is not floating point, has no entry but −∞, or has some that are NaN or +∞; an upper bound is
            negative or their sum less than 1; τ is not positive.
    """
    masked = check_masked_vectors(x)
    tau, complaint = temperature(tau, x), "upper must have a sum of at least 1 over the entries of x"
    x, tau, upper, one = expand_vectors(x=x, tau=tau[..., None], upper=_caps(upper, x), total=x.new_ones(1))
    if masked is not None:
        check_unmasked("x", masked)
        x, upper = fill_masked(x, masked, tau), torch.where(masked, 0, upper)
        complaint += " that are not −inf"
    return allocate(EXPONENTIAL, x, one, tau, upper, complaint)


def _caps(upper: float | Tensor, x: Tensor) -> Tensor:
    upper = as_tensor("upper", upper, x)
    upper = upper.reshape(1) if upper.ndim == 0 else upper
    if upper.shape[-1] not in (1, x.shape[-1]):
        raise ValueError(f"upper must broadcast against x, {tuple(x.shape)}, got {tuple(upper.shape)}")
    return upper


def _clip(a: Tensor, upper: Tensor) -> Tensor:
    return torch.where(a > upper, upper, a.clamp_min(0))


def _slopes_of_clip(y: Tensor, a: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return ((a >= 0) & (a <= upper)).to(a.dtype), (a > upper).to(a.dtype)


def _excess_of_clip(a: Tensor, upper: Tensor, total: Tensor) -> Excess:
    y = _clip(a, upper)
    size = y.sum(-1, keepdim=True, dtype=torch.float64)
    slope = ((y > 0) & (y < upper)).to(y.dtype).sum(-1, keepdim=True)
    return _excess(size, slope, total, 2 * size)  # a = y where y is between the bounds


def _excess(size: Tensor, slope: Tensor, total: Tensor, scale: Tensor) -> Excess:
    dtype = total.dtype
    return Excess((size - total).to(dtype), slope, size.to(dtype), scale.to(dtype))


RECTIFIER = Response(
    value=_clip,
    slopes=_slopes_of_clip,
    inverse=lambda y: y,
    excess=_excess_of_clip,
    step=lambda excess, total, n: -excess.value / excess.slope,  # exact until another entry meets a bound
)


def _capped_exp(a: Tensor, upper: Tensor) -> Tensor:
    capped = a > upper.log()
    return torch.where(capped, upper, torch.where(capped, 0, a).exp())


def _slopes_of_exp(y: Tensor, a: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    capped = a > upper.log()
    return torch.where(capped, 0, y), capped.to(a.dtype)


def _excess_of_exp(a: Tensor, upper: Tensor, total: Tensor) -> Excess:
    y = _capped_exp(a, upper)
    size = y.sum(-1, keepdim=True, dtype=torch.float64)
    slope = torch.where(y < upper, y, 0).sum(-1, keepdim=True)
    # Σ y |log y| is largest if all y are equal.
    return _excess(size, slope, total, size - torch.xlogy(size, size / a.shape[-1]))


EXPONENTIAL = Response(
    value=_capped_exp,
    slopes=_slopes_of_exp,
    inverse=torch.log,
    excess=_excess_of_exp,
    step=lambda excess, total, n: torch.log1p(-excess.value / excess.slope),  # exact as long as the caps stay
)
