"""The potentials of a balancing problem, found outside the graph and refined until rounding cannot be felt.

At low temperature an entry of P is the exponential of a small difference of large numbers S_ij/τ. So the potentials
that :mod:`.newton` finds are added to the scores, which makes all those small that matter and leaves P as it is; and if
rounding could be felt the problem is solved once more from there. What comes out is P for scores as near to S as
rounding is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.shapes import flatten_whole
from ..solution import INFEASIBLE, SOLVED, STUCK, raise_failed
from .derivative import floored
from .feasibility import blocked, overfull
from .newton import balance, size_of
from .problem import check_values


class Potentials(NamedTuple):
    """(f, g) to add to the scores, z = (u, v) for these, both ``(*batch, n + m)``, and status ``(*batch,)``."""

    shift: Tensor
    z: Tensor
    converged: Tensor
    iterations: Tensor
    error: Tensor


def solve(
    start: Tensor,
    S: Tensor,
    tau: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    warm: bool,
    masked: bool,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> Potentials:
    """For S ``(*batch, n, m)``, tau ``(*batch, 1, 1)``, a ``(*batch, n, 1)`` and b ``(*batch, 1, m)``, n ≥ m for speed.

    Args:
        start: τ v of a similar problem if ``warm``, ``(*batch, m)``; its batch dimensions are those of the result.
        masked: whether some pairs may be forbidden.
        tolerance: on the relative error of the marginals.
    """
    batch = start.shape[:-1]
    S, tau, a, b = (flatten_whole(t, 2, batch) for t in (S, tau, a, b))
    check_values(S, a, b)
    impossible = blocked(S, a, b) if masked else torch.zeros(len(S), dtype=torch.bool, device=S.device)
    if impossible.any():
        S = torch.where(impossible[:, None, None], torch.nan, S)  # which ends their iterations at once
    guess = flatten_whole(start, 1, batch) if warm else None
    rounding = (8 * torch.finfo(S.dtype).eps * size_of(S) / tau)[:, 0, 0]
    found = balance(S, tau, a, b, guess, (tolerance + rounding).clamp_max(0.5), max_iterations)
    shift = tau.squeeze(-1) * with_rows(S, tau, b, found.v)
    z = torch.zeros_like(shift)
    if (rounding > tolerance).any():
        near, exactly = shifted(S, shift), torch.full_like(rounding, tolerance)
        again = balance(near, tau, a, b, torch.zeros_like(found.v), exactly, max_iterations)
        z = with_rows(near, tau, b, again.v)
        iterations, converged = found.iterations + again.iterations, found.converged & again.converged
        found = again._replace(iterations=iterations, converged=converged)
    columns = (shift, z, found.converged, found.iterations, found.error)
    result = Potentials(*(t.reshape((*batch, *t.shape[1:])) for t in columns))
    if on_failure == "raise" and not found.converged.all():
        impossible |= ~found.converged & overfull(S, a, b, (shift + z * tau.squeeze(-1))[:, S.shape[-2] :])
        _raise_failed(result, impossible.reshape(batch))
    return result


def with_rows(S: Tensor, tau: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """(u, v) ``(N, n + m)`` with the u that makes the row sums right."""
    u = -torch.logsumexp(S / tau + v.unsqueeze(-2) + floored(b).log(), dim=-1)
    return torch.cat([u, v], dim=-1)


def shifted(S: Tensor, shift: Tensor) -> Tensor:
    """S_ij + f_i + g_j, with (f, g) in one."""
    f, g = shift.split((S.shape[-2], S.shape[-1]), dim=-1)
    return S + f.unsqueeze(-1) + g.unsqueeze(-2)


def guess_from(potential: Tensor, start: Tensor) -> Tensor:
    """A potential of an earlier solution, without the NaN that mark failures."""
    try:
        return potential.detach().nan_to_num().to(start).expand(start.shape)
    except RuntimeError:
        raise ValueError(
            f"init must be the solution of a problem of this shape: its potential should broadcast to "
            f"{tuple(start.shape)}, got {tuple(potential.shape)}"
        ) from None


def _raise_failed(result: Potentials, impossible: Tensor) -> None:
    status = torch.where(result.converged, SOLVED, torch.where(impossible, INFEASIBLE, STUCK))
    iterations, error = result.iterations, result.error.nan_to_num(nan=torch.inf)
    raise_failed(
        status,
        {
            INFEASIBLE: "scores: what is masked (−inf) leaves no assignment with these sums of rows and columns (a row "
            "or column that is masked altogether needs the sum 0).",
            STUCK: lambda failed: (
                f"the marginals are off by {error[failed].max().item():.1e} after {iterations[failed].max().item()} "
                "iterations."
            ),
        },
    )
