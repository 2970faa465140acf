"""Isotonic regression, batched.

    v* = argmin_{v_1 ≥ … ≥ v_n}  Σ_i  f_i(v_i)                                                      (1)

with f_i(v) = ½ (v − s_i + w_i)² (quadratic) or exp(s_i − v) + v exp(w_i) (entropic). The solution is constant on
consecutive blocks, and its value on a block B is a mean,

    quadratic:   mean_B(s − w)            entropic:   log Σ_B exp(s) − log Σ_B exp(w)                (2)

The classical algorithm, pool adjacent violators, walks along the sequence: O(n), but one step after the other. scipy
has it compiled, for the quadratic kind on the CPU. It takes one sequence, so the rows of a batch are put one below the
other, where they have nothing to pool with each other.

For the entropic kind, and on other devices, halves are merged, O(n log² n) work in log₂ n parallel rounds: neighbouring
stretches that are solved already become one, all at once. Pooling starts at their border and goes on as long as
neighbours violate the order, so a suffix of the left stretch and a prefix of the right one become one block, of value
μ say: the elements of the left with v < μ and those of the right with v > μ. Whether v_p < μ can be told for every
element p of the left by itself: it is so if and only if pooling the elements of the left up to p with those of the
right that exceed v_p gives more than v_p. The sums that this takes are cumulative ones, from the border outwards.

Source: Best & Chakravarti 1990 for pooling; Blondel, Teboul, Berthet & Djolonga, Fast differentiable sorting and
ranking, 2020, for (2). Chapter: book/2_differentiable/07_permutations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A kind of mean (2) of values v with weights that depend on w, as a quotient of sums.

    Attributes:
        value: v of single elements, from s and w.
        numerator, denominator: cumulative sums along the last dimension, from v and w.
        add, quotient: of sums.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    numerator: Callable[[Tensor, Tensor], Tensor]
    denominator: Callable[[Tensor, Tensor], Tensor]
    add: Callable[[Tensor, Tensor], Tensor]
    quotient: Callable[[Tensor, Tensor], Tensor]


MEANS = {
    "quadratic": Mean(
        value=torch.sub,
        numerator=lambda v, w: v.cumsum(-1),
        denominator=lambda v, w: torch.ones_like(v).cumsum(-1),
        add=torch.add,
        quotient=torch.div,
    ),
    "entropic": Mean(  # all in logarithms
        value=torch.sub,
        numerator=lambda v, w: (v + w).logcumsumexp(-1),
        denominator=lambda v, w: w.logcumsumexp(-1),
        add=torch.logaddexp,
        quotient=torch.sub,
    ),
}


def isotonic_blocks(s: Tensor, w: Tensor, regularization: str) -> Tensor:
    """Where the block of every element begins, ``(N, n)`` int64, for s and w ``(N, n)`` that descend."""
    if regularization == "quadratic" and s.device.type == "cpu":
        return blocks_one_after_the_other(s, w)
    return blocks_by_merging(s, w, MEANS[regularization])


def blocks_one_after_the_other(s: Tensor, w: Tensor) -> Tensor:
    """The blocks of the quadratic regression, by scipy.

    Every row is scaled to a range of at most 1 and put where the one above has ended already, which takes log₂ N bits.
    """
    N, n = s.shape
    highest, lowest = s[:, :1] - w[:, -1:], s[:, -1:] - w[:, :1]
    scaled = (s - w - highest) / (highest - lowest).clamp_min(torch.finfo(s.dtype).tiny)
    row = torch.arange(N).unsqueeze(-1)
    starts = isotonic_regression((scaled - 2 * row).reshape(-1).numpy(), increasing=False).blocks
    return torch.from_numpy(np.repeat(starts[:-1], np.diff(starts))).reshape(N, n) - n * row


def blocks_by_merging(s: Tensor, w: Tensor, mean: Mean) -> Tensor:
    """The blocks of either regression, by merging halves; s and w need not descend."""
    N, n = s.shape
    size = 1 << (n - 1).bit_length()
    v = torch.nn.functional.pad(mean.value(s, w), (0, size - n), value=-torch.inf)  # which never joins a block
    w = torch.nn.functional.pad(w, (0, size - n))
    joined = torch.zeros_like(v, dtype=torch.bool)  # whether an element is in the block of the one before
    half = 1
    while half < n:
        pairs = (-1, 2 * half)
        v, w, joined = v.reshape(pairs), w.reshape(pairs), joined.reshape(pairs)
        violated = (v[:, half - 1] < v[:, half]).nonzero().squeeze(-1)
        if len(violated):
            v[violated], pooled = _merge(v[violated], w[violated], mean)
            joined[violated] |= pooled
        half *= 2
    position = torch.arange(n, device=s.device)
    return torch.where(joined.reshape(N, size)[:, :n], 0, position).cummax(-1).values


def _merge(v: Tensor, w: Tensor, mean: Mean) -> tuple[Tensor, Tensor]:
    """Pool the halves of v ``(M, 2h)``; which elements are now in the block of the one before."""
    half = v.shape[-1] // 2
    left, left_w = v[:, :half].flip(-1), w[:, :half].flip(-1)  # ascends: outwards from the border
    right, right_w = v[:, half:].contiguous(), w[:, half:]  # descends
    left_sums = mean.numerator(left, left_w), mean.denominator(left, left_w)
    right_sums = mean.numerator(right, right_w), mean.denominator(right, right_w)

    def pooled(from_left: Tensor, from_right: Tensor) -> Tensor:
        """Value of the block of so many elements from both sides; both counts are at least 1."""
        sums = (
            mean.add(of_left.gather(-1, from_left - 1), of_right.gather(-1, from_right - 1))
            for of_left, of_right in zip(left_sums, right_sums, strict=True)
        )
        return mean.quotient(*sums)

    count = torch.arange(1, half + 1, device=v.device).expand_as(left)
    above = torch.searchsorted(-right, -left)  # elements of the right that exceed that of the left
    below = torch.searchsorted(left, right)  # elements of the left that are less than that of the right
    left_joins = (above > 0) & (pooled(count, above.clamp_min(1)) > left)
    right_joins = (below > 0) & (pooled(below.clamp_min(1), count) < right)
    # Rounding may leave a gap where values tie with μ. What joins is everything up to the last one that does.
    from_left, from_right = ((count * joins).amax(-1, keepdim=True) for joins in (left_joins, right_joins))
    some = (from_left > 0) & (from_right > 0)
    value = pooled(from_left.clamp_min(1), from_right.clamp_min(1))
    position = torch.arange(2 * half, device=v.device)
    inside = some & (position >= half - from_left) & (position < half + from_right)
    after_first = inside & (position > half - from_left)
    return torch.where(inside, value, v), after_first
