"""Support vector machines with more examples than dimensions: where :mod:`.program` starts from.

A general solver of quadratic programs would carry a variable ξᵢ for every example. This one has only the machine, in

    min_W  ½ Σₖⱼ rⱼ Wₖⱼ² + Σᵢ cᵢ ξᵢ,      ξᵢ = max_k tᵢₖ,      tᵢₖ = reward [k ≠ yᵢ] − (w_{yᵢ} − w_k)ᵀ φᵢ       (1)

with rⱼ = 1, or 0 for a feature that is constant and makes a bias. The own class is a wish like the others here, one
that asks for ξᵢ ≥ 0. So the multipliers of an example sum to its price, λᵢₖ ≥ 0, Σ_k λᵢₖ = cᵢ; and with the slacks
sᵢₖ = ξᵢ − tᵢₖ ≥ 0 what has to hold besides is

    Wₖⱼ rⱼ = Σᵢ (cᵢ [k = yᵢ] − λᵢₖ) φᵢⱼ,      sᵢₖ λᵢₖ = 0                                              (2)

An interior point method linearises that. What is left when dλ and dξ are eliminated is the Newton system of a softmax
regression, with vᵢₖ = λᵢₖ / sᵢₖ in the place of the probabilities:

    (diag(r) + Σᵢ Sᵢ ⊗ φᵢφᵢᵀ) dW = …,      Sᵢ = diag(vᵢ) − vᵢ vᵢᵀ / Σ_k vᵢₖ                              (3)

Its size is d (n_classes − 1), as the sum of the w_k is known. A singular kernel does it no harm, and large v cost Sᵢ
no digits, as it is a matrix of differences: zᵀSᵢz = ½ Σ_kl vᵢₖ vᵢₗ (zₖ − zₗ)² / Σ vᵢ.

Source: Crammer & Singer 2001 for (1). The path is that of :mod:`..qp.path`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...batch.rows import iterate, relay, where
from ...batch.shapes import flatten_whole
from ...linear import cholesky_
from ..labelled import one_hot
from ..qp.path import mehrotra_direction

GAP = 1e-12  # of the largest sᵢₖ λᵢₖ where the path may end, relative to the largest multiplier of another class, or 1
HIGH_PRICE = 1e4  # a price that stands for all higher ones where nobody pays it
STEEPEST = 1e16  # of v: a multiplier this much larger than its slack is as good as certain
SHORTEST_STEP = 1e-2  # below it rounding rules, and the path ends
HOPELESS = 100  # a gap this much larger than the best so far will not get better


class Machine(NamedTuple):
    """W ``(*batch, n_classes, d)``, ξ ``(*batch, n, 1)``, λ and s ``(*batch, n, n_classes)``, the iterations, and a
    price ``(*batch, 1)`` that no example pays, so that it can stand for all higher ones; infinite if there is none."""

    weights: Tensor
    xi: Tensor
    lam: Tensor
    s: Tensor
    iterations: Tensor
    unpaid: Tensor

    def of(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """λ and s of some classes of each example, ``(*batch, n, k)``."""
        index = classes.expand(*self.lam.shape[:-1], -1)
        return self.lam.gather(-1, index), self.s.gather(-1, index)


def others(labels: Tensor, n_classes: int) -> Tensor:
    """The classes that are not the example's own, in turn, ``(*batch, n, n_classes − 1)``."""
    k = torch.arange(n_classes - 1, device=labels.device)
    return k + (k >= labels.unsqueeze(-1)).long()


