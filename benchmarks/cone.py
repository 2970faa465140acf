"""Cone programs as layers: forward and backward, with the gradient of every parameter.

One case for each kind of cone, one for a product of all of them, the same for small batches, and the product again for
growing ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cone_problems import ConeProgram, Shape, clarabel_order, random_cone_program, triangle
from .method import Case, Forward, Method, Pull, by_autograd, cpu_and_double_only, double_only

PRODUCT: dict[str, Any] = {"zero": 4, "nonneg": 10, "soc": [4, 5], "psd": [4], "exp": 3}
KINDS: dict[str, dict[str, Any]] = {
    "nonneg": {"n": 20, "zero": 5, "nonneg": 30},
    "soc": {"n": 30, "nonneg": 20, "soc": [10, 10, 10]},
    "psd": {"n": 15, "nonneg": 5, "psd": [8]},
    "exp": {"n": 15, "nonneg": 10, "exp": 8},
    "product": {"n": 20} | PRODUCT,
}


# The methods


def ours(problem: ConeProgram) -> Forward:
    from diffopt_lib.layers.cone import solve_cone
    from diffopt_lib.layers.cones import Cones

    cones = Cones(**vars(problem.shape))
    return by_autograd(problem.parameters, lambda A, b, c: solve_cone(c, A, b, cones).x)


def diffcp(problem: ConeProgram) -> Forward:
    import diffcp as package
    from scipy.sparse import csc_matrix

    shape = problem.shape
    names = {"z": shape.zero, "l": shape.nonneg, "q": list(shape.soc), "s": list(shape.psd), "ep": shape.exp}
    cones = {kind: size for kind, size in names.items() if size}
    batch = len(problem.c)
    threads = torch.get_num_threads()
    # With Clarabel it puts the duals of semidefinite cones of order 4 and more in a wrong order.
    accurate = {"solve_method": "SCS", "eps_abs": 1e-9, "eps_rel": 1e-9}
    solver = accurate if max(shape.psd, default=0) > 3 else {"solve_method": "CLARABEL"}
    As, bs, cs = ([data.double().cpu().numpy() for data in parameter] for parameter in problem.parameters)

    def forward() -> tuple[Tensor, Pull]:
        xs, ys, _, _, pull_batch = package.solve_and_derivative_batch(
            [csc_matrix(A) for A in As], bs, cs, [cones] * batch,
            n_jobs_forward=threads, n_jobs_backward=threads, **solver,
        )  # fmt: skip

        def pull(cotangent: Tensor) -> list[Tensor]:
            zeros = [np.zeros_like(y) for y in ys]
            dA, db, dc = pull_batch(list(cotangent.double().cpu().numpy()), zeros, zeros)
            dense = [gradient.toarray() for gradient in dA]
            return [torch.tensor(np.array(part)) for part in (dense, db, dc)]

        return torch.tensor(np.stack(xs)), pull

    return forward


def cvxpylayers(problem: ConeProgram) -> Forward:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    shape, n = problem.shape, problem.c.shape[1]
    x, A, b, c = cp.Variable(n), cp.Parameter((shape.rows, n)), cp.Parameter(shape.rows), cp.Parameter(n)
    program = cp.Problem(cp.Minimize(c @ x), constraints(b - A @ x, shape))
    layer = CvxpyLayer(program, parameters=[A, b, c], variables=[x])
    return by_autograd(problem.parameters, lambda A, b, c: layer(A, b, c)[0])


def constraints(s, shape: Shape) -> list:
    """That the rows of an expression lie in the cones, as cvxpy says it."""
    import cvxpy as cp

    at = 0

    def take(rows: int):
        nonlocal at
        at += rows
        return s[at - rows : at]

    found = []
    if shape.zero:
        found.append(take(shape.zero) == 0)
    if shape.nonneg:
        found.append(take(shape.nonneg) >= 0)
    for size in shape.soc:
        v = take(size)
        found.append(cp.SOC(v[0], v[1:]))
    for k in shape.psd:
        found.append(cp.reshape(matrix_of_rows(k) @ take(triangle(k)), (k, k), order="F") >> 0)
    for _ in range(shape.exp):
        v = take(3)
        found.append(cp.constraints.ExpCone(v[0], v[1], v[2]))
    return found


def matrix_of_rows(k: int) -> np.ndarray:
    """The linear map from the rows of a semidefinite cone to the entries of the symmetric matrix."""
    j, i = np.triu_indices(k)
    T = np.zeros((k * k, triangle(k)))
    value = np.where(i == j, 1, np.sqrt(0.5))
    T[i + k * j, np.arange(triangle(k))] = value
    T[j + k * i, np.arange(triangle(k))] = value
    return T


def as_moreau_has_them(shape: Shape) -> Any:
    """The cones of a program."""
    import moreau as package

    return package.Cones(
        num_zero_cones=shape.zero,
        num_nonneg_cones=shape.nonneg,
        so_cone_dims=list(shape.soc),
        num_exp_cones=shape.exp,
        psd_dims=list(shape.psd),
    )


def moreau(problem: ConeProgram) -> Forward:
    import moreau as package
    from moreau.torch import Solver

    shape, (batch, n) = problem.shape, problem.c.shape
    order = torch.tensor(clarabel_order(shape), device=problem.A.device)
    cones = as_moreau_has_them(shape)
    settings = package.Settings(batch_size=batch, device=problem.A.device.type, enable_grad=True)
    nothing = torch.zeros(n + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    dense = n * torch.arange(shape.rows + 1), torch.arange(n).repeat(shape.rows)
    solver = Solver(n, shape.rows, *nothing, *dense, cones=cones, settings=settings)
    empty = problem.c.new_zeros(batch, 0)

    def solve(A: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return solver.solve(empty, A[:, order].flatten(1), c, b[:, order]).x

    return by_autograd(problem.parameters, solve)


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.layers.cone", ours, in_torch=True),
    Method("diffcp", "diffcp", "diffcp", diffcp, cpu_and_double_only),
    Method("cvxpylayers", "cvxpylayers", "cvxpylayers.torch", cvxpylayers, cpu_and_double_only),
    Method("Moreau", "moreau", "moreau.torch", moreau, double_only),
]


# The cases


def cases(quick: bool) -> list[Case]:
    """Each kind of cone, also for one program and for eight, and growing batches of a product of all."""
    if quick:
        return [Case("quick", {"batch": 2} | sizes, torch.float64) for sizes in KINDS.values()]
    kinds = [Case("table", {"batch": 32} | sizes, torch.float64) for sizes in KINDS.values()]
    batches = [Case("by batch", {"batch": batch, "n": 20} | PRODUCT, torch.float64) for batch in (1, 8, 32, 128)]
    small = [Case("small", {"batch": batch} | sizes, torch.float64) for batch in (1, 8) for sizes in KINDS.values()]
    return kinds + batches + small + [Case("table", {"batch": 32} | sizes, torch.float32) for sizes in KINDS.values()]


def targets(device: str) -> list[dict[str, Any]]:
    """None were set."""
    return []


problem = random_cone_program
