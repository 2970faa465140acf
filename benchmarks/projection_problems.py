"""Random points and score matrices to project, and how well a method projected and differentiated them.

The references compute in extended precision where numpy does, and by other means than the library: a root finder of
scipy and Newton's method for top-k, sorting for sparsemax, scipy's isotonic regression for soft sorting and ranking,
scipy's trust region method for doubly stochastic matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import torch
from torch import Tensor

from .method import Tensors, checked, largest, rounded, to_numpy

CHECKED = 8  # elements of a batch on which accuracy is measured
Reference = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Projection(Tensors):
    """A batch of points x ``(batch, n)`` or score matrices ``(batch, n, n)`` for one of the library's projections.

    Attributes:
        layer: the name of the library's function.
        x: the batch.
        settings: what else the function takes: ``tau``, for top-k also ``k``.
    """

    layer: str
    x: Tensor
    settings: dict[str, Any]

    @property
    def parameters(self) -> list[Tensor]:
        return [self.x]

    @property
    def y_shape(self) -> torch.Size:
        return self.x.shape

    @cached_property
    def references(self) -> dict[int, Reference]:
        """The exact solutions of the elements that are checked, and how cotangents are pulled back there."""
        solve = REFERENCES[self.layer]
        return {i: solve(to_numpy(self.x[i]), **self.settings) for i in checked(len(self.x), CHECKED)}

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """The worst errors of y, of its sums and of the gradient over the elements that are checked.

        That of y is relative to 1 + its largest entry, that of a sum to what it should be. Gradients at low temperature
        are all but zero in most elements; the error is relative to the largest entry of the true ones in any element.
        """
        solution = violation = wrong = scale = 0.0
        for i, (exact, pull) in self.references.items():
            found, gradient = to_numpy(y[i]), pull(to_numpy(cotangent[i]))
            solution = max(solution, largest(found - exact) / (1 + largest(exact)))
            violation = max(violation, largest(*off_balance(found, exact)))
            wrong, scale = max(wrong, largest(to_numpy(grads[0][i]) - gradient)), max(scale, largest(gradient))
        return {
            "solution_error": rounded(solution),
            "constraint_error": rounded(violation),
            "gradient_error": rounded(wrong / scale),
            "worst_gradient": "x",
        }


def random_projection(layer: str, batch: int, n: int, tau: float, k: int | None = None, seed: int = 0) -> Projection:
    """Independent normal entries; float64 on the CPU.

    For sorting and ranking no two of a row are equal, in single precision either: the derivative would depend on the
    order that a method gives them.
    """
    generator = torch.Generator().manual_seed(seed)
    if layer in ("soft_sort", "soft_rank"):
        x = torch.stack([distinct(n, generator) for _ in range(batch)])
    else:
        shape = (batch, n, n) if layer == "sinkhorn_operator" else (batch, n)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Projection(layer, x, {"tau": tau} | ({} if k is None else {"k": k}))


def distinct(n: int, generator: torch.Generator) -> Tensor:
    """n of some 2n normal numbers, after all that are equal in single precision were made one."""
    numbers = torch.randn(2 * n, generator=generator, dtype=torch.float32).unique()
    return numbers[torch.randperm(len(numbers), generator=generator)[:n]].double()


def off_balance(y: np.ndarray, exact: np.ndarray) -> list[np.ndarray]:
    """The errors of the sums that the constraints prescribe: of all entries, or of the rows and columns of a matrix.

    They are relative to the sum of absolute values: the entries of a sorted vector may add up to zero.
    """
    axes = range(y.ndim)
    return [(y.sum(axis) - exact.sum(axis)) / np.abs(exact).sum(axis) for axis in axes]


# The references. Each takes one x and gives y, and the function that takes a cotangent g to the gradient of gᵀy.


def extended(values: np.ndarray) -> np.ndarray:
    """In extended precision."""
    return values.astype(np.longdouble)


def top_k(x: np.ndarray, k: int, tau: float) -> Reference:
    """yᵢ = σ(xᵢ/τ + ν) with Σ y = k: a bracketed root, then Newton's method in extended precision."""
    shift, rough = scipy.special.logit(k / len(x)), x / tau
    bracket = shift - rough.max() - 1e-6, shift - rough.min() + 1e-6
    root = scipy.optimize.brentq(lambda nu: scipy.special.expit(rough + nu).sum() - k, *bracket, xtol=1e-14)
    a, nu = extended(x) / np.longdouble(tau), np.longdouble(root)
    for _ in range(5):
        y = scipy.special.expit(a + nu)
        d = y * scipy.special.expit(-a - nu)
        nu -= (y.sum() - k) / d.sum()
    return y, lambda g: d * (g - (d * g).sum() / d.sum()) / tau


