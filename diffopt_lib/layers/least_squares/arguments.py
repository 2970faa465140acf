"""The arguments of :func:`.layer.least_squares`, checked and brought into the form that solver and derivative share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...autograd.closure import make_explicit
from ...batch.shapes import align_batch, broadcast_batch
from ...validate import (
    NO_BOUND,
    as_tensor,
    check_callable,
    check_count,
    check_finite,
    check_kind,
    check_option,
    check_problem,
    values_visible,
)
from .losses import LOSSES, Loss
from .manifolds import Euclidean, Manifold
from .model import Terms
from .sparsity import Sparsity

OFF = 1e-3  # a rotation or pose that is farther from being one, relative to its entries, is taken for a mistake


class Problem(NamedTuple):
    """The problem in plain terms: ``residual(y, *x)`` of tensors alone, numbers with equally many batch dimensions."""

    residual: Callable[..., Tensor]
    terms: Terms
    manifold: Manifold
    y0: Tensor
    weight: Tensor
    radius: Tensor
    lower: Tensor
    upper: Tensor
    x: tuple[Tensor, ...]


def read(
    residual: Callable[..., Tensor],
    y0: Tensor,
    x: tuple[Tensor, ...],
    weight: float | Tensor | None,
    information: Tensor | None,
    block: int,
    loss: str | Loss,
    radius: float | Tensor,
    manifold: Manifold | None,
    lower: float | Tensor | None,
    upper: float | Tensor | None,
) -> Problem:
    """Check and align."""
    check_callable("residual", residual)
    check_problem(residual, y0, x)
    check_count("block", block, 1)
    manifold = Euclidean(y0.shape[-1]) if manifold is None else manifold
    y0 = on_manifold(y0, manifold)
    f, hidden, value = make_explicit(residual, y0, *x)
    if value.ndim == 0 or value.dtype != y0.dtype:
        raise ValueError(
            f"residual must return (*batch, m), {y0.dtype} as y0 is, got {tuple(value.shape)} {value.dtype}"
        )
    if value.shape[-1] == 0:
        f, value = _nothing, value.new_zeros(*value.shape[:-1], 1)
    m = value.shape[-1]
    if m % block:
        raise ValueError(f"block must divide the number of residuals, {m}, got {block}")
    W, matrix = read_weight(weight, information, m, block, y0)
    c = read_radius(radius, m // block, y0)
    terms = Terms(block, read_loss(loss), matrix)
    low, high = (
        read_bound("lower", lower, -torch.inf, y0, manifold),
        read_bound("upper", upper, torch.inf, y0, manifold),
    )
    named = [("y0", y0, 1), ("residual(y0, *x)", value, 1), ("weight", W, terms.weight_dims)]
    batch = broadcast_batch([*named, ("radius", c, 1), ("lower", low, 1), ("upper", high, 1)])
    y0 = y0.expand(*batch, y0.shape[-1])
    if value.shape[:-1] != batch:
        with torch.no_grad():
            whole = f(y0.detach(), *x, *hidden)
        if whole.shape != (*batch, m):
            raise ValueError(f"residual must return {(*batch, m)} for y {tuple(y0.shape)}, got {tuple(whole.shape)}")
    if values_visible(low) and values_visible(high) and (low > high).any():
        raise ValueError("lower must not be above upper")
    W, c = align_batch(W, terms.weight_dims, len(batch)), align_batch(c, 1, len(batch))
    low, high = align_batch(low, 1, len(batch)), align_batch(high, 1, len(batch))
    return Problem(f, terms, manifold, y0, W, c, low, high, (*x, *hidden))


def _nothing(y: Tensor, *x: Tensor) -> Tensor:
    """One residual that is 0, for those who have none."""
    return 0 * y[..., :1]


def on_manifold(y0: Tensor, manifold: Manifold) -> Tensor:
    """y0 as a point of the manifold, exactly."""
    for name in ("ambient", "dim", "retract", "chart", "size", "project"):
        if not hasattr(manifold, name):
            raise ValueError(
                f"manifold must be Euclidean, SO2, SE2, SO3, or a Power or Product of such, got {manifold!r}"
            )
    if y0.shape[-1] != manifold.ambient:
        raise ValueError(f"y0 must have {manifold.ambient} entries for this manifold, got {tuple(y0.shape)}")
    point = manifold.project(y0)
    if values_visible(y0) and not ((point - y0).abs() <= OFF * (1 + y0.abs())).all():
        raise ValueError("y0 must lie on its manifold: unit vectors (cos, sin), unit quaternions")
    return point


def read_loss(loss: str | Loss) -> Loss:
    """ρ by its name, or the caller's."""
    if callable(loss):
        return loss
    check_option("loss", loss, LOSSES)
    return LOSSES[loss]


