"""The loop around a step: every element has its own damping, converges on its own, and leaves the batch when it has.

**Steps.** A coordinate at its bound whose slope pushes it outward is held, the others take the step of a method
(:mod:`.methods`), which is cut off at the bounds (Kanzow, Yamashita & Fukushima 2004). It is accepted if f decreases,
but for rounding; else the method tries a smaller one.

**Where to stop.** With q = √Σ ρ's, which is ‖r‖ but for weights and loss, an element has converged when

    |∇f|_j ≤ √M_jj (tolerance · q + 10 ε ‖M^½ y‖)     for every free j                              (1)

∇f_j is the product of column j of J with the residuals, so (1) says that they are orthogonal: in no unit of r or of y.
The second term is what rounding in y makes of r, and ends problems whose residuals vanish. ‖M^½ y‖ stands for the root
of Σ_j M_jj y_j². Problems whose Jacobian vanishes at the solution, too, end when an accepted step, made with little
damping, is below rounding in every coordinate, seen against the largest y so far, or when residuals that are below
rounding already, seen against the smallest M and the largest y so far, have stopped falling fast. A small step alone
says nothing: damping makes any step small.

**The last digits.** Where residuals are large and curved the steps converge linearly. So small dense problems stop at
an error of 1e-3, and Newton's method with the whole Hessian, which must be positive definite there anyway, ends them.

**Plateaus.** So far beyond the radius that ρ' is 0 in float64, as it is for the Welsch loss at 28 radii, nothing says
where to go. Where that is so of all residuals, the element has failed.

**Saddles.** Where (1) holds though f is curved down, as at a start at which J = 0, the point is no minimum. It is left
along the curvature, once; whoever comes back to a saddle has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, largest
from ...batch.rows import iterate, scatter, select
from ...solution import RUNNING, SOLVED, STUCK, UNDEFINED, OnFailure, raise_failed
from .curvature import escape, scaled_hessian
from .methods import LEAST, Control, Method, Place
from .model import Model
from .normal import Form, Normal

NEARLY = 1e-3  # error (1) from which on Newton's method is tried
CHORDS = 4  # its steps, with one Hessian
NEAR = 1e-2  # error (1) from which on the model sees how the loss is bent
ROUNDING_LEVEL = 1e-4  # relative error (1) at which an element that finds no decrease any more has met rounding


@dataclass(frozen=True)
class Search:
    """How to look for a minimum: what belongs to the whole batch.

    ``settles`` says that the loop may stop at NEARLY, from where Newton's method with the whole Hessian goes on.
    """

    form: Form
    method: Method
    tolerance: float
    max_iterations: int
    settles: bool = False


class Box(NamedTuple):
    """Bounds of the points ``(N or 1, ambient)``, and seen from the tangent space, ``(N or 1, dim)``."""

    lower: Tensor
    upper: Tensor
    tangent_lower: Tensor
    tangent_upper: Tensor


class Iterate(NamedTuple):
    """A point and what is known there.

    ``size`` is the largest |y| so far and ``lowest`` the smallest diagonal of M, ``value`` is f, ``error`` as in (1).
    ``finished`` says that no further step is of use, ``flat`` that all ρ' are 0 though residuals are not.
    """

    model: Model
    box: Box
    y: Tensor
    size: Tensor
    lowest: Tensor
    value: Tensor
    error: Tensor
    scale: Tensor
    place: Place
    control: Control
    finished: Tensor
    flat: Tensor


class Found(NamedTuple):
    """What is known of an element when it leaves."""

    y: Tensor
    error: Tensor
    iterations: Tensor
    status: Tensor
    scale: Tensor


def solve(model: Model, box: Box, y: Tensor, search: Search) -> Found:
    """A minimum for every row, from y ``(N, ambient)``."""
    if not search.settles:
        return solve_by_steps(model, box, y, search)
    goal = max(search.tolerance, NEARLY)
    found = descend(model, box, y, search, goal)
    found, settled = settle(model, box, found, search.tolerance)
    left = (found.status == SOLVED) & ~settled & (found.error <= goal)
    if not left.any():
        return found
    more = solve_by_steps(*select((model, box, found.y), left), search)
    return scatter(found, left, more._replace(iterations=more.iterations + found.iterations[left]))


def settle(model: Model, box: Box, found: Found, tolerance: float) -> tuple[Found, Tensor]:
    """Newton's method from points near a minimum, with the whole Hessian of the first one; and whom it led there."""
    y, error = found.y, found.error
    free = ~held(model, box, y)
    unit = torch.where(found.scale > 0, 1 / torch.where(found.scale > 0, found.scale, 1), 1)
    H = scaled_hessian(model, y, free, unit) + torch.diag_embed((~free).double())
    L, info = torch.linalg.cholesky_ex(torch.where(torch.isfinite(H), H, 0))
    sound = (info == 0) & (found.status == SOLVED)
    used = torch.zeros_like(found.iterations)
    for _ in range(CHORDS):
        wanted = sound & (error > tolerance)
        if not wanted.any():
            break
        g = torch.where(free, unit * model.gradient(y).double(), 0)
        d = -unit * torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)
        point = model.manifold.retract(y, d.to(y.dtype)).clamp(box.lower, box.upper)
        slope = model.gradient(point)
        after = largest(torch.where(free, unit * slope.double(), 0))
        better = wanted & (after < 0.5 * error) & (held(model, box, point, slope) == ~free).all(-1)
        y, error = torch.where(better.unsqueeze(-1), point, y), torch.where(better, after, error)
        used, sound = used + better, sound & (better | ~wanted)
    found = found._replace(y=y, error=error, iterations=found.iterations + used)
    return found, sound & (error <= tolerance)


