"""What is zero at a solution, and systems with its derivative.

Seen from the solution y*, a point near it is y* ⊞ δ. With the bounds that hold it known, δ = 0 is the root of

    R_j(δ, x) = δ_j − (bound_j − y*_j)      where y* is held by a bound                              (1)
                ∂f(y* ⊞ δ; x) / ∂δ_j        elsewhere

whose Jacobian in δ is the identity in the first rows and the Hessian ∇²f in the others: all of it,

    ∇²f = M + Σ_i u_i ∇²r_i + what is curved in ρ,        u = the slope of f in r                    (2)

Gauss and Newton's M alone is good for finding y* and wrong for differentiating it, the more so the larger and the more
curved the residuals are. The derivative exists where (2) is positive definite on the free coordinates, which is tested:
elsewhere y* is no strict minimum, and the backward pass raises.

Source: chapter book/2_differentiable/13_least_squares; the implicit function theorem as in :mod:`diffopt_lib.implicit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.func import grad

from ...linear import LinearOperator, LinearSolve, cg
from ...solution import SolverError, failed_indices
from .manifolds import Manifold
from .model import Terms
from .normal import factorise, restrict
from .sparsity import Sparsity

SINGULAR = 10  # a Hessian with an eigenvalue below so many ε, relative to its diagonal, is singular


@dataclass(frozen=True)
class Conditions:
    """Eq. (1): the function of tensors alone that the implicit function theorem is applied to.

    Attributes:
        residual: the caller's, ``residual(y, *x)``.
        terms, manifold: how f is made of it.
    """

    residual: Callable[..., Tensor]
    terms: Terms
    manifold: Manifold

    def __call__(self, delta: Tensor, *theta: Tensor) -> Tensor:
        """R for δ ``(*batch, dim)`` and θ = (y*, side, weight, radius, lower, upper, *x)."""
        y, side, weight, radius, lower, upper, *x = theta
        chart = self.manifold.chart
        slope = grad(lambda delta: self.cost(self.manifold.retract(y, delta), weight, radius, *x).sum())(delta)
        bound = torch.where(side < 0, chart(lower), torch.where(side > 0, chart(upper), 0))
        return torch.where(side != 0, delta - (bound - chart(y)), slope)

    def cost(self, y: Tensor, weight: Tensor, radius: Tensor, *x: Tensor) -> Tensor:
        """f, ``(*batch,)``, made of the residuals in float64."""
        r = self.residual(y, *x)
        return self.terms.cost(r.double(), weight.double(), radius.double()).to(r.dtype)


def side_of(operator: LinearOperator) -> Tensor:
    """Which coordinates are held, as the parameters of a linear system of :func:`diffopt_lib.implicit` have it."""
    return operator.parameters[2]


def by_elimination(solve_free: Callable[[LinearOperator, Tensor, Tensor], Tensor]) -> LinearSolve:
    """Systems with D_δ R, whose rows at bounds are those of the identity, from those with the Hessian of the others.

    ``solve_free(operator, free, b)`` solves (F H F + I − F) w = b, F the diagonal matrix of the free coordinates.
    """

    def solve(operator: LinearOperator, b: Tensor) -> Tensor:
        free = (side_of(operator) == 0).to(b.dtype).expand(b.shape)
        at_bound = (1 - free) * b
        if operator.transposed:  # H_FF w_F = b_F, then w_A = b_A − H_AF w_F
            w = free * solve_free(operator, free, free * b)
            return w + at_bound - (1 - free) * operator.matvec(w)
        right = free * (b - operator.matvec(at_bound))  # H_FF w_F = b_F − H_FA b_A
        return free * solve_free(operator, free, right) + at_bound

    return solve


def dense(operator: LinearOperator, free: Tensor, b: Tensor) -> Tensor:
    """With the Cholesky factors of the scaled Hessian, which exist where it is positive definite."""
    H = operator.dense(b)
    H = free.unsqueeze(-1) * (0.5 * (H + H.mT)) * free.unsqueeze(-2) + torch.diag_embed(1 - free)
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1).rsqrt()
    L, info = torch.linalg.cholesky_ex(scale.unsqueeze(-1) * H.nan_to_num() * scale.unsqueeze(-2))
    pivots = L.diagonal(dim1=-2, dim2=-1).amin(-1)
    indefinite = (info > 0) | ~(pivots.square() > SINGULAR * b.shape[-1] * torch.finfo(b.dtype).eps)
    _raise_indefinite(indefinite & _asked(b))
    w = scale * torch.cholesky_solve((scale * b).unsqueeze(-1), L).squeeze(-1)
    spoiled = (indefinite | ~torch.isfinite(H).all(-1).all(-1)) & (b != 0).any(-1)
    return torch.where(spoiled.unsqueeze(-1), torch.nan, torch.where((b != 0).any(-1, keepdim=True), w, 0))


def sparse(sparsity: Sparsity) -> Callable[[LinearOperator, Tensor, Tensor], Tensor]:
    """With SuperLU, one element after the other; few products find the Hessian (:mod:`.sparsity`)."""

    def solve_free(operator: LinearOperator, free: Tensor, b: Tensor) -> Tensor:
        gram = sparsity.gram
        compressed = torch.func.vmap(lambda e: operator.matvec(free * e.expand(b.shape)))(gram.seeds(b))
        values = gram.expand(compressed.reshape(len(compressed), -1, b.shape[-1])).double().cpu().numpy()
        rows = (t.reshape(-1, b.shape[-1]).double().cpu().numpy() for t in (free, b))
        w, indefinite = [], []
        for entries, free_row, b_row in zip(values, *rows, strict=True):
            if not b_row.any():  # nobody asks
                w.append(b_row)
                indefinite.append(False)
                continue
            H = scipy.sparse.csc_array((entries, (gram.rows, gram.columns)), shape=gram.shape)
            H = restrict(scipy.sparse.csc_array(0.5 * (H + H.T)), free_row > 0)
            factors = factorise(H + scipy.sparse.diags_array(1 - free_row)) if np.isfinite(entries).all() else None
            w.append(np.full_like(b_row, np.nan) if factors is None else factors.solve(b_row))
            indefinite.append(factors is None or bool(_nearly_singular(factors.U.diagonal()[factors.perm_c], H)))
        failed = torch.tensor(indefinite, device=b.device).reshape(b.shape[:-1])
        _raise_indefinite(failed & _asked(b))
        return torch.as_tensor(np.array(w), dtype=b.dtype, device=b.device).reshape(b.shape)

    return solve_free


def _nearly_singular(pivots: np.ndarray, H: scipy.sparse.csc_array) -> np.bool_:
    """Whether elimination has left nothing but rounding of some diagonal entry; each in its own unit."""
    diagonal = np.abs(H.diagonal())
    return (pivots <= SINGULAR * np.finfo(np.float64).eps * diagonal)[diagonal > 0].any()


def products(operator: LinearOperator, free: Tensor, b: Tensor) -> Tensor:
    """By conjugate gradients, which meet negative curvature if there is any where they look."""

    def product(v: Tensor) -> Tensor:
        return free * operator.matvec(free * v) + (1 - free) * v

    try:
        return cg(LinearOperator(product, product), b, max_iterations=10 * b.shape[-1] + 100)
    except SolverError as error:
        raise SolverError(f"{NO_MINIMUM} {error.reason}", error.indices) from None


def solver_for(form: str, sparsity: Sparsity | None) -> LinearSolve:
    """Systems with the Jacobian of (1) in the form that the forward pass has."""
    if form == "sparse" and sparsity is not None:
        return by_elimination(sparse(sparsity))
    return by_elimination(products if form == "cg" else dense)


NO_MINIMUM = (
    "the Hessian of f, curvature of the residuals and of the loss included, is not positive definite at the solution, "
    "so that it is no strict minimum and has no derivative."
)


def _asked(b: Tensor) -> Tensor:
    """Whether an element has a right-hand side: neither none at all, nor one that is marked NaN already."""
    return torch.isfinite(b).all(-1) & (b != 0).any(-1)


def _raise_indefinite(failed: Tensor) -> None:
    if failed.any():
        raise SolverError(
            NO_MINIMUM
            + " Add a residual that determines what is left open, or take solve=least_norm_solve, with its warning.",
            failed_indices(failed),
        )
