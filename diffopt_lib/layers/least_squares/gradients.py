"""Other derivatives of a solution than the exact one, for those who compare, or who have no second derivatives.

With H = ∇²f, M Gauss and Newton's part of it, B = ∂∇f/∂x and A = I − M⁻¹H at y*, they are, on the free coordinates,

    exact           −H⁻¹ B = −(I + A + A² + …) M⁻¹ B                                               (1)
    one step        −M⁻¹ B                                 the last update, in which M and y are held
    truncated       −(I + A + … + A^(K−1)) M⁻¹ B           the last K updates
    direct loss     (∇_x f(y_ε) − ∇_x f(y_−ε)) / 2ε        y_ε = argmin f + ε gᵀδ, by K updates from y*

where g is the cotangent. The last needs no derivative of ∇f; with K updates it is the truncated one up to ε², and tends
to the exact one as K grows (Hazan, Keshet & McAllester 2010; Song et al. 2016; Pineda et al. 2022 take K = 1).
All three hold the bounds that hold y*, and differentiate these by the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...autograd.closure import pull_back
from ...autograd.precision import without_autocast
from ...batch.function import RowFunction
from ...batch.shapes import flatten, flatten_whole
from .derivative import Conditions
from .methods import LEAST
from .model import Model
from .normal import Dense, Form, Normal

EPSILON = 1e-5  # the length of the longest perturbation that direct loss minimisation makes, relative to y


@dataclass(frozen=True)
class Updates:
    """Gauss–Newton updates of the points of a batch, with the coordinates at bounds held.

    Attributes:
        conditions: what is solved.
        form: of M.
        steps: how many updates.
    """

    conditions: Conditions
    form: Form
    steps: int

    def model(self, y: Tensor, theta: tuple[Tensor, ...]) -> Model:
        """The model of all rows."""
        _, weight, radius, _, _, *x = theta
        batch, terms = y.shape[:-1], self.conditions.terms
        residual = RowFunction(self.conditions.residual, tuple(x), batch, y.detach().reshape(-1, y.shape[-1]))
        weight, radius = flatten(weight, terms.weight_dims, batch), flatten(radius, 1, batch)
        return Model(terms, self.conditions.manifold, residual, weight.double(), radius.double())

    def normal(self, y: Tensor, theta: tuple[Tensor, ...]) -> Normal:
        """M at y."""
        model, rows = self.model(y, theta), y.reshape(-1, y.shape[-1])
        return self.form(model, model.linearise(rows), rows)

    def solve(self, normal: Normal, b: Tensor, side: Tensor) -> Tensor:
        """M⁻¹ b on the free coordinates, 0 on the others."""
        rows = b.reshape(-1, b.shape[-1]).double()
        free = flatten_whole(side == 0, 1, b.shape[:-1])
        D = normal.diagonal().detach()
        return normal.solve(LEAST * torch.where(D > 0, D, 1), free, rows).reshape(b.shape).to(b.dtype)

    def differentiated(self, y: Tensor, theta: tuple[Tensor, ...]) -> Tensor:
        """δ = 0 after the updates from y, with the derivative that they have: the truncated one."""
        side = theta[0]
        z = y
        for _ in range(self.steps):
            zero = torch.zeros_like(side, dtype=y.dtype).expand(*y.shape[:-1], -1)
            R = self.conditions(zero, z, *theta)
            d = torch.where(side != 0, -R, -self.solve(self.normal(z, theta), torch.where(side != 0, 0, R), side))
            z = self.conditions.manifold.retract(z, d)
        return z

    def held(self, y: Tensor, theta: tuple[Tensor, ...]) -> Tensor:
        """y* with the derivative of one update in which M and y are held."""
        side = theta[0]
        with torch.no_grad():
            normal = self.normal(y, theta)
        R = self.conditions(y.new_zeros(*y.shape[:-1], side.shape[-1]), y, *theta)
        R_free = torch.where(side != 0, 0, R)
        held = isinstance(normal, Dense)  # of which autograd sees that it is linear in b; iterations are not, quite
        step = self.solve(normal, R_free, side) if held else _Held.apply(lambda b: self.solve(normal, b, side), R_free)
        return self.conditions.manifold.retract(y, torch.where(side != 0, -R, -step))


class _Held(torch.autograd.Function):
    """A⁻¹ b for a symmetric A that is held."""

    @staticmethod
    def forward(ctx, solve: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        ctx.solve = solve
        return solve(b)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor]:
        return None, _Held.apply(ctx.solve, g)


class DirectLoss(torch.autograd.Function):
    """δ = 0 as a function of θ, with the derivative by direct loss minimisation."""

    @staticmethod
    @without_autocast
    def forward(ctx, updates: Updates, y: Tensor, *theta: Tensor) -> Tensor:
        ctx.updates = updates
        ctx.save_for_backward(y, *theta)
        return y.new_zeros(*y.shape[:-1], updates.conditions.manifold.dim)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        y, *theta = ctx.saved_tensors
        free = [i for i, t in enumerate(theta) if t.is_floating_point() and ctx.needs_input_grad[2 + i]]
        plus, minus, epsilon = _perturbed(ctx.updates, y, tuple(theta), g)
        conditions, side = ctx.updates.conditions, theta[0]

        def change(*theta: Tensor) -> Tensor:
            """(f(y_ε; θ) − f(y_−ε; θ)) / 2ε, held coordinates at their bounds, and what these do by themselves."""
            _, weight, radius, lower, upper, *x = theta
            chart = conditions.manifold.chart
            bound = torch.where(side < 0, chart(lower), torch.where(side > 0, chart(upper), 0))
            f = []
            for point in (plus, minus):
                moved = torch.where(side != 0, bound - conditions.manifold.chart(point), 0)
                f.append(conditions.cost(conditions.manifold.retract(point, moved), weight, radius, *x))
            return ((f[0] - f[1]) / (2 * epsilon)).sum() + torch.where(side != 0, g * bound, 0).sum()

        return None, None, *pull_back(change, theta, free, torch.ones((), dtype=y.dtype, device=y.device))


@torch.no_grad()
def _perturbed(updates: Updates, y: Tensor, theta: tuple[Tensor, ...], g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y_ε, y_−ε, and ε ``(*batch,)``, chosen so that the first update is EPSILON long relative to y."""
    conditions, side = updates.conditions, theta[0]
    g_free = torch.where(side != 0, 0, g)
    normal = updates.normal(y, theta)
    first = updates.solve(normal, g_free, side)
    longest = (first.abs() / (1 + conditions.manifold.size(y))).amax(-1)
    epsilon = EPSILON / torch.where(longest > 0, longest, 1)
    points = []
    for sign in (1, -1):
        z = y
        for _ in range(updates.steps):
            slope = torch.where(side != 0, 0, conditions(torch.zeros_like(g), z, *theta))
            pull = slope + sign * epsilon.unsqueeze(-1) * g_free
            z = conditions.manifold.retract(z, -updates.solve(normal, pull, side))
        points.append(z)
    return points[0], points[1], epsilon
