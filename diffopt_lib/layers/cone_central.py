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
from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_exponential import exponential_jacobian, projection_and_ratio
from .cone_symmetric import (
    central_pair,
    odds,
    second_order_frame,
    second_order_matrix,
    second_order_sums,
    semidefinite_matrix,
    semidefinite_sums,
    share,
    to_matrix,
    to_vector,
)
from .cones import Block, BlockDiagonal, Cones

# In the place of 0 where a matrix I − D is singular; see Slope.
LEAST = 1e-8

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


@dataclass(frozen=True)
class Slope:
    """How a pair (y, s) moves with v: dy = D dv and ds = (D − I) dv.

    Attributes:
        D: block-diagonal, with eigenvalues between 0 and 1.
        W: D (I − D + LEAST · I)⁻¹, so that dy = −W ds up to LEAST.
        rate: ∂y/∂μ = ∂s/∂μ, ``(B, m)``.
    """

    D: BlockDiagonal
    W: BlockDiagonal
    rate: Tensor


def slope(v: Tensor, s: Tensor, mu: Tensor, cones: Cones) -> Slope:
    """The slope of the central pair of v ``(B, m)``, whose s ``(B, m)`` is known, for μ > 0."""
    parts = [_central_slope(block, block.of(v), block.of(s), mu[:, None, None]) for block in cones.blocks]
    D, W, rates = zip(*parts, strict=True) if parts else ((), (), ())
    rate = torch.cat([*(rate.flatten(-2) for rate in rates), v[..., :0]], dim=-1)
    return Slope(BlockDiagonal(cones, D), BlockDiagonal(cones, W), rate)


def projection_slope(v: Tensor, cones: Cones) -> Slope:
    """The same in the limit μ = 0, where y and s are projections; the rate is 0."""
    zero = torch.zeros_like(v[..., :1, None])  # and s is only asked for where the cone is exponential
    parts = [
        _exponential_limit(block.of(v))
        if block.kind == "exp"
        else _central_slope(block, block.of(v), block.of(v), zero)[:2]
        for block in cones.blocks
    ]
    D, W = zip(*parts, strict=True) if parts else ((), ())
    return Slope(BlockDiagonal(cones, D), BlockDiagonal(cones, W), torch.zeros_like(v))


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


def _central_slope(block: Block, v: Tensor, s: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D, W and the rate of one block."""
    if block.kind == "zero":
        one = torch.ones_like(v).unsqueeze(-1)
        return one, one / LEAST, torch.zeros_like(v)
    if block.kind == "nonneg":
        p, q = central_pair(v, mu)
        return share(p, q).unsqueeze(-1), odds(p, q, LEAST).unsqueeze(-1), 1 / (p + q)
    if block.kind == "soc":
        eigenvalues, frame = second_order_frame(v)
        p, q = central_pair(eigenvalues, mu)
        sums = second_order_sums(p, q)
        D = second_order_matrix(frame, share(p, q), share(*sums))
        W = second_order_matrix(frame, odds(p, q, LEAST), odds(*sums, LEAST))
        return D, W, _along(frame, 1 / (p + q))
    if block.kind == "psd":
        eigenvalues, V = torch.linalg.eigh(to_matrix(v))
        p, q = central_pair(eigenvalues, mu)
        sums = semidefinite_sums(p, q)
        D, W = semidefinite_matrix(V, share(*sums)), semidefinite_matrix(V, odds(*sums, LEAST))
        return D, W, _with_eigenvalues(V, 1 / (p + q))
    _, gradient, hessian = barrier(s)
    identity = torch.eye(3, dtype=v.dtype, device=v.device)
    of_s = torch.linalg.inv(identity + mu.unsqueeze(-1) * hessian)
    return identity - of_s, mu.unsqueeze(-1) * hessian, -(of_s @ gradient.unsqueeze(-1)).squeeze(-1)


def _exponential_limit(v: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(3, dtype=v.dtype, device=v.device)
    D = identity - exponential_jacobian(-v)
    return D, D @ torch.linalg.inv((1 + LEAST) * identity - D)


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
    direction, decrement = _newton(s, w)
    far = ~(decrement < 4)
    if far.any():
        s = s.clone()
        s[far] = _best_start(w[far])
        direction, decrement = _newton(s, w)
    enough = 1e-9 * (1 + 1e-8 * w.square().amax(-1))
    for _ in range(max_steps):
        full, damped = s + direction, s + direction / (1 + decrement.sqrt().unsqueeze(-1))
        whole = decrement < 0.05
        if not whole.all():
            whole = whole | (_prox_objective(full, w) < _prox_objective(damped, w))
        s = torch.where(whole.unsqueeze(-1), full, damped)
        if (decrement <= enough).all():
            break
        direction, decrement = _newton(s, w)
    return s * root


def _newton(s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's direction for ½ ‖s − w‖² + F(s) and the square of its decrement, infinite outside the cone."""
    value, gradient, hessian = barrier(s)
    gradient = gradient + s - w
    hessian = hessian + torch.eye(3, dtype=w.dtype, device=w.device)
    direction, _ = torch.linalg.solve_ex(hessian, -gradient)
    decrement = -(gradient * direction).sum(-1)
    return direction, torch.where(torch.isfinite(value + decrement), decrement, torch.inf).clamp_min(0)


def _best_start(w: Tensor) -> Tensor:
    """The best of: the minimisers along rays of many slopes, and w and its projection pushed inside in several ways."""
    slopes = torch.tensor(SLOPES, dtype=w.dtype, device=w.device)
    up, down = slopes.clamp_max(0).exp(), (-slopes).clamp_max(0).exp()
    rays = torch.stack([(slopes - 1) * down, down, 2 * up], dim=-1).reshape(-1, *[1] * (w.ndim - 1), 3)
    # Along a ray F falls by 3 log t, so the best t solves t ‖ray‖² − rayᵀw − 3/t = 0.
    length = rays.square().sum(-1, keepdim=True)
    t, _ = central_pair((rays * w).sum(-1, keepdim=True) / length, 3 / length)

    p, ratio = projection_and_ratio(w)
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
