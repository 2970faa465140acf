"""Random quadratic programs, and how well a method solved and differentiated them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import clarabel
import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .method import Tensors, checked, largest, rounded, to_numpy

CHECKED = 16  # elements of a batch on which accuracy is measured


@dataclass(frozen=True)
class QP(Tensors):
    """min ½ yᵀQy + pᵀy s.t. Ay = b, Gy ≤ h: a batch, every parameter batched."""

    Q: Tensor
    p: Tensor
    A: Tensor
    b: Tensor
    G: Tensor
    h: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def y_shape(self) -> torch.Size:
        return self.p.shape

    def numpy(self, i: int) -> list[np.ndarray]:
        return [to_numpy(parameter[i]) for parameter in self.parameters]

    @cached_property
    def references(self) -> dict[int, Reference]:
        """The exact solutions of the elements that are checked."""
        return {i: reference(*self.numpy(i)) for i in checked(len(self.p), CHECKED)}

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """The worst KKT residual and gradient error over the elements that are checked, and which parameter's it is.

        An error is relative to the largest entry of the element's true gradient, all parameters together.
        """
        names = [field.name for field in fields(self)]
        kkt, wrong = 0.0, dict.fromkeys(names, 0.0)
        for i, exact in self.references.items():
            problem = self.numpy(i)
            kkt = max(kkt, kkt_residual(problem, to_numpy(y[i]), exact))
            true = gradients(problem, to_numpy(cotangent[i]), exact)
            found = [to_numpy(gradient[i]) for gradient in grads]
            found[0] = 0.5 * (found[0] + found[0].T)  # only the symmetric part of Q counts
            for name, f, t in zip(names, found, true, strict=True):
                wrong[name] = max(wrong[name], largest(f - t) / largest(*true))
        worst = max(wrong, key=wrong.__getitem__)
        return {"solution_error": rounded(kkt), "gradient_error": rounded(wrong[worst]), "worst_gradient": worst}


def random_qp(batch: int, n: int, inequalities: int, equalities: int, seed: int = 0) -> QP:
    """Strictly convex and strictly feasible: Q = MMᵀ/n + I/10, h = Gy₀ + s₀ with s₀ > 0, b = Ay₀; float64 on the CPU.

    The qpth paper's generator, scaled so that p decides which inequalities are active: about a quarter of them.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    M, y0 = normal(n, n), normal(n)
    Q = M @ M.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)
    A, G = normal(equalities, n), normal(inequalities, n)
    slack = torch.rand(batch, inequalities, generator=generator, dtype=torch.float64)
    return QP(
        Q,
        normal(n),
        A,
        (A @ y0.unsqueeze(-1)).squeeze(-1),
        G,
        (G @ y0.unsqueeze(-1)).squeeze(-1) + slack,
    )


class Reference(NamedTuple):
    """The solution y of one QP, which inequalities are active, and the matrix of the equations that they give."""

    y: np.ndarray
    active: np.ndarray
    K: np.ndarray


def reference(Q: np.ndarray, p: np.ndarray, A: np.ndarray, b: np.ndarray, G: np.ndarray, h: np.ndarray) -> Reference:
    """One QP solved by Clarabel at 1e-12, then by Newton on its active set until all multipliers and slacks are ≥ 0.

    Clarabel's own last digits can't tell a constraint with a multiplier of 1e-5 from one with a slack of 1e-5.
    """
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))]
    upper = scipy.sparse.triu(scipy.sparse.csc_matrix(Q), format="csc")
    rows = scipy.sparse.csc_matrix(np.vstack([A, G]))
    solution = clarabel.DefaultSolver(upper, p, rows, np.concatenate([b, h]), cones, settings).solve()
    active = np.array(solution.z)[len(b) :] > np.array(solution.s)[len(b) :]
    for _ in range(10):
        C = np.vstack([A, G[active]])
        K = np.block([[Q, C.T], [C, np.zeros((len(C), len(C)))]])
        z = np.linalg.solve(K, np.concatenate([-p, b, h[active]]))
        y, slack, multiplier = z[: len(p)], h - G @ z[: len(p)], np.zeros(len(h))
        multiplier[active] = z[len(p) + len(b) :]
        wrong = np.where(active, multiplier, slack) < 0
        if not wrong.any():
            return Reference(y, active, K)
        active = active ^ wrong
    raise RuntimeError("the active set of the reference solution does not settle")


def gradients(problem: list[np.ndarray], cotangent: np.ndarray, exact: Reference) -> list[np.ndarray]:
    """d(cotangentᵀy*)/d(Q, p, A, b, G, h) of one QP from its KKT equations with the active set held fixed."""
    Q, p, A, b, G, h = problem
    y, active, K = exact
    n, k = len(p), len(b)
    z = np.linalg.solve(K, np.concatenate([-p, b, h[active]]))
    w = np.linalg.solve(K, np.concatenate([cotangent, np.zeros(len(K) - n)]))
    nu, lam = z[n : n + k], z[n + k :]
    dy, dnu, dlam = w[:n], w[n : n + k], w[n + k :]
    dG, dh = np.zeros_like(G), np.zeros_like(h)
    dG[active] = -np.outer(lam, dy) - np.outer(dlam, y)
    dh[active] = dlam
    dQ = -0.5 * (np.outer(dy, y) + np.outer(y, dy))
    return [dQ, -dy, -np.outer(nu, dy) - np.outer(dnu, y), dnu, dG, dh]


def kkt_residual(problem: list[np.ndarray], y: np.ndarray, exact: Reference) -> float:
    """The largest violation of the optimality conditions at y, with the best multipliers for the true active set.

    Methods need not report multipliers for this: least squares finds them. Relative to 1 + the largest datum, and
    infinite if y is not finite.
    """
    if not np.isfinite(y).all():
        return np.inf
    Q, p, A, b, G, h = problem
    active = exact.active
    C = np.vstack([A, G[active]])
    gradient = Q @ y + p
    multipliers = np.linalg.lstsq(C.T, -gradient, rcond=None)[0] if len(C) else np.zeros(0)
    violations = [gradient + C.T @ multipliers, A @ y - b, np.maximum(G @ y - h, 0), (G @ y - h)[active]]
    return largest(*violations) / (1 + largest(p, b, h))
