"""Nonlinear least squares as a differentiable layer.

    y*(x) = argmin_y  ½ Σ_e ρ( r_e(y, x)ᵀ W_e r_e(y, x) )   s.t.  lower ≤ y ≤ upper,   y in a manifold      (1)

The residuals r ``(*batch, m)`` fall into terms r_e of ``block`` consecutive ones; W_e ⪰ 0 is their weight, and ρ a
robust loss, ρ(s) = s by default. How (1) is solved is in :mod:`.solver`, its derivative in :mod:`.derivative`.

**What the derivative is.** That of a strict local minimum, by the implicit function theorem with the whole Hessian of
(1), to any order: in x, in whatever ``residual`` closes over, in weights, information, radius and bounds. Gauss–Newton
steps find y*, and ``gradient="one_step"`` differentiates through one of them; where residuals do not vanish that is
another number. It is no derivative of y* where (1) has none: at a minimum that is not strict (unobserved unknowns, a
pose graph without a fixed pose) the backward pass raises; where a bound is about to let go it is that of one side.

**Poses.** A pose is a point of :class:`.SE2`, and the derivative reaches its entries (x, y, cos θ, sin θ):

    graph = Power(SE2(), 256)

    def residual(y, measured):
        poses = graph.points(y)                              # (*batch, 256, 4)
        a, b = poses[..., edges[:, 0], :], poses[..., edges[:, 1], :]
        return SE2().log(SE2().between(measured, SE2().between(a, b))).flatten(-2)

    least_squares(residual, y0, measured, manifold=graph, block=3, loss="welsch", radius=radius)

Chapter: book/2_differentiable/13_least_squares. Sources: Marquardt 1963; Moré 1978; Triggs et al. 2000; Pineda et al.,
Theseus, 2022, for the comparison of derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ...autograd.opaque import opaque_function
from ...autograd.precision import full_precision
from ...batch.function import RowFunction
from ...batch.shapes import flatten
from ...gradient import check_gradient
from ...implicit import attach
from ...linear import LinearSolve
from ...solution import SOLVED, OnFailure, mark_failures
from ...validate import check_callable, check_count, check_limits, check_option
from . import arguments, solver
from .arguments import Problem, in_tangent
from .curvature import LARGEST_DENSE
from .derivative import Conditions, solver_for
from .gradients import DirectLoss, Updates
from .losses import Loss
from .manifolds import Manifold
from .methods import METHODS
from .model import Model
from .normal import Dense, Form, Products, Sparse
from .sparsity import Sparsity

LeastSquaresGradient = Literal["implicit", "unroll", "truncated", "one_step", "dlm"]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True)
class LeastSquaresSolution:
    """A local minimum of (1) for every element of a batch.

    Attributes:
        y: ``(*batch, n)``; on a manifold, n entries of a point.
        value: the objective of (1), ``(*batch,)``. These two carry gradients.
        converged, iterations: ``(*batch,)``.
        residual: the largest cosine between the residuals, weighted, and a column of their Jacobian, ``(*batch,)``: 0
            at a minimum, whatever the units.
        active: ``(*batch, n)``, or of tangent coordinates: −1 where the lower bound holds y, 1 the upper, 0 neither.
    """

    y: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    active: Tensor


@full_precision
def least_squares(
    residual: Callable[..., Tensor],
    y0: Tensor,
    *x: Tensor,
    weight: float | Tensor | None = None,
    information: Tensor | None = None,
    block: int = 1,
    loss: Literal["squared", "huber", "soft_l1", "cauchy", "geman_mcclure", "welsch"] | Loss = "squared",
    radius: float | Tensor = 1.0,
    manifold: Manifold | None = None,
    lower: float | Tensor | None = None,
    upper: float | Tensor | None = None,
    method: Literal["levenberg_marquardt", "gauss_newton", "dogleg"] = "levenberg_marquardt",
    form: Literal["dense", "sparse", "cg"] = "dense",
    sparsity: Sparsity | None = None,
    gradient: LeastSquaresGradient = "implicit",
    steps: int = 5,
    tolerance: float | None = None,
    max_iterations: int = 200,
    on_failure: OnFailure = "raise",
    solve: LinearSolve | None = None,
) -> LeastSquaresSolution:
    """A local minimum of eq. (1) of this module for every element of a batch, found from y0.

    Args:
        residual: ``residual(y, *x)`` returns ``(*batch, m)``, m ≥ 0, twice differentiable and written with torch
            operations. Element b of it may depend on y through y[b] only. What it closes over gets a gradient too.
        y0: where to start, ``(*batch, n)`` or ``(n,)``; expanded to the batch of the residuals. A start that is a
            minimum costs no iteration; one where J = 0 that is none is left along the curvature.
        x: context tensors, batched or shared.
        weight: W_e for scalars: a number, ``(*batch, 1)``, one for each term ``(*batch, m / block)``, or one for each
            residual ``(*batch, m)``; not negative. It multiplies *squared* residuals.
        information: W_e for terms of k = ``block`` residuals, symmetric ``(*batch, m / k, k, k)``; one matrix for all
            residuals has ``block=m`` and shape ``(*batch, 1, m, m)``. Multiplied by ``weight`` if both are given.
        block: how many consecutive residuals form a term: what ρ sees is their common size.
        loss: ρ, one of :mod:`.losses`, or ``loss(s, c)`` of your own, elementwise, increasing in s ≥ 0, twice
            differentiable.
        radius: c > 0, a number, ``(*batch, 1)`` or ``(*batch, m / block)``: beyond r_eᵀW_e r_e = c² a term counts less.
        manifold: where y lives; see :mod:`.manifolds`, :class:`.SE2` and the other groups. Default Rⁿ.
        lower, upper: bounds on y, numbers or ``(*batch, n)``; ±inf or ±1e20 is none. Poses and rotations have none.
        method: ``"levenberg_marquardt"`` with a damping for every element; ``"gauss_newton"`` with step halving, which
            takes fewer steps where residuals are small; ``"dogleg"``, Powell's trust region.
        form: of the linear systems. ``"dense"``: Cholesky, all elements at once. ``"sparse"``: needs ``sparsity``;
            SuperLU on the CPU, one element after the other. ``"cg"``: conjugate gradients, no matrix is formed, and
            the lengths of its columns, which ``residual`` is relative to, are estimated by twelve products.
        sparsity: which residual depends on which tangent coordinate: ``Sparsity.of_terms``, ``.of``, or ``.detect``.
        gradient: ``"implicit"``, exact, by the whole Hessian. ``"unroll"`` differentiates the iterations, acceptance
            and damping held, and alone gives y0 a gradient; not in sparse form. ``"one_step"`` is one Gauss–Newton step
            with everything else held, ``"truncated"`` the last ``steps`` of them, not in sparse form, ``"dlm"`` direct
            loss minimisation with ``steps`` of them, first order only: see :mod:`.gradients` for what each leaves out.
        steps: of ``"truncated"`` and ``"dlm"``, at least 1.
        tolerance: on the cosine that is reported as ``residual``; by default 1e-9, in float32 1e-5. Rounding in y is
            allowed for, so that residuals which vanish at the minimum are no problem.
        max_iterations: steps tried, accepted or not.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"return"`` gives the last
            iterate with ``converged`` False.
        solve: a solver of the systems of the derivative, as :func:`diffopt_lib.implicit` takes it. With
            ``diffopt_lib.linear.least_norm_solve`` a minimum that is not strict has the least-norm derivative.

    Raises:
        ValueError: bad shapes, dtypes, options, NaN or infinite input.
        SolverError: elements that did not converge, or that start where residuals are not finite or end at a saddle; in
            the backward pass, a Hessian that is not positive definite.
    """
    check_gradient(gradient, "truncated", "dlm")
    check_option("method", method, METHODS)
    check_option("form", form, ("dense", "sparse", "cg"))
    check_option("on_failure", on_failure, get_args(OnFailure))
    check_limits(tolerance, max_iterations)
    check_count("steps", steps, 1)
    if solve is not None:
        check_callable("solve", solve)
    if form == "sparse" and gradient in ("unroll", "truncated"):
        raise ValueError(f"gradient must be implicit, one_step or dlm in sparse form, got {gradient!r}")
    problem = arguments.read(residual, y0, x, weight, information, block, loss, radius, manifold, lower, upper)
    make = FORMS[form](sparsity)
    if form == "sparse":
        arguments.check_sparsity(sparsity, _count(problem), problem.manifold.dim)
    tolerance = TOLERANCE[y0.dtype] if tolerance is None else max(float(tolerance), 1e-300)
    settles = form == "dense" and gradient != "unroll" and problem.manifold.dim <= LARGEST_DENSE
    search = solver.Search(make, METHODS[method](), tolerance, max_iterations, settles)

    y, error, iterations, status, side = _find(problem, search, gradient == "unroll", on_failure)
    conditions = Conditions(problem.residual, problem.terms, problem.manifold)
    theta = (side, problem.weight, problem.radius, problem.lower, problem.upper, *problem.x)
    if gradient == "implicit":
        zero = y.new_zeros(*y.shape[:-1], problem.manifold.dim)
        delta = attach(conditions, solve or solver_for(form, sparsity), zero, y, *theta)
        y = problem.manifold.retract(y, delta)
    elif gradient == "dlm":
        y = problem.manifold.retract(y, DirectLoss.apply(Updates(conditions, make, steps), y, *theta))
    elif gradient != "unroll":
        updates = Updates(conditions, make, steps)
        moved = updates.held(y, theta) if gradient == "one_step" else updates.differentiated(y, theta)
        y = y + (moved - moved.detach())
    y = mark_failures(y, status == SOLVED, on_failure)
    value = conditions.cost(y, problem.weight, problem.radius, *problem.x)
    return LeastSquaresSolution(y, value, status == SOLVED, iterations, error.to(y.dtype), side)


FORMS: dict[str, Callable[[Sparsity | None], Form]] = {
    "dense": lambda _: Dense.of,
    "sparse": lambda sparsity: Sparse.form(sparsity),  # type: ignore[arg-type]
    "cg": lambda _: Products.of,
}


def _find(problem: Problem, search: solver.Search, differentiably: bool, on_failure: OnFailure) -> tuple[Tensor, ...]:
    """y, error, iterations, status and which bounds hold y, without a graph unless it is asked for."""
    terms, manifold = problem.terms, problem.manifold

    def f(y: Tensor, weight: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, *x: Tensor) -> Tensor:
        return problem.residual(y, *x)

    def algorithm(f: Callable[..., Tensor], y0: Tensor, *theta: Tensor) -> tuple[Tensor, ...]:
        weight, radius, lower, upper, *_ = theta
        batch = y0.shape[:-1]
        rows = y0.reshape(-1, y0.shape[-1])
        weight, radius = flatten(weight, terms.weight_dims, batch), flatten(radius, 1, batch)
        lower, upper = flatten(lower, 1, batch), flatten(upper, 1, batch)
        model = Model(terms, manifold, RowFunction(f, theta, batch, rows.detach()), weight.double(), radius.double())
        tangent = in_tangent(lower, -torch.inf, manifold), in_tangent(upper, torch.inf, manifold)
        box = solver.Box(lower, upper, *tangent)
        found = solver.solve(model, box, rows, search)
        solver.raise_unsolved(found, batch, on_failure)
        side = solver.sides(model, box, found.y.detach())
        return tuple(t.reshape((*batch, *t.shape[1:])) for t in (*found[:4], side))

    theta = (problem.weight, problem.radius, problem.lower, problem.upper, *problem.x)
    if differentiably:
        return algorithm(f, problem.y0, *theta)
    return opaque_function(algorithm, f, problem.y0, *theta)


def _count(problem: Problem) -> int:
    """m."""
    with torch.no_grad():
        return problem.residual(problem.y0, *problem.x).shape[-1]
