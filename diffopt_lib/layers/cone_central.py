"""The central pair of a vector: a projection made smooth by a barrier, and its derivative.

Projecting v onto K* splits it into y = Π_{K*}(v) and s = y − v ∈ K with yᵀs = 0. With a barrier F of K the split can be
kept away from the boundary: for μ > 0 there is exactly one

    y − s = v,      y = −μ ∇F(s),      s ∈ int K, y ∈ int K*                                       (1)

namely s = argmin ½ ‖s + v‖² + μ F(s), smooth in v and in μ, and (y, s) tends to the projection as μ → 0. For the
symmetric cones F is −log det and (1) says that the eigenvalues of y and s have the product μ: the one quadratic
equation y − μ/y = v for each eigenvalue of v. The zero cone has s = 0 and y = v whatever μ. For the exponential cone

    F(x, y, z) = −log(y log(z/y) − x) − log y − log z                                              (2)

and (1) takes a few damped Newton steps, which cannot leave the cone because F is self-concordant.

Differentiating (1): dy − ds = dv, dy = −μ ∇²F(s) ds − ∇F(s) dμ, so that D = ∂y/∂v has its eigenvalues between 0 and 1.

Source: Parikh & Boyd 2014, §6.7 (the proximal operator of a barrier); for the path that it makes, Chen & Mangasarian
1996.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cone_exponential import project_exponential, slope_of
from .cone_symmetric import (
    central_pair,
    second_order_frame,
    second_order_matrix,
    semidefinite_matrix,
    to_matrix,
    to_vector,
)
from .cones import Block, Cones, block_diagonal

# The point of the exponential cone with s = −∇F(s): central, and the same for the cone and its dual.
EXPONENTIAL_CENTRE = (-1.051383945322714, 0.556409619469370, 1.258967884768947)
SLOPES = (-300.0, -30.0, -10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 300.0)


def split(v: Tensor, mu: Tensor, cones: Cones, guess: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (y, s) of eq. (1), each ``(B, m)``, for v ``(B, m)`` and μ ``(B,)``; guess ``(B, m)`` is an s nearby."""
    pairs = [_split_block(block, block.of(v), mu[:, None, None], block.of(guess)) for block in cones.blocks]
    if not pairs:
        return v, v
    y, s = (torch.cat([part.flatten(-2) for part in parts], dim=-1) for parts in zip(*pairs, strict=True))
    return y, s


def centre(like: Tensor, cones: Cones) -> Tensor:
    """An s of the right kind to start from: that of v = 0 and μ = 1; ``(B, m)`` like its argument."""
    s = torch.ones_like(like)
    for block in cones.blocks:
        if block.kind == "exp":
            block.of(s).copy_(torch.tensor(EXPONENTIAL_CENTRE, dtype=s.dtype, device=s.device))
    return s


def derivative(v: Tensor, y: Tensor, s: Tensor, mu: Tensor, cones: Cones) -> tuple[Tensor, Tensor]:
    """D = ∂y/∂v, block-diagonal ``(B, m, m)``, and ∂y/∂μ = ∂s/∂μ ``(B, m)`` at a pair that :func:`split` returned."""
    matrices, rates = [], []
    for block in cones.blocks:
        D, rate = _differentiate_block(block, block.of(v), block.of(y), block.of(s), mu[:, None, None])
        matrices.append(D)
        rates.append(rate.flatten(-2))
    return block_diagonal(v, cones, matrices), torch.cat([*rates, v[..., :0]], dim=-1)


