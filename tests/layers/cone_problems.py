"""Random cone programs that have a unique, nondegenerate solution, and the same programs in CVXPY's words."""

import math

import numpy as np
import torch

from diffopt_lib.layers.cones import Cones, project, project_dual

DOUBLE = torch.float64

# Products of every kind of cone, and the number of variables.
PROBLEMS = {
    "linear": (Cones(zero=3, nonneg=20), 10),
    "second-order": (Cones(zero=2, nonneg=5, soc=[3, 3, 4, 6]), 10),
    "semidefinite": (Cones(nonneg=4, psd=[2, 5]), 8),
    "exponential": (Cones(nonneg=5, exp=5), 8),
    "product": (Cones(zero=2, nonneg=4, soc=[3, 4], psd=[3], exp=2), 10),
}


def times(M, v):
    return (M @ v.unsqueeze(-1)).squeeze(-1)


def interior(cones: Cones, batch, generator, dual=False):
    """A random point inside K, or inside K*: a point of the cone plus a fixed point of its interior."""
    centre = torch.zeros(cones.rows, dtype=DOUBLE)
    for block in cones.blocks:
        rows = centre[block.start : block.start + block.count * block.size].view(block.count, block.size)
        if block.kind == "nonneg":
            rows += 1
        elif block.kind == "soc":
            rows[:, 0] = 1
        elif block.kind == "psd":
            k = (math.isqrt(8 * block.size + 1) - 1) // 2
            rows[:, [i * k - i * (i - 1) // 2 for i in range(k)]] = 1
        elif block.kind == "exp":
            rows += torch.tensor([-1.0, 0.5, 1.2], dtype=DOUBLE)  # inside both the cone and its dual
    v = torch.randn(*batch, cones.rows, dtype=DOUBLE, generator=generator)
    return (project_dual if dual else project)(v, cones) + 0.3 * centre


def random_program(cones: Cones, n: int, batch=(), seed=0):
    """c, A, b with a strictly feasible primal and dual point, so that a solution exists; almost surely it is unique."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(*batch, cones.rows, n, dtype=DOUBLE, generator=generator)
    x = torch.randn(*batch, n, dtype=DOUBLE, generator=generator)
    s, y = interior(cones, batch, generator), interior(cones, batch, generator, dual=True)
    y[..., : cones.zero] = torch.randn(*batch, cones.zero, dtype=DOUBLE, generator=generator)
    return -times(A.mT, y), A, times(A, x) + s


def infeasible_program(cones: Cones, n: int, batch=(), seed=0):
    """The random program, changed so that some y in K* has Aᵀy = 0 and bᵀy = −1."""
    c, A, b = random_program(cones, n, batch, seed)
    y = interior(cones, batch, torch.Generator().manual_seed(seed + 100), dual=True)
    yy = (y * y).sum(-1, keepdim=True)
    A = A - y.unsqueeze(-1) * (times(A.mT, y) / yy).unsqueeze(-2)
    return c, A, b - y * ((b * y).sum(-1, keepdim=True) + 1) / yy


def unbounded_program(cones: Cones, n: int, batch=(), seed=0):
    """The random program, changed so that some x has −Ax in K and cᵀx = −1."""
    c, A, b = random_program(cones, n, batch, seed)
    generator = torch.Generator().manual_seed(seed + 200)
    s, x = interior(cones, batch, generator), torch.randn(*batch, n, dtype=DOUBLE, generator=generator)
    xx = (x * x).sum(-1, keepdim=True)
    A = A - (times(A, x) + s).unsqueeze(-1) * (x / xx).unsqueeze(-2)
    return c - x * ((c * x).sum(-1, keepdim=True) + 1) / xx, A, b


def in_cvxpy(c, A, b, cones: Cones):
    """(variable, problem, constraints) of one program, its cones written as CVXPY writes them."""
    import cvxpy as cp

    x = cp.Variable(len(c))
    s = b.numpy() - A.numpy() @ x
    constraints = []
    for block in cones.blocks:
        for i in range(block.count):
            rows = s[block.start + i * block.size : block.start + (i + 1) * block.size]
            if block.kind == "zero":
                constraints.append(rows == 0)
            elif block.kind == "nonneg":
                constraints.append(rows >= 0)
            elif block.kind == "soc":
                constraints.append(cp.SOC(rows[0], rows[1:]))
            elif block.kind == "psd":
                constraints.append(as_matrix(rows, block.size) >> 0)
            else:
                constraints.append(cp.ExpCone(rows[0:1], rows[1:2], rows[2:3]))
    return x, cp.Problem(cp.Minimize(c.numpy() @ x), constraints)


def as_matrix(rows, size):
    """The symmetric matrix of a vector of its lower triangle, column by column, off the diagonal times √2."""
    k = (math.isqrt(8 * size + 1) - 1) // 2
    fill = np.zeros((k * k, size))
    for entry, (column, row) in enumerate(zip(*np.triu_indices(k), strict=True)):
        fill[[row * k + column, column * k + row], entry] = 1 if row == column else math.sqrt(0.5)
    if isinstance(rows, np.ndarray):
        return (fill @ rows).reshape(k, k)
    import cvxpy as cp

    return cp.reshape(fill @ rows, (k, k), order="C")
