"""Linear classifiers fitted in closed form inside a network: ridge regression and nearest prototypes.

A *head* is fitted to a few labelled feature vectors φ₁ … φ_n (the support) and then scores other ones, the queries:

    s_k(φ) = w_kᵀφ + b_k                                                                            (1)

Because the fit is a differentiable function of the support, whatever produced the features can be trained so that
heads fitted to few examples do well on the queries: that is meta-learning with a solver as the inner learner.

    ridge_head       W = argmin_W  Σᵢ ‖W φᵢ − e_{yᵢ}‖² + λ ‖W‖²                                      (2)
    prototype_head   s_k(φ) = −‖φ − c_k‖²,   c_k the mean of class k                               (3)

The third head of this family, the support vector machine, needs a solver and is in :mod:`.svm`.

Source: Bertinetto et al. 2019 (R2-D2) for (2); Snell et al. 2017 for (3), as a linear model too.
Chapter: book/2_differentiable/08_svms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..autograd.precision import full_precision
from ..batch.shapes import align
from ..validate import values_visible
from .labelled import check_classes, check_query, one_hot, positive_scalar


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier, eq. (1) of this module.

    Attributes:
        weights: w_k in rows, ``(*batch, n_classes, d)``.
        bias: b_k, ``(*batch, n_classes)``. Both carry gradients.
    """

    weights: Tensor
    bias: Tensor

    @full_precision
    def scores(self, query: Tensor) -> Tensor:
        """s_k(φ) for query features ``(*batch, m, d)``: ``(*batch, m, n_classes)``."""
        check_query(query, self.weights)
        return query @ self.weights.mT + self.bias.unsqueeze(-2)


@full_precision
def ridge_head(features: Tensor, labels: Tensor, n_classes: int, lam: float | Tensor = 1.0) -> LinearHead:
    """Ridge regression on one-hot labels, eq. (2) of this module, without a bias.

    With Φ the features in rows and Y the one-hot labels, the smaller of two equal systems is solved (Woodbury):

        Wᵀ = Φᵀ (ΦΦᵀ + λI)⁻¹ Y = (ΦᵀΦ + λI)⁻¹ Φᵀ Y

    In float64 whatever the dtype, as single precision loses λ beside ‖φ‖² ≈ 10⁷ λ.

    Args:
        features: support Φ, ``(*batch, n, d)``.
        labels: classes 0 … n_classes − 1, int64, ``(*batch, n)``. A class without example has weights 0.
        n_classes: number of classes.
        lam: λ > 0, a number or a tensor ``(*batch,)``, which gets its gradient too.

    Raises:
        ValueError: bad shapes, dtypes, labels or λ; NaN or infinite input.
    """
    check_classes(features, labels, n_classes)
    price = positive_scalar("lam", lam, features)
    _, (features, labels, price) = align(("features", features, 2), ("labels", labels, 1), ("lam", price, 0))
    phi, price = features.double(), price.double()[..., None, None]
    targets = one_hot(labels, n_classes, phi)
    n, d = phi.shape[-2:]
    if n <= d:
        weights = _solve_shifted(phi @ phi.mT, price, targets).mT @ phi
    else:
        weights = _solve_shifted(phi.mT @ phi, price, phi.mT @ targets).mT
    weights = weights.to(features.dtype)
    return LinearHead(weights, torch.zeros_like(weights[..., 0]))


@full_precision
def prototype_head(features: Tensor, labels: Tensor, n_classes: int) -> LinearHead:
    """The class whose mean is nearest, eq. (3) of this module.

    With o the mean of all c_k,

        −‖φ − c_k‖² = 2 (c_k − o)ᵀφ − (c_k − o)ᵀ(c_k + o) − ‖φ − o‖²

    and the last term is the same for all classes, so it is left out: the scores are linear in φ, and their softmax is
    the same. Without o they would be as large as ‖c_k‖², and lose the digits that tell classes far from 0 apart.

    Args:
        features: support, ``(*batch, n, d)``.
        labels: classes 0 … n_classes − 1, int64, ``(*batch, n)``; every class must occur.
        n_classes: number of classes.

    Raises:
        ValueError: bad shapes, dtypes or labels; NaN or infinite input; a class without example, which has no mean.
    """
    check_classes(features, labels, n_classes)
    _, (features, labels) = align(("features", features, 2), ("labels", labels, 1))
    phi = features.double()
    member = one_hot(labels, n_classes, phi)  # (*batch, n, n_classes)
    size = member.sum(-2)
    if values_visible(size) and (size == 0).any():
        raise ValueError(f"labels must contain each of the {n_classes} classes, as a class without example has no mean")
    centre = member.mT @ phi / size.unsqueeze(-1)
    origin = centre.mean(-2, keepdim=True)
    apart = centre - origin
    weights, bias = 2 * apart, -(apart * (centre + origin)).sum(-1)
    return LinearHead(weights.to(features.dtype), bias.to(features.dtype))


def _solve_shifted(S: Tensor, lam: Tensor, rhs: Tensor) -> Tensor:
    """(S + λI)⁻¹ rhs for S positive semidefinite."""
    identity = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    return torch.linalg.solve(S + lam * identity, rhs)
