"""Quadratic programs as layers: forward and backward, every parameter batched and with a gradient.

The table of sizes, and how time grows with the number of variables and with the batch.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .method import Case, Forward, Method, Pull, by_autograd, cpu_and_double_only, double_only
from .qp_problems import QP, random_qp

COLUMNS = ("batch", "n", "inequalities", "equalities")
TABLE = [(128, 10, 10, 5), (512, 20, 20, 0), (128, 50, 50, 10), (128, 100, 100, 20)]
BY_SIZE = [(64, n, n, n // 5) for n in (10, 20, 50, 100, 200)]
BY_BATCH = [(batch, 50, 50, 10) for batch in (1, 8, 32, 128, 512)]
SMALL = [(batch, n, m, k) for batch in (1, 8) for _, n, m, k in TABLE]
QUICK = [(8, 10, 10, 5), (8, 20, 20, 0)]
LARGEST_SAFE_LU = 128
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


# The methods


def ours(problem: QP) -> Forward:
    from diffopt_lib.layers.qp import solve_qp

    return by_autograd(problem.parameters, lambda Q, p, A, b, G, h: solve_qp(Q, p, A, b, G, h).y)


def qpth(problem: QP) -> Forward:
    from qpth.qp import QPFunction

    def solve(Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        empty = A.shape[1] == 0
        nothing = A.new_zeros(0)
        return QPFunction(verbose=-1)(Q, p, G, h, nothing if empty else A, nothing if empty else b)

    if problem.A.shape[1]:
        return by_autograd(problem.parameters, solve)
    return without_equalities(problem, lambda Q, p, G, h: solve(Q, p, problem.A, problem.b, G, h))


def qplayer(problem: QP) -> Forward:
    from proxsuite.torch import qplayer as package

    # It uses half of the cores it counts. Counting twice the threads that torch may use gives it as many.
    package.os = SimpleNamespace(cpu_count=lambda: 2 * torch.get_num_threads())
    layer = package.QPFunction(eps=TOLERANCE[torch.float64], omp_parallel=True)
    lower = torch.full_like(problem.h, -1e20)

    def solve(Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        return layer(Q, p, A, b, G, lower, h)[0]

    if problem.A.shape[1]:
        return by_autograd(problem.parameters, solve)
    return without_equalities(problem, lambda Q, p, G, h: solve(Q, p, problem.A, problem.b, G, h))


def without_equalities(problem: QP, solve) -> Forward:
    """For methods whose backward pass gives no gradient of empty equalities."""
    forward = by_autograd([problem.Q, problem.p, problem.G, problem.h], solve)

    def padded() -> tuple[Tensor, Pull]:
        y, pull = forward()

        def pull_padded(cotangent: Tensor) -> list[Tensor]:
            dQ, dp, dG, dh = pull(cotangent)
            return [dQ, dp, torch.zeros_like(problem.A), torch.zeros_like(problem.b), dG, dh]

        return y, pull_padded

    return padded


def moreau(problem: QP) -> Forward:
    import moreau as package
    from moreau.torch import Solver

    batch, n = problem.p.shape
    k, m = problem.b.shape[1], problem.h.shape[1]

    def dense_rows(rows: int) -> tuple[Tensor, Tensor]:
        """Offsets and column numbers of a dense matrix with n columns in compressed rows."""
        return n * torch.arange(rows + 1), torch.arange(n).repeat(rows)

    device = problem.p.device.type
    settings = package.Settings(batch_size=batch, device=device, enable_grad=True)
    cones = package.Cones(num_zero_cones=k, num_nonneg_cones=m)
    solver = Solver(n, k + m, *dense_rows(n), *dense_rows(k + m), cones=cones, settings=settings)

    def solve(Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        rows, bounds = torch.cat([A, G], 1), torch.cat([b, h], 1)
        return solver.solve(Q.flatten(1), rows.flatten(1), p, bounds).x

    return by_autograd(problem.parameters, solve)


def cvxpylayers(problem: QP) -> Forward:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    n, k, m = problem.p.shape[1], problem.b.shape[1], problem.h.shape[1]
    y = cp.Variable(n)
    root, p, G, h = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    equalities = [cp.Parameter((k, n)), cp.Parameter(k)] if k else []
    constraints = [G @ y <= h] + ([equalities[0] @ y == equalities[1]] if k else [])
    # A parametrised quadratic form is not DPP; the form with a square root of Q is, and its gradient goes through it.
    program = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(root @ y) + p @ y), constraints)
    layer = CvxpyLayer(program, parameters=[root, p, *equalities, G, h], variables=[y])

    def solve(Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        root = torch.linalg.cholesky(0.5 * (Q + Q.mT)).mT
        return layer(root, p, *([A, b] if k else []), G, h)[0]

    if k:
        return by_autograd(problem.parameters, solve)
    return without_equalities(problem, lambda Q, p, G, h: solve(Q, p, problem.A, problem.b, G, h))


def qpax(problem: QP) -> Forward:
    import jax
    import numpy as np
    from qpax import solve_qp_primal

    double = problem.p.dtype == torch.float64
    jax.config.update("jax_enable_x64", double)
    arrays = [jax.numpy.asarray(parameter.cpu().numpy()) for parameter in problem.parameters]
    # By default the gradient is that of a smoothed problem (target_kappa=1e-3); here it is as sharp as the solver.
    tolerance = TOLERANCE[problem.p.dtype]
    solve = jax.vmap(lambda *data: solve_qp_primal(*data, solver_tol=tolerance, target_kappa=tolerance))
    run_forward = jax.jit(lambda data: jax.vjp(lambda *data: solve(*data), *data))
    run_backward = jax.jit(lambda pull, cotangent: pull(cotangent))

    def to_torch(array) -> Tensor:
        return torch.from_numpy(np.array(array))

    def forward() -> tuple[Tensor, Pull]:
        y, pull = jax.block_until_ready(run_forward(arrays))

        def pull_back(cotangent: Tensor) -> list[Tensor]:
            grads = jax.block_until_ready(run_backward(pull, jax.numpy.asarray(cotangent.cpu().numpy())))
            return [to_torch(gradient) for gradient in grads]

        return to_torch(y), pull_back

    return forward


def factors_safely(problem: QP) -> str | None:
    """qpth's limit is torch's: its LU factorisation of several large matrices on the CPU is wrong with several threads.

    MKL then reports "Parameter 6 was incorrect on entry to DLASWP", and the call fails, hangs or gives wrong numbers;
    https://github.com/pytorch/pytorch/issues/142815. The largest matrix that qpth factors has a row for each constraint
    or for each variable.
    """
    order = max(problem.p.shape[1], problem.b.shape[1] + problem.h.shape[1])
    batched = problem.p.shape[0] > 1 and order > LARGEST_SAFE_LU
    broken = batched and torch.get_num_threads() > 1 and problem.p.device.type == "cpu"
    return "torch's batched LU fails on several threads at this size" if broken else None


def small_only(problem: QP) -> str | None:
    """cvxpylayers needs minutes beyond this."""
    large = problem.p.shape[0] * problem.p.shape[1] ** 2 > 128 * 50**2
    return cpu_and_double_only(problem) or ("left out: takes too long" if large else None)


def enough_cores(problem: QP) -> str | None:
    """Work in XLA's thread pool waits for other work there: with two threads and large factorisations, for ever."""
    waits = (os.cpu_count() or 1) < 4 and problem.p.shape[1] >= 50
    return "hangs on fewer than four cores" if waits and problem.p.device.type == "cpu" else None


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.layers.qp", ours, in_torch=True),
    Method("qpth", "qpth", "qpth.qp", qpth, factors_safely, in_torch=True),
    Method("QPLayer", "proxsuite", "proxsuite.torch.qplayer", qplayer, cpu_and_double_only),
    Method("Moreau", "moreau", "moreau.torch", moreau, double_only),
    Method("qpax", "qpax", "qpax", qpax, enough_cores),
    Method("cvxpylayers", "cvxpylayers", "cvxpylayers.torch", cvxpylayers, small_only),
]


