"""A local minimum of a nonlinear control problem, by Newton steps on linear–quadratic models with bounded controls.

Around a trajectory that obeys the dynamics the problem is replaced by a linear–quadratic one with the same bounds
(:mod:`..boxed`), whose solution is a policy: a new feed-forward control and a feedback gain at each time. The policy is
rolled out, and every element of the batch takes the longest step along it that decreases its merit. The model has the
cost's Hessian alone at first (Gauss–Newton), made convex where it is not, stage by stage and all of τ together; and the
exact Hessian of the Hamiltonian near the solution, or after some steps, as soon as the Riccati recursion finds it
convex on the free controls. So the last steps converge quadratically, and a cost without curvature of its own, as
1 − cos θ, does not keep Gauss and Newton's steps creeping.

Constraints g ≤ 0 enter the merit as an augmented Lagrangian,

    Σ_t cost_t + Σ_i (max(0, μ_i + ρ g_i)² − μ_i²) / 2ρ,      μ ← max(0, μ + ρ g)                        (1)

Elastic ones, which stand in for those that can't be satisfied, keep μ = 0 in it, and ρ grows up to 1/ε.

The loop leaves a point whose active bounds and rows are nearly right. Newton's method on the optimality conditions, all
of z at once, polishes it.

Sources: Tassa, Mansard & Todorov, Control-limited differential dynamic programming, 2014; Nocedal & Wright 2006, §17.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ...batch.rows import iterate, only_on, scatter, select
from ...solution import INFEASIBLE, RUNNING, SOLVED, STUCK, UNDEFINED, raise_failed, warn_unconfirmed
from ..boxed import Boxed, find_active, settle
from ..riccati import factorise, find_policy, follow
from .derivative import Active
from .finish import Polished, Problem, polish
from .kkt import sizes
from .layout import Layout, time_first
from .linear import UNCONFIRMED
from .search import search, size_of_cost
from .stage import Stage
from .trajectory import NEAR, Iterate, Start, active_side, begin, convex, cost_hessian, expand, row_scale, unmet

SETTLED = 1e-2  # relative optimality from which a full step may be followed by new multipliers
VERY_NEAR = 1e-10  # for whom the polish did not find out which bounds and rows are active
ROUNDS = 3  # of the active set method on a model, before its answer is used as it is
NUDGES = 3  # off a saddle, before an element is given up
CLOSE = 3e-3  # relative optimality from which the exact Hessian is tried, or
PATIENCE = 8  # steps after which it is: with a cost that is linear in the state Gauss and Newton's creep
COARSE = 1e3  # digits of the merit, in units of the last, that rounding may have spoiled
MOST_DAMPING = 1e8  # relative to the Hessian; an element that needs more is stuck
LAST_PENALTY = 1e9  # ρ, relative to its unit, beyond which
HOPELESS = 1e-5  # a relative violation is final
VIOLATED_AT_START = -INFEASIBLE  # which only the error tells from other infeasible problems


def solve(
    f: Callable[..., Tensor],
    layout: Layout,
    start: Tensor,
    theta: tuple[Tensor, ...],
    warm: bool,
    gradient: str,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, ...]:
    """z, residual, status, iterations, and what the derivative needs: the active bounds and rows, and the system."""
    batch, N = start.shape[:-1], start.shape[:-1].numel()
    x_init, lower, upper = theta[:3]
    u = start.reshape(N, layout.T, layout.m)
    lower, upper = (b.expand(*batch, layout.T, layout.m).reshape(u.shape) for b in (lower, upper))
    x1 = x_init.reshape(N, layout.n)
    stage = Stage.of(f, layout, theta, torch.cat([x1, u[:, 0]], -1).reshape(*batch, layout.n + layout.m))
    near = max(NEAR, tolerance)
    begun = Start(stage, x1, u, lower, upper, torch.zeros_like(u[:, 0, 0], dtype=torch.bool))

    def again(found: Found, who: Tensor, u: Tensor, soft: Tensor, near: float = near) -> Found:
        """The result of those anew, from other controls, perhaps with elastic rows."""

        def search(state: tuple[Start, Found]) -> Found:
            result = minimise(begin(state[0], near < NEAR), near, max_iterations)
            return result._replace(iterations=state[1].iterations + result.iterations)

        return only_on(who, search, (begun._replace(u=u, soft=soft), found), found)

    def finish(found: Found) -> Polished:
        tau, costate, nu, mu, side, status, elastic = (t.reshape((*batch, *t.shape[1:])) for t in found[:7])
        active = Active(side.to(tau.dtype), (mu > 0).to(tau.dtype), elastic[..., None, None].expand(mu.shape))
        z = layout.join(tau, costate, nu, mu)
        return polish(Problem(f, layout, theta), z, active, status, tolerance, gradient == "gauss_newton")

    found = minimise(begin(begun, warm), near, max_iterations)
    if on_failure == "closest":
        failed = found.status == INFEASIBLE
        found = again(found, failed, found.tau[..., layout.n :].nan_to_num(), failed)
    polished = finish(found)
    astray = (found.status == SOLVED) & (polished.status.flatten() == STUCK)
    if astray.any():
        found = again(found, astray, found.tau[..., layout.n :], found.elastic > 0, VERY_NEAR)
        polished = finish(found)
    for seed in range(NUDGES):
        saddle = (found.status == SOLVED) & (polished.status.flatten() == UNDEFINED)
        if not saddle.any():
            break
        found = again(found, saddle, _nudged(found.tau[..., layout.n :], seed), found.elastic > 0)
        polished = finish(found)
    iterations = found.iterations.reshape(batch)
    if on_failure in ("raise", "closest"):
        _raise_failed(polished, found.helpless.reshape(batch), iterations, tolerance)
    solved, active = polished.status == SOLVED, polished.active
    warn_unconfirmed(solved & ~polished.confirmed, UNCONFIRMED)
    if on_failure == "nan":  # everything counts as active, so that NaN reaches the gradient of every argument
        active = Active(*(torch.where(solved[..., None, None], a, 1) for a in active))
    return polished.z, polished.residual, polished.status, iterations, *active, *polished.stored


def _nudged(u: Tensor, seed: int) -> Tensor:
    """Controls a little off a saddle, in a direction that no symmetry of the problem knows of; each time a little more.
    It is the same for all elements, so that none depends on its neighbours."""
    noise = torch.randn(u.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(u)
    return u + 10.0 ** (seed - 2) * (1 + u.abs()) * noise


def _raise_failed(polished: Polished, helpless: Tensor, iterations: Tensor, tolerance: float) -> None:
    residual = polished.residual
    raise_failed(
        torch.where(helpless & (polished.status == INFEASIBLE), VIOLATED_AT_START, polished.status),
        {
            VIOLATED_AT_START: "x_init itself violates a constraint that no control can change: infeasible.",
            INFEASIBLE: "the constraints can't be satisfied from x_init, or not near where the solver looked.",
            UNDEFINED: "the solver ended where there is no strict minimum, or where a function is not finite.",
            STUCK: lambda failed: (
                f"no convergence to a residual of {tolerance:.0e} in {iterations[failed].max().item()} iterations "
                f"(it is {residual[failed].nan_to_num(nan=torch.inf).max().item():.1e})."
            ),
        },
    )


class Found(NamedTuple):
    """What the loop says of an element when it leaves."""

    tau: Tensor
    costate: Tensor
    nu: Tensor
    mu: Tensor
    side: Tensor
    status: Tensor
    elastic: Tensor
    iterations: Tensor
    helpless: Tensor  # x_init violates a row by itself


def minimise(start: Iterate, near: float, max_iterations: int) -> Found:
    """The loop, to a relative optimality of ``near``."""

    def look(it: Iterate, k: int) -> tuple[Iterate, Tensor, Found]:
        at, status = it.at, _judge(it, near)
        if k == max_iterations:
            status = torch.where(status == RUNNING, STUCK, status)
        side = active_side(it)
        nu = torch.where(side != 0, -at.slope, 0)
        spent = torch.full_like(status, k)
        result = Found(it.tau, at.costate, nu, at.mu, side, status, it.elastic, spent, _violated_at_start(it))
        return it, status != RUNNING, result

    return iterate(start, look, step, max_iterations)


def _judge(it: Iterate, near: float) -> Tensor:
    at = it.at
    # Where the merit is too coarse to confirm what the model promises, the polish has to judge.
    coarse = (it.length == 0) & (it.promised <= COARSE * torch.finfo(at.values.dtype).eps * size_of_cost(it))
    status = torch.where(((at.residual <= near) | coarse) & (at.violation <= near), SOLVED, RUNNING)
    exhausted = it.damping > MOST_DAMPING
    status = torch.where((status == RUNNING) & exhausted, STUCK, status)
    if it.stage.layout.k:
        hopeless = (at.violation > HOPELESS) & (it.rho > LAST_PENALTY * it.unit)
        lost = (status != SOLVED) & (it.elastic == 0) & (hopeless | _violated_at_start(it))
        status = torch.where(lost, INFEASIBLE, status)
    finite = torch.isfinite(at.residual) & torch.isfinite(at.values).all(-1).all(-1)
    return torch.where(finite, status, UNDEFINED)


def _violated_at_start(it: Iterate) -> Tensor:
    """Whether x_init alone violates a row that no control of the first time can help."""
    layout = it.stage.layout
    if not layout.k:
        return torch.zeros_like(it.rho, dtype=torch.bool)
    G = it.at.jacobian[:, :, 1 + layout.n :]
    helpless = (G[:, 0, :, layout.n :] == 0).all(-1)
    off = layout.rows(it.at.values)[:, 0] / row_scale(it.tau, G)[:, 0]
    return (helpless & (off > 1e-7)).any(-1)


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
    tau, rows, length = search(it, K, k, torch.where(sound, slope, -torch.inf))
    it = it._replace(promised=torch.where(it.damping == 0, -slope, it.promised))
    return _update(it, tau, rows, length, side.squeeze(-1).movedim(1, 0))


def _solve_model(it: Iterate) -> tuple[Boxed, Tensor, Tensor]:
    """The linear–quadratic model of the steps from a trajectory, its active bounds ``(N, T, m)``, and whether they are
    fit for use. Its Hessian is exact near the solution or after many steps, if convex; else Gauss and Newton's."""
    close = (it.length >= 0.5) & (it.at.residual <= CLOSE)
    exact = (it.damping == 0) & (close | (it.steps >= PATIENCE))
    H = _exact_hessian(it) if exact.any() else _gauss_newton_hessian(it)
    if exact.any() and not exact.all():
        H = torch.where(exact[:, None, None, None], H, _gauss_newton_hessian(it))
    model = _model(it, H)
    with torch.no_grad():
        found = settle(model, it.side, ROUNDS)
        concave = ~found.convex
        again = select(it, concave)
    if concave.any():
        H = scatter(H, concave, _gauss_newton_hessian(again))
        model = _model(it, H)
    with torch.no_grad():
        if concave.any():
            found = scatter(found, concave, settle(model.select(concave), again.side, ROUNDS))
        # A rough active set mostly gives a step that decreases the merit. Whom it failed is damped, and needs better.
        left = ~found.confirmed & (it.damping > 0)
        if left.any():
            found = scatter(found, left, find_active(model.select(left), found.side[left], max_iterations=30))
    return model, found.side, found.convex


