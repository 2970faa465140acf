"""Piecewise constant signals with noise on them: the denoising data of OptNet.

A signal of length T is cut into K pieces, each of a constant integer height; the observation adds white noise:

    x_t = y_t + σ ε_t,    y_t = a_k on the k-th piece,    ε_t ~ N(0, 1)                            (1)

The paper says "10,000 signals of length 100, piecewise constant with noise". The rest is as in the authors' published
code: K uniform on 1 … 9, the K − 1 cuts a uniform random subset of the places 1 … T − 2, heights uniform on 10 … 99,
σ = 10. Their random numbers are not reproduced, so figures agree up to sampling: the mean squared error of the
observation itself is σ² = 100.

Source: Amos & Kolter 2017, §4.2.
Chapter: book/2_differentiable/04_quadratic_programs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LENGTH = 100
LARGEST_PIECES = 9
HEIGHTS = (10, 99)
NOISE = 10.0


class Signals(NamedTuple):
    """Observations and what they are observations of, both ``(count, length)`` and float32."""

    noisy: Tensor
    clean: Tensor


def piecewise_constant(count: int, generator: torch.Generator, length: int = LENGTH, noise: float = NOISE) -> Signals:
    """``count`` independent signals of eq. (1).

    Raises:
        ValueError: count is negative, or the length leaves no room for nine pieces.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if length < LARGEST_PIECES + 2:
        raise ValueError(f"length must be at least {LARGEST_PIECES + 2}, got {length}")
    pieces = torch.randint(1, LARGEST_PIECES + 1, (count, 1), generator=generator)
    # The places with the K − 1 smallest of T − 2 random numbers are a uniform random subset.
    order = torch.rand(count, length - 2, generator=generator).argsort(-1).argsort(-1)
    cuts = torch.zeros(count, length, dtype=torch.int64)
    cuts[:, 1:-1] = order < pieces - 1
    heights = torch.randint(HEIGHTS[0], HEIGHTS[1] + 1, (count, LARGEST_PIECES), generator=generator)
    clean = heights.gather(-1, cuts.cumsum(-1)).float()
    return Signals(clean + noise * torch.randn(count, length, generator=generator), clean)