def approximate(
    phi: Tensor,
    labels: Tensor,
    n_classes: int,
    price: Tensor,
    reward: Tensor,
    *,
    bias: bool = False,
    max_iterations: int,
) -> Machine:
    """A solution of (1), as good as rounding let it become: the caller has to check it. Carries no derivative.

    Args:
        phi: features of length about 1, ``(*batch, n, d)``.
        labels: yᵢ, ``(*batch, n)``.
        price: cᵢ ≥ 0, ``(*batch, n)``.
        reward: ``(*batch,)``. The batch dimensions broadcast; all tensors have equally many.
        bias: adds a feature that is 1 and has r = 0.
    """
    tensors = (phi, one_hot(labels, n_classes, phi), price.unsqueeze(-1), reward[..., None, None])
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in tensors))

    def algorithm(*tensors):
        batch = tensors[0].shape[:-2]
        phi, y, price, reward = (flatten_whole(t, 2, batch) for t in tensors)
        decay = phi.new_ones(phi.shape[-1])
        if bias:
            phi = torch.cat([phi, torch.ones_like(phi[..., :1])], dim=-1)
            decay = torch.cat([decay, decay.new_zeros(1)])
        machine = with_prices_that_are_paid(phi, y, price, reward, decay, max_iterations)
        return tuple(t.reshape((*batch, *t.shape[1:])) for t in machine)

    return Machine(*opaque(algorithm, phi.expand(*batch, *phi.shape[-2:]), *tensors[1:]))


class Point(NamedTuple):
    """W ``(N, n_classes, d)``, λ and s ``(N, n, n_classes)``."""

    W: Tensor
    lam: Tensor
    s: Tensor


class Path(NamedTuple):
    """The data of (1), how far the path has come, its best point with the gap there, and whether it is stuck."""

    phi: Tensor
    y: Tensor
    price: Tensor
    point: Point
    best: Point
    least: Tensor
    stuck: Tensor


def follow_path(phi: Tensor, y: Tensor, price: Tensor, reward: Tensor, decay: Tensor, max_iterations: int) -> Machine:
    """:func:`approximate` for ``(N, ·, ·)`` tensors."""

    def look(at: Path, k: int) -> tuple[Path, Tensor, tuple[Tensor, Tensor, Tensor]]:
        lam = at.point.lam
        gap = (at.point.s * lam).amax((1, 2))
        best, least = where(gap < at.least, at.point, at.best), torch.minimum(gap, at.least)
        enough = GAP * ((1 - at.y) * lam).amax((1, 2)).clamp_min(1)
        stop = at.stuck | (gap <= enough) | ~(gap <= HOPELESS * least)
        result = (best.W, best.lam, torch.full_like(stop, k, dtype=torch.int64))
        return at._replace(best=best, least=least), stop, result

    def step(at: Path) -> Path:
        W, lam, s = at.point
        system = newton(at.phi, at.y, at.price, decay, at.point)
        (dlam, ds, dW), alpha = mehrotra_direction(_column(lam), _column(s), system)
        stuck = ~(alpha > SHORTEST_STEP).flatten()
        moved = Point(W + alpha * dW, lam + alpha * dlam.view_as(lam), s + alpha * ds.view_as(s))
        return at._replace(point=where(stuck, at.point, moved), stuck=stuck)

    price = price.clamp_min(1e-12)  # a price of 0 leaves no path
    point, unknown = _begin(phi, y, price, reward, decay), torch.full_like(price[:, 0, 0], torch.inf)
    path = Path(phi, y, price, point, point, unknown, torch.isnan(unknown))
    W, lam, iterations = iterate(path, look, step, max_iterations)
    t = missed(W, phi, y, reward)
    xi = t.amax(-1, keepdim=True)
    return Machine(W, xi, lam, xi - t, iterations, torch.full_like(price[:, 0], torch.inf))


def _begin(phi: Tensor, y: Tensor, price: Tensor, reward: Tensor, decay: Tensor) -> Point:
    """Every class pays the same, and every slack is as large as the reward, or larger."""
    lam = (price / y.shape[-1]).expand(y.shape)
    W = decay * ((price * y - lam).mT @ phi)
    t = missed(W, phi, y, reward)
    return Point(W, lam, t.amax(-1, keepdim=True) + reward - t)


