"""Soft top-k: the limited multi-label projection (Amos, Koltun & Kolter 2019).

    y*(x) = argmin_y  −xᵀy − τ H_b(y)   s.t.  Σ y = k,       H_b(y) = −Σ yᵢ log yᵢ + (1 − yᵢ) log(1 − yᵢ)     (1)

over 0 ≤ y ≤ 1. One constraint more than the sigmoid's problem, whose solution it shifts by one number ν:

    yᵢ = σ((xᵢ + τν) / τ),        Σ yᵢ = k,        ∂y/∂x = (diag(d) − d dᵀ / Σ d) / τ,      d = y (1 − y)      (2)

As τ → 0, y tends to the indicator of the k largest entries, if the k-th is larger than the next; otherwise the entries
that tie there share what is left for them equally. With k = 1 problem (1) is over the simplex, as softargmax's is, but
with another entropy, and y is not softargmax(x/τ), not even for two entries: there y₁ = σ((x₁ − x₂) / 2τ), softargmax
at twice the temperature.

Chapter: book/2_differentiable/06_top_k. How ν is found, and the derivative: :mod:`.allocation`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..autograd.precision import full_precision
from ..batch.shapes import expand_vectors
from ..validate import check_masked_vectors, per_problem, temperature
from .allocation import allocate, fill_masked
from .multiplier import Excess, Response


@full_precision
def soft_top_k(x: Tensor, k: int | float | Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """The point of the box [0, 1]ⁿ with entries that sum to k which solves eq. (1) of this module.

    Differentiable at any order in x, τ, and k if it is a floating-point tensor. With k = 0 and k = n all entries are
    exactly 0 and 1, and do not depend on anything. At low temperature y may be 0 or 1 to the last digit and its
    derivative underflow to 0.

    Args:
        x: scores, ``(*batch, n)``, float32 or float64. −∞ is a mask: y is exactly 0 there and does not depend on it.
        k: how many to choose, 0 ≤ k ≤ n, not necessarily an integer: a number, or a tensor ``(*batch,)`` with one for
            every element of the batch.
        tau: the temperature τ > 0, likewise a number or a tensor ``(*batch,)``. Batch dimensions broadcast.

    Returns:
        y, ``(*batch, n)``. Its sum is k up to rounding. Time and memory are linear in n.

    Raises:
        ValueError: x is not floating point, has no entry, or some that are NaN or +∞; k is not between 0 and n, or the
            number of entries that are not masked; τ is not positive; the shapes do not broadcast.
    """
    masked = check_masked_vectors(x)
    tau, k = temperature(tau, x), per_problem("k", k, x)
    upper, complaint = x.new_ones(1), f"k must be between 0 and n = {x.shape[-1]}"
    if masked is not None:
        upper, complaint = (~masked).to(x.dtype), f"{complaint}, and at most the number of entries that are not −inf"
    x, k, tau, upper = expand_vectors(x=x, k=k[..., None], tau=tau[..., None], upper=upper)
    if masked is not None:
        x = fill_masked(x, masked, tau)
    return allocate(LOGISTIC, x, k, tau, upper, complaint)


def _excess(a: Tensor, upper: Tensor, k: Tensor) -> Excess:
    """With e = σ(−|a|), the distance of y from the nearer of 0 and 1, nothing cancels where y is near 1."""
    side = a.sign()
    e = a.abs_().neg_().sigmoid_()
    n = e.shape[-1]
    ones = (n + side.sum(-1, keepdim=True)) / 2
    size = e.sum(-1, keepdim=True)
    slope = size - torch.linalg.vector_norm(e, dim=-1, keepdim=True).square()
    value = (ones - k) - side.mul_(e).sum(-1, keepdim=True)
    # Σ e |a| ≤ Σ e log(1/e), which is largest if all e are equal.
    return Excess(value, slope, size, size - torch.xlogy(size, size / n))


def _step(at: Excess, k: Tensor, n: int) -> Tensor:
    """Newton's step through the logit of the mean of y, which is linear in ν where all a are equal; and near the root,
    where the excess is a difference of exponentials exp(ν) and exp(−ν) if y is nearly 0 or 1, through artanh."""
    excess, slope, size, _ = at
    mean = (k + excess) / n
    far = (torch.logit(k / n) - torch.logit(mean)) * n * mean * (1 - mean) / slope
    near = -torch.atanh(excess / size) * size / slope
    return torch.where(excess.abs() < 0.1 * torch.minimum(k, n - k), near, far)


def _slopes(y: Tensor, a: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """y (1 − y), but as y σ(−a): where y is near 1, 1 − y has no digits left."""
    return y * torch.sigmoid(-a), torch.zeros_like(upper)


LOGISTIC = Response(
    value=lambda a, upper: torch.sigmoid(a), slopes=_slopes, inverse=torch.logit, excess=_excess, step=_step
)
