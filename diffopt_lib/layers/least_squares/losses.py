"""Robust losses ρ(s) of a squared size s, for residuals some of which are wrong.

With ρ(s) = s a term counts as its square. The others agree with that near 0, and beyond about c², c the radius, they
grow more slowly: like √s (``huber``, ``soft_l1``), like log s (``cauchy``), or not at all (``geman_mcclure``,
``welsch``). What a term of size √s still pulls is ρ'(s) √s; only with the last three does it fall to 0 as the term
grows, and only with the first three is a sum of such terms of linear residuals convex.

Sources: Huber 1964; Holland & Welsch 1977; Triggs et al., Bundle adjustment, 2000, §4.3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def squared(s: Tensor, c: Tensor) -> Tensor:
    """s, whatever the radius."""
    return s


def huber(s: Tensor, c: Tensor) -> Tensor:
    """s up to c², then 2 c √s − c²."""
    far = s > c.square()
    root = torch.where(far, s, 1).sqrt()
    return torch.where(far, 2 * c * root - c.square(), s)


def soft_l1(s: Tensor, c: Tensor) -> Tensor:
    """2 c² (√(1 + s/c²) − 1), which is Huber's loss without the kink in its slope."""
    return 2 * s / (1 + (1 + s / c.square()).sqrt())


def cauchy(s: Tensor, c: Tensor) -> Tensor:
    """c² log(1 + s/c²)."""
    return c.square() * torch.log1p(s / c.square())


def geman_mcclure(s: Tensor, c: Tensor) -> Tensor:
    """s / (1 + s/c²), at most c²."""
    return s / (1 + s / c.square())


def welsch(s: Tensor, c: Tensor) -> Tensor:
    """c² (1 − exp(−s/c²)), at most c²."""
    return -c.square() * torch.expm1(-s / c.square())


LOSSES: dict[str, Loss] = {
    "squared": squared,
    "huber": huber,
    "soft_l1": soft_l1,
    "cauchy": cauchy,
    "geman_mcclure": geman_mcclure,
    "welsch": welsch,
}
