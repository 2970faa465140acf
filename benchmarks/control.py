"""Linear-quadratic control with and without bounds: forward and backward, every parameter batched and with a gradient.

The table of sizes, and how time grows with the batch and with the horizon. On a CPU time is the processor's, of all
threads, so that neighbours on the machine do not count; a method gets at most seven turns or three seconds of a case.
"""

from __future__ import annotations

import contextlib
import io
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import run
from .control_problems import Control, random_control
from .method import Case, Forward, Method, Problem, by_autograd, cpu_and_double_only

COLUMNS = ("batch", "horizon", "states", "controls", "bound")
FREE, TIGHT = None, 0.5  # bounds on the controls
TABLE = [(128, 20, 8, 4, FREE), (128, 20, 8, 4, TIGHT)]
BY_BATCH = [(batch, 20, 8, 4, bound) for bound in (FREE, TIGHT) for batch in (1, 8, 32, 128, 1024)]
BY_HORIZON = [(8, horizon, 8, 4, bound) for bound in (FREE, TIGHT) for horizon in (20, 50, 200)]
QUICK = [(4, 5, 3, 2, FREE), (4, 5, 3, 2, TIGHT)]


# The methods


def ours(problem: Control) -> Forward:
    from diffopt_lib.controllers import lqr, mpc

    def solve(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor) -> Tensor:
        if not problem.bounded:
            return lqr(x_init, C, c, F).u
        return mpc(x_init, (C, c), F, C.shape[1], u_lower=-problem.bound, u_upper=problem.bound).u

    return by_autograd(problem.parameters, solve)


def mpc_pytorch(problem: Control, iterations: int = 10) -> Forward:
    """As it comes: at most 10 iterations. A linear problem needs one, for whoever knows; it can't know itself."""
    from mpc import mpc as package

    n, T, m = problem.x_init.shape[1], *problem.y_shape[1:]
    bounds = {"u_lower": -problem.bound, "u_upper": problem.bound} if problem.bounded else {}
    controller = package.MPC(
        n,
        m,
        T,
        lqr_iter=iterations,
        verbose=-1,
        exit_unconverged=False,
        detach_unconverged=False,
        eps=1e-8,
        n_batch=len(problem.x_init),
        **bounds,
    )

    def solve(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor) -> Tensor:
        cost, dynamics = package.QuadCost(C.transpose(0, 1), c.transpose(0, 1)), package.LinDx(F.transpose(0, 1))
        with contextlib.redirect_stdout(io.StringIO()):
            return controller(x_init, cost, dynamics)[1].transpose(0, 1)

    return by_autograd(problem.parameters, solve)


def as_quadratic_program(problem: Control) -> Forward:
    """:func:`diffopt_lib.layers.solve_qp` on all states and controls, the dynamics as its equalities."""
    from diffopt_lib.layers import solve_qp

    N, T, m = problem.y_shape
    n = problem.x_init.shape[1]
    k = n + m
    like = problem.x_init

    def solve(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor) -> Tensor:
        steps = torch.arange(T, device=like.device)
        Q = torch.zeros(N, T, k, T, k, dtype=like.dtype, device=like.device)
        Q[:, steps, :, steps, :] = C.transpose(0, 1)
        A = torch.zeros(N, T, n, T, k, dtype=like.dtype, device=like.device)
        A[:, steps, :, steps, :n] = -torch.eye(n, dtype=like.dtype, device=like.device)
        A[:, steps[1:], :, steps[:-1], :] = F.transpose(0, 1)
        b = torch.cat([-x_init, x_init.new_zeros(N, (T - 1) * n)], 1)
        rows = torch.eye(T * k, dtype=like.dtype, device=like.device).reshape(T, k, T * k)[:, n:].reshape(T * m, T * k)
        G = torch.cat([rows, -rows]) if problem.bounded else rows[:0]
        h = like.new_full((len(G),), problem.bound)
        y = solve_qp(Q.reshape(N, T * k, T * k), c.flatten(1), A.reshape(N, T * n, T * k), b, G, h).y
        return y.reshape(N, T, k)[..., n:]

    return by_autograd(problem.parameters, solve)


def cvxpylayers(problem: Control) -> Forward:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    _, T, m = problem.y_shape
    n = problem.x_init.shape[1]
    k = n + m
    tau, x_init, c = cp.Variable((T, k)), cp.Parameter(n), cp.Parameter((T, k))
    roots, F = [cp.Parameter((k, k)) for _ in range(T)], [cp.Parameter((n, k)) for _ in range(T - 1)]
    # A parametrised quadratic form is not DPP; the form with a square root of C is, and its gradient goes through it.
    cost = sum(0.5 * cp.sum_squares(roots[t] @ tau[t]) + c[t] @ tau[t] for t in range(T))
    constraints = [tau[0, :n] == x_init, *(tau[t + 1, :n] == F[t] @ tau[t] for t in range(T - 1))]
    constraints += [cp.abs(tau[:, n:]) <= problem.bound] if problem.bounded else []
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cost), constraints), parameters=[x_init, c, *roots, *F], variables=[tau])

    def solve(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor) -> Tensor:
        roots = torch.linalg.cholesky(0.5 * (C + C.mT)).mT
        return layer(x_init, c, *roots.unbind(1), *F.unbind(1))[0][..., n:]

    return by_autograd(problem.parameters, solve)


def free_only(problem: Control) -> str | None:
    """mpc.pytorch's backward pass with bounds raises on current torch."""
    return "its backward pass with bounds raises" if problem.bounded else None


def small_only(problem: Control) -> str | None:
    """Dense systems of all states and controls."""
    N, T, m = problem.y_shape
    large = N * T**2 > 128 * 20**2
    return "left out: takes too long" if large else None


def tiny_only(problem: Control) -> str | None:
    N, T, _ = problem.y_shape
    return cpu_and_double_only(problem) or ("left out: takes too long" if N * T > 32 * 20 else None)


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.controllers", ours, in_torch=True),
    Method("mpc.pytorch", "mpc", "mpc", mpc_pytorch, free_only, in_torch=True),
    Method("mpc.pytorch (1)", "mpc", "mpc", partial(mpc_pytorch, iterations=1), free_only, in_torch=True),
    Method("solve_qp", "diffopt_lib", "diffopt_lib.layers", as_quadratic_program, small_only, in_torch=True),
    Method("cvxpylayers", "cvxpylayers", "cvxpylayers.torch", cvxpylayers, tiny_only),
]


def cases(quick: bool) -> list[Case]:
    """The tables, in float64; the first also in float32."""
    if quick:
        return [_case("quick", sizes) for sizes in QUICK]
    named = (("table", TABLE), ("by batch", BY_BATCH), ("by horizon", BY_HORIZON))
    double = [_case(table, sizes) for table, rows in named for sizes in rows]
    return double + [_case("table", sizes, torch.float32) for sizes in TABLE]


def _case(table: str, sizes: tuple[Any, ...], dtype: torch.dtype = torch.float64) -> Case:
    return Case(table, dict(zip(COLUMNS, sizes, strict=True)), dtype)


def targets(device: str) -> list[dict[str, Any]]:
    """How many times as long as ours a method should take, at least."""
    return [{"method": "mpc.pytorch", "sizes": dict(zip(COLUMNS, TABLE[0], strict=True)), "ratio": 12}]


def measure(problem: Problem, methods: list[Method], device: torch.device, turns: int = 7) -> list[dict[str, Any]]:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    return run.measure(problem, methods, device, turns=turns, seconds=3.0, clock=clock)


problem = random_control
