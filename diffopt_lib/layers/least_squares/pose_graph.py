"""Pose graphs in the plane: where was a robot, given where each pose was seen from another?

    min  ½ Σ_e ρ( w_e ‖log(z_e⁻¹ · a_e⁻¹ b_e)‖²_{Ω_e} )     over the poses that are not known           (1)

Edge e says that pose b_e was seen from pose a_e at z_e, with information Ω_e, the inverse covariance. Steps from one
pose to the next come from odometry, the others are loop closures: a place was recognised, or mistaken for another.

Chapter: book/2_differentiable/13_least_squares. Source: Grisetti, Kümmerle, Stachniss & Burgard, A tutorial on
graph-based SLAM, 2010; the synthetic graphs are as in Pineda et al., Theseus, 2022, in the plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...validate import values_visible
from .groups import SE2
from .layer import LeastSquaresSolution, least_squares
from .manifolds import Power
from .sparsity import Sparsity

PLANE = SE2()


@dataclass(frozen=True, eq=False)
class PoseGraph:
    """Poses, and what was seen between them.

    Attributes:
        poses: where they are, or a guess, ``(*batch, N, 4)``, points of :class:`.SE2`.
        edges: (a_e, b_e), ``(E, 2)``, int64, shared by the batch.
        measured: z_e, ``(*batch, E, 4)``.
        information: Ω_e, ``(*batch, E, 3, 3)``, of (u, v, ω).
        known: which poses are known exactly, ``(N,)``, bool. Without any, f has no strict minimum.
    """

    poses: Tensor
    edges: Tensor
    measured: Tensor
    information: Tensor
    known: Tensor

    @cached_property
    def unknown(self) -> Tensor:
        """The indices of the poses that are looked for."""
        return (~self.known).nonzero().squeeze(-1)

    @cached_property
    def sparsity(self) -> Sparsity:
        """Which edge depends on which unknown pose."""
        number = torch.full((len(self.known),), -1, device=self.edges.device)
        number[self.unknown] = torch.arange(len(self.unknown), device=number.device)
        return Sparsity.of_terms(number[self.edges], 3, 3, len(self.unknown))

    def differences(self, poses: Tensor, measured: Tensor) -> Tensor:
        """log(z⁻¹ a⁻¹ b) of all edges, ``(*batch, E, 3)``: (u, v, ω) from what was measured to what is."""
        a, b = poses[..., self.edges[:, 0], :], poses[..., self.edges[:, 1], :]
        return PLANE.log(PLANE.between(measured, PLANE.between(a, b)))

    def solve(self, *, weight: float | Tensor | None = None, form: str = "sparse", **options: Any) -> Estimate:
        """The poses that minimise (1), from those of the graph.

        Args:
            weight: w_e, a number, ``(*batch, 1)`` or ``(*batch, E)``.
            form: of the linear systems, see :func:`.layer.least_squares`.
            options: ``loss``, ``radius`` and whatever else it takes.

        Raises:
            ValueError: also for edges that lead to no pose, measurements that are no poses, all poses known.
        """
        _check(self)
        known, unknown = self.known.nonzero().squeeze(-1), self.unknown
        order = torch.cat([unknown, known]).argsort()
        batch = torch.broadcast_shapes(self.poses.shape[:-2], self.measured.shape[:-2])
        fixed = self.poses[..., known, :].expand(*batch, -1, -1).flatten(-2)

        def residual(y: Tensor, fixed: Tensor, measured: Tensor) -> Tensor:
            poses = torch.cat([y, fixed], -1).unflatten(-1, (-1, 4))[..., order, :]
            return self.differences(poses, measured.unflatten(-1, (-1, 4))).flatten(-2)

        measured = self.measured.expand(*batch, -1, -1).flatten(-2)
        start = self.poses[..., unknown, :].expand(*batch, -1, -1).flatten(-2)
        solution = least_squares(
            residual,
            start,
            fixed,
            measured,
            weight=weight,
            information=self.information,
            block=3,
            manifold=Power(PLANE, len(unknown)),
            form=form,  # type: ignore[arg-type]
            sparsity=self.sparsity,
            **options,
        )
        poses = torch.cat([solution.y, fixed], -1).unflatten(-1, (-1, 4))[..., order, :]
        return Estimate(poses, solution)

    def with_poses(self, poses: Tensor) -> PoseGraph:
        """The same graph, guessed otherwise."""
        return replace(self, poses=poses)


def _check(graph: PoseGraph) -> None:
    poses, edges, measured, known = graph.poses, graph.edges, graph.measured, graph.known
    N, E = poses.shape[-2], len(edges)
    if known.dtype != torch.bool or known.shape != (N,):
        raise ValueError(f"known must be bool of shape ({N},), got {known.dtype} of shape {tuple(known.shape)}")
    if edges.dtype != torch.int64 or edges.shape != (E, 2):
        raise ValueError(f"edges must be int64 of shape (E, 2), got {edges.dtype} of shape {tuple(edges.shape)}")
    if measured.shape[-2:] != (E, 4):
        raise ValueError(f"measured must have shape (*batch, {E}, 4), got {tuple(measured.shape)}")
    if E and not 0 <= edges.min() <= edges.max() < N:
        raise ValueError(f"edges must be indices of {N} poses, got some from {edges.min()} to {edges.max()}")
    if known.all():
        raise ValueError("known must leave some pose unknown")
    off = measured.detach()[..., 2:].norm(dim=-1) - 1
    if values_visible(off) and not (off.abs() <= 1e-3).all():
        raise ValueError("measured must be poses (x, y, cos θ, sin θ), got some whose cos² θ + sin² θ is not 1")


@dataclass(frozen=True)
class Estimate:
    """Poses ``(*batch, N, 4)``, with gradients, and the solution that they were taken from."""

    poses: Tensor
    solution: LeastSquaresSolution


@dataclass(frozen=True)
class Synthetic:
    """A graph whose truth is known.

    Attributes:
        graph: with noisy poses to start from.
        truth: the poses, ``(*batch, N, 4)``.
        closure: which edges are loop closures, ``(E,)``.
        outlier: which of them are wrong, ``(*batch, E)``.
    """

    graph: PoseGraph
    truth: Tensor
    closure: Tensor
    outlier: Tensor


def synthetic(
    poses: int = 256,
    *,
    batch: tuple[int, ...] = (),
    translation: float = 0.05,
    rotation: float = 0.02,
    closures: float = 0.2,
    outliers: float = 0.25,
    known: float = 0.1,
    generator: torch.Generator,
    topology: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Synthetic:
    """A walk with steps of 1 and turns of standard deviation 0.3, and what is measured on the way.

    Args:
        poses: how many.
        batch: batch dimensions; all elements have the same edges.
        translation, rotation: standard deviation of the measurements, in steps and in radians; Ω_e is the inverse.
        closures: how many of the poses close a loop with some earlier pose, as a share.
        outliers: how many of the loop closures are wrong, as a share: any pose within 5 steps instead of the true one.
        known: how many of the poses are known, as a share, the first one among them.
        generator: what is random; ``topology`` for the edges and the known poses, if these are to be others'.
    """
    topology = generator if topology is None else topology

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=dtype)

    steps = torch.cat([torch.ones(*batch, poses - 1, 1, dtype=dtype), 0 * normal(poses - 1, 1)], -1)
    steps = PLANE.from_angle(torch.cat([steps, 0.3 * normal(poses - 1, 1)], -1))
    walk = [PLANE.from_angle(torch.zeros(*batch, 3, dtype=dtype))]
    for step in steps.unbind(-2):
        walk.append(PLANE.compose(walk[-1], step))
    truth = PLANE.project(torch.stack(walk, -2))

    later = 2 + torch.randperm(poses - 2, generator=topology)[: round(closures * poses)].sort().values
    earlier = (torch.rand(len(later), generator=topology) * (later - 1)).long()
    chain = torch.stack([torch.arange(poses - 1), torch.arange(1, poses)], -1)
    edges = torch.cat([chain, torch.stack([earlier, later], -1)])
    closure = torch.arange(len(edges)) >= poses - 1
    is_known = torch.zeros(poses, dtype=torch.bool)
    is_known[1 + torch.randperm(poses - 1, generator=topology)[: max(round(known * poses) - 1, 0)]] = True
    is_known[0] = True

    deviation = torch.tensor([translation, translation, rotation], dtype=dtype)
    seen = PLANE.between(truth[..., edges[:, 0], :], truth[..., edges[:, 1], :])
    seen = PLANE.retract(seen, deviation * normal(len(edges), 3))
    off = 5 * (2 * torch.rand(*batch, len(edges), 2, generator=generator, dtype=dtype) - 1)
    wrong = torch.cat([off, 3 * normal(len(edges), 1)], -1)
    outlier = closure & (torch.rand(*batch, len(edges), generator=generator) < outliers)
    measured = torch.where(outlier.unsqueeze(-1), PLANE.retract(seen, wrong), seen)
    start = PLANE.retract(truth, 3 * deviation * normal(poses, 3))
    start = torch.where(is_known.unsqueeze(-1), truth, start)
    information = torch.diag(deviation.pow(-2)).expand(len(edges), 3, 3)
    return Synthetic(PoseGraph(start, edges, measured, information, is_known), truth, closure, outlier)
