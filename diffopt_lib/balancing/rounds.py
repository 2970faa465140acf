"""Sinkhorn's algorithm: scale the rows to their sums, then the columns to theirs, and so on.

A round costs two products with a matrix. Where scores do not differ by much more than τ some twenty are enough.

Source: Sinkhorn 1967; Cuturi, Sinkhorn distances, 2013, algorithm 1.
"""

from __future__ import annotations

from torch import Tensor

PLAIN_SPREAD = 30.0  # the range of scores, in units of τ, up to which these rounds are worth a try
PLAIN_ROUNDS = 24  # at most, before another method takes over


def plain_rounds(S: Tensor, tau: Tensor, a: Tensor, b: Tensor, v: Tensor, tolerance: Tensor) -> Tensor:
    """v after rounds of Sinkhorn's algorithm, at most ``PLAIN_ROUNDS``; of use only where exp(S/τ) has no zeros."""
    K = (S - S.amax(-1, keepdim=True)).div_(tau).exp_()  # rows may be scaled beforehand
    K_transposed, a = K.mT.contiguous(), a.mT  # a row times a matrix is much quicker than a matrix times a column
    w = b * (v - v.amax(-1, keepdim=True)).exp()  # a constant is free, and a bad guess must not overflow
    for k in range(1, PLAIN_ROUNDS + 1):
        before = w
        w = b / ((a / (w @ K_transposed)) @ K)
        if k % 4 == 0 and ((before / w - 1).abs().amax((1, 2)) <= tolerance).all():
            break
    return (w / b).log()
