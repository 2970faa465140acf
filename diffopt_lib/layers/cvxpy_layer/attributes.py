"""What a ``cvxpy.Parameter`` is declared to be, checked on tensors as CVXPY checks it on arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...validate import check_finite, check_floating, values_visible

# How far CVXPY lets a value be from what is declared; rounding in the caller's dtype is allowed on top.
CLOSE = 1e-10
CLOSE_EIGENVALUE = 1e-8

Data = tuple[Tensor, ...]


class Rule(NamedTuple):
    """A word for it, how far a tensor is from it, given what is declared besides, and how far it may be."""

    word: str
    excess: Callable[[Tensor, Data], Tensor]
    close: float


@dataclass(frozen=True)
class Declared:
    """A parameter's name, its shape, and its rules: keys of :data:`RULES`, each with what is declared besides."""

    name: str
    shape: tuple[int, ...]
    rules: tuple[tuple[str, Data], ...]

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
        values = t.detach().cpu()
        values = values if dims else values.unsqueeze(-1)  # CVXPY counts a scalar as a vector of one
        rounding = 16 * torch.finfo(t.dtype).eps * float(values.abs().max())
        for key, data in self.rules:
            rule = RULES[key]
            worst = float(rule.excess(values, data).max())
            if not worst <= rule.close + rounding * (rule.close > 0):
                raise ValueError(
                    f"{self.name} must be {rule.word}, as its cvxpy.Parameter is declared; off by {worst:.2g}"
                )


def declared(parameter: Any) -> Declared:
    """The rules of a parameter."""
    has = parameter.attributes
    rules: list[tuple[str, Data]] = [(key, ()) for key in SIMPLE if has[key]]
    if has["PSD"] or has["NSD"]:
        rules.insert(0, ("symmetric", ()))
    if has["bounds"] and not any(hasattr(bound, "parameters") for bound in parameter.bounds):
        rules += [(key, (_array(bound),)) for key, bound in zip(("lower", "upper"), parameter.bounds, strict=True)]
    for key in ("integer", "boolean"):
        if has[key]:
            rules.append((key, tuple(torch.as_tensor(np.asarray(i)) for i in getattr(parameter, f"{key}_idx"))))
    return Declared(parameter.name(), tuple(parameter.shape), tuple(rules))


def _eigenvalues(t: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(0.5 * (t + t.mT).double())


def _off_diagonal(t: Tensor, _: Data) -> Tensor:
    return (t - torch.diag_embed(t.diagonal(dim1=-2, dim2=-1))).abs()


def _from_integer(t: Tensor, index: Data) -> Tensor:
    some = _at(t, index)
    return (some - some.round()).abs()


def _from_boolean(t: Tensor, index: Data) -> Tensor:
    some = _at(t, index)
    return torch.minimum(some.abs(), (some - 1).abs())


def _at(t: Tensor, index: Data) -> Tensor:
    places: tuple[Any, ...] = (..., *index)
    return t[places]


def _array(bound: Any) -> Tensor:
    return torch.as_tensor(np.asarray(bound.toarray() if hasattr(bound, "toarray") else bound, dtype=np.float64))


SIMPLE = ("pos", "neg", "nonneg", "nonpos", "diag", "symmetric", "PSD", "NSD")
RULES = {
    "pos": Rule("positive", lambda t, _: torch.where(t > 0, 0.0, 1.0), 0.0),
    "neg": Rule("negative", lambda t, _: torch.where(t < 0, 0.0, 1.0), 0.0),
    "nonneg": Rule("nonnegative", lambda t, _: -t, CLOSE),
    "nonpos": Rule("nonpositive", lambda t, _: t, CLOSE),
    "diag": Rule("diagonal", _off_diagonal, CLOSE),
    "symmetric": Rule("symmetric", lambda t, _: (t - t.mT).abs(), CLOSE),
    "PSD": Rule("positive semidefinite", lambda t, _: -_eigenvalues(t), CLOSE_EIGENVALUE),
    "NSD": Rule("negative semidefinite", lambda t, _: _eigenvalues(t), CLOSE_EIGENVALUE),
    "lower": Rule("at least its lower bound", lambda t, bound: bound[0] - t, CLOSE),
    "upper": Rule("at most its upper bound", lambda t, bound: t - bound[0], CLOSE),
    "integer": Rule("integer", _from_integer, CLOSE),
    "boolean": Rule("0 or 1", _from_boolean, CLOSE),
}
