"""The quadratic programs of :mod:`.layer`: with n examples of d features, the dual where n ≤ d, the primal where n > d.

All are in units in which the features have length 1 at most, and both machines are of one form,

    min_{v, ξ ≥ 0}  ½ Σⱼ rⱼ vⱼ² + Σᵢ cᵢ ξᵢ    s.t.   A v ≥ reward − ξ                                     (1)

The rows of A are what the examples wish for, equally many for each ξᵢ in turn; rⱼ is 1, or 0 for a bias. The dual, in
the multipliers λ of the wishes, has a matrix of the inner products of the rows of A. It is singular where n > d, and
then its solution, let alone its derivative, drowns in rounding as the cᵢ grow. (1) is well behaved as long as the cᵢ
are not much larger than the λ. A cᵢ beyond all of these changes nothing, so a smaller one can stand for it.

Every function returns the weights, the bias if there is one, and λ, with their derivatives, and the program's solution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..labelled import one_hot
from ..qp import QPSolution, solve_qp
from .path import Machine, approximate, others


def head_by_primal(
    x: Tensor, labels: Tensor, n_classes: int, prices: Tensor, reward: Tensor, init: QPSolution | None, **options: Any
) -> tuple[Tensor, Tensor, QPSolution]:
    """The machine of Crammer & Singer: W ``(*batch, n_classes, d)`` and λ ``(*batch, n (n_classes − 1))``.

    Args:
        x: features, ``(*batch, n, d)``.
        labels: ``(*batch, n)``.
        prices: cᵢ, ``(*batch, n)``.
        reward: ``(*batch,)``. The batch dimensions broadcast; all tensors have equally many.
        init: the solution of a similar program.
        options: of :func:`.solve_qp`.
    """
    # The w_k sum to 0, so W = basis · V with one row less, and ‖W‖ = ‖V‖.
    basis = torch.linalg.eigh(identity(n_classes, x) - 1 / n_classes).eigenvectors[:, 1:]
    before: int | Tensor = 0
    if init is None:
        machine = approximate(x, labels, n_classes, prices, reward, max_iterations=options["max_iterations"])
        V = (basis.mT @ machine.weights).flatten(-2)
        prices = torch.minimum(prices, machine.unpaid)
        init, before = start(V, machine, labels, 1 / price_unit(prices)), machine.iterations
    E = wishes(labels, n_classes, x) @ basis
    rows = (E.unsqueeze(-1) * repeat(x, n_classes - 1, -2).unsqueeze(-2)).flatten(-2)
    v, lam, program = solve_primal(rows, x.new_ones(rows.shape[-1]), prices, reward, init=init, **options)
    W = basis @ v.unflatten(-1, (n_classes - 1, -1))
    return W, lam, replace(program, iterations=before + program.iterations)


def head_by_dual(
    x: Tensor, labels: Tensor, n_classes: int, prices: Tensor, reward: Tensor, init: QPSolution | None, **options: Any
) -> tuple[Tensor, Tensor, QPSolution]:
    """The same from min_λ ½ ‖W(λ)‖² − reward Σ λᵢₖ  s.t.  λ ≥ 0, Σ_k λᵢₖ ≤ cᵢ."""
    E = wishes(labels, n_classes, x)
    Q = (E @ E.mT) * repeat(repeat(x @ x.mT, n_classes - 1, -1), n_classes - 1, -2)
    p = -repeat(reward.unsqueeze(-1), Q.shape[-1], -1)
    own = repeat(identity(x.shape[-2], x), n_classes - 1, -1)  # example by wish
    G = torch.cat([-identity(Q.shape[-1], x), own])
    h = torch.cat([torch.zeros_like(prices[..., :1]).expand(*prices.shape[:-1], Q.shape[-1]), prices], dim=-1)
    program = solve_qp(Q, p, G=G, h=h, init=init, **options)
    alpha = (program.y.unsqueeze(-1) * E).unflatten(-2, (-1, n_classes - 1)).sum(-2)
    return alpha.mT @ x, program.y, program


def linear_by_primal(
    x: Tensor, y: Tensor, prices: Tensor, reward: Tensor, init: QPSolution | None, **options: Any
) -> tuple[Tensor, Tensor, Tensor, QPSolution]:
    """The machine with two classes y = ±1 and a bias: w ``(*batch, d)``, b ``(*batch,)`` and λ ``(*batch, n)``.

    It is that of Crammer & Singer for half the prices, with w the difference of the two weights.
    """
    n, d = x.shape[-2:]
    before: int | Tensor = 0
    if init is None and n > d:
        classes = (y > 0).long()
        most = options["max_iterations"]
        machine = approximate(x, classes, 2, prices / 2, reward, bias=True, max_iterations=most)
        difference = machine.weights[..., 1, :] - machine.weights[..., 0, :]
        prices = torch.minimum(prices, 2 * machine.unpaid)
        init, before = start(difference, machine, classes, 2 / price_unit(prices)), machine.iterations
    rows = y.unsqueeze(-1) * torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    decay = torch.cat([x.new_ones(d), x.new_zeros(1)])
    v, lam, program = solve_primal(rows, decay, prices, reward, init=init, **options)
    return v[..., :d], v[..., d], lam, replace(program, iterations=before + program.iterations)


def linear_by_dual(
    x: Tensor, y: Tensor, prices: Tensor, reward: Tensor, init: QPSolution | None, **options: Any
) -> tuple[Tensor, Tensor, Tensor, QPSolution]:
    """The same from min_λ ½ ‖Σ λᵢ yᵢ xᵢ‖² − reward Σ λᵢ  s.t.  0 ≤ λᵢ ≤ cᵢ, Σ yᵢ λᵢ = 0, of which b is a multiplier."""
    signed = y.unsqueeze(-1) * x
    one = identity(x.shape[-2], x)
    p = -repeat(reward.unsqueeze(-1), x.shape[-2], -1)
    h = torch.cat([0 * prices, prices], dim=-1)
    A, b = y.unsqueeze(-2), torch.zeros_like(y[..., :1])
    program = solve_qp(signed @ signed.mT, p, A, b, torch.cat([-one, one]), h, init=init, **options)
    w = (program.y.unsqueeze(-2) @ signed).squeeze(-2)
    return w, program.equality_dual.squeeze(-1), program.y, program


def solve_primal(
    rows: Tensor, decay: Tensor, prices: Tensor, reward: Tensor, **options: Any
) -> tuple[Tensor, Tensor, QPSolution]:
    """v of (1) and the multipliers of the wishes; ``rows`` is A ``(*batch, M, D)``, ``decay`` r ``(D,)``.

    The objective is divided by the largest cᵢ where that is more than 1, so that no multiplier is.
    """
    (M, D), n = rows.shape[-2:], prices.shape[-1]
    scale, reward, xi = price_unit(prices), reward.unsqueeze(-1), identity(n, rows)
    Q = torch.diag(torch.cat([decay, decay.new_zeros(n)])) / scale.unsqueeze(-1)
    p = torch.cat([torch.zeros_like(prices[..., :1]).expand(*prices.shape[:-1], D), prices / scale], dim=-1)
    wish = torch.cat([-rows, -repeat(xi, M // n, -2).expand(*rows.shape[:-1], n)], dim=-1)
    sign = torch.cat([xi.new_zeros(n, D), -xi], dim=-1).expand(*rows.shape[:-2], n, D + n)
    h = torch.cat([repeat(-reward, M, -1), repeat(0 * reward, n, -1)], dim=-1)
    program = solve_qp(Q, p, G=torch.cat([wish, sign], dim=-2), h=h, **options)
    return program.y[..., :D], scale * program.inequality_dual[..., :M], program


def start(weights: Tensor, machine: Machine, labels: Tensor, unit: Tensor) -> QPSolution:
    """What :func:`solve_primal` may start from, with the multipliers in its units. No other fields are read."""
    lam, s = machine.of(others(labels, machine.lam.shape[-1]))
    own, _ = machine.of(labels.unsqueeze(-1))
    xi = machine.xi.squeeze(-1)
    multipliers = unit * torch.cat([lam.flatten(-2), own.squeeze(-1)], dim=-1)
    slack = torch.cat([s.flatten(-2), xi], dim=-1).clamp_min(0)
    unknown = torch.full_like(xi[..., 0], torch.nan)
    return QPSolution(torch.cat([weights, xi], dim=-1), xi[..., :0], multipliers, slack, *[unknown] * 7)


def wishes(labels: Tensor, n_classes: int, like: Tensor) -> Tensor:
    """e_{yᵢ} − e_k for every example and every other class in turn, ``(*batch, n (n_classes − 1), n_classes)``."""
    own, other = (one_hot(t, n_classes, like) for t in (labels.unsqueeze(-1), others(labels, n_classes)))
    return (own - other).flatten(-3, -2)


def price_unit(prices: Tensor) -> Tensor:
    """The largest price if it is more than 1, ``(*batch, 1)``, held constant: it is but a unit."""
    return prices.detach().amax(-1, keepdim=True).clamp_min(1)


def identity(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def repeat(t: Tensor, times: int, dim: int) -> Tensor:
    """Every entry along the dimension repeated ``times`` times: a, a, b, b."""
    return t.repeat_interleave(times, dim)
