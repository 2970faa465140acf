"""How a fitted model moves when its data move: sensitivities and influence functions.

A model is fitted to points (xᵢ, yᵢ) with weights wᵢ,

    θ* = argmin_θ  Σᵢ wᵢ ℓ(θ; xᵢ, yᵢ) + ½ λ ‖θ‖²                                                      (1)

which makes it a function of its data, and :func:`diffopt_lib.argmin` differentiates it. With H the Hessian of (1),

    ∂θ*/∂xᵢ = −H⁻¹ wᵢ ∇²_{θx} ℓᵢ      ∂θ*/∂wᵢ = −H⁻¹ ∇_θ ℓᵢ                                              (2)

The second is the *influence* of a point. Leaving point i out moves its weight by −wᵢ, so to first order θ* moves by
wᵢ H⁻¹ ∇ℓᵢ. One Newton step on (1) without the point, from θ*, also takes its curvature out of the Hessian:

    θ*₋ᵢ − θ* ≈ (H − wᵢ ∇²ℓᵢ)⁻¹ wᵢ ∇ℓᵢ                                                               (3)

Logistic regression has ℓ = log(1 + exp(−y θᵀx)) with y = ±1, ∇ℓ = −y σ(−y θᵀx) x and ∇²ℓ = σ(θᵀx) σ(−θᵀx) x xᵀ. The
curvature of one point has rank one, and (3) is the first-order prediction divided by 1 − hᵢ with the leverage
hᵢ = wᵢ σσ xᵢᵀ H⁻¹ xᵢ (Pregibon 1981).

Data that are moved on purpose, to spoil the fit: :mod:`diffopt_lib.poisoning`.

Source: Cook & Weisberg 1982; Koh & Liang 2017.
Chapter: book/2_differentiable/09_sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .autograd.precision import full_precision
from .batch.shapes import align, broadcast_batch
from .layers.labelled import check_features, check_signs, point_weights, positive_scalar
from .linear import LinearOperator
from .minimize import argmin
from .poisoning import Fit, Poisoning, poison, value_and_gradient
from .solution import OnFailure, Solution, SolverError, failed_indices
from .validate import check_callable, check_floating, check_option, check_same_kind, check_vectors

__all__ = [
    "Poisoning",
    "influence",
    "logistic_loss",
    "logistic_regression",
    "loss_influence",
    "poison",
    "sensitivity",
]


@full_precision
def logistic_loss(theta: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """log(1 + exp(−y θᵀx)) of every point, ``(*batch, n)``, for θ ``(*batch, d)``, x ``(*batch, n, d)``, y = ±1."""
    check_features(features)
    check_floating("theta", theta)
    check_same_kind("features", features, [("theta", theta), ("labels", labels)])
    n, d = features.shape[-2:]
    for name, t, size in (("theta", theta, d), ("labels", labels, n)):
        if t.ndim == 0 or t.shape[-1] != size:
            raise ValueError(
                f"{name} must have shape (*batch, {size}) for features {tuple(features.shape)}, got {tuple(t.shape)}"
            )
    broadcast_batch([("theta", theta, 1), ("features", features, 2), ("labels", labels, 1)])
    return softplus(-labels * _scores(theta, features))


@full_precision
def logistic_regression(
    features: Tensor,
    labels: Tensor,
    weight_decay: float | Tensor,
    sample_weights: Tensor | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    on_failure: OnFailure = "raise",
    init: Tensor | None = None,
) -> Solution:
    """θ* of eq. (1) of this module for logistic regression, found by Newton's method; ``.y`` is θ*, ``(*batch, d)``.

    Differentiable in all four arguments at any order. For an intercept, add a column of ones to the features (it is
    then part of θ, and decays with it).

    Without decay separable data have no θ*: the loss falls for ever as ‖θ‖ grows, and so does its gradient. So λ has to
    be positive, and large enough that λθ* stands out from the tolerance on the gradient. Far below that the iterations
    end, and report success, at some θ whose loss and gradient are next to 0 but which is not θ*.

    Args:
        features: points xᵢ in rows, ``(*batch, n, d)``.
        labels: −1 or +1, of the dtype of the features, ``(*batch, n)``; both must occur.
        weight_decay: λ > 0, a number or a tensor ``(*batch,)``.
        sample_weights: wᵢ ≥ 0, ``(*batch, n)``; ones if absent.
        tolerance, max_iterations, on_failure: of :func:`diffopt_lib.argmin`.
        init: initial guess of θ, ``(*batch, d)``; zeros if absent.

    Raises:
        ValueError: bad shapes, dtypes, labels, weights or λ; NaN or infinite input.
        SolverError: the iterations did not converge.
    """
    batch, data = _data(features, labels, weight_decay, sample_weights)
    if init is not None:
        check_vectors(init, "init")
        d = features.shape[-1]
        if init.shape[-1] != d:
            raise ValueError(f"init must have shape (*batch, {d}), as the features have, got {tuple(init.shape)}")
        broadcast_batch([("init", init, 1), ("features", data[0], 2)])
    return argmin(
        _objective,
        features.new_zeros(*batch, features.shape[-1]) if init is None else init,
        *data,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
        solve=_solve_hessian,
    )


@full_precision
def sensitivity(fit: Fit, data: Tensor) -> Tensor:
    """∂θ*/∂data for the whole data at once: ``(*batch, d, *event)`` for data ``(*batch, *event)``, θ* ``(*batch, d)``.

    ``fit`` maps data (features, labels, weights, …) to θ*, for instance ``lambda x: logistic_regression(x, y, λ).y``.
    Elements of the batch are fitted independently. There is one adjoint solve for each entry of θ*, not for each point.
    """
    check_callable("fit", fit)
    check_floating("data", data)
    theta, pull = torch.func.vjp(fit, data)
    if theta.shape[:-1] != data.shape[: theta.ndim - 1]:
        raise ValueError(
            f"fit must return (*batch, d) with the batch dimensions of the data in front, got {tuple(theta.shape)} for "
            f"data {tuple(data.shape)}"
        )
    rows = torch.eye(theta.shape[-1], dtype=theta.dtype, device=theta.device)
    (jacobian,) = torch.func.vmap(lambda row: pull(row.expand(theta.shape)))(rows)  # (d, *batch, *event)
    return jacobian.movedim(0, theta.ndim - 1)


@full_precision
def influence(
    features: Tensor,
    labels: Tensor,
    weight_decay: float | Tensor,
    sample_weights: Tensor | None = None,
    *,
    order: Literal["first", "newton"] = "first",
) -> Tensor:
    """How far θ* of logistic regression is predicted to move when point i is left out, for every i: ``(*batch, n, d)``.

    Args:
        features, labels, weight_decay, sample_weights: of :func:`logistic_regression`.
        order: ``"first"`` is −wᵢ ∂θ*/∂wᵢ, eq. (2) of this module; ``"newton"`` is the Newton step (3), which knows that
            the point's curvature leaves with it, and is the better the more the point matters.
    """
    check_option("order", order, ("first", "newton"))
    batch, (features, labels, decay, weights) = _data(features, labels, weight_decay, sample_weights)
    weights = weights.expand(*batch, -1)
    by_weight = sensitivity(lambda w: logistic_regression(features, labels, decay, w).y, weights)
    change = -(weights.unsqueeze(-2) * by_weight).mT  # (*batch, n, d)
    if order == "first":
        return change
    theta = logistic_regression(features, labels, decay, weights).y
    # The change wᵢ H⁻¹∇ℓᵢ = −y σ(−m) wᵢ H⁻¹xᵢ holds the H⁻¹xᵢ of the leverage wᵢ σ(m) σ(−m) xᵢᵀH⁻¹xᵢ; m = y θᵀx.
    margin = labels * _scores(theta, features)
    leverage = -labels * torch.sigmoid(margin) * (features * change).sum(-1)
    return change / (1 - leverage).unsqueeze(-1)


@full_precision
def loss_influence(loss: Callable[[Tensor], Tensor], fit: Fit, sample_weights: Tensor) -> Tensor:
    """How loss(θ*) is predicted to change when point i is left out, −wᵢ ∂loss/∂wᵢ, for every i: ``(*batch, n)``.

    One adjoint solve serves all points, whatever their number (Koh & Liang 2017).

    Args:
        loss: maps θ* ``(*batch, d)`` to ``(*batch,)``; the loss on test data, for instance.
        fit: maps the weights to θ*: ``lambda w: logistic_regression(x, y, λ, w).y``.
        sample_weights: ``(*batch, n)``.

    Raises:
        ValueError: the loss has another shape than ``(*batch,)``.
    """
    check_callable("loss", loss)
    check_callable("fit", fit)
    check_floating("sample_weights", sample_weights)
    _, by_weight = value_and_gradient(lambda w: loss(fit(w)), sample_weights, sample_weights.shape[:-1])
    return -sample_weights * by_weight


def _data(
    features: Tensor, labels: Tensor, weight_decay: float | Tensor, sample_weights: Tensor | None
) -> tuple[torch.Size, list[Tensor]]:
    """Features, labels, λ and weights, checked, with their batch dimensions aligned; and these."""
    check_signs(features, labels)
    decay, weights = positive_scalar("weight_decay", weight_decay, features), point_weights(sample_weights, features)
    return align(
        ("features", features, 2), ("labels", labels, 1), ("weight_decay", decay, 0), ("sample_weights", weights, 1)
    )


def _scores(theta: Tensor, features: Tensor) -> Tensor:
    """θᵀxᵢ, ``(*batch, n)``."""
    return (features @ theta.unsqueeze(-1)).squeeze(-1)


def _objective(theta: Tensor, features: Tensor, labels: Tensor, decay: Tensor, weights: Tensor) -> Tensor:
    """Eq. (1)."""
    losses = softplus(-labels * _scores(theta, features))
    return (weights * losses).sum(-1) + decay * theta.square().sum(-1) / 2


def _hessian(theta: Tensor, features: Tensor, labels: Tensor, decay: Tensor, weights: Tensor) -> Tensor:
    """H = Σᵢ wᵢ σ(zᵢ) σ(−zᵢ) xᵢ xᵢᵀ + λ I with zᵢ = θᵀxᵢ, ``(*batch, d, d)``; the labels don't matter."""
    z = _scores(theta, features)
    curvature = weights * torch.sigmoid(z) * torch.sigmoid(-z)
    identity = torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    return features.mT @ (curvature.unsqueeze(-1) * features) + decay[..., None, None] * identity


def _solve_hessian(operator: LinearOperator, rhs: Tensor) -> Tensor:
    """H⁻¹ rhs with one factorisation for all the right-hand sides of a fit. H is symmetric, so transposed or not."""
    L, info = torch.linalg.cholesky_ex(_hessian(*operator.parameters))
    failed = (info > 0).expand(rhs.shape[:-1]) & torch.isfinite(rhs).all(-1)
    if failed.any():
        raise SolverError("the Hessian is not positive definite to working precision.", failed_indices(failed))
    return torch.cholesky_solve(rhs.unsqueeze(-1), L).squeeze(-1)