def sparsemax(x: np.ndarray, tau: float) -> Reference:
    """max(xᵢ/τ − θ, 0), where θ follows from the sorted entries."""
    a = extended(x) / np.longdouble(tau)
    descending = np.sort(a)[::-1]
    excess = descending.cumsum() - 1
    size = np.flatnonzero(descending * np.arange(1, len(a) + 1) > excess)[-1] + 1
    y = np.maximum(a - excess[size - 1] / size, 0)
    support = y > 0
    return y, lambda g: np.where(support, g - g[support].mean(), 0) / tau


def soft_rank(x: np.ndarray, tau: float) -> Reference:
    """z = x/τ in descending order less the isotonic regression of its difference to (n, …, 1)."""
    order = np.argsort(-x, kind="stable")
    s, w = extended(x[order]) / np.longdouble(tau), np.arange(len(x), 0, -1)
    pool = pooling(s, w)
    back = np.argsort(order)
    return (s - pool(s) + pool(w))[back], lambda g: (g[order] - pool(g[order]))[back] / tau


def soft_sort(x: np.ndarray, tau: float) -> Reference:
    """The same with (n, …, 1)/τ in the place of z, and x in descending order in that of (n, …, 1); then reversed."""
    order = np.argsort(-x, kind="stable")
    s, w = np.arange(len(x), 0, -1) / np.longdouble(tau), extended(x[order])
    pool = pooling(s, w)
    back = np.argsort(order)
    return (s - pool(s) + pool(w))[::-1], lambda g: pool(g[::-1])[back]


def pooling(s: np.ndarray, w: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The means over the blocks of the descending isotonic regression of s − w."""
    borders = scipy.optimize.isotonic_regression((s - w).astype(np.float64), increasing=False).blocks
    sizes = np.diff(borders)

    def pool(values: np.ndarray) -> np.ndarray:
        return np.repeat(np.add.reduceat(extended(values), borders[:-1]) / sizes, sizes)

    return pool


def doubly_stochastic(S: np.ndarray, tau: float) -> Reference:
    """exp(S/τ + u + v) with unit sums, by Newton's method; its derivative from the equations of the sums."""
    u, v = potentials(S, tau)
    for _ in range(6):
        P = scaled(S, u, v, tau)
        du, dv = solve_sums(P, 1 - P.sum(1), 1 - P.sum(0))
        u, v = u + du, v + dv
    P = scaled(S, u, v, tau)

    def pull(g: np.ndarray) -> np.ndarray:
        w_u, w_v = solve_sums(P, (P * g).sum(1), (P * g).sum(0))
        return P * (g - w_u[:, None] - w_v) / tau

    return P, pull


def scaled(S: np.ndarray, u: np.ndarray, v: np.ndarray, tau: float) -> np.ndarray:
    return np.exp(extended(S) / np.longdouble(tau) + extended(u)[:, None] + extended(v))


def solve_sums(P: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) with diag(P1) u + P v = rows and Pᵀu + diag(Pᵀ1) v = columns, of least norm: a constant is free."""
    K = np.block([[np.diag(P.sum(1)), P], [P.T, np.diag(P.sum(0))]])
    solution = np.linalg.lstsq(np.float64(K), np.float64(np.concatenate([rows, columns])), rcond=None)[0]
    return solution[: len(P)], solution[len(P) :]


def potentials(S: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """u and v to some digits: the temperature is halved until it is τ, and v doubles with it."""
    halvings = max(0, int(np.ceil(np.log2(np.ptp(S) / (4 * tau)))))
    v = np.zeros(len(S))
    for i in range(halvings, -1, -1):
        v = minimizer(S / (tau * 2**i), 2 * v)
    return -scipy.special.logsumexp(S / tau + v, axis=1), v


def minimizer(scores: np.ndarray, start: np.ndarray) -> np.ndarray:
    """v that minimises Σᵢ log Σⱼ exp(scoresᵢⱼ + vⱼ) − Σⱼ vⱼ, whose gradient is the error of the sums of columns."""

    def value(v: np.ndarray) -> float:
        return scipy.special.logsumexp(scores + v, axis=1).sum() - v.sum()

    def gradient(v: np.ndarray) -> np.ndarray:
        return scipy.special.softmax(scores + v, axis=1).sum(0) - 1

    def hessian(v: np.ndarray) -> np.ndarray:
        Q = scipy.special.softmax(scores + v, axis=1)
        return np.diag(Q.sum(0)) - Q.T @ Q

    options = {"gtol": 1e-6, "maxiter": 500}
    return scipy.optimize.minimize(value, start, jac=gradient, hess=hessian, method="trust-exact", options=options).x


REFERENCES: dict[str, Callable[..., Reference]] = {
    "soft_top_k": top_k,
    "sparsemax": sparsemax,
    "soft_rank": soft_rank,
    "soft_sort": soft_sort,
    "sinkhorn_operator": doubly_stochastic,
}