def read_weight(
    weight: float | Tensor | None, information: Tensor | None, m: int, block: int, y0: Tensor
) -> tuple[Tensor, bool]:
    """W as :class:`.model.Terms` takes it, ``(*batch, E or 1, ·)``, and whether its blocks are matrices."""
    terms = m // block
    w = as_tensor("weight", 1.0 if weight is None else weight, y0, "y0")
    check_finite("weight", w)
    if values_visible(w) and (w < 0).any():
        raise ValueError(f"weight must not be negative, got {w.min().item():g}")
    w = w.reshape(1) if w.ndim == 0 else w
    if w.shape[-1] not in (1, terms, m):
        raise ValueError(
            f"weight must be a number or end in 1, {terms} or {m}: one for all, for each term or for each residual; "
            f"got {tuple(w.shape)}"
        )
    each_residual = w.shape[-1] == m and m not in (1, terms)
    w = w.unflatten(-1, (terms, block)) if each_residual else w.unsqueeze(-1)
    if information is None:
        return w, False
    check_kind("information", information, Tensor, "a tensor")
    information = as_tensor("information", information, y0, "y0")
    check_finite("information", information)
    shape = tuple(information.shape[-3:])
    if information.ndim < 3 or shape[1:] != (block, block) or shape[0] not in (1, terms):
        raise ValueError(
            f"information must have the shape (*batch, {terms}, {block}, {block}), got {tuple(information.shape)}; "
            "for one matrix of all m residuals, block=m and shape (*batch, 1, m, m)"
        )
    if w.shape[-1] != 1:
        raise ValueError("with information, weight must be one for all or one for each term")
    information = 0.5 * (information + information.mT)
    if values_visible(information) and information.numel():
        low = torch.linalg.eigvalsh(information.detach())
        if (low[..., 0] < -1e-6 * low.abs().amax(-1)).any():
            raise ValueError("information must be positive semidefinite")
    return w.unsqueeze(-1) * information, True


def read_radius(radius: float | Tensor, terms: int, y0: Tensor) -> Tensor:
    """c ``(*batch, E or 1)``, positive."""
    c = as_tensor("radius", radius, y0, "y0")
    check_finite("radius", c)
    c = c.reshape(1) if c.ndim == 0 else c
    if c.shape[-1] not in (1, terms):
        raise ValueError(f"radius must be a number or end in 1 or {terms}, got {tuple(c.shape)}")
    if values_visible(c) and not (c > 0).all():
        raise ValueError(f"radius must be positive, got {c.min().item():g}")
    return c


def read_bound(name: str, bound: float | Tensor | None, none: float, y0: Tensor, manifold: Manifold) -> Tensor:
    """A bound ``(*batch, ambient)``, infinite where there is none."""
    n = manifold.ambient
    b = as_tensor(name, none if bound is None else bound, y0, "y0")
    flat = flat_entries(manifold, y0)
    b = b.reshape(1) if b.ndim == 0 else b
    if b.shape[-1] not in (1, n):
        raise ValueError(f"{name} must be a number or end in {n}, got {tuple(b.shape)}")
    if b.shape[-1] == 1 != n:
        b = torch.where(flat, b, none)
    if values_visible(b):
        if torch.isnan(b).any() or (b == -none).any():
            raise ValueError(f"{name} must not be NaN, nor infinite on its own side")
        if (torch.isfinite(b) & (b.abs() < NO_BOUND) & ~flat).any():
            raise ValueError(f"{name} must be infinite for angles, poses and rotations, which have no bounds")
    return torch.where(b.abs() < NO_BOUND, b, none)


def flat_entries(manifold: Manifold, like: Tensor) -> Tensor:
    """Which entries of a point are coordinates of a vector space, ``(ambient,)``."""
    probe = torch.arange(1.0, manifold.ambient + 1, dtype=torch.float64)
    seen = manifold.chart(probe)
    return torch.isin(probe, seen).to(like.device)


def in_tangent(bound: Tensor, none: float, manifold: Manifold) -> Tensor:
    """A bound seen from the tangent space, ``(*batch, dim)``: none where the manifold is curved."""
    probe = torch.full((manifold.ambient,), torch.nan, dtype=bound.dtype, device=bound.device)
    return torch.where(torch.isnan(manifold.chart(probe)), manifold.chart(bound), none)


def check_sparsity(sparsity: object, m: int, n: int) -> None:
    """The pattern of the Jacobian of m residuals in n tangent coordinates."""
    check_kind("sparsity", sparsity, Sparsity, "a Sparsity, which the sparse form needs")
    shape = getattr(sparsity, "shape", None)
    if shape != (m, n):
        raise ValueError(f"sparsity must have the shape {(m, n)}, got {shape}")