def _model(it: Iterate, H: Tensor) -> Boxed:
    """The model of a step dτ with a Hessian ``(N, T, n + m, n + m)``, damped, in float64."""
    n = it.stage.layout.n
    ridge = (it.damping.unsqueeze(-1) * sizes(H.detach().movedim(1, 0))).unsqueeze(1).expand(it.tau.shape)
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
    return convex(cost_hessian(it)) + _stiffness(it)


def _stiffness(it: Iterate) -> Tensor | int:
    """What the penalty adds to either: ρ Gᵀ G over the rows that push."""
    if not it.stage.layout.k:
        return 0
    G = it.at.jacobian[:, :, 1 + it.stage.layout.n :]
    return torch.einsum("btki,btk,btkj->btij", G, torch.where(it.at.mu > 0, it.rho[:, None, None], 0), G)


def _update(it: Iterate, tau: Tensor, rows: Tensor, length: Tensor, side: Tensor) -> Iterate:
    """Damping, multipliers and penalty after a step."""
    grown = (10 * it.damping).clamp_min(1e-4)
    shrunk = torch.where(it.damping > 1e-3, it.damping / 100, 0)
    damping = torch.where(length == 0, grown, torch.where(length >= 0.5, shrunk, it.damping))
    it = it._replace(tau=tau, side=side, damping=damping, length=length, steps=it.steps + 1)
    if it.stage.layout.k:
        it = _update_multipliers(it, rows)
    return it._replace(at=expand(it.stage, tau, it.lower, it.upper, it.mu, it.rho, it.elastic))


def _update_multipliers(it: Iterate, rows: Tensor) -> Iterate:
    """New multipliers after a full step that ends near a minimum of (1), and a larger penalty if that hardly helped."""
    at, rho, soft = it.at, it.rho[:, None, None], it.elastic > 0
    ready = ((it.length == 1) & (at.residual <= SETTLED)) | (at.residual <= NEAR)
    pushing = (it.mu + rho * rows).clamp_min(0)
    off = unmet(rows, pushing, it.elastic)
    violation = largest(off / row_scale(it.tau, at.jacobian[:, :, 1 + it.stage.layout.n :]), (1, 2))
    slow = ready & ((violation > 0.25 * it.last_violation) | soft) & (violation > 0.1 * NEAR)
    grown = torch.where(slow, 10 * it.rho, it.rho)
    return it._replace(
        mu=torch.where((ready & ~soft)[:, None, None], pushing, it.mu),
        rho=torch.where(soft, torch.minimum(grown, 1 / it.elastic), grown),
        last_violation=torch.where(ready, violation, it.last_violation),
    )
