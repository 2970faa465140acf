"""Labelled data (φᵢ, yᵢ) and what a fit to them weighs: checked once, with their batch dimensions aligned."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.shapes import broadcast_batch
from ..validate import check_finite, check_floating, check_positive, check_same_kind, per_problem, values_visible


def check_features(features: Tensor) -> None:
    """Features ``(*batch, n, d)``: at least one vector of at least one entry, finite."""
    check_floating("features", features)
    if features.ndim < 2 or 0 in features.shape[-2:]:
        raise ValueError(f"features must have shape (*batch, n, d) with n, d ≥ 1, got {tuple(features.shape)}")
    check_finite("features", features)


def check_classes(features: Tensor, labels: Tensor, n_classes: int) -> None:
    """Labels are classes 0 … n_classes − 1, ``(*batch, n)``, for features ``(*batch, n, d)``."""
    check_features(features)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if not isinstance(n_classes, int) or n_classes < 2:
        raise ValueError(f"n_classes must be an integer, at least 2, got {n_classes}")
    _check_one_for_each_point("labels", labels, features)
    if values_visible(labels) and labels.numel() and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(
            f"labels must lie in 0 … {n_classes - 1}, got values from {labels.min().item()} to {labels.max().item()}"
        )


def check_signs(features: Tensor, labels: Tensor) -> None:
    """Labels are −1 or +1, ``(*batch, n)``, and both occur, for features ``(*batch, n, d)``."""
    check_features(features)
    check_floating("labels", labels)
    _check_one_for_each_point("labels", labels, features)
    if values_visible(labels):
        if not (labels.abs() == 1).all():
            raise ValueError("labels must be -1 or +1")
        if (labels.sum(-1).abs() == labels.shape[-1]).any():
            raise ValueError("labels must contain both -1 and +1")


def check_query(query: Tensor, weights: Tensor) -> None:
    """Queries ``(*batch, m, d)`` of the kind of the weights ``(*batch, ·, d)``."""
    check_floating("query", query)
    check_same_kind("the weights", weights, [("query", query)])
    d = weights.shape[-1]
    if query.ndim < 2 or query.shape[-1] != d:
        raise ValueError(f"query must have shape (*batch, m, d) with d = {d}, got {tuple(query.shape)}")
    broadcast_batch([("query", query, 2), ("weights", weights, 2)])


def point_weights(sample_weights: Tensor | None, features: Tensor) -> Tensor:
    """The weights of the points, ``(*batch, n)``, checked; ``(n,)`` ones if there are none."""
    if sample_weights is None:
        return features.new_ones(features.shape[-2])
    check_floating("sample_weights", sample_weights)
    _check_one_for_each_point("sample_weights", sample_weights, features)
    check_finite("sample_weights", sample_weights)
    if values_visible(sample_weights) and (sample_weights < 0).any():
        raise ValueError(f"sample_weights must be at least 0, got {sample_weights.min().item():g}")
    return sample_weights


def positive_scalar(name: str, value: float | Tensor, features: Tensor) -> Tensor:
    """A positive number for every element of the batch, ``(*batch,)``, as a tensor of the kind of the features."""
    if isinstance(value, Tensor):
        check_floating(name, value)
    value = per_problem(name, value, features, "features")
    check_positive(name, value)
    return value


def one_hot(labels: Tensor, n_classes: int, like: Tensor) -> Tensor:
    """e_y in rows, ``(*labels.shape, n_classes)``, in the dtype of ``like``."""
    return (labels.unsqueeze(-1) == torch.arange(n_classes, device=labels.device)).to(like.dtype)


def _check_one_for_each_point(name: str, t: Tensor, features: Tensor) -> None:
    check_same_kind("features", features, [(name, t)])
    if t.ndim == 0 or t.shape[-1] != features.shape[-2]:
        raise ValueError(
            f"{name} must have shape (*batch, n) for features (*batch, n, d), {tuple(features.shape)}, "
            f"got {tuple(t.shape)}"
        )
