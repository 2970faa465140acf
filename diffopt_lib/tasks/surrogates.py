"""Losses for a forecast of costs that know the decision problem but never differentiate a decision.

For a problem whose cost is linear in what is forecast,

    z*(c) = argmin_{z ∈ Z}  f(z, c),      f(z, c) = cᵀ g(z) + Ω(z),      v(c) = f(z*(c), c)       (1)

the *regret* of a forecast ĉ is f(z*(ĉ), c) − v(c) ≥ 0. Two ways to a gradient in ĉ:

*SPO+*, a convex upper bound of the regret,

    ℓ(ĉ, c) = 2 f(z*(c), ĉ) − v(2ĉ − c) − v(c)                                                    (2)

The envelope theorem gives its gradient, 2 (g(z*(c)) − g(z*(2ĉ − c))): one more solve, no derivative of it. It is an
upper bound whatever Ω is: f(z, c) = 2 f(z, ĉ) − f(z, 2ĉ − c) ≤ 2 f(z, ĉ) − v(2ĉ − c) for all z, and at z = z*(ĉ)
the first term is 2 v(ĉ) ≤ 2 f(z*(c), ĉ).

*The projected error.* If f = cᵀz + ½ zᵀQz and the active constraints G z = h stay the same nearby, then z* moves by
−M dĉ with M = N (NᵀQN)⁻¹ Nᵀ, where the columns of N span the directions in which Gz does not change. At z*(ĉ) the slope
ĉ + Qz* has no component along N, so the gradient of the regret is

    M (c + Q z*) = M (c − ĉ + ĉ + Q z*) = M (c − ĉ),  hence  ∂ regret / ∂ĉ = M (ĉ − c)             (3)

the gradient of the squared error without what the constraints take away. For a linear program, where Q = 0 and (3) says
nothing, the projection alone, Q = I, is a heuristic.

Sources: Elmachtoub & Grigas, Smart predict, then optimize, 2022, eq. 12, for (2) with Ω = 0; Lee, Jin & Lee,
Decision-focused learning via tangent-space projection of prediction error, 2026, for (3).
Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..autograd.precision import full_precision
from ..batch.products import times
from ..validate import check_callable, check_same_kind, check_vectors

Decision = TypeVar("Decision")

RANK = 1e-10  # singular values that are less, relative to the largest, are rounding


@full_precision
def spo_plus(
    decide: Callable[[Tensor], Decision],
    cost: Callable[[Decision, Tensor], Tensor],
    predicted: Tensor,
    true: Tensor,
) -> Tensor:
    """Eq. (2), ``(*batch,)``; differentiable once in ``predicted``.

    Args:
        decide: z*(c), anything, for c ``(*batch, n)``.
        cost: f(z, c) of shape ``(*batch,)``, affine in c.
        predicted, true: ĉ and c, ``(*batch, n)``.

    Raises:
        ValueError: bad shapes or dtypes, NaN or infinite input.
    """
    check_callable("decide", decide)
    check_callable("cost", cost)
    check_vectors(predicted, "predicted")
    check_vectors(true, "true")
    check_same_kind("predicted", predicted, [("true", true)])
    reflected = 2 * predicted - true
    with torch.no_grad():
        best, at_reflected = decide(true), decide(reflected)
    return 2 * cost(best, predicted) - cost(at_reflected, reflected) - cost(best, true)


@full_precision
def projected_error(predicted: Tensor, true: Tensor, G: Tensor, active: Tensor, Q: Tensor | None = None) -> Tensor:
    """½ (ĉ − c)ᵀ M (ĉ − c), ``(*batch,)``, with the active constraints held: its gradient in ĉ is eq. (3).

    Args:
        predicted, true: ĉ and c, ``(*batch, n)``.
        G: the normals of all constraints, equalities among them, ``(k, n)`` or ``(*batch, k, n)``.
        active: which are active at z*(ĉ), ``(*batch, k)``, bool. They may depend on each other.
        Q: positive definite on the directions that are left, ``(n, n)`` or ``(*batch, n, n)``; the identity by default.

    Raises:
        ValueError: bad shapes or dtypes, NaN or infinite input.
    """
    check_vectors(predicted, "predicted")
    check_vectors(true, "true")
    check_same_kind("predicted", predicted, [("true", true), ("G", G), *([] if Q is None else [("Q", Q)])])
    n = predicted.shape[-1]
    if G.ndim < 2 or G.shape[-1] != n or active.shape[-1] != G.shape[-2]:
        raise ValueError(f"G must end in the shape ({active.shape[-1]}, {n}), got {tuple(G.shape)}")
    error = predicted - true
    return 0.5 * (error * times(_response(G.detach(), active, Q), error)).sum(-1)


def _response(G: Tensor, active: Tensor, Q: Tensor | None) -> Tensor:
    """M of (3): the upper left block of the pseudoinverse of (PQP) with the projection P on the null space of G."""
    held = active.unsqueeze(-1) * G
    P = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device) - torch.linalg.pinv(held, rtol=RANK) @ held
    return P if Q is None else torch.linalg.pinv(P @ Q.detach() @ P, rtol=RANK, hermitian=True)
