"""Saddles: points where ∇f = 0 though f is curved down, and the way out of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import Model, columns

DOWN = 1e-7  # an eigenvalue below −DOWN times the largest is no rounding
LARGEST_DENSE = 64  # unknowns up to which every solution is looked at; beyond, only a start that is one


def escape(model: Model, y: Tensor, held: Tensor, solved: Tensor, iterations: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the solved rows are saddles, ``(N,)``, and for these a point near y with a lower f.

    Where there are many unknowns only those rows are looked at that never made a step.
    """
    n = model.manifold.dim
    suspect = solved if n <= LARGEST_DENSE else solved & (iterations == 0)
    if not suspect.any() or not y.numel():
        return torch.zeros_like(solved), y
    H = scaled_hessian(model, y, ~held, torch.ones_like(held, dtype=torch.float64))
    scale = H.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    scale = 1 / torch.where(scale > 0, scale, scale.amax(-1, keepdim=True).clamp_min(1e-300))
    H = torch.where(torch.isfinite(H), H, 0) * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    eigenvalues, vectors = torch.linalg.eigh(H)
    saddle = suspect & (eigenvalues[:, 0] < -DOWN * eigenvalues.abs().amax(-1).clamp_min(1e-300))
    return saddle, _down(model, y, scale * vectors[..., 0], saddle)


def scaled_hessian(model: Model, y: Tensor, free: Tensor, unit: Tensor) -> Tensor:
    """∇²f ``(N, n, n)`` on the free coordinates, in these units; 0 elsewhere."""
    identity = torch.eye(free.shape[-1], dtype=y.dtype, device=y.device)
    H = columns(model.hessian_product(y), identity, len(y)).permute(1, 2, 0).double()
    unit = unit * free
    return unit.unsqueeze(-1) * (0.5 * (H + H.mT)) * unit.unsqueeze(-2)


def _down(model: Model, y: Tensor, direction: Tensor, wanted: Tensor) -> Tensor:
    """The first of y ⊞ ±t v, t = 1, ½, ¼, …, at which f is lower; v is as long as y, or 1 where y = 0."""
    size = model.manifold.size(y).double().norm(dim=-1, keepdim=True)
    size = torch.where(size > 0, size, 1)
    v = (size * direction / direction.norm(dim=-1, keepdim=True)).to(y.dtype)
    value, best, found = model.cost(y), y, ~wanted
    for k in range(40):
        for sign in (1, -1):
            point = model.manifold.retract(y, sign * 0.5**k * v)
            lower = ~found & (model.cost(point) < value)
            best = torch.where(lower.unsqueeze(-1), point, best)
            found = found | lower
        if found.all():
            break
    return best
