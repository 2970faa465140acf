"""Linear-quadratic control problems, and how well a method solved and differentiated them.

The reference eliminates the states, which leaves a quadratic program in the controls alone. Clarabel solves that,
Newton's method on its active set makes it exact, and its derivative is pulled back through the elimination.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .method import Tensors, checked, largest, rounded, to_numpy
from .qp_problems import Reference, gradients, reference

CHECKED = 4  # elements of a batch on which accuracy is measured
NAMES = ("x_init", "C", "c", "F")


@dataclass(frozen=True)
class Control(Tensors):
    """min Σ ½ τᵀC_tτ + c_tᵀτ s.t. x_{t+1} = F_t τ_t, x_1 = x_init, |u| ≤ bound: a batch, every parameter batched."""

    x_init: Tensor
    C: Tensor
    c: Tensor
    F: Tensor
    bound: float

    @property
    def parameters(self) -> list[Tensor]:
        return [getattr(self, name) for name in NAMES]

    @property
    def y_shape(self) -> torch.Size:
        """Of the controls."""
        return torch.Size((*self.c.shape[:2], self.c.shape[2] - self.x_init.shape[1]))

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.bound)

    def element(self, i: int) -> list[Tensor]:
        return [parameter[i].detach().cpu().double() for parameter in self.parameters]

    @cached_property
    def references(self) -> dict[int, tuple[list[np.ndarray], Reference]]:
        """The condensed programs of the elements that are checked, and their exact solutions."""
        found = {}
        for i in checked(len(self.x_init), CHECKED):
            Q, p = (to_numpy(t) for t in condense(*self.element(i)))
            program = as_program(Q, p, self.bound)
            found[i] = program, reference(*program)
        return found

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """The worst error of the controls, relative to their size, and of the gradients, relative to the largest entry
        of the element's true gradient, all parameters together."""
        off, wrong = 0.0, dict.fromkeys(NAMES, 0.0)
        for i, (program, exact) in self.references.items():
            u = to_numpy(y[i]).reshape(-1)
            error = largest(u - exact.y) / max(1e-300, largest(exact.y))
            off = max(off, error if np.isfinite(error) else np.inf)
            true = self._gradients(i, program, exact, cotangent)
            found = [to_numpy(gradient[i]) for gradient in grads]
            found[1] = 0.5 * (found[1] + found[1].swapaxes(-1, -2))  # only the symmetric part of C counts
            for name, f, t in zip(NAMES, found, true, strict=True):
                wrong[name] = max(wrong[name], largest(f - t) / largest(*true))
        worst = max(wrong, key=wrong.__getitem__)
        return {"solution_error": rounded(off), "gradient_error": rounded(wrong[worst]), "worst_gradient": worst}

    def _gradients(self, i: int, program: list[np.ndarray], exact: Reference, cotangent: Tensor) -> list[np.ndarray]:
        dQ, dp, *_ = gradients(program, to_numpy(cotangent[i]).reshape(-1), exact)
        inputs = [t.requires_grad_() for t in self.element(i)]
        Q, p = condense(*inputs)
        pulled = torch.autograd.grad((Q, p), inputs, (torch.from_numpy(dQ), torch.from_numpy(dp)))
        found = [to_numpy(g) for g in pulled]
        found[1] = 0.5 * (found[1] + found[1].swapaxes(-1, -2))
        return found


def random_control(batch: int, horizon: int, states: int, controls: int, bound: float | None, seed: int = 0) -> Control:
    """Costs MMᵀ/k + I/2, and dynamics A = I + .2 N(0, 1), B = N(0, 1), the same at all times, with A scaled to a
    spectral radius of at most 1, so that a program in the controls alone can still describe a horizon of 200."""
    generator = torch.Generator().manual_seed(seed)
    n, k = states, states + controls

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    M, A, B = normal(horizon, k, k), torch.eye(n, dtype=torch.float64) + 0.2 * normal(n, n), normal(n, controls)
    radius = torch.linalg.eigvals(A).abs().amax(-1).clamp_min(1)
    F = torch.cat([A / radius[:, None, None], B], -1).unsqueeze(1).repeat(1, horizon - 1, 1, 1)
    C = M @ M.mT / k + 0.5 * torch.eye(k, dtype=torch.float64)
    return Control(normal(n), C, normal(horizon, k), F, math.inf if bound is None else bound)


def condense(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """Q and p of the cost ½ uᵀQu + pᵀu of all controls u ``(T m,)`` of one element, states eliminated."""
    T, k, n = *c.shape, len(x_init)
    m = k - n
    free, forced = [x_init], [x_init.new_zeros(n, T * m)]  # x_t = free_t + forced_t u
    basis = torch.eye(T * m, dtype=x_init.dtype)
    for t in range(T - 1):
        free.append(F[t, :, :n] @ free[-1])
        forced.append(F[t, :, :n] @ forced[-1] + F[t, :, n:] @ basis[t * m : (t + 1) * m])
    S = torch.cat([torch.stack(forced), basis.reshape(T, m, T * m)], dim=1)
    s = torch.cat([torch.stack(free), x_init.new_zeros(T, m)], dim=1)
    C = 0.5 * (C + C.mT)
    Q = torch.einsum("tki,tkl,tlj->ij", S, C, S)
    return 0.5 * (Q + Q.mT), torch.einsum("tki,tk->i", S, torch.einsum("tkl,tl->tk", C, s) + c)


def as_program(Q: np.ndarray, p: np.ndarray, bound: float) -> list[np.ndarray]:
    """Q, p, A, b, G, h of the condensed problem."""
    size = len(p)
    identity = np.eye(size)
    rows = np.vstack([identity, -identity]) if math.isfinite(bound) else np.zeros((0, size))
    return [Q, p, np.zeros((0, size)), np.zeros(0), rows, np.full(len(rows), bound)]
