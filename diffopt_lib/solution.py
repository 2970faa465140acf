"""What every solver returns, and the errors they raise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OnFailure = Literal["raise", "nan", "return"]

# What became of an element.
RUNNING, SOLVED, INFEASIBLE, UNBOUNDED, STUCK, UNDEFINED = range(6)


@dataclass(frozen=True)
class Solution:
    """A minimiser y* of f(y; x) for every element of a batch, and how it was reached.

    Attributes:
        y: the minimiser, ``(*batch, n)``. Carries the gradient with respect to the context x.
        value: f(y*; x), ``(*batch,)``. Carries its gradient too.
        converged: whether ``residual`` reached the tolerance, ``(*batch,)``, bool.
        iterations: iterations spent on each element, ``(*batch,)``, int64.
        residual: the largest entry of |∇_y f(y*; x)|, ``(*batch,)``. A number to look at: it carries no gradient.
    """

    y: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


class SolverError(RuntimeError):
    """A problem that is infeasible, unbounded, singular, or did not reach its tolerance.

    Attributes:
        indices: the batch indices that failed, a list of tuples (one empty tuple for a problem without batch).
        reason: what went wrong, one sentence.
    """

    def __init__(self, reason: str, indices: list[tuple[int, ...]]):
        self.reason = reason
        self.indices = indices
        super().__init__(reason + name_elements(indices))


def raise_failed(status: Tensor, reasons: Mapping[int, str | Callable[[Tensor], str]]) -> None:
    """Raise :class:`SolverError` for the first kind of failure that occurs in ``status``, naming its elements.

    Args:
        status: one of the codes above for every element, ``(*batch,)``.
        reasons: what to say of each kind, those that matter most first: a sentence, or a function that makes it of the
            mask of those elements.
    """
    for kind, reason in reasons.items():
        failed = status == kind
        if failed.any():
            raise SolverError(reason if isinstance(reason, str) else reason(failed), failed_indices(failed))


def warn_unconfirmed(unconfirmed: Tensor, what: str) -> None:
    """Say which elements of a batch, a mask ``(*batch,)``, have a solution whose derivative is not to be relied on."""
    if unconfirmed.any():
        warnings.warn(what + name_elements(failed_indices(unconfirmed)), stacklevel=3)


def name_elements(indices: list[tuple[int, ...]]) -> str:
    """A sentence with the first few of these batch elements and their number; nothing for a problem without batch."""
    shown = ", ".join(str(index) for index in indices[:5]) + (", …" if len(indices) > 5 else "")
    return "" if indices == [()] else f" Batch elements: {shown} ({len(indices)} in all)."


def failed_indices(failed: Tensor) -> list[tuple[int, ...]]:
    """The positions of True in a boolean tensor of shape ``(*batch,)``, as tuples."""
    return [tuple(index) for index in failed.nonzero().tolist()]


def mark_failures(y: Tensor, converged: Tensor, on_failure: OnFailure) -> Tensor:
    """Make the failed elements of y ``(*batch, n)`` NaN, together with every gradient that will pass through them.

    ``torch.where`` would mark the value and hand zeros to the gradient. A product with NaN spoils both, which is the
    honest answer: what did not converge has no derivative to report.
    """
    if on_failure != "nan":
        return y
    mark = torch.where(converged, 1.0, torch.nan).to(y.dtype)
    return y * mark.unsqueeze(-1)
