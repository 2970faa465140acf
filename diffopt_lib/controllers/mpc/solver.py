"""A local minimum of a nonlinear control problem, by Newton steps on linear–quadratic models with bounded controls.

Around a trajectory that obeys the dynamics the problem is replaced by a linear–quadratic one with the same bounds
(:mod:`..boxed`), whose solution is a policy: a new feed-forward control and a feedback gain at each time. The policy is
rolled out, and every element of the batch takes the longest step along it that decreases its merit. The model has the
cost's Hessian alone at first (Gauss–Newton), made convex where it is not, stage by stage and all of τ together; and the
exact Hessian of the Hamiltonian as soon as long steps are taken and the Riccati recursion finds it convex on the free
controls. So the last steps converge quadratically.

Constraints g ≤ 0 enter the merit as an augmented Lagrangian,

    Σ_t cost_t + Σ_i (max(0, μ_i + ρ g_i)² − μ_i²) / 2ρ,      μ ← max(0, μ + ρ g)                        (1)

The loop leaves a point whose active bounds and rows are right. Newton's method on the optimality conditions with these
held, all of z at once, polishes it.

Sources: Tassa, Mansard & Todorov, Control-limited differential dynamic programming, 2014; Nocedal & Wright 2006, §17.3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, times
from ...batch.rows import iterate, scatter, select, where
from ...solution import INFEASIBLE, RUNNING, SOLVED, STUCK, UNDEFINED
from ..boxed import Boxed, find_active, settle
from ..riccati import factorise, find_policy, follow
from .kkt import assemble, solve_system
from .layout import time_first
from .stage import Stage

LENGTHS = 8  # step lengths tried at once: 1, ½, ¼, …
SUFFICIENT_DECREASE = 1e-4
NEAR = 1e-6  # relative optimality at which the loop leaves an element to the polish
SETTLED = 1e-2  # relative optimality from which a full step may be followed by new multipliers
FIRST_PENALTY, LAST_PENALTY = 1e-1, 1e9  # ρ, relative to the curvature of the cost over the rows'
MOST_DAMPING = 1e8  # relative to the Hessian; an element that needs more is stuck


class Expansion(NamedTuple):
    """What is known at a trajectory: values and Jacobians of the stages, multipliers, and distance from optimality."""

    values: Tensor
    jacobian: Tensor
    mu: Tensor  # max(0, μ + ρ g)
    gradient: Tensor  # of cost + μᵀg in τ
    costate: Tensor
    slope: Tensor  # in the controls, the future included
    residual: Tensor
    violation: Tensor


class Iterate(NamedTuple):
    """A trajectory ``(N, T, ·)`` that obeys the dynamics and the bounds, and what the method remembers of it."""

    stage: Stage
    tau: Tensor
    lower: Tensor
    upper: Tensor
    mu: Tensor
    rho: Tensor
    side: Tensor  # the bounds that were active in the last model: −1, 0 or 1
    damping: Tensor
    length: Tensor  # of the last step
    last_violation: Tensor
    at: Expansion


class Found(NamedTuple):
    """What the loop says of an element when it leaves."""

    tau: Tensor
    costate: Tensor
    nu: Tensor
    mu: Tensor
    side: Tensor
    status: Tensor
    iterations: Tensor
    residual: Tensor


def minimise(start: Iterate, tolerance: float, max_iterations: int) -> Found:
    """The loop."""
    near = max(NEAR, tolerance)

    def look(it: Iterate, k: int) -> tuple[Iterate, Tensor, Found]:
        at, status = it.at, _judge(it, near)
        if k == max_iterations:
            status = torch.where(status == RUNNING, STUCK, status)
        side = active_side(it)
        nu = torch.where(side != 0, -at.slope, 0)
        spent = torch.full_like(status, k)
        return it, status != RUNNING, Found(it.tau, at.costate, nu, at.mu, side, status, spent, at.residual)

    return iterate(start, look, step, max_iterations)


def begin(stage: Stage, x_init: Tensor, u: Tensor, lower: Tensor, upper: Tensor, warm: bool) -> Iterate:
    """The trajectory of the controls u ``(N, T, m)``, moved between the bounds. If they come from an earlier solution,
    the multipliers of rows that are active there are estimated, and not begun at 0."""
    layout, N = stage.layout, len(u)
    tau = _rollout(stage, x_init, torch.maximum(torch.minimum(u, upper), lower))
    mu, one = tau.new_zeros(N, layout.T, layout.k), tau.new_ones(N)
    at = expand(stage, tau, lower, upper, mu, one)
    side = _touching(tau[..., layout.n :], lower, upper)
    it = Iterate(stage, tau, lower, upper, mu, one, side, 0 * one, 0.25 * one, torch.inf * one, at)
    if not layout.k:
        return it
    G = at.jacobian[:, :, 1 + layout.n :]
    curvature = largest(_cost_hessian(it).flatten(1)) + 1e-12
    steepness = G.square().sum(-1).flatten(1).amax(1)
    rho = FIRST_PENALTY * curvature / torch.where(steepness > 0, steepness, 1)
    mu = _estimate_multipliers(it) if warm else mu
    return it._replace(rho=rho, mu=mu, at=expand(stage, tau, lower, upper, mu, rho))


def expand(stage: Stage, tau: Tensor, lower: Tensor, upper: Tensor, mu: Tensor, rho: Tensor) -> Expansion:
    """Everything to first order."""
    layout, n = stage.layout, stage.layout.n
    values, J = (v.movedim(1, 0) for v in stage.expand(tau.movedim(1, 0)))
    g, G = layout.rows(values), J[:, :, 1 + n :]
    mu = (mu + rho[:, None, None] * g).clamp_min(0)
    gradient = J[:, :, 0] + torch.einsum("btki,btk->bti", G, mu)
    costate, slope = _adjoint(gradient, J[:, :, 1 : 1 + n], n)
    terms = torch.maximum(largest(gradient, (1, 2)), largest(costate, (1, 2)))
    u = tau[..., n:]
    resting = ((u <= lower) & (slope >= 0)) | ((u >= upper) & (slope <= 0))
    residual = largest(torch.where(resting, 0, slope), (1, 2)) / terms.clamp_min(torch.finfo(terms.dtype).tiny)
    # A cost that vanishes with all its derivatives is at its minimum, and nothing is left to be relative to.
    residual = torch.where(terms <= 1e-14 * (1 + largest(tau, (1, 2))), 0, residual)
    off = torch.where(mu > 0, g.abs(), g.clamp_min(0)) / _row_scale(tau, G)
    return Expansion(values, J, mu, gradient, costate, slope, residual, largest(off, (1, 2)))


def _row_scale(tau: Tensor, G: Tensor) -> Tensor:
    """What a row's value is relative to: the terms of its linear model, ``(N, 1, k)``."""
    return (G.abs() * (1 + tau.abs()).unsqueeze(-2)).sum(-1).amax(1, keepdim=True).clamp_min(1e-12)


