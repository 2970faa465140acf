"""Whether forbidden pairs leave any matrix with the marginals that are asked for.

They don't if some rows may only use columns that together take less than these rows give (Hall's condition; Gale 1957
for marginals). Such rows are a proof, and the potentials of a solver that does not converge point at them: columns that
are asked for too much get lower and lower ones. So of all sets of columns only the lowest one, two, three … are tried.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import FORBIDDEN

CERTAIN = 1e-9  # of the total, by which rows must give more than their columns take; less may be rounding


def allowed(S: Tensor) -> Tensor:
    """Which pairs can be, ``(N, n, m)``."""
    return S > FORBIDDEN / 10


def blocked(S: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Whether a row or a column is forbidden altogether, but not empty, ``(N,)``."""
    possible = allowed(S) & (a > 0) & (b > 0)
    rows = (a > 0) & ~possible.any(-1, keepdim=True)
    columns = (b > 0) & ~possible.any(-2, keepdim=True)
    return rows.any((1, 2)) | columns.any((1, 2))


def overfull(S: Tensor, a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Whether the r columns with the lowest potentials v ``(N, m)`` can't take, for some r, what the rows give that may
    use no others, ``(N,)``."""
    order = torch.where(b[:, 0] > 0, v.nan_to_num(), -torch.inf).argsort(-1)  # what takes nothing comes first
    capacity = torch.nn.functional.pad(b[:, 0].gather(-1, order).cumsum(-1), (1, 0))
    number = torch.arange(1, v.shape[-1] + 1, device=v.device)
    rank = torch.empty_like(order).scatter(-1, order, number.expand_as(order))
    needed = torch.where(allowed(S), rank.unsqueeze(1), 0).amax(-1)  # columns that a row may use are the first so many
    given = torch.zeros_like(capacity).scatter_add(-1, needed, a[..., 0]).cumsum(-1)
    return (given - capacity > CERTAIN * given[:, -1:]).any(-1)
