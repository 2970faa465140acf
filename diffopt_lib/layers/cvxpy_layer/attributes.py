"""What a ``cvxpy.Parameter`` is declared to be, checked on tensors as CVXPY checks it on arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...validate import check_finite, check_floating, values_visible

# How far CVXPY lets a value be from what is declared; rounding in the caller's dtype is allowed on top.
CLOSE = 1e-10
CLOSE_EIGENVALUE = 1e-8

Excess = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Declared:
    """A parameter's name, its shape, and its rules: a word, how far a tensor is from it, and how far it may be."""

    name: str
    shape: tuple[int, ...]
    rules: tuple[tuple[str, Excess, float], ...]

    def check(self, t: Tensor) -> None:
        """Raise a ValueError that names the parameter, what was expected and what came."""
        check_floating(self.name, t)
        check_finite(self.name, t)
        dims = len(self.shape)
        if t.ndim < dims or tuple(t.shape[t.ndim - dims :]) != self.shape:
            expected = ", ".join(["*batch", *map(str, self.shape)])
            raise ValueError(f"{self.name} must have shape ({expected}), got {tuple(t.shape)}")
        if not (values_visible(t) and t.numel()):
            return
        for word, excess, close in self.rules:
            worst, size = float(excess(t.detach()).max()), float(t.detach().abs().max())
            if not worst <= close + 16 * torch.finfo(t.dtype).eps * size * (close > 0):
                raise ValueError(f"{self.name} must be {word}, as its cvxpy.Parameter is declared; off by {worst:.2g}")


def declared(parameter: Any) -> Declared:
    """The rules of a parameter."""
    return Declared(parameter.name(), tuple(parameter.shape), tuple(_rules(parameter)))


def _rules(parameter: Any) -> Iterator[tuple[str, Excess, float]]:
    has = parameter.attributes
    if has["pos"]:
        yield "positive", lambda t: torch.where(t > 0, 0.0, 1.0), 0.0
    if has["neg"]:
        yield "negative", lambda t: torch.where(t < 0, 0.0, 1.0), 0.0
    if has["nonneg"]:
        yield "nonnegative", lambda t: -t, CLOSE
    if has["nonpos"]:
        yield "nonpositive", lambda t: t, CLOSE
    if has["bounds"] and not any(hasattr(bound, "parameters") for bound in parameter.bounds):
        low, high = (_array(bound) for bound in parameter.bounds)
        yield "at least its lower bound", lambda t: low.to(t) - t, CLOSE
        yield "at most its upper bound", lambda t: t - high.to(t), CLOSE
    if has["diag"]:
        yield "diagonal", lambda t: (t - torch.diag_embed(t.diagonal(dim1=-2, dim2=-1))).abs(), CLOSE
    if has["symmetric"] or has["PSD"] or has["NSD"]:
        yield "symmetric", lambda t: (t - t.mT).abs(), CLOSE
    if has["PSD"]:
        yield "positive semidefinite", lambda t: -_eigenvalues(t), CLOSE_EIGENVALUE
    if has["NSD"]:
        yield "negative semidefinite", lambda t: _eigenvalues(t), CLOSE_EIGENVALUE
    if has["integer"]:
        yield "integer", _at(parameter, parameter.integer_idx, lambda t: (t - t.round()).abs()), CLOSE
    if has["boolean"]:
        yield "0 or 1", _at(parameter, parameter.boolean_idx, lambda t: torch.minimum(t.abs(), (t - 1).abs())), CLOSE


def _eigenvalues(t: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(0.5 * (t + t.mT).double())


def _array(bound: Any) -> Tensor:
    return torch.as_tensor(np.asarray(bound.toarray() if hasattr(bound, "toarray") else bound, dtype=np.float64))


def _at(parameter: Any, places: tuple[np.ndarray, ...], excess: Excess) -> Excess:
    """The excess of some entries only; CVXPY counts a scalar as a vector of one."""
    index: tuple[Any, ...] = (..., *(torch.as_tensor(np.asarray(place)) for place in places))

    def of_places(t: Tensor) -> Tensor:
        return excess((t if parameter.shape else t.unsqueeze(-1))[index])

    return of_places