def _adjoint(gradient: Tensor, F: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The costates and the slope in the controls: λ_t = ∇_x + F_xᵀ λ_{t+1}."""
    total = gradient[:, -1]
    costates, slopes = [total[:, :n]], [total[:, n:]]
    for t in range(gradient.shape[1] - 2, -1, -1):
        total = gradient[:, t] + (costates[-1].unsqueeze(-2) @ F[:, t]).squeeze(-2)
        costates.append(total[:, :n])
        slopes.append(total[:, n:])
    return torch.stack(costates[::-1], 1), torch.stack(slopes[::-1], 1)


def active_side(it: Iterate) -> Tensor:
    """The bounds that hold a control back, ``(N, T, m)``: −1, 0 or 1."""
    touching, slope = _touching(it.tau[..., it.stage.layout.n :], it.lower, it.upper), it.at.slope
    fixed = it.lower == it.upper
    return torch.where(fixed | (touching * slope < 0), touching, 0)


def _touching(u: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return (u >= upper).long() - ((u <= lower) & ~(u >= upper)).long()


def _judge(it: Iterate, near: float) -> Tensor:
    at = it.at
    status = torch.where((at.residual <= near) & (at.violation <= near), SOLVED, RUNNING)
    exhausted = it.damping > MOST_DAMPING
    status = torch.where((status == RUNNING) & exhausted, STUCK, status)
    if it.stage.layout.k:
        hopeless = (at.violation > 1e-4) & (_relative_penalty(it) > LAST_PENALTY)
        status = torch.where((status != SOLVED) & (hopeless | _violated_at_start(it)), INFEASIBLE, status)
    finite = torch.isfinite(at.residual) & torch.isfinite(at.values).all(-1).all(-1)
    return torch.where(finite, status, UNDEFINED)


def _relative_penalty(it: Iterate) -> Tensor:
    G = it.at.jacobian[:, :, 1 + it.stage.layout.n :]
    return it.rho * G.square().sum(-1).flatten(1).amax(1) / (largest(it.at.jacobian[:, :, 0], (1, 2)) + 1)


def _violated_at_start(it: Iterate) -> Tensor:
    """Whether x_init alone violates a row that no control of the first time can help."""
    layout = it.stage.layout
    G = it.at.jacobian[:, :, 1 + layout.n :]
    helpless = (G[:, 0, :, layout.n :] == 0).all(-1)
    off = layout.rows(it.at.values)[:, 0] / _row_scale(it.tau, G)[:, 0]
    return (helpless & (off > 1e-7)).any(-1)


def _estimate_multipliers(it: Iterate) -> Tensor:
    """μ of the rows that are active at the trajectory, from the linear–quadratic model in which they stay so."""
    at, layout, n = it.at, it.stage.layout, it.stage.layout.n
    g, G = layout.rows(at.values), at.jacobian[:, :, 1 + n :]
    active = g >= -NEAR * _row_scale(it.tau, G)
    H = _convex(_cost_hessian(it)).movedim(1, 0).double()
    F, rows = (M.movedim(1, 0).double() for M in (at.jacobian[:, :-1, 1 : 1 + n], G))
    kkt = assemble(H, F, time_first(it.side) != 0, rows, time_first(active))
    f, x1 = torch.zeros_like(F[..., :1]), torch.zeros_like(kkt.factor.V[0, :, :, :1])
    c = at.jacobian[:, :, 0].movedim(1, 0).unsqueeze(-1).double()
    _, mu = solve_system(kkt, c, f, x1, None, -time_first(g).double() * time_first(active))
    mu = torch.where(active, mu.squeeze(-1).movedim(0, 1).to(g.dtype), 0)
    return torch.where(mu > 0, mu, 0)


# One step


def step(it: Iterate) -> Iterate:
    """A model, its policy, and the longest step that decreases the merit."""
    n = it.stage.layout.n
    model, side, confirmed = _solve_model(it)
    side = time_first(side)
    at_bound = torch.where(side < 0, model.lower, torch.where(side > 0, model.upper, 0))
    factor = factorise(model.C, model.F, side != 0)
    of_bounds = torch.matmul(model.C[..., n:], at_bound), torch.matmul(model.F[..., n:], at_bound[:-1])
    k = find_policy(factor, model.c + of_bounds[0], of_bounds[1]).k + at_bound
    slope = (model.c * follow(factor, k, None, model.x1)).sum((0, 2, 3)).to(it.tau.dtype)
    sound = factor.sound.all(0) & confirmed & (slope <= 0)
    K, k = (v.movedim(1, 0).to(it.tau.dtype) for v in (factor.K, k.squeeze(-1)))
    tau, rows, length = _search(it, K, k, torch.where(sound, slope, -torch.inf))
    return _update(it, tau, rows, length, side.squeeze(-1).movedim(1, 0))


def _solve_model(it: Iterate) -> tuple[Boxed, Tensor, Tensor]:
    """The linear–quadratic model of the steps from a trajectory, its active bounds ``(N, T, m)``, and whether they are
    confirmed. Its Hessian is exact where long steps are taken and the model then settles, else Gauss and Newton's."""
    exact = (it.length >= 0.5) & (it.damping == 0)
    H = _exact_hessian(it) if exact.any() else None
    if not exact.all():
        approximate = _gauss_newton_hessian(it)
        H = approximate if H is None else torch.where(exact[:, None, None, None], H, approximate)
    model = _model(it, H)
    with torch.no_grad():
        found = settle(model, it.side)
        left = ~found.confirmed
        if not left.any():
            return model, found.side, found.confirmed
        again = select(it, left)
    H = scatter(H, left, _gauss_newton_hessian(again))
    with torch.no_grad():
        found = scatter(found, left, find_active(_model(it, H).select(left), again.side, max_iterations=30))
    return _model(it, H), found.side, found.confirmed


def _model(it: Iterate, H: Tensor) -> Boxed:
    """The model of a step dτ with a Hessian ``(N, T, n + m, n + m)``, damped, in float64."""
    n = it.stage.layout.n
    ridge = (it.damping * largest(H.flatten(1)).detach())[:, None, None].expand(it.tau.shape)
    H = (torch.lerp(H, H.mT, 0.5) + torch.diag_embed(ridge)).movedim(1, 0).double()
    F = it.at.jacobian[:, :-1, 1 : 1 + n].movedim(1, 0).double()
    c = it.at.gradient.movedim(1, 0).unsqueeze(-1).double()
    lower, upper = (time_first(bound - it.tau[..., n:]).double() for bound in (it.lower, it.upper))
    return Boxed(H, c, F, torch.zeros_like(F[..., :1]), torch.zeros_like(c[0, :, :n]), lower, upper)


def _exact_hessian(it: Iterate) -> Tensor:
    """Of the Hamiltonian and the penalty, ``(N, T, n + m, n + m)``."""
    future = torch.nn.functional.pad(it.at.costate[:, 1:], (0, 0, 0, 1))
    weights = torch.cat([torch.ones_like(future[..., :1]), future, it.at.mu], -1)
    return it.stage.hessian(it.tau.movedim(1, 0), weights.movedim(1, 0)).movedim(0, 1) + _stiffness(it)


def _gauss_newton_hessian(it: Iterate) -> Tensor:
    """Of the cost, made convex, and the penalty."""
    return _convex(_cost_hessian(it)) + _stiffness(it)


def _stiffness(it: Iterate) -> Tensor | int:
    """What the penalty adds to either: ρ Gᵀ G over the rows that push."""
    if not it.stage.layout.k:
        return 0
    G = it.at.jacobian[:, :, 1 + it.stage.layout.n :]
    return torch.einsum("btki,btk,btkj->btij", G, torch.where(it.at.mu > 0, it.rho[:, None, None], 0), G)


def _cost_hessian(it: Iterate) -> Tensor:
    layout = it.stage.layout
    weights = it.tau.new_zeros(layout.T, len(it.tau), 1 + layout.n + layout.k)
    weights[..., 0] = 1
    return it.stage.hessian(it.tau.movedim(1, 0), weights).movedim(0, 1)


def _convex(H: Tensor) -> Tensor:
    """H ``(N, T, ·, ·)`` with its negative eigenvalues made positive: of the whole stage, cross terms included."""
    H = torch.lerp(H, H.mT, 0.5)
    size = H.abs().amax((-2, -1), keepdim=True)
    ridge = 1e-9 * size * torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    _, info = torch.linalg.cholesky_ex((H + 1e-7 * ridge).detach())
    bad = info > 0
    if not bad.any():
        return H + ridge
    eigenvalues, V = torch.linalg.eigh(H[bad].detach())
    raised = eigenvalues.abs().clamp_min(1e-6) - eigenvalues
    H = H.index_put((bad,), H[bad] + V @ (raised.unsqueeze(-1) * V.mT))
    return H + ridge


def _search(it: Iterate, K: Tensor, k: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
    layout, n = it.stage.layout, it.stage.layout.n
    x, taus, values = it.tau[:, 0, :n], [], []
    for t in range(layout.T):
        u = it.tau[:, t, n:] + k[:, t] + times(K[:, t], x - it.tau[:, t, :n])
        u = torch.maximum(torch.minimum(u, it.upper[:, t]), it.lower[:, t])
        taus.append(torch.cat([x, u], -1))
        values.append(it.stage.at(taus[-1], torch.tensor(t, device=k.device)))
        x = layout.next_state(values[-1])
    return torch.stack(taus, 1), torch.stack(values, 1)


@torch.no_grad()
def _good(it: Iterate, values: Tensor, slope: Tensor, length: float) -> Tensor:
    """Whether the merit decreases by a fraction of what the slope promises; rounding is forgiven."""
    before, after = _merit(it, it.at.values), _merit(it, values)
    rounding = 10 * torch.finfo(values.dtype).eps * it.at.values[..., 0].abs().sum(-1)
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


def _update(it: Iterate, tau: Tensor, rows: Tensor, length: Tensor, side: Tensor) -> Iterate:
    """Damping, multipliers and penalty after a step."""
    grown = (10 * it.damping).clamp_min(1e-4)
    shrunk = torch.where(it.damping > 1e-3, it.damping / 100, 0)
    damping = torch.where(length == 0, grown, torch.where(length >= 0.5, shrunk, it.damping))
    it = it._replace(tau=tau, side=side, damping=damping, length=length)
    if it.stage.layout.k:
        it = _update_multipliers(it, rows)
    return it._replace(at=expand(it.stage, tau, it.lower, it.upper, it.mu, it.rho))


def _update_multipliers(it: Iterate, rows: Tensor) -> Iterate:
    """New multipliers after a full step that ends near a minimum of (1), and a larger penalty if that hardly helped."""
    at = it.at
    ready = ((it.length == 1) & (at.residual <= SETTLED)) | (at.residual <= NEAR)
    mu = torch.where(ready[:, None, None], (it.mu + it.rho[:, None, None] * rows).clamp_min(0), it.mu)
    off = torch.where(mu > 0, rows.abs(), rows.clamp_min(0))
    violation = largest(off / _row_scale(it.tau, at.jacobian[:, :, 1 + it.stage.layout.n :]), (1, 2))
    slow = ready & (violation > 0.25 * it.last_violation) & (violation > 0.1 * NEAR)
    return it._replace(
        mu=mu,
        rho=torch.where(slow, 10 * it.rho, it.rho),
        last_violation=torch.where(ready, violation, it.last_violation),
    )


def _rollout(stage: Stage, x: Tensor, u: Tensor) -> Tensor:
    """τ ``(N, T, n + m)`` of the controls u."""
    taus: list[Tensor] = []
    for t in range(u.shape[1]):
        taus.append(torch.cat([x, u[:, t]], -1))
        x = stage.layout.next_state(stage.at(taus[-1], torch.tensor(t, device=u.device)))
    return torch.stack(taus, 1)
