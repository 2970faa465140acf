"""Nonlinear least-squares problems, and how well a method solved and differentiated them.

The reference is scipy's solution, from which Newton's method with the exact Hessian goes on to the last digit; its
derivative is that of the implicit function theorem, by dense autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from diffopt_lib.layers.least_squares import SE2
from diffopt_lib.layers.least_squares.pose_graph import PoseGraph, synthetic

from .method import Tensors, checked, largest, rounded, to_numpy

CHECKED = 4  # elements of a batch on which accuracy is measured
Residual = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Saturated(Tensors):
    """r = tanh(A y) + A y / 10 − b, ``(batch, m)`` in n unknowns, started near a point that fits but for noise."""

    A: Tensor
    b: Tensor
    y0: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        return [self.A, self.b]

    @property
    def y_shape(self) -> torch.Size:
        return self.y0.shape

    @cached_property
    def references(self) -> dict[int, Tensor]:
        found = {}
        for i in checked(len(self.y0), CHECKED):
            A, b, y0 = (t[i].detach().cpu().double() for t in (self.A, self.b, self.y0))
            found[i] = exact(partial(saturated, A=A, b=b), y0)
        return found

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """The worst error of the solution, and of the gradients, each relative to the largest entry."""
        off, wrong = 0.0, 0.0
        for i, reference in self.references.items():
            off = max(off, largest(to_numpy(y[i] - reference.to(y))) / largest(to_numpy(reference)))
            inputs = [t[i].detach().cpu().double().requires_grad_() for t in (self.A, self.b)]

            def slope(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
                return torch.func.grad(lambda y: 0.5 * saturated(y, A, b).square().sum())(y)

            H = torch.func.jacrev(slope)(reference, *inputs).detach()
            w = torch.linalg.solve(H, -cotangent[i].detach().cpu().double())
            true = torch.autograd.grad(slope(reference, *inputs) @ w, inputs)
            errors = [to_numpy(g[i]) - to_numpy(t) for g, t in zip(grads, true, strict=True)]
            wrong = max(wrong, largest(*errors) / largest(*map(to_numpy, true)))
        return {"solution_error": rounded(off), "gradient_error": rounded(wrong)}


@dataclass(frozen=True)
class Poses:
    """A pose graph in the plane, squared loss; the parameters are the measurements, (x, y, θ) of every edge."""

    graph: PoseGraph
    measured: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        return [self.measured]

    @property
    def y_shape(self) -> torch.Size:
        return self.graph.poses.shape

    def to(self, device: torch.device, dtype: torch.dtype) -> Poses:
        del device, dtype  # scipy, pyceres and gtsam compute in float64 on the CPU
        return self

    @cached_property
    def reference(self) -> Tensor:
        """The poses."""
        return self.solve(self.measured)

    def solve(self, measured: Tensor) -> Tensor:
        """The poses by Gauss–Newton steps in (x, y, θ) with Jacobians by hand, until they are rounding."""
        graph = self.graph
        v, z = to_numpy(SE2().to_angle(graph.poses)), to_numpy(measured)
        omega = scipy.sparse.block_diag(list(to_numpy(graph.information)), format="csr")
        edges = to_numpy(graph.edges).astype(int)
        free = np.repeat(to_numpy(~graph.known) > 0, 3)
        rows = np.arange(3 * len(edges)).reshape(-1, 3, 1).repeat(6, 2)
        columns = (3 * edges[:, :, None] + np.arange(3)).reshape(-1, 1, 6).repeat(3, 1)
        for _ in range(100):
            parts = [edge(v[a], v[b], z_e) for (a, b), z_e in zip(edges, z, strict=True)]
            r = np.concatenate([part[0] for part in parts])
            entries = np.stack([np.hstack(part[1:]) for part in parts])
            shape = (len(r), v.size)
            J = scipy.sparse.csr_array((entries.ravel(), (rows.ravel(), columns.ravel())), shape=shape)[:, free]
            step = np.zeros(v.size)
            step[free] = scipy.sparse.linalg.spsolve((J.T @ omega @ J).tocsc(), -J.T @ (omega @ r))
            v = v + step.reshape(v.shape)
            if np.abs(step).max() < 1e-12:
                break
        return SE2().from_angle(torch.as_tensor(v))

    def accuracy(self, y: Tensor, grads: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """The largest error of an entry of a pose, and of the gradient along one random direction, by differences."""
        direction = torch.randn(self.measured.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        step = 1e-4
        above, below = (self.solve(self.measured + s * step * direction) for s in (1, -1))
        true = (((above - below) / (2 * step)) * cotangent).sum().item()
        found = (grads[0] * direction).sum().item()
        off = largest(to_numpy(y - self.reference))
        return {"solution_error": rounded(off), "gradient_error": rounded(abs(found - true) / abs(true))}


def edge(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log(z⁻¹ a⁻¹ b) for poses (x, y, θ), and its Jacobians in a and b."""
    turn = a[2] + z[2]
    c, s = np.cos(turn), np.sin(turn)
    ca, sa = np.cos(a[2]), np.sin(a[2])
    cz, sz = np.cos(z[2]), np.sin(z[2])
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.array([ca * dx + sa * dy - z[0], -sa * dx + ca * dy - z[1]])
    p = np.array([cz * t[0] + sz * t[1], -sz * t[0] + cz * t[1]])
    omega = (b[2] - turn + np.pi) % (2 * np.pi) - np.pi
    half = 0.5 * omega
    k = half / np.tan(half) if abs(omega) > 1e-6 else 1 - omega**2 / 12
    slope = (0.5 / np.tan(half) - half / (2 * np.sin(half) ** 2)) if abs(omega) > 1e-4 else -omega / 6
    V = np.array([[k, half], [-half, k]])
    by_omega = np.array([slope * p[0] + 0.5 * p[1], slope * p[1] - 0.5 * p[0]])
    rotation = np.array([[c, s], [-s, c]])
    du, dv = -sa * dx + ca * dy, -ca * dx - sa * dy  # how b's place in the frame of a moves as a turns
    by_turn = np.array([cz * du + sz * dv, -sz * du + cz * dv])
    Ja, Jb = np.zeros((3, 3)), np.zeros((3, 3))
    Ja[:2, :2], Jb[:2, :2] = -V @ rotation, V @ rotation
    Ja[:2, 2], Jb[:2, 2] = V @ by_turn - by_omega, by_omega
    Ja[2, 2], Jb[2, 2] = -1, 1
    return np.array([*(V @ p), omega]), Ja, Jb


