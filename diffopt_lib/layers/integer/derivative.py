"""What stands in for the derivative of an integer program, which is zero wherever it exists.

Incoming is g = ∂ℓ/∂y. Each rule returns what c, A and b receive.

**CombOptNet** (Paulus et al. 2021). Where should y go? Against g, in integer steps: gᵢ is dropped where yᵢ − sign(gᵢ)
leaves the box, and what is left is written as

    −g = Σₖ λₖ Δₖ,      Δₖ = the signs of −g at its n − k + 1 largest magnitudes, 0 elsewhere,  λₖ ≥ 0       (2)

so that every yₖ' = y + Δₖ with λₖ > 0 is an integer point of the box. Let dᵢ(y) = (bᵢ − aᵢᵀy) / ‖aᵢ‖, the distance of y
to the plane of constraint i. What keeps yₖ' from being the solution is

    Pₖ = minᵗᵢ dᵢ(y) + max(cᵀΔₖ, 0)     if yₖ' is feasible: it costs more, and the nearest constraint does not cut y off
    Pₖ = Σᵢ max(−dᵢ(yₖ'), 0)            otherwise: the constraints that cut yₖ' off                          (3)

    minᵗᵢ dᵢ = −τ log (1/m) Σᵢ exp(−dᵢ/τ)

and c, A, b receive the gradient of P = (1/n) Σₖ λₖ Pₖ with y and the yₖ' held. A constraint without a normal, or with
b ≥ 10²⁰, takes no part. Where cᵀΔₖ = 0 the slope of max is taken to be 1, so that costs that start at 0 can leave it.

**Blackbox** (Vlastelica et al. 2020): c receives (y(c + λg) − y(c)) / λ, for one more solution.

**Identity** (Sahoo et al. 2023): c receives −g.

The last two say nothing of A and b.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...autograd.closure import pull_back
from ...autograd.opaque import batch_first, opaque
from ...autograd.precision import without_autocast
from ...batch.products import or_one
from ...batch.shapes import align_batch
from ...validate import NO_BOUND
from .program import holds

Rule = Callable[..., list[Tensor | None]]
FAR = 1e200  # the distance to a constraint that takes no part


def attach(rule: Rule, y: Tensor, *program: Tensor) -> Tensor:
    """y, for which ``rule(g, y, *program)`` gives what c, A, b, lower and upper receive."""
    return _Surrogate.apply(rule, y, *program)


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(rule, y, *program):
        return y.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.rule, _, *program = inputs
        ctx.save_for_backward(output, *program)

    @staticmethod
    @without_autocast
    def backward(ctx, g):
        y, *program = ctx.saved_tensors
        return None, None, *ctx.rule(g, y, *program)

    @staticmethod
    def vmap(info, in_dims, rule, *tensors):
        return attach(rule, *batch_first(info, in_dims[1:], tensors)), 0


def comboptnet(g: Tensor, y: Tensor, *program: Tensor, tau: float, tolerance: float) -> list[Tensor | None]:
    """The gradient of P, eq. (3)."""
    lower, upper = program[3:]
    weights, steps = decompose(-g, y, lower, upper)
    mismatch = partial(_mismatch, y=y, weights=weights, steps=steps, tau=tau, tolerance=tolerance)

    def marked(c: Tensor, A: Tensor, b: Tensor) -> Tensor:
        """The same, with a NaN in g, which y has where there is no solution, for every gradient of its element."""
        return mismatch(c, A, b) + (0 * g).sum(-1) * (c.sum(-1) + A.sum((-1, -2)) + b.sum(-1))

    one = torch.ones_like(y[..., 0])
    return [*pull_back(marked, program[:3], (0, 1, 2), one), None, None]


def decompose(direction: Tensor, y: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """λ ``(*batch, n)`` and Δ ``(*batch, n, n)``, with Σₖ λₖ Δₖ = the direction where y may follow it."""
    there = y + direction.sign()
    direction = torch.where((lower <= there) & (there <= upper), direction, 0)
    size, order = direction.abs().sort(-1)
    weights = size - torch.nn.functional.pad(size[..., :-1], (1, 0))
    rank = order.argsort(-1)
    k = torch.arange(y.shape[-1], device=y.device).unsqueeze(-1)
    return weights, torch.where(rank.unsqueeze(-2) >= k, direction.sign().unsqueeze(-2), 0)


def _mismatch(
    c: Tensor, A: Tensor, b: Tensor, *, y: Tensor, weights: Tensor, steps: Tensor, tau: float, tolerance: float
) -> Tensor:
    """P, ``(*batch,)``."""
    there = y.unsqueeze(-2) + steps
    dearer = (steps @ c.unsqueeze(-1)).squeeze(-1).clamp_min(0)
    violated = (-distance(A, b, there)).clamp_min(0).sum(-1)
    feasible = holds(A @ there.mT, A.abs() @ there.abs().mT, b, tolerance)
    nearest = soft_minimum(distance(A, b, y.unsqueeze(-2)).squeeze(-2), tau).unsqueeze(-1)
    return (weights * torch.where(feasible, nearest + dearer, violated)).mean(-1)


def distance(A: Tensor, b: Tensor, points: Tensor) -> Tensor:
    """d at points ``(..., P, n)``, signed: negative where the constraint is violated, ``(..., P, m)``."""
    norm = A.norm(dim=-1)
    counts = (norm > 0) & (b < NO_BOUND)
    slack = torch.where(counts, b, 0).unsqueeze(-2) - points @ A.mT
    return torch.where(counts.unsqueeze(-2), slack / or_one(norm).unsqueeze(-2), FAR)


def soft_minimum(d: Tensor, tau: float) -> Tensor:
    """minᵗ along the last dimension, the plain minimum for τ = 0; 0 if it is empty."""
    if d.shape[-1] == 0:
        return d.sum(-1)
    if tau == 0:
        return d.amin(-1)
    return -tau * ((-d / tau).logsumexp(-1) - torch.tensor(d.shape[-1]).log())


def blackbox(
    g: Tensor, y: Tensor, *program: Tensor, solve: Callable[..., tuple[Tensor, ...]], lambd: float
) -> list[Tensor | None]:
    """(y(c + λg) − y(c)) / λ for c."""
    c, *rest = program
    rest = [align_batch(t, dims, g.ndim - 1) for t, dims in zip(rest, (2, 1, 1, 1), strict=True)]
    other, *_ = opaque(solve, c + lambd * torch.where(g.isfinite(), g, 0), *rest)
    return [(other - y) / lambd + 0 * g, None, None, None, None]


def identity(g: Tensor, y: Tensor, *program: Tensor) -> list[Tensor | None]:
    """−g for c."""
    return [-g, None, None, None, None]