def _split_block(block: Block, v: Tensor, mu: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    if block.kind == "zero":
        return v, torch.zeros_like(v)
    if block.kind == "nonneg":
        return central_pair(v, mu)
    if block.kind == "soc":
        eigenvalues, frame = second_order_frame(v)
        p, s = central_pair(eigenvalues, mu)
        return _along(frame, p), _along(frame, s)
    if block.kind == "psd":
        eigenvalues, V = torch.linalg.eigh(to_matrix(v))
        p, s = central_pair(eigenvalues, mu)
        return _with_eigenvalues(V, p), _with_eigenvalues(V, s)
    s = barrier_prox(-v, mu, guess)
    return s + v, s


def _differentiate_block(block: Block, v: Tensor, y: Tensor, s: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    if block.kind == "zero":
        return torch.ones_like(v).unsqueeze(-1), torch.zeros_like(v)
    if block.kind == "nonneg":
        return (y / (y + s)).unsqueeze(-1), 1 / (y + s)
    if block.kind == "soc":
        eigenvalues, frame = second_order_frame(v)
        p, q = central_pair(eigenvalues, mu)
        return second_order_matrix(frame, p, q), _along(frame, 1 / (p + q))
    if block.kind == "psd":
        eigenvalues, V = torch.linalg.eigh(to_matrix(v))
        p, q = central_pair(eigenvalues, mu)
        return semidefinite_matrix(V, p, q), _with_eigenvalues(V, 1 / (p + q))
    _, gradient, hessian = barrier(s)
    identity = torch.eye(3, dtype=v.dtype, device=v.device)
    of_s = torch.linalg.inv(identity + mu.unsqueeze(-1) * hessian)
    return identity - of_s, -(of_s @ gradient.unsqueeze(-1)).squeeze(-1)


def _along(frame: Tensor, eigenvalues: Tensor) -> Tensor:
    return (frame * eigenvalues.unsqueeze(-2)).sum(-1) * math.sqrt(0.5)


def _with_eigenvalues(V: Tensor, eigenvalues: Tensor) -> Tensor:
    return to_vector((V * eigenvalues.unsqueeze(-2)) @ V.mT)


def barrier(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F of eq. (2) ``(...)``, infinite outside the cone, its gradient ``(..., 3)`` and Hessian ``(..., 3, 3)``."""
    x, y, z = s.unbind(-1)
    value, psi, log_ratio = _barrier_value(x, y, z)
    zero = torch.zeros_like(x)
    of_psi = torch.stack([-torch.ones_like(x), log_ratio - 1, y / z], dim=-1)
    gradient = torch.stack([zero, -1 / y, -1 / z], dim=-1) - of_psi / psi.unsqueeze(-1)
    bend = torch.stack([zero, 1 / y, -1 / z], dim=-1)  # −∇²ψ = y · bend bendᵀ
    hessian = of_psi.unsqueeze(-1) * of_psi.unsqueeze(-2) / psi.square()[..., None, None]
    hessian = hessian + bend.unsqueeze(-1) * bend.unsqueeze(-2) * (y / psi)[..., None, None]
    return value, gradient, hessian + torch.diag_embed(torch.stack([zero, y**-2, z**-2], dim=-1))


def _barrier_value(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positive = (y > 0) & (z > 0)
    log_ratio = torch.log(torch.where(positive, z / y, 1))
    psi = y * log_ratio - x
    inside = positive & (psi > 0)
    return torch.where(inside, -torch.log(torch.where(inside, psi * y * z, 1)), torch.inf), psi, log_ratio


def barrier_prox(w: Tensor, mu: Tensor, guess: Tensor, max_steps: int = 30) -> Tensor:
    """argmin ½ ‖s − w‖² + μ F(s) for w ``(..., 3)`` and μ ``(..., 1)``, by damped Newton steps from a good start.

    F is logarithmic, so scaling s and w by √μ scales μ away. The guess is used where Newton's decrement says that it is
    near; elsewhere the start is the best of several interior points.
    """
    root = mu.sqrt()
    w, s = w / root, guess / root
    for step in range(max_steps):
        direction, decrement = _newton(s, w)
        if step == 0 and not (decrement < 4).all():
            s = torch.where((decrement < 4).unsqueeze(-1), s, _best_start(w))
            direction, decrement = _newton(s, w)
        full, damped = s + direction, s + direction / (1 + decrement.sqrt().unsqueeze(-1))
        whole = (_prox_objective(full, w) < _prox_objective(damped, w)) | (decrement < 0.05)
        s = torch.where(whole.unsqueeze(-1), full, damped)
        if (decrement <= 1e-12 * (1 + 1e-8 * w.square().amax(-1))).all():
            break
    return s * root


def _newton(s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's direction for ½ ‖s − w‖² + F(s) and the square of its decrement."""
    _, gradient, hessian = barrier(s)
    gradient = gradient + s - w
    hessian = hessian + torch.eye(3, dtype=w.dtype, device=w.device)
    direction, _ = torch.linalg.solve_ex(hessian, -gradient)
    decrement = -(gradient * direction).sum(-1)
    return direction, torch.where(torch.isfinite(decrement), decrement, torch.inf).clamp_min(0)


def _best_start(w: Tensor) -> Tensor:
    """The best of: the minimisers along rays of many slopes, and w and its projection pushed inside in several ways."""
    slopes = torch.tensor(SLOPES, dtype=w.dtype, device=w.device)
    up, down = slopes.clamp_max(0).exp(), (-slopes).clamp_max(0).exp()
    rays = torch.stack([(slopes - 1) * down, down, 2 * up], dim=-1).reshape(-1, *[1] * (w.ndim - 1), 3)
    # Along a ray F falls by 3 log t, so the best t solves t ‖ray‖² − rayᵀw − 3/t = 0.
    length = rays.square().sum(-1, keepdim=True)
    t, _ = central_pair((rays * w).sum(-1, keepdim=True) / length, 3 / length)

    p, ratio = project_exponential(w), slope_of(w).exp()
    y, z = _positive(p[..., 1]), _positive(p[..., 2])
    y = torch.stack([y, y, z / ratio, _positive(w[..., 1]), y])
    z = torch.stack([z, ratio * y[0], z, _positive(w[..., 2]), 1 + p[..., 1] + p[..., 2]])
    top = y * torch.log(z / y)
    pushed = torch.stack([top - _positive(top - w[..., 0]), y, z], dim=-1)  # the best x for these y and z

    starts = torch.cat([t * rays, pushed])
    best = _prox_objective(starts, w).argmin(0)
    return starts.gather(0, best[None, ..., None].expand(1, *w.shape)).squeeze(0)


def _positive(t: Tensor) -> Tensor:
    """The positive u with u − 1/u = t."""
    return central_pair(t, torch.ones_like(t))[0]


def _prox_objective(s: Tensor, w: Tensor) -> Tensor:
    return 0.5 * (s - w).square().sum(-1) + _barrier_value(*s.unbind(-1))[0]
