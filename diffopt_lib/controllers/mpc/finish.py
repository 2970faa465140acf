"""From a point whose active bounds and rows are right to the solution, and the system that differentiates it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ...solution import SOLVED, STUCK, UNDEFINED
from .derivative import conditions, stage_values, weights
from .kkt import KKT, assemble
from .layout import STORED, Layout, load, solve_for, store, time_first

STEPS = 4  # of Newton's method, at most


class Polished(NamedTuple):
    """z ``(*batch, ·)``, the status and residual of every element, and the factorised system there."""

    z: Tensor
    status: Tensor
    residual: Tensor
    stored: list[Tensor]


def polish(
    f: Callable[..., Tensor],
    layout: Layout,
    z: Tensor,
    theta: tuple[Tensor, ...],
    side: Tensor,
    active: Tensor,
    status: Tensor,
    tolerance: float,
    gauss_newton: bool,
) -> Polished:
    """Newton's method on the optimality conditions with the active bounds ``side`` and rows ``active`` held.

    It ends with a look at second-order conditions: the control blocks of the exact Hessian are positive definite, on
    the free controls and along the active rows, if and only if z is a strict local minimum there.
    """
    placeholders = [z.new_zeros(())] * STORED
    for k in range(STEPS + 1):
        exact = linearise(f, layout, z, theta, side, active)
        left = conditions(f, layout, z, *theta, side, active, *placeholders)
        residual = largest(left) / scale(f, layout, z, theta)
        if k == STEPS or (residual[status == SOLVED] <= 1e-3 * tolerance).all():
            break
        stored = store(exact, z.shape[:-1])
        step = solve_for(layout, load(stored, z.shape[:-1]), -left, side, active)
        good = (status == SOLVED) & torch.isfinite(step).all(-1) & (residual > 1e-3 * tolerance)
        z = torch.where(good.unsqueeze(-1), z + step, z)
    status = torch.where((status == SOLVED) & ~(residual <= tolerance), STUCK, status)
    sound = exact.factor.sound.all(0).reshape(status.shape)
    status = torch.where((status == SOLVED) & ~sound, UNDEFINED, status)
    system = linearise(f, layout, z, theta, side, active, gauss_newton=True) if gauss_newton else exact
    return Polished(z, status, residual, store(system, z.shape[:-1]))


def linearise(
    f: Callable[..., Tensor],
    layout: Layout,
    z: Tensor,
    theta: Sequence[Tensor],
    side: Tensor,
    active: Tensor,
    gauss_newton: bool = False,
) -> KKT:
    """The system (1) of :mod:`.kkt` at z; ``gauss_newton`` drops the curvature of dynamics and constraints."""
    tau, costate, _, mu = layout.split(z)
    theta = tuple(theta)
    values, pull = torch.func.vjp(lambda tau: stage_values(f, theta, tau), tau)
    basis = torch.eye(values.shape[-1], dtype=z.dtype, device=z.device)
    J = torch.func.vmap(lambda e: pull(e.expand(values.shape))[0])(basis).movedim(0, -2)
    w = weights(layout, 0 * costate, 0 * mu) if gauss_newton else weights(layout, costate, active * mu)

    def gradient(tau: Tensor) -> Tensor:
        return torch.func.vjp(lambda tau: stage_values(f, theta, tau), tau)[1](w)[0]

    g, pull = torch.func.vjp(gradient, tau)
    basis = torch.eye(tau.shape[-1], dtype=z.dtype, device=z.device)
    H = torch.func.vmap(lambda e: pull(e.expand(g.shape))[0])(basis).movedim(0, -2)
    n = layout.n
    N = z.shape[:-1].numel()
    parts = (H, J[..., 1 : 1 + n, :], J[..., 1 + n :, :])
    H, F, G = (M.reshape(N, *M.shape[-3:]).movedim(1, 0).double() for M in parts)
    return assemble(torch.lerp(H, H.mT, 0.5), F[:-1], time_first(side) != 0, G, time_first(active) != 0)


def scale(f: Callable[..., Tensor], layout: Layout, z: Tensor, theta: tuple[Tensor, ...]) -> Tensor:
    """What the residual is relative to: 1 + the largest entries of costates and states, ``(*batch,)``."""
    tau, costate, _, _ = layout.split(z)
    return 1 + torch.maximum(largest(costate, (-2, -1)), largest(tau, (-2, -1)))