def solve_by_steps(model: Model, box: Box, y: Tensor, search: Search) -> Found:
    """The same by the method's steps alone."""
    found = descend(model, box, y, search, search.tolerance)
    with torch.no_grad():
        saddle, onward = escape(model, found.y, held(model, box, found.y), found.status == SOLVED, found.iterations)
        if not saddle.any():
            return found
    again = descend(*select((model, box, onward), saddle), search, search.tolerance)
    again = again._replace(iterations=again.iterations + found.iterations[saddle] + 1)
    with torch.no_grad():
        narrow, narrow_box = select((model, box), saddle)
        still, _ = escape(narrow, again.y, held(narrow, narrow_box, again.y), again.status == SOLVED, again.iterations)
    return scatter(found, saddle, again._replace(status=torch.where(still, UNDEFINED, again.status)))


def descend(model: Model, box: Box, y: Tensor, search: Search, goal: float) -> Found:
    """The loop, until the error (1) is down to the goal."""

    def look(it: Iterate, k: int) -> tuple[Iterate, Tensor, Found]:
        status = _judge(it, search, goal)
        if k == search.max_iterations:
            status = torch.where(status == RUNNING, STUCK, status)
        return it, status != RUNNING, Found(it.y, it.error, torch.full_like(status, k), status, it.scale)

    return iterate(_begin(model, box, y, search), look, lambda it: step(it, search), search.max_iterations)


def _begin(model: Model, box: Box, y: Tensor, search: Search) -> Iterate:
    y = y.clamp(box.lower, box.upper)
    never = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    value, error, scale, place, flat = _evaluate(model, box, y, never, None, search)
    size = model.manifold.size(y.detach())
    lowest = place.normal.diagonal().detach()
    return Iterate(model, box, y, size, lowest, value, error, scale, place, search.method.start(place.D), never, flat)


def step(it: Iterate, search: Search) -> Iterate:
    """One trial step of every element, taken where f decreases."""
    model, place = it.model, it.place
    d = search.method.propose(place, it.control).to(it.y.dtype)
    d = torch.where(torch.isfinite(d), d, 0)
    here = model.manifold.chart(it.y)
    taken = d.clamp(it.box.tangent_lower - here, it.box.tangent_upper - here).double()
    y = model.manifold.retract(it.y, d).clamp(it.box.lower, it.box.upper)
    with torch.no_grad():
        predicted = -dot(taken, place.gradient) - 0.5 * dot(taken, place.normal.times(taken))
        decrease = (it.value - model.cost(y)).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        rounding = 10 * torch.finfo(torch.float64).eps * it.value.abs()
        accepted = (predicted > 0) & (decrease > torch.where(predicted <= rounding, -rounding, 0))
        ratio = torch.where(accepted, decrease / torch.where(predicted > 0, predicted, 1), 0).clamp(0, 1)
        ratio = torch.where(predicted <= rounding, 1, ratio)
        length = (place.D * taken.square()).sum(-1).sqrt()
        control = search.method.adapt(it.control, length, accepted, ratio)
        eps = torch.finfo(y.dtype).eps
        size = torch.where(accepted.unsqueeze(-1), torch.maximum(model.manifold.size(y), it.size), it.size)
        small = (taken.abs() <= 2 * eps * size).all(-1)
        noise = 100 * eps * (it.lowest * size.double().square()).sum(-1).sqrt()
        vanished = (2 * it.value).sqrt() <= noise
        small |= vanished & (decrease < 0.5 * it.value)
        finished = it.finished | (accepted & small & search.method.trusts(it.control))
    if not accepted.any():
        return it._replace(control=control, finished=finished)
    y = torch.where(accepted.unsqueeze(-1), y, it.y)
    value, error, scale, place, flat = _evaluate(model, it.box, y, it.error <= NEAR, place.D, search)
    level = (accepted & (predicted <= rounding)) & (error > 0.5 * it.error)  # rounding lets the slope fall no further
    finished = finished | level.detach()
    lowest = torch.minimum(it.lowest, place.normal.diagonal().detach())
    return Iterate(model, it.box, y, size, lowest, value, error, scale, place, control, finished, flat)


