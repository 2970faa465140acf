"""ReLU, sigmoid and softargmax as solutions of convex optimisation problems.

    relu(x)           = argmin_{y ≥ 0}       ½‖y − x‖²                                              (1)
    sigmoid(x)        = argmin_{0 ≤ y ≤ 1}   −xᵀy − H_b(y)        H_b(y) = −Σ y log y + (1−y) log(1−y)   (2)
    softargmax(x, τ)  = argmin_{y ∈ Δ}       −xᵀy − τ H(y)        H(y) = −Σ y log y                  (3)

with Δ = {y ≥ 0, Σ y = 1}. All three have closed forms, which are the layers below; the problems they solve stand next
to them, so that the one can be checked against the other.

Source: Amos, Differentiable optimization-based modeling for machine learning, 2019, §2.4.4.
Chapter: book/1_optimization/02_activations, where (1)–(3) are proved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..autograd.precision import full_precision
from ..validate import check_finite, check_floating, check_positive, check_scores, check_unmasked, per_problem


@full_precision
def relu(x: Tensor) -> Tensor:
    """The Euclidean projection of x onto the nonnegative orthant, eq. (1): max(x, 0), elementwise.

    The Jacobian is diag(1[x > 0]). At x = 0, where the constraint is weakly active and the projection has a kink, the
    derivative is taken to be 0, as torch does.

    Args:
        x: any shape, float32 or float64.

    Raises:
        ValueError: x is not floating point, or has NaN or infinite entries.
    """
    check_floating("x", x)
    check_finite("x", x)
    return torch.relu(x)


@full_precision
def sigmoid(x: Tensor) -> Tensor:
    """The point of the unit box that maximises xᵀy plus binary entropy, eq. (2): 1 / (1 + exp(−x)), elementwise.

    The Jacobian is diag(y (1 − y)), the inverse Hessian of −H_b at the solution.

    Args:
        x: any shape, float32 or float64. −∞ is a mask: y is 0 there, and so is the derivative.

    Raises:
        ValueError: x is not floating point, or has entries that are NaN or +∞.
    """
    check_floating("x", x)
    check_scores("x", x)
    return torch.sigmoid(x)


@full_precision
def softargmax(x: Tensor, tau: float | Tensor = 1.0, dim: int = -1) -> Tensor:
    """The point of the simplex that maximises xᵀy plus τ times entropy, eq. (3): exp(x/τ) / Σ exp(x/τ).

    The Jacobian is (diag(y) − y yᵀ) / τ. As τ → 0 the solution tends to the vertex of the largest entry, shared equally
    between ties.

    Args:
        x: any shape with at least one entry along ``dim``, float32 or float64. −∞ is a mask: y is exactly 0 there and
            does not depend on it.
        tau: the temperature τ > 0, a number or a tensor that broadcasts against x and has size 1 along ``dim``, so
            ``(*batch, 1)`` for the last dimension. (The layers on vectors only, such as ``soft_top_k``, have τ
            ``(*batch,)``.) It gets its gradient too.
        dim: the dimension along which y sums to 1.

    Raises:
        ValueError: x is not floating point, has entries that are NaN or +∞, or none but −∞ along ``dim``; τ is not
            positive, or not the same along ``dim``.
    """
    check_floating("x", x)
    masked = check_scores("x", x)
    if isinstance(dim, bool) or not isinstance(dim, int) or not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
        raise ValueError(f"dim must be a dimension of x, {tuple(x.shape)}, got {dim!r}")
    if x.ndim == 0 or x.shape[dim] == 0:
        raise ValueError(f"x must have at least one entry along dim {dim}, got shape {tuple(x.shape)}")
    tau = per_problem("tau", tau, x)
    check_positive("tau", tau)
    from_the_end = dim - x.ndim if dim >= 0 else dim
    if tau.ndim >= -from_the_end and tau.shape[from_the_end] != 1:
        raise ValueError(f"tau must have size 1 along dim {dim} of x, {tuple(x.shape)}, got shape {tuple(tau.shape)}")
    # Adding a constant to x does not move y. With the maximum at 0 no quotient by a small τ can overflow upwards.
    largest = x.detach().amax(dim, keepdim=True)
    if masked is None:
        return torch.softmax((x - largest) / tau, dim)
    check_unmasked("x", masked, from_the_end)
    z = (torch.where(masked, largest, x) - largest) / tau  # finite, or τ would get a gradient of 0 · ∞
    return torch.softmax(z.masked_fill(masked, -torch.inf), dim)


@dataclass(frozen=True)
class VariationalProblem:
    """The optimisation problem that a closed-form layer solves, over vectors y, x of shape ``(*batch, n)``.

    Attributes:
        objective: f(y, x, tau), ``(*batch,)``; ``tau`` matters to softargmax only.
        violation: by how much y breaks the constraints, ``(*batch,)``; 0 where it is feasible.
        cvxpy: ``cvxpy(y, x, tau) -> (objective, constraints)`` for a CVXPY variable y and one vector x. Needs CVXPY.
    """

    objective: Callable[..., Tensor]
    violation: Callable[[Tensor], Tensor]
    cvxpy: Callable[..., tuple[Any, list]]


def relu_objective(y: Tensor, x: Tensor, tau: float = 1.0) -> Tensor:
    """½‖y − x‖²."""
    return 0.5 * (y - x).square().sum(-1)


def sigmoid_objective(y: Tensor, x: Tensor, tau: float = 1.0) -> Tensor:
    """−xᵀy − H_b(y); xlogy gives 0 log 0 = 0, its limit."""
    negative_entropy = torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)
    return (negative_entropy - x * y).sum(-1)


def softargmax_objective(y: Tensor, x: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """−xᵀy − τ H(y)."""
    return (tau * torch.xlogy(y, y) - x * y).sum(-1)


def _relu_cvxpy(y, x, tau=1.0):
    import cvxpy as cp

    return cp.sum_squares(y - x) / 2, [y >= 0]


def _sigmoid_cvxpy(y, x, tau=1.0):
    import cvxpy as cp

    return -x @ y - cp.sum(cp.entr(y) + cp.entr(1 - y)), []  # entr(y) is −y log y, −∞ outside y ≥ 0


def _softargmax_cvxpy(y, x, tau=1.0):
    import cvxpy as cp

    return -x @ y - tau * cp.sum(cp.entr(y)), [cp.sum(y) == 1]


relu_problem = VariationalProblem(
    objective=relu_objective,
    violation=lambda y: (-y).clamp_min(0).amax(-1),
    cvxpy=_relu_cvxpy,
)
sigmoid_problem = VariationalProblem(
    objective=sigmoid_objective,
    violation=lambda y: torch.maximum(-y, y - 1).clamp_min(0).amax(-1),
    cvxpy=_sigmoid_cvxpy,
)
softargmax_problem = VariationalProblem(
    objective=softargmax_objective,
    violation=lambda y: torch.maximum((-y).clamp_min(0).amax(-1), (y.sum(-1) - 1).abs()),
    cvxpy=_softargmax_cvxpy,
)