def saturated(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """r of :class:`Saturated`."""
    Ay = (A @ y.unsqueeze(-1)).squeeze(-1)
    return Ay.tanh() + 0.1 * Ay - b


def exact(residual: Residual, y0: Tensor) -> Tensor:
    """scipy's minimum, made exact by Newton's method."""
    found = scipy.optimize.least_squares(
        lambda v: residual(torch.as_tensor(v)).numpy(),
        y0.numpy(),
        jac=lambda v: torch.func.jacrev(residual)(torch.as_tensor(v)).numpy(),
    )
    y = torch.as_tensor(found.x)
    slope = torch.func.grad(lambda y: 0.5 * residual(y).square().sum())
    for _ in range(5):
        y = y - torch.linalg.solve(torch.func.jacrev(slope)(y), slope(y))
    return y


def make(kind: str, batch: int, unknowns: int, residuals: int, seed: int = 0) -> Saturated | Poses:
    """``"dense"``: a batch of :class:`Saturated`; ``"poses"``: one graph, whose sizes are poses and edges."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "poses":
        closures = (residuals - unknowns + 1) / unknowns
        graph = synthetic(unknowns, closures=closures, outliers=0.0, generator=generator).graph
        return Poses(graph, SE2().to_angle(graph.measured))
    A = torch.randn(batch, residuals, unknowns, generator=generator, dtype=torch.float64)
    truth = torch.randn(batch, unknowns, generator=generator, dtype=torch.float64)
    b = saturated(truth, A, A.new_zeros(batch, residuals))
    b = b + 0.1 * torch.randn(b.shape, generator=generator, dtype=torch.float64)
    y0 = truth + 0.3 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    return Saturated(A, b, y0)
