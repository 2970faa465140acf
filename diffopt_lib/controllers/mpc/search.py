"""How far to go along a policy: the merit of a trajectory, and the longest step that decreases it enough.

The merit is eq. (1) of :mod:`.solver`. A step of length α has α times the feed-forward control and all of the feedback.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...batch.products import times
from ...batch.rows import scatter, select, where
from .trajectory import Iterate

LENGTHS = 8  # step lengths tried: 1, ½, ¼, …
SUFFICIENT_DECREASE = 1e-4


def search(it: Iterate, K: Tensor, k: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The trajectory of the longest step of 1, ½, ¼, … along the policy that decreases the merit enough, the values of
    its rows, and its length ``(N,)``, 0 if there is none. Whoever can't take the full step tries all others at once."""
    at, layout = it.at, it.stage.layout
    tau, values = _roll_out(it, K, k)
    length = _good(it, values, slope, 1.0).to(k.dtype)
    left = (length == 0) & torch.isfinite(slope)
    if left.any():
        part = select((it, K, k, slope), left)
        chosen = _search_shorter(*part)
        tau, values, length = scatter((tau, values, length), left, chosen)
    moved = length > 0
    tau, values = where(moved, (tau, values), (it.tau, at.values))
    return tau, layout.rows(values), length


def _search_shorter(it: Iterate, K: Tensor, k: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lengths = 0.5 ** torch.arange(1, LENGTHS, device=k.device, dtype=k.dtype)
    tau, values = torch.func.vmap(lambda a: _roll_out(it, K, a * k))(lengths)
    with torch.no_grad():
        good = torch.stack([_good(it, v, slope, float(a)) for v, a in zip(values, lengths, strict=True)])
        best = good.long().argmax(0)
        length = torch.where(good.any(0), lengths[best], 0)
    chosen = torch.arange(len(best), device=k.device)
    return tau[best, chosen], values[best, chosen], length


def _roll_out(it: Iterate, K: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """τ and the values of the stages for u = ū + k + K (x − x̄), between the bounds."""
    n, dynamics = it.stage.layout.n, it.stage.only("dynamics")
    x, taus = it.tau[:, 0, :n], []
    for t in range(it.stage.layout.T):
        u = it.tau[:, t, n:] + k[:, t] + times(K[:, t], x - it.tau[:, t, :n])
        u = torch.maximum(torch.minimum(u, it.upper[:, t]), it.lower[:, t])
        taus.append(torch.cat([x, u], -1))
        x = dynamics.at(taus[-1], torch.tensor(t, device=k.device))
    tau = torch.stack(taus)
    return tau.movedim(0, 1), it.stage.values(tau).movedim(0, 1)


@torch.no_grad()
def _good(it: Iterate, values: Tensor, slope: Tensor, length: float) -> Tensor:
    """Whether the merit decreases by a fraction of what the slope promises; rounding is forgiven."""
    before, after = _merit(it, it.at.values), _merit(it, values)
    rounding = 10 * torch.finfo(values.dtype).eps * size_of_cost(it)
    enough = after <= before + SUFFICIENT_DECREASE * length * slope + rounding
    return enough & torch.isfinite(after) & torch.isfinite(slope)


def _merit(it: Iterate, values: Tensor) -> Tensor:
    """Eq. (1)."""
    cost = values[..., 0].sum(-1)
    if not it.stage.layout.k:
        return cost
    rho = it.rho[:, None, None]
    multiplier = (it.mu + rho * it.stage.layout.rows(values)).clamp_min(0)
    return cost + ((multiplier.square() - it.mu.square()) / (2 * rho)).sum((-2, -1))


def size_of_cost(it: Iterate) -> Tensor:
    """What is added up to the cost, ``(N,)``, to first order also inside of the caller's function: 1 − cos θ is rounded
    like 1, however small it is."""
    return it.at.values[..., 0].abs().sum(-1) + (it.at.jacobian[:, :, 0] * it.tau).abs().sum((-2, -1))
