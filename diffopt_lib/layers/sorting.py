"""Soft sorting and ranking: projections onto a permutahedron.

The permutahedron P(w) is the convex hull of all permutations of w. With ρ = (n, …, 1) the ranks of x solve a linear
program over P(ρ), and sorting is one over P(x). A regulariser makes the solution a continuous function:

    soft_rank(x) = argmax_{y ∈ P(ρ)}  ⟨x, y⟩ − τ Ω(y)                                               (1)
    soft_sort(x) = argmax_{y ∈ P(x)}  ⟨ρ, y⟩ − τ Ω(y)        Ω(y) = ½‖y‖²                           (2)

The entropic alternative has Ω(y) = Σ y log y in (1). In (2), where entries may be negative, it is y = log μ with
μ = argmax_{μ ∈ P(exp x)} ⟨ρ, μ⟩ − τ Σ μ log μ.

Let z = x/τ in (1) and ρ/τ in (2). If w and s, that is z sorted, both descend then the solution is s − v, up to the
order, where v is an isotonic regression (:mod:`.isotonic`). It is constant on blocks B, and on each of them

    quadratic:   y = s − mean_B(s) + mean_B(w)          entropic:   log y = s − LSE_B(s) + LSE_B(w)  (3)

(with the logarithms of ρ, or x itself, for w in the latter). The blocks do not change when x moves a little, unless two
of them are about to join, so the derivatives of (3) of any order are those of (1) and (2). Where two blocks have equal
values, y has a kink, and (3) gives the derivative of one of its sides.

Source: Blondel, Teboul, Berthet & Djolonga, Fast differentiable sorting and ranking, 2020, Definition 1 and
Propositions 3–4. Chapter: book/2_differentiable/07_permutations.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..autograd.opaque import Algorithm, opaque
from ..autograd.precision import full_precision
from ..batch.shapes import broadcast_batch
from ..validate import check_option, check_same_kind, check_vectors, temperature
from .isotonic import MEANS, isotonic_blocks

Regularization = Literal["quadratic", "entropic"]


@full_precision
def soft_sort(
    x: Tensor, tau: float | Tensor = 1.0, regularization: Regularization = "quadratic", *, descending: bool = False
) -> Tensor:
    """The entries of x in order, drawn towards their mean by τ: eq. (2).

    It equals ``torch.sort`` as long as τ times the largest gap between neighbours is less than 1. As τ → ∞ all entries
    become the mean of x, or log mean exp(x) if the regularisation is entropic.

    Args:
        x: ``(*batch, n)``, float32 or float64. The arithmetic is in float64. −∞ is no mask here: what is not there has
            no place among n, so leave it out.
        tau: τ > 0, in the units of 1/x; a number or ``(*batch,)``. It gets its gradient too.
        regularization: ``"quadratic"`` or ``"entropic"``.
        descending: the largest first.

    Returns:
        ``(*batch, n)``. The quadratic one has the sum of x.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, τ that is not positive.
    """
    x, tau, dtype = _check(x, tau, regularization)
    w = x.sort(-1, descending=True).values
    y = _in_order(_descending_ranks(x) / tau, w, regularization)
    return (y if descending else y.flip(-1)).to(dtype)


@full_precision
def soft_rank(
    x: Tensor, tau: float | Tensor = 1.0, regularization: Regularization = "quadratic", *, descending: bool = False
) -> Tensor:
    """The ranks 1 … n of the entries of x, where close entries get close ranks: eq. (1).

    Rank 1 is that of the smallest entry, or the largest if ``descending``. As τ → 0 the ranks become the exact ones,
    with ties sharing the mean of theirs, and without ties are exact as soon as τ is less than the smallest gap between
    entries. As τ → ∞ all become (n + 1)/2. Arguments and errors are those of :func:`soft_sort`, but τ is in the units
    of x.

    Returns:
        ``(*batch, n)``, summing to n (n + 1)/2.
    """
    x, tau, dtype = _check(x, tau, regularization)
    z = (-x if descending else x) / tau
    s, order = z.sort(dim=-1, descending=True)
    w = _descending_ranks(x)
    if regularization == "quadratic":
        y = _in_order(s, w, regularization)
    else:
        y = _in_order(s, w.log(), regularization).exp()
    return torch.empty_like(y).scatter(-1, order, y).to(dtype)


@full_precision
def spearman_loss(
    predicted: Tensor, target: Tensor, tau: float | Tensor = 1.0, regularization: Regularization = "quadratic"
) -> Tensor:
    """1 − Spearman's rank correlation, with soft ranks of the predictions:

        6 Σ_i (soft_rank(predicted)_i − rank(target)_i)² / (n (n² − 1))

    As τ → 0 it tends to the exact quantity, between 0 (same order) and 2 (opposite order), if there are no ties. The
    target has hard ranks, ties sharing the mean of theirs; they are piecewise constant, so it gets no gradient.

    Args:
        predicted, target: ``(*batch, n)`` with n ≥ 2; the batch dimensions broadcast.
        tau, regularization: as in :func:`soft_rank`.

    Returns:
        ``(*batch,)``.
    """
    _check(target, 1.0, "quadratic", name="target")
    _check(predicted, tau, regularization, name="predicted")
    n = predicted.shape[-1]
    if n < 2 or target.shape[-1] != n:
        raise ValueError(
            f"predicted and target must end in the same n ≥ 2, got {tuple(predicted.shape)} and {tuple(target.shape)}"
        )
    check_same_kind("predicted", predicted, [("target", target)])
    (rank,) = opaque(_hard_rank, target)
    distance = (soft_rank(predicted, tau, regularization) - rank).square().sum(-1)
    return 6 * distance / (n * (n * n - 1))


def _in_order(s: Tensor, w: Tensor, regularization: Regularization) -> Tensor:
    """Eq. (3) for s and w ``(*batch, n)`` that both descend: y, or log y for the entropic one."""
    s, w = torch.broadcast_tensors(s, w)

    first, highest = opaque(_blocks(regularization), s, w)
    below_highest = s - highest  # so that equal entries of s, however large, share exactly
    if regularization == "quadratic":
        return below_highest - _block_mean(below_highest - w, first)
    return below_highest - _block_logsumexp(below_highest, first) + _block_logsumexp(w, first)


def _blocks(regularization: Regularization) -> Algorithm:
    """For s and w: where the block of every element begins, and the value of s there, which is the highest of it."""

    def algorithm(s, w):
        w = w.expand_as(s).reshape(-1, s.shape[-1])
        first = isotonic_blocks(_narrowed(s.reshape(w.shape), w), w, regularization).reshape(s.shape)
        return first, s.gather(-1, first)

    return algorithm


def _narrowed(s: Tensor, w: Tensor) -> Tensor:
    """s with wide gaps made narrower: one as wide as w keeps blocks apart, and s − w should not lose digits to it."""
    gaps = (s[:, :-1] - s[:, 1:]).minimum(2 * (w[:, :1] - w[:, -1:]))
    return torch.nn.functional.pad(-gaps.cumsum(-1), (1, 0))


def _block_mean(x: Tensor, first: Tensor) -> Tensor:
    """The mean of x over its block, at every element; ``first`` is where the block begins."""
    size = torch.zeros_like(x).scatter_add(-1, first, torch.ones_like(x))
    total = torch.zeros_like(x).scatter_add(-1, first, x)
    return (total / size.clamp_min(1)).gather(-1, first)


def _block_logsumexp(x: Tensor, first: Tensor) -> Tensor:
    """log Σ exp(x) over its block, at every element; x descends, so the first entry of a block is its largest."""
    (largest,) = opaque(_gather, x, first)
    total = torch.zeros_like(x).scatter_add(-1, first, (x - largest).exp()).gather(-1, first)
    return largest + total.log()


def _gather(x: Tensor, index: Tensor) -> tuple[Tensor]:
    return (x.expand(index.shape).gather(-1, index.expand_as(x)),)


def _hard_rank(x: Tensor) -> tuple[Tensor]:
    """Ranks 1 … n, ties sharing the mean of theirs."""
    values, order = x.sort(-1)
    new = torch.ones_like(x, dtype=torch.bool)
    new[..., 1:] = values[..., 1:] != values[..., :-1]
    position = torch.arange(1, x.shape[-1] + 1, dtype=torch.float64, device=x.device).expand(x.shape)
    ranks = _block_mean(position, new.cumsum(-1) - 1)
    return (torch.empty_like(x).scatter(-1, order, ranks.to(x.dtype)),)


def _descending_ranks(x: Tensor) -> Tensor:
    """ρ = (n, …, 1)."""
    return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device)


def _check(x: Tensor, tau: float | Tensor, regularization: str, name: str = "x") -> tuple[Tensor, Tensor, torch.dtype]:
    """x and τ ``(*batch, 1)`` in float64, and the dtype that the result will have."""
    check_option("regularization", regularization, MEANS)
    check_vectors(x, name)
    tau = temperature(tau, x, name).double().unsqueeze(-1)
    broadcast_batch([(name, x, 1), ("tau", tau, 1)])
    return x.double(), tau, x.dtype