def _evaluate(
    model: Model, box: Box, y: Tensor, near: Tensor, D: Tensor | None, search: Search
) -> tuple[Tensor, Tensor, Tensor, Place, Tensor]:
    """f, the error (1) and what slopes are measured by in it, the place, and whether it is flat."""
    at = model.linearise(y, near)
    normal: Normal = search.form(model, at, y)
    with torch.no_grad():
        diagonal = normal.diagonal().clamp_min(0)
        D = diagonal if D is None else torch.maximum(diagonal, D)
        free = ~held(model, box, y, at.gradient)
        size = model.manifold.size(y).double()
        of_rounding = 10 * torch.finfo(y.dtype).eps * (diagonal * size.square()).sum(-1).sqrt()
        scale = diagonal.sqrt() * (at.size + of_rounding / search.tolerance).unsqueeze(-1)
        slope = torch.where(free, at.gradient.abs(), 0)
        error = largest(torch.where(slope > 0, slope / torch.where(scale > 0, scale, torch.finfo(scale.dtype).tiny), 0))
        D = torch.where(D > 0, D, 1)
        level = LEAST * largest(diagonal / D)
        flat = (at.size == 0) & (at.value > 0)
    return at.value, error, scale, Place(normal, at.gradient, D, free, level), flat


def held(model: Model, box: Box, y: Tensor, gradient: Tensor | None = None) -> Tensor:
    """The coordinates at a bound which the slope pushes outward, or that have nowhere to go, ``(N, dim)``."""
    gradient = model.gradient(y) if gradient is None else gradient
    y = model.manifold.chart(y.detach())
    below, above = y <= box.tangent_lower, y >= box.tangent_upper
    return (below & (gradient > 0)) | (above & (gradient < 0)) | (below & above)


def sides(model: Model, box: Box, y: Tensor) -> Tensor:
    """Which bound holds a coordinate, ``(N, dim)``: −1 the lower, 1 the upper, 0 neither."""
    with torch.no_grad():
        at_lower = model.manifold.chart(y) <= box.tangent_lower
        return torch.where(held(model, box, y), torch.where(at_lower, -1, 1), 0)


def _judge(it: Iterate, search: Search, goal: float) -> Tensor:
    """The status of every element, ``(N,)``."""
    spent = search.method.exhausted(it.control)
    solved = (it.error <= goal) | it.finished | (spent & (it.error <= ROUNDING_LEVEL))
    status = torch.where(solved, SOLVED, torch.where(spent, STUCK, RUNNING))
    finite = torch.isfinite(it.value) & torch.isfinite(it.place.gradient).all(-1)
    return torch.where(finite & ~it.flat, status, UNDEFINED)


def raise_unsolved(found: Found, batch: torch.Size, on_failure: OnFailure) -> None:
    """SolverError for what has failed, if it is to be raised."""
    if on_failure != "raise":
        return
    error, iterations, status = (t.reshape(batch) for t in (found.error, found.iterations, found.status))
    reasons: dict[int, str | Callable[[Tensor], str]] = {
        UNDEFINED: "the residuals or their derivative are not finite at the start or where it leads, or it leads to a "
        "saddle of f, or all residuals are so far beyond the radius that the loss is level to the last digit.",
        STUCK: lambda failed: (
            f"no convergence in {iterations[failed].max().item()} iterations: the residuals are not yet orthogonal to "
            f"the columns of their Jacobian (cosine {error[failed].max().item():.1e})."
        ),
    }
    raise_failed(status, reasons)
