"""What is minimised, seen from a point: rows of a batch, residuals in tangent coordinates, their weights and loss.

    f(y) = ½ Σ_e ρ(s_e),      s_e = r_eᵀ W_e r_e                                                   (1)

where term e consists of ``block`` consecutive residuals. Its slope in r is u_e = ρ'(s_e) W_e r_e, so ∇f = Jᵀu. The
Hessian without what is curved in r is M = JᵀΩJ with the blocks

    Ω_e = ρ' W_e + 2 ρ'' W_e r_e r_eᵀ W_e                                                          (2)

where the second term, if it is negative, is cut so that 5 % of the first are left along r_e (Triggs et al., Bundle
adjustment, 2000, §4.3): M is Gauss and Newton's matrix, positive semidefinite. Far from a solution the second term is
left out: a sum of squares weighted with ρ' lies above a concave ρ, so its minimum is a safe step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from ...batch.function import RowFunction
from .losses import Loss, squared
from .manifolds import Manifold

Push = Callable[[Tensor], Tensor]

LEFT = 0.05  # of the curvature of a term along its residual, whatever its loss is


@dataclass(frozen=True)
class Terms:
    """How residuals make terms, and terms a cost: what in (1) has no numbers in it.

    Attributes:
        block: residuals of a term.
        loss: ρ(s, c).
        matrix: whether the weights are matrices, ``(*batch, E or 1, k, k)``, and not ``(*batch, E or 1, k or 1)``.
    """

    block: int
    loss: Loss
    matrix: bool

    @property
    def weight_dims(self) -> int:
        return 3 if self.matrix else 2

    def weighted(self, r: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """r and W r as terms, ``(*batch, E, k)``."""
        r = r.unflatten(-1, (-1, self.block)) if r.shape[-1] else r.reshape(*r.shape[:-1], 0, self.block)
        if self.matrix:
            return r, (weight * r.unsqueeze(-2)).sum(-1)
        return r, weight * r

    def sizes(self, r: Tensor, weight: Tensor) -> Tensor:
        """s, ``(*batch, E)``."""
        r, Wr = self.weighted(r, weight)
        return (r * Wr).sum(-1)

    def cost(self, r: Tensor, weight: Tensor, radius: Tensor) -> Tensor:
        """Eq. (1) for r ``(*batch, m)``, ``(*batch,)``."""
        return 0.5 * self.loss(self.sizes(r, weight), radius).sum(-1)

    def slope(self, s: Tensor, radius: Tensor) -> Tensor:
        """ρ'(s), ``(*batch, E)``."""
        return grad(lambda s: self.loss(s, radius).sum())(s)

    def bend(self, s: Tensor, radius: Tensor, slope: Tensor) -> Tensor | None:
        """2 ρ''(s), cut as (2) is, ``(*batch, E)``; None where ρ is the identity."""
        if self.loss is squared:
            return None
        second = 2 * grad(lambda s: self.slope(s, radius).sum())(s)
        least = (LEFT - 1) * slope / torch.where(s > 0, s, 1)
        return torch.where(s > 0, torch.maximum(second, least), 0)


@dataclass(frozen=True)
class Model:
    """Eq. (1) for the rows of a batch.

    The residuals are evaluated in their dtype. Everything that is made of them is in float64.

    Attributes:
        residual: of points ``(N, ambient)``, in their dtype.
        weight: ``(N or 1, E or 1, …)``, as ``terms`` has it, float64.
        radius: ``(N or 1, E or 1)``, float64.
    """

    terms: Terms
    manifold: Manifold
    residual: RowFunction
    weight: Tensor
    radius: Tensor

    def cost(self, y: Tensor) -> Tensor:
        """f, ``(N,)``."""
        return self.terms.cost(self.residual(y).double(), self.weight, self.radius)

    def linearise(self, y: Tensor, near: Tensor | None = None) -> Linearisation:
        """Residuals and their derivative in δ at y ⊞ δ, δ = 0; the loss is bent as in (2) where ``near`` ``(N,)``."""
        zero = y.new_zeros(len(y), self.manifold.dim)
        r, pull = vjp(lambda delta: self.residual(self.manifold.retract(y, delta)), zero)
        # J v as the transpose of a transpose: torch's own forward mode does not know every function that users write.
        _, push = vjp(lambda u: pull(u)[0], torch.zeros_like(r))
        r = r.double()
        terms, Wr = self.terms.weighted(r, self.weight)
        s = (terms * Wr).sum(-1)
        slope = self.terms.slope(s, self.radius)
        u = (slope.unsqueeze(-1) * Wr).flatten(-2)
        (gradient,) = pull(u.to(zero.dtype))
        bend = self.terms.bend(s, self.radius, slope)
        if bend is not None and near is not None:
            bend = torch.where(near.unsqueeze(-1), bend, 0)
        return Linearisation(
            value=0.5 * self.terms.loss(s, self.radius).sum(-1),
            size=(slope * s).sum(-1).clamp_min(0).sqrt(),
            gradient=gradient.double(),
            slope=slope,
            bend=bend,
            force=Wr,
            push=lambda v: push(v.to(zero.dtype))[0],
            pull=lambda u: pull(u.to(zero.dtype))[0],
        )

    def gradient(self, y: Tensor) -> Tensor:
        """∇f in tangent coordinates, in the dtype of y; differentiable."""

        def cost(delta: Tensor) -> Tensor:
            r = self.residual(self.manifold.retract(y, delta)).double()
            return self.terms.cost(r, self.weight, self.radius).sum()

        return grad(cost)(y.new_zeros(len(y), self.manifold.dim))

    def hessian_product(self, y: Tensor) -> Push:
        """v ↦ ∇²f v, ``(N, dim)``."""

        def gradient(delta: Tensor) -> Tensor:
            def cost(delta: Tensor) -> Tensor:
                r = self.residual(self.manifold.retract(y, delta)).double()
                return self.terms.cost(r, self.weight, self.radius).sum()

            return grad(cost)(delta)

        _, product = vjp(gradient, y.new_zeros(len(y), self.manifold.dim))
        return lambda v: product(v)[0]


@dataclass(frozen=True)
class Linearisation:
    """At points y: f and √Σ ρ's ``(N,)``, ∇f ``(N, dim)``, ρ' and the cut 2ρ'' ``(N, E)``, W r ``(N, E, k)``,
    v ↦ J v and u ↦ Jᵀu."""

    value: Tensor
    size: Tensor
    gradient: Tensor
    slope: Tensor
    bend: Tensor | None
    force: Tensor
    push: Push
    pull: Push


def columns(product: Push, basis: Tensor, rows: int) -> Tensor:
    """product(e) for every row e of the basis ``(c, n)``, ``(c, N, ·)``."""
    return vmap(lambda e: product(e.expand(rows, -1)))(basis)
