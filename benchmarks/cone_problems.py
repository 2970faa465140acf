"""Random cone programs, and how well a method solved and differentiated them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import clarabel
import diffcp
import diffcp.cones
import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .method import Tensors, checked, largest, rounded, to_numpy

CHECKED = 8  # elements of a batch on which accuracy is measured


@dataclass(frozen=True)
class Shape:
    """The cones of b − Ax, in the row order of SCS: zero, nonnegative, second-order, semidefinite, exponential.

    A semidefinite cone of order k takes k(k+1)/2 rows: the lower triangle column by column, with √2 off the diagonal.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0

    @property
    def rows(self) -> int:
        return self.zero + self.nonneg + sum(self.soc) + sum(triangle(k) for k in self.psd) + 3 * self.exp


def triangle(k: int) -> int:
    """Entries of the lower triangle of a k × k matrix."""
    return k * (k + 1) // 2


def lower_to_upper(k: int) -> list[int]:
    """Where each entry of the upper triangle, column by column, stands in the lower one."""
    place = {(i, j): at for at, (j, i) in enumerate((j, i) for j in range(k) for i in range(j, k))}
    return [place[j, i] for j in range(k) for i in range(j + 1)]


@dataclass(frozen=True)
class ConeProgram(Tensors):
    """min cᵀx s.t. b − Ax ∈ K: a batch, every parameter batched."""

    A: Tensor
    b: Tensor
    c: Tensor
    shape: Shape

    @property
    def parameters(self) -> list[Tensor]:
        return [self.A, self.b, self.c]

    @property
    def y_shape(self) -> torch.Size:
        return self.c.shape

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """The worst errors of the solution and of a gradient over the elements that are checked, both relative."""
        solution, wrong = 0.0, dict.fromkeys("Abc", 0.0)
        for i in checked(len(y), CHECKED):
            A, b, c = (to_numpy(parameter[i]) for parameter in self.parameters)
            x, true = solve_and_differentiate(A, b, c, self.shape, to_numpy(cotangent[i]))
            solution = max(solution, largest(to_numpy(y[i]) - x) / (1 + largest(x)))
            for name, gradient, t in zip("Abc", grads, true, strict=True):
                wrong[name] = max(wrong[name], largest(to_numpy(gradient[i]) - t) / largest(*true))
        worst = max(wrong, key=wrong.__getitem__)
        return {
            "solution_error": rounded(solution),
            "gradient_error": rounded(wrong[worst]),
            "worst_gradient": worst,
        }


def random_cone_program(batch: int, n: int, seed: int = 0, **cones: Any) -> ConeProgram:
    """Strictly feasible, and so is its dual: b = Ax₀ + s₀ and c = −Aᵀz₀ with s₀, z₀ inside K and K*."""
    cones = {kind: tuple(rows) if isinstance(rows, list) else rows for kind, rows in cones.items()}
    shape = Shape(**cones)
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, shape.rows, n)) / np.sqrt(n)
    x = rng.standard_normal((batch, n))
    s, z = (np.stack([interior_point(shape, rng, dual) for _ in range(batch)]) for dual in (False, True))
    b = np.einsum("bij,bj->bi", A, x) + s
    return ConeProgram(torch.tensor(A), torch.tensor(b), torch.tensor(-np.einsum("bij,bi->bj", A, z)), shape)


def interior_point(shape: Shape, rng: np.random.Generator, dual: bool) -> np.ndarray:
    """A point inside K, or inside K*, well away from the boundary."""
    parts = [rng.standard_normal(shape.zero) if dual else np.zeros(shape.zero), 0.1 + rng.random(shape.nonneg)]
    for size in shape.soc:
        v = rng.standard_normal(size - 1)
        parts.append(np.concatenate([[np.linalg.norm(v) + 0.1 + rng.random()], v]))
    for k in shape.psd:
        M = rng.standard_normal((k, k))
        parts.append(to_rows(M @ M.T / k + 0.1 * np.eye(k)))
    for _ in range(shape.exp):
        t = rng.standard_normal()
        above = 0.1 + rng.random()
        # y exp(x/y) < z at y = 1;  in the dual −u exp(v/u) < e w at u = −1.
        parts.append(np.array([-1, t, np.exp(-t - 1) + above]) if dual else np.array([t, 1, np.exp(t) + above]))
    return np.concatenate(parts)


def to_rows(X: np.ndarray) -> np.ndarray:
    """A symmetric matrix as the rows of a semidefinite cone."""
    j, i = np.triu_indices(len(X))
    return np.where(i == j, 1, np.sqrt(2)) * X[i, j]


def clarabel_order(shape: Shape) -> np.ndarray:
    """The rows as Clarabel wants them: it takes upper triangles."""
    start = shape.zero + shape.nonneg + sum(shape.soc)
    order = list(range(start))
    for k in shape.psd:
        order += [start + place for place in lower_to_upper(k)]
        start += triangle(k)
    return np.array([*order, *range(start, shape.rows)])


def first_solution(A: np.ndarray, b: np.ndarray, c: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """x and v = s − z of one program, by Clarabel: four digits or more."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(shape.zero), clarabel.NonnegativeConeT(shape.nonneg)]
    cones += [clarabel.SecondOrderConeT(size) for size in shape.soc]
    cones += [clarabel.PSDTriangleConeT(k) for k in shape.psd]
    cones += [clarabel.ExponentialConeT() for _ in range(shape.exp)]
    order = clarabel_order(shape)
    nothing = scipy.sparse.csc_matrix((len(c), len(c)))
    rows = scipy.sparse.csc_matrix(A[order])
    solution = clarabel.DefaultSolver(nothing, c, rows, b[order], cones, settings).solve()
    v = np.empty(shape.rows)
    v[order] = np.array(solution.s) - np.array(solution.z)
    return np.array(solution.x), v


def projection(v: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The projection of v onto K and its Jacobian, by diffcp."""
    names = {"z": shape.zero, "l": shape.nonneg, "q": list(shape.soc), "s": list(shape.psd), "ep": shape.exp}
    cones = diffcp.cones.parse_cone_dict({kind: size for kind, size in names.items() if size})
    derivative = diffcp._diffcp.dprojection(v, diffcp.cones.parse_cone_dict_cpp(cones), False)
    columns = [np.array(derivative.matvec(e)) for e in np.eye(len(v))]
    return diffcp.cones.pi(v, cones), np.stack(columns, axis=1)


def solve_and_differentiate(
    A: np.ndarray, b: np.ndarray, c: np.ndarray, shape: Shape, cotangent: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """x of one program to some 1e-8, and d(cotangentᵀx)/d(A, b, c).

    With s = Π(v) and z = Π(v) − v, where Π projects onto K, optimality is (Ax + s − b, Aᵀz + c) = 0: Newton's method
    on it starts from Clarabel's solution, and its Jacobian there gives the derivative.
    """
    x, v = first_solution(A, b, c, shape)
    for _ in range(8):
        s, D = projection(v, shape)
        z = s - v
        J = np.block([[A, D], [np.zeros((len(c), len(c))), A.T @ (D - np.eye(len(v)))]])
        step = np.linalg.solve(J, -np.concatenate([A @ x + s - b, A.T @ z + c]))
        x, v = x + step[: len(x)], v + step[len(x) :]
    w = np.linalg.solve(J.T, np.concatenate([cotangent, np.zeros(len(v))]))
    rows, columns = w[: len(v)], w[len(v) :]
    return x, [-np.outer(rows, x) - np.outer(z, columns), rows, -columns]