def with_prices_that_are_paid(
    phi: Tensor, y: Tensor, price: Tensor, reward: Tensor, decay: Tensor, max_iterations: int
) -> Machine:
    """:func:`follow_path`, with prices of at most :data:`HIGH_PRICE` where nobody pays that much, which is if the
    classes can be separated by a margin that is not tiny. A multiplier of 10⁸ for the own class costs the others 8
    digits."""

    def at_most_high(problem: tuple[Tensor, ...]) -> Machine:
        phi, y, price, reward = problem
        machine = follow_path(phi, y, price.clamp_max(HIGH_PRICE), reward, decay, max_iterations)
        high = price.amax(1) > HIGH_PRICE
        paid = ((1 - y) * machine.lam).sum(-1).amax(-1, keepdim=True) >= 0.1 * HIGH_PRICE
        # NaN: so much was paid that it has to be whole.
        unpaid = torch.where(paid, torch.nan, HIGH_PRICE).to(price.dtype)
        return machine._replace(unpaid=torch.where(high, unpaid, torch.inf))

    def whole(problem: tuple[Tensor, ...], _: Machine) -> Machine:
        phi, y, price, reward = problem
        return follow_path(phi, y, price, reward, decay, max_iterations)

    def solved(machine: Machine) -> Tensor:
        return ~machine.unpaid.isnan().squeeze(-1)

    return relay((phi, y, price, reward), [at_most_high, whole], solved)


def newton(
    phi: Tensor, y: Tensor, price: Tensor, decay: Tensor, point: Point
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """(2) linearised and factorised: a function from c to the step with λ ds + s dλ = −c, as dλ, ds and dW."""
    W, lam, s = point
    v = (lam / s).clamp_max(STEEPEST)
    total = v.sum(-1, keepdim=True)
    L = cholesky_(hessian(v, phi, decay))
    unpaid = price - lam.sum(-1, keepdim=True)
    unbalanced = (price * y - lam).mT @ phi - decay * W

    def direction(complementarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = complementarity.view_as(s) / s
        due = share.sum(-1, keepdim=True) + unpaid  # Σ_k of −v ds
        rhs = unbalanced + (share - v * due / total).mT @ phi
        dW = torch.cholesky_solve(_column(rhs[:, :-1]), L).view_as(rhs[:, :-1])
        dW = torch.cat([dW, torch.zeros_like(rhs[:, :1])], dim=1)
        dW = dW - dW.mean(1, keepdim=True)  # the w_k sum to 0
        rise = phi @ dW.mT
        ds = ((v * rise).sum(-1, keepdim=True) - due) / total - rise
        return _column(-share - v * ds), _column(ds), dW

    return direction


def missed(W: Tensor, phi: Tensor, y: Tensor, reward: Tensor) -> Tensor:
    """t of (1): by how much every wish is missed, ``(N, n, n_classes)``; 0 for the own class."""
    scores = phi @ W.mT
    return reward * (1 - y) - (y * scores).sum(-1, keepdim=True) + scores


def hessian(v: Tensor, phi: Tensor, decay: Tensor) -> Tensor:
    """The matrix of (3) in the unknowns w_k − w_last, ``(N, (n_classes − 1) · d, (n_classes − 1) · d)``."""
    K, d = v.shape[-1] - 1, phi.shape[-1]
    pairs = v.unsqueeze(-1) * (v / v.sum(-1, keepdim=True)).unsqueeze(-2)  # (N, n, n_classes, n_classes)
    pairs.diagonal(dim1=-2, dim2=-1).zero_()
    S = (torch.diag_embed(pairs.sum(-1)) - pairs)[..., :K, :K]
    weighted = S.permute(0, 2, 3, 1).unsqueeze(-2) * phi.mT[:, None, None]  # (N, K, K, d, n)
    H = (weighted @ phi[:, None, None]).transpose(-3, -2)  # (N, K, d, K, d)
    square = torch.eye(K, dtype=v.dtype, device=v.device) - 1 / (K + 1)  # ‖W‖² in these unknowns
    return (H + square[:, None, :, None] * torch.diag(decay)[:, None, :]).reshape(-1, K * d, K * d)


def _column(t: Tensor) -> Tensor:
    return t.flatten(1).unsqueeze(-1)