def cases(quick: bool) -> list[Case]:
    """The sizes of the tables, also for one program and for eight, in both precisions where float32 is the question."""
    if quick:
        return [_case("quick", sizes) for sizes in QUICK]
    named = (("table", TABLE), ("by size", BY_SIZE), ("by batch", BY_BATCH), ("small", SMALL))
    both = [_case(table, sizes) for table, rows in named for sizes in rows]
    return both + [_case("table", sizes, torch.float32) for sizes in TABLE]


def _case(table: str, sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float64) -> Case:
    return Case(table, dict(zip(COLUMNS, sizes, strict=True)), dtype)


TARGETS: dict[str, dict[tuple[int, int, int, int], float]] = {
    "qpth": dict(zip(TABLE, (4, 4, 3, 2), strict=True)),
    "QPLayer": dict(zip(TABLE, (3, 3, 2, 1), strict=True)),
    "Moreau": dict(zip(TABLE, (1 / 2, 1 / 1.5, 1, 1), strict=True)),
    "cvxpylayers": {TABLE[2]: 10},
}
TARGETS_ON_GPU: dict[str, dict[tuple[int, int, int, int], float]] = {"qpth": dict.fromkeys(TABLE, 10)}


def targets(device: str) -> list[dict[str, Any]]:
    """What we set out to reach in the float64 table: how many times as long as ours a method should take, at least."""
    chosen = TARGETS_ON_GPU if device == "cuda" else TARGETS
    return [
        {"method": method, "sizes": dict(zip(COLUMNS, sizes, strict=True)), "ratio": ratio}
        for method, ratios in chosen.items()
        for sizes, ratio in ratios.items()
    ]


problem = random_qp
