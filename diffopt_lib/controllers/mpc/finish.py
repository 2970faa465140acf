"""From a point whose active bounds and rows are nearly right to the solution, and the system that differentiates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, or_one
from ...solution import SOLVED, STUCK, UNDEFINED
from .derivative import Active, conditions, stage_values, weights
from .kkt import KKT, assemble
from .layout import STORED, Layout, load, solve_for, store, time_first

STEPS = 5  # of Newton's method, at most
ROUNDED = {torch.float64: 1e-6, torch.float32: 1e-3}  # what the size of a coordinate gets from the largest one
SLIP = {torch.float64: 1e-10, torch.float32: 1e-5}  # relative violation of a sign that is taken for rounding


class Problem(NamedTuple):
    """The stages, where things are in z, and (x_init, lower, upper, t, *hidden)."""

    f: Callable[..., Tensor]
    layout: Layout
    theta: tuple[Tensor, ...]


class Polished(NamedTuple):
    """z ``(*batch, ·)``, the status and residual of every element, what is active, whether that is confirmed, and the
    factorised system there."""

    z: Tensor
    status: Tensor
    residual: Tensor
    active: Active
    confirmed: Tensor
    stored: list[Tensor]


class Linearised(NamedTuple):
    """The system (1) of :mod:`.kkt` at a point, the residual there and by how much signs are violated, both relative
    and ``(*batch,)``, and the active bounds and rows that these signs suggest."""

    kkt: KKT
    left: Tensor
    residual: Tensor
    wrong: Tensor
    suggested: Active


def polish(
    problem: Problem, z: Tensor, active: Active, status: Tensor, tolerance: float, gauss_newton: bool
) -> Polished:
    """Newton's method on the optimality conditions, in which bounds and rows are active as long as their signs agree.

    It ends with a look at second-order conditions: the control blocks of the exact Hessian are positive definite, on
    the free controls and along the active rows, if and only if z is a strict local minimum there.
    """
    batch, slip = z.shape[:-1], SLIP[z.dtype]
    for k in range(STEPS + 1):
        at = linearise(problem, z, active)
        unfinished = (status == SOLVED) & ((at.residual > 1e-3 * tolerance) | (at.wrong > slip))
        if k == STEPS or not unfinished.any():
            break
        changed = unfinished & (at.wrong > slip)
        if changed.any():
            active = Active(*(torch.where(_like(changed, a), b, a) for a, b in zip(active, at.suggested, strict=True)))
            at = linearise(problem, z, active)
        step = solve_for(problem.layout, load(store(at.kkt, batch), batch), -at.left, active)
        z = torch.where((unfinished & torch.isfinite(step).all(-1)).unsqueeze(-1), z + step, z)
    residual = torch.maximum(at.residual, at.wrong)
    sound = at.kkt.factor.sound.all(0).reshape(status.shape)
    status = torch.where((status == SOLVED) & ~sound, UNDEFINED, status)
    status = torch.where((status == SOLVED) & ~(residual <= tolerance), STUCK, status)
    kkt = linearise(problem, z, active, gauss_newton=True).kkt if gauss_newton else at.kkt
    return Polished(z, status, residual, active, at.wrong <= slip, store(kkt, batch))


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask[..., None, None].expand(x.shape)


def linearise(problem: Problem, z: Tensor, active: Active, gauss_newton: bool = False) -> Linearised:
    """What is known at z; ``gauss_newton`` drops the curvature of dynamics and constraints from the system."""
    f, layout, theta = problem
    tau, costate, nu, mu = layout.split(z)
    values, pull = torch.func.vjp(lambda tau: stage_values(f, theta, tau), tau)
    basis = torch.eye(values.shape[-1], dtype=z.dtype, device=z.device)
    J = torch.func.vmap(lambda e: pull(e.expand(values.shape))[0])(basis).movedim(0, -2)
    on = active.rows * mu
    w = weights(layout, 0 * costate, 0 * mu) if gauss_newton else weights(layout, costate, on)

    def gradient(tau: Tensor) -> Tensor:
        return torch.func.vjp(lambda tau: stage_values(f, theta, tau), tau)[1](w)[0]

    g, pull = torch.func.vjp(gradient, tau)
    basis = torch.eye(tau.shape[-1], dtype=z.dtype, device=z.device)
    H = torch.func.vmap(lambda e: pull(e.expand(g.shape))[0])(basis).movedim(0, -2)
    N, n = z.shape[:-1].numel(), layout.n
    parts = (H, J[..., 1 : 1 + n, :], J[..., 1 + n :, :])
    of_stage, F, G = (M.reshape(N, *M.shape[-3:]).movedim(1, 0).double() for M in parts)
    side, rows, elastic = (time_first(t) for t in active)
    kkt = assemble(torch.lerp(of_stage, of_stage.mT, 0.5), F[:-1], side != 0, G, rows != 0, elastic.double())
    left = conditions(f, layout, z, *theta, *active, *([z.new_zeros(())] * STORED))
    residual, wrong, suggested = _judge(problem, z, active, left, values, J, H)
    return Linearised(kkt, left, residual, wrong, suggested)


def _judge(
    problem: Problem, z: Tensor, active: Active, left: Tensor, values: Tensor, J: Tensor, H: Tensor
) -> tuple[Tensor, Tensor, Active]:
    """The residual and the wrong signs, each relative to what was added up in its coordinate (at whatever time that was
    most), and the active bounds and rows that the signs suggest."""
    layout, n = problem.layout, problem.layout.n
    tau, costate, nu, mu = layout.split(z)
    _, lower, upper = problem.theta[:3]
    side, rows, elastic = active
    F, G, g, u = J[..., 1 : 1 + n, :], J[..., 1 + n :, :], layout.rows(values), tau[..., n:]
    reach = tau.abs().unsqueeze(-1)
    future = torch.nn.functional.pad(costate[..., 1:, :], (0, 0, 0, 1)).abs().unsqueeze(-2)
    slope = J[..., 0, :].abs() + (future @ F.abs()).squeeze(-2) + (mu.abs().unsqueeze(-2) @ G.abs()).squeeze(-2)
    slope = slope + torch.cat([costate, nu], -1).abs() + (H.abs() @ reach).squeeze(-1)
    arrived = torch.nn.functional.pad((F.abs() @ reach).squeeze(-1)[..., :-1, :], (0, 0, 1, 0))
    motion = tau[..., :n].abs() + arrived
    near = u.abs() + torch.maximum(*(torch.where(b.isfinite(), b, 0).abs() for b in (lower, upper)))
    of_rows = (G.abs() @ reach).squeeze(-1) + g.abs()
    sizes = [slope, motion, near, of_rows + elastic * mu]
    residual = _worst(layout.split(left), sizes)

    outside = torch.where(u > upper, u - upper, torch.where(u < lower, lower - u, 0)) * (side == 0)
    pushed = (-side * nu).clamp_min(0) * (lower < upper)
    broken, pulled = g.clamp_min(0) * (rows == 0), (-mu).clamp_min(0) * (rows != 0)
    price = slope.amax((-2, -1), keepdim=True) / or_one(G.abs().amax((-3, -1)).unsqueeze(-2))  # a μ of this size counts
    wrong = _worst([outside, pushed, broken, pulled], [near, slope[..., n:], of_rows, price])

    def much(violation: Tensor, size: Tensor) -> Tensor:
        return violation > SLIP[z.dtype] * size.amax(-2, keepdim=True)

    entered = torch.where(u > upper, 1.0, -1.0).to(z.dtype) * much(outside, near)
    side = torch.where(side == 0, entered, torch.where(much(pushed, slope[..., n:]), 0, side))
    rows = torch.where(rows == 0, much(broken, of_rows).to(z.dtype), torch.where(much(pulled, price), 0, rows))
    return residual, wrong, Active(side, rows, elastic)


def _worst(errors: list[Tensor], sizes: list[Tensor]) -> Tensor:
    """The largest |error| ``(*batch, T, ·)`` relative to the size of its coordinate, ``(*batch,)``. Other coordinates
    count a little too, as they are rounded."""
    worst = []
    for error, size in zip(errors, sizes, strict=True):
        size = size.amax(-2)
        size = size + ROUNDED[size.dtype] * largest(size).unsqueeze(-1)
        worst.append(largest(largest(error, -2) / or_one(size)))
    return torch.stack(torch.broadcast_tensors(*worst)).amax(0)
