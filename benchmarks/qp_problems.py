"""Random quadratic programs, and how well a method solved and differentiated them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import clarabel
import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .method import rounded, to_numpy

CHECKED = 4  # elements of a batch on which accuracy is measured


@dataclass(frozen=True)
class QP:
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

    def to(self, device: torch.device, dtype: torch.dtype) -> QP:
        return QP(*(parameter.to(device, dtype) for parameter in self.parameters))

    def numpy(self, i: int) -> list[np.ndarray]:
        return [to_numpy(parameter[i]) for parameter in self.parameters]

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str]:
        """The worst KKT residual and gradient error over the first few elements, and which parameter's it is.

        An error is relative to the largest entry of the element's true gradient, all parameters together.
        """
        names = [field.name for field in fields(self)]
        kkt, wrong = [], {}
        for i in range(min(CHECKED, len(y))):
            problem = self.numpy(i)
            kkt.append(kkt_residual(problem, to_numpy(y[i])))
            true = gradients(problem, to_numpy(cotangent[i]))
            found = [to_numpy(gradient[i]) for gradient in grads]
            found[0] = 0.5 * (found[0] + found[0].T)  # only the symmetric part of Q counts
            largest = max(np.abs(gradient).max(initial=0) for gradient in true)
            for name, f, t in zip(names, found, true, strict=True):
                wrong[name] = max(wrong.get(name, 0), np.abs(f - t).max(initial=0) / largest)
        worst = max(wrong, key=lambda name: np.nan_to_num(wrong[name], nan=np.inf))
        return {"solution_error": rounded(max(kkt)), "gradient_error": rounded(wrong[worst]), "worst_gradient": worst}


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


def reference(Q: np.ndarray, p: np.ndarray, A: np.ndarray, b: np.ndarray, G: np.ndarray, h: np.ndarray) -> tuple:
    """One QP solved by Clarabel at 1e-12, then once more by Newton on its active set.

    Returns y, which inequalities are active, and the LU-solvable matrix of the equations they give.
    """
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))]
    upper = scipy.sparse.triu(scipy.sparse.csc_matrix(Q), format="csc")
    rows = scipy.sparse.csc_matrix(np.vstack([A, G]))
    solution = clarabel.DefaultSolver(upper, p, rows, np.concatenate([b, h]), cones, settings).solve()
    active = np.array(solution.z)[len(b) :] > np.array(solution.s)[len(b) :]
    C = np.vstack([A, G[active]])
    K = np.block([[Q, C.T], [C, np.zeros((len(C), len(C)))]])
    y = np.linalg.solve(K, np.concatenate([-p, b, h[active]]))[: len(p)]
    return y, active, K


def gradients(problem: list[np.ndarray], cotangent: np.ndarray) -> list[np.ndarray]:
    """d(cotangentᵀy*)/d(Q, p, A, b, G, h) of one QP from its KKT equations with the active set held fixed."""
    Q, p, A, b, G, h = problem
    y, active, K = reference(*problem)
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


def kkt_residual(problem: list[np.ndarray], y: np.ndarray) -> float:
    """The largest violation of the optimality conditions at y, with the best multipliers for the true active set.

    Methods need not report multipliers for this: least squares finds them. Relative to 1 + the largest datum.
    """
    Q, p, A, b, G, h = problem
    _, active, _ = reference(*problem)
    C = np.vstack([A, G[active]])
    gradient = Q @ y + p
    multipliers = np.linalg.lstsq(C.T, -gradient, rcond=None)[0] if len(C) else np.zeros(0)
    violations = [gradient + C.T @ multipliers, A @ y - b, np.maximum(G @ y - h, 0), (G @ y - h)[active]]
    scale = 1 + max(np.abs(v).max(initial=0) for v in (p, b, h))
    return max(np.abs(v).max(initial=0) for v in violations) / scale
