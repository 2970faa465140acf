"""From the end of the path to the plan exactly on its bounds, and how far a plan is from being optimal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...controllers.mpc.kkt import KKT, assemble, solve_system
from .battery import Battery, room_of


class Candidate(NamedTuple):
    """τ, λ and the multipliers of both bounds together, positive where the upper one pushes, ``(T, N, ·, 1)``."""

    tau: Tensor
    costate: Tensor
    push: Tensor


def hold(battery: Battery, side: Tensor) -> tuple[KKT, Candidate]:
    """The system with these bounds held, ``(T, N, 3, 1)``: −1, 0 or 1, and its solution."""
    T = len(side)
    rows = battery.to_level.expand(T, -1, -1, -1)
    controls, level = side[..., :2, :], side[..., 2:, :]
    H, rigid = battery.C.expand(T, -1, -1, -1), torch.zeros_like(level)
    kkt = assemble(H, rows[1:], controls != 0, rows, level != 0, rigid)
    at = torch.where(side > 0, battery.upper, 0)
    f = battery.c.new_zeros(T - 1, side.shape[1], 1, 1)
    solution, mu = solve_system(kkt, battery.c, f, battery.start[0], at[..., :2, :], at[..., 2:, :])
    return kkt, Candidate(solution.tau, solution.costate, torch.cat([solution.nu, mu], -2))


def choose(
    battery: Battery, kkt: KKT, side: Tensor, on_bounds: Candidate, tau: Tensor, push: Tensor
) -> tuple[Candidate, Tensor]:
    """The plan on its bounds, with its own multipliers or those of the path, or the end of the path; and its error.

    A battery that is full can neither charge nor be filled: such bounds depend on each other, and their multipliers,
    which then are not unique, may come with wrong signs from a solve that knows the bounds but not the signs. Those of
    the path have the right ones. Both are mended by one more solve: multipliers of the path lack what was rounded when
    they were divided by slacks close to 0.
    """
    nothing = torch.zeros_like(tau[..., :1, :])

    def mend(it: Candidate) -> Candidate:
        more, mu = solve_system(kkt, _stationarity(battery, it), nothing[1:], nothing[0], None, nothing)
        whole = (more.tau, more.costate, torch.cat([more.nu, mu], -2))
        return Candidate(*(a + b for a, b in zip(it, whole, strict=True)))

    path = with_costates(battery, tau, push)
    with_signs = with_costates(battery, on_bounds.tau, torch.where(side != 0, push, 0))
    best, error = on_bounds, error_of(battery, on_bounds)
    for plan in (mend(with_signs), mend(path), path):
        new = error_of(battery, plan)
        best = Candidate(*(torch.where((new < error)[:, None, None], *pair) for pair in zip(plan, best, strict=True)))
        error = torch.minimum(new, error)
    return best, error


def with_costates(battery: Battery, tau: Tensor, push: Tensor) -> Candidate:
    """With the costates that make the states' part of the conditions hold: what is pushed from hour t on."""
    slope = torch.matmul(battery.C, tau) + battery.c + torch.matmul(battery.E.mT, push)
    return Candidate(tau, slope[..., :1, :].flip(0).cumsum(0).flip(0), push)


def _stationarity(battery: Battery, it: Candidate) -> Tensor:
    """What is left of the first of the conditions, ``(T, N, 3, 1)``."""
    future = torch.nn.functional.pad(it.costate[1:], (0, 0, 0, 0, 0, 0, 0, 1))
    slope = torch.matmul(battery.C, it.tau) + battery.c + torch.matmul(battery.E.mT, it.push)
    return slope + battery.to_level.mT * future - torch.nn.functional.pad(it.costate, (0, 0, 0, 2))


def error_of(battery: Battery, it: Candidate) -> Tensor:
    """The largest violation of the optimality conditions, ``(N,)``."""
    tau, _, push = it
    slope = _stationarity(battery, it)
    room = room_of(battery, tau)
    left = torch.where(push == 0, 0, push.abs() * torch.where(push > 0, room[..., 1:], room[..., :1]).abs())
    terms = (slope / battery.size, room.clamp_max(0) / battery.capacity, left / (battery.size * battery.capacity))
    return torch.stack([term.abs().amax((0, 2, 3)) for term in terms]).amax(0).nan_to_num(nan=torch.inf)
