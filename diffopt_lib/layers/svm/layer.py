"""Support vector machines as layers: their weights are differentiable functions of the data they are fitted to.

`svm_head` is the multi-class machine of Crammer & Singer (2001), without a bias, as MetaOptNet fits it to the few
labelled features of a task. Every example wants its own class to beat each other class by a margin of 1:

    min_{W, ξ ≥ 0}  ½ ‖W‖² + C Σᵢ ξᵢ    s.t.   (w_{yᵢ} − w_k)ᵀ φᵢ ≥ 1 − ξᵢ    for all i and k ≠ yᵢ           (1)

With a multiplier λᵢₖ for each of these wishes its dual is a quadratic program that sees the features only through
their inner products, so that its size does not depend on their dimension:

    min_λ  ½ ‖W(λ)‖² − Σ λᵢₖ    s.t.   λ ≥ 0,  Σ_k λᵢₖ ≤ C,       W(λ) = Σᵢₖ λᵢₖ (e_{yᵢ} − e_k) φᵢᵀ        (2)

`linear_svm` is the machine with two classes yᵢ = ±1 and a bias, and its dual:

    min_{w, b, ξ ≥ 0}  ½ ‖w‖² + Σᵢ Cᵢ ξᵢ   s.t.   yᵢ (wᵀxᵢ + b) ≥ 1 − ξᵢ                                    (3)
    min_λ  ½ ‖w(λ)‖² − Σ λᵢ   s.t.   0 ≤ λᵢ ≤ Cᵢ,  Σ yᵢ λᵢ = 0,       w(λ) = Σᵢ λᵢ yᵢ xᵢ                      (4)

and b is the multiplier of the equality. With more examples than dimensions the dual has a singular matrix, while the
primal has ½ ‖W‖² whatever the data are; so (2) and (4) are solved where n ≤ d, and (1) and (3) where n > d.

W is unique, as (1) is strictly convex in it. With an example that occurs twice λ may not be, but what λ may move by
does not move W, and the derivative of W needs no more than that. Customarily the identity is added to the kernel of
the dual; that solves another problem, and nothing here needs it.

Source: Crammer & Singer 2001; Lee et al. 2019 (MetaOptNet). Chapter: book/2_differentiable/08_svms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...autograd.precision import full_precision
from ...batch.products import or_one, times
from ...batch.shapes import align
from ...validate import check_count, check_kind, check_option, check_size
from ..labelled import check_classes, check_query, check_signs, point_weights, positive_scalar
from ..qp import QPSolution
from ..ridge import LinearHead
from .program import head_by_dual, head_by_primal, linear_by_dual, linear_by_primal, wishes

OnFailure = Literal["raise", "nan"]
TOLERANCE = 1e-11  # on the KKT residual of the quadratic program


@dataclass(frozen=True)
class SVMHead(LinearHead):
    """The solution of (1) for a batch of tasks.

    Attributes:
        weights: w_k in rows, ``(*batch, n_classes, d)``.
        bias: zeros, ``(*batch, n_classes)``.
        dual: the coefficients α of the features in the weights, W = αᵀΦ, ``(*batch, n, n_classes)``: between 0 and C
            for an example's own class, between −C and 0 for the others, summing to 0 over the classes. The rows that
            are not 0 are the support vectors. These carry gradients.
        converged, iterations, residual: ``(*batch,)``, of the quadratic program.
        program: the solution of the quadratic program in its own units, for another call to start from.
    """

    dual: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    program: QPSolution


@dataclass(frozen=True)
class LinearSVM:
    """The solution of (3) for a batch of data sets.

    Attributes:
        weights: w, ``(*batch, d)``.
        bias: b, ``(*batch,)``.
        dual: λ, ``(*batch, n)``; 0 off the support vectors, Cᵢ for those inside the margin. These carry gradients.
        converged, iterations, residual: ``(*batch,)``, of the quadratic program.
        program: the solution of the quadratic program in its own units, for another call to start from.
    """

    weights: Tensor
    bias: Tensor
    dual: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    program: QPSolution

    @full_precision
    def decision(self, query: Tensor) -> Tensor:
        """wᵀx + b for query points ``(*batch, m, d)``: ``(*batch, m)``, positive for the class +1."""
        check_query(query, self.weights.unsqueeze(-2))
        return times(query, self.weights) + self.bias.unsqueeze(-1)


@full_precision
def svm_head(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    C: float | Tensor = 0.1,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = 60,
    on_failure: OnFailure = "raise",
    init: SVMHead | None = None,
) -> SVMHead:
    """The Crammer–Singer support vector machine, eq. (1) of this module; differentiable in the features and C.

    The quadratic program has n (n_classes − 1) variables if n ≤ d, and d (n_classes − 1) + n otherwise. The
    arithmetic is in float64.

    The derivative is exact as long as no example changes between being no support vector, on the margin, and inside it;
    at such a change W has a kink. There, and between examples that coincide, one of the one-sided derivatives, or an
    average of them, is returned.

    Args:
        features: support features Φ, ``(*batch, n, d)``.
        labels: classes 0 … n_classes − 1, int64, ``(*batch, n)``. A class may be absent.
        n_classes: number of classes.
        C: price of a missed margin, > 0, a number or a tensor ``(*batch,)``, which gets its gradient.
        tolerance, max_iterations: of :func:`.solve_qp`. Its residual is in units where the longest feature has length 1
            and multipliers are relative to C, if n > d or C ‖φ‖² < 1 for that feature.
        on_failure: ``"raise"``, or ``"nan"`` to mark tasks that did not converge, and their gradients, NaN.
        init: the solution of a similar task of the same shape.

    Raises:
        ValueError: bad shapes, dtypes, labels or C; NaN or infinite input.
        SolverError: some quadratic program did not converge.
    """
    _check_options(tolerance, max_iterations, on_failure)
    if init is not None:
        check_kind("init", init, SVMHead, "an SVMHead")
    check_classes(features, labels, n_classes)
    price = positive_scalar("C", C, features)
    batch, (phi, labels, price) = align(("features", features, 2), ("labels", labels, 1), ("C", price, 0))
    phi, price, (n, d) = phi.double(), price.double().unsqueeze(-1), phi.shape[-2:]
    length = _longest(phi)
    x, prices = phi / length.unsqueeze(-1), (price * length.square()).repeat_interleave(n, dim=-1)
    unit, reward = _units(x, prices)

    solve = head_by_primal if n > d else head_by_dual
    W, lam, program = solve(
        x,
        labels,
        n_classes,
        prices / unit,
        reward,
        None if init is None else init.program,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
    )
    weights = W * (unit / length).unsqueeze(-1)
    alpha = (lam * unit / length.square()).unsqueeze(-1) * wishes(labels, n_classes, x)
    alpha = alpha.reshape(*batch, n, n_classes - 1, n_classes).sum(-2)
    weights, alpha, residual = (t.to(features.dtype) for t in (weights, alpha, program.residual))
    bias = torch.zeros_like(weights[..., 0])
    return SVMHead(weights, bias, alpha, program.converged, program.iterations, residual, program)


@full_precision
def linear_svm(
    features: Tensor,
    labels: Tensor,
    C: float | Tensor = 1.0,
    sample_weights: Tensor | None = None,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = 60,
    on_failure: OnFailure = "raise",
    init: LinearSVM | None = None,
    smoothing: float = 0.0,
) -> LinearSVM:
    """The soft-margin support vector machine with a bias, eq. (3) of this module, with Cᵢ = C · sample_weightsᵢ.

    Differentiable in the features, C and the sample weights. The boundary {x: wᵀx + b = 0} moves smoothly with the data
    as long as no point crosses the margin yᵢ (wᵀxᵢ + b) = 1; moving a point that lies beyond it changes nothing.

    w is always unique. If no support vector lies on the margin (0 < λᵢ < Cᵢ), as happens when C is small and the
    classes are of equal size, b is not: then some optimal b is returned, and a gradient through it raises in the
    backward pass, while one through w alone is right. ``smoothing`` gives both a derivative.

    Args:
        features: points xᵢ in rows, ``(*batch, n, d)``.
        labels: −1 or +1, of the dtype of the features, ``(*batch, n)``; both must occur.
        C: price of a missed margin, > 0, a number or a tensor ``(*batch,)``.
        sample_weights: factors ≥ 0 of C for each point, ``(*batch, n)``. A point with weight 0 is left out.
        tolerance, max_iterations: as in :func:`svm_head`.
        on_failure: ``"raise"``, or ``"nan"`` to mark data sets that did not converge, and their gradients, NaN.
        init: the solution for similar data of the same shape.
        smoothing: μ > 0 gives the derivative of a point on the central path of (3) instead: see :func:`.solve_qp`. Its
            units are those of the solver, in which the farthest point from the mean of all is at distance 1, and
            multipliers are relative to the largest Cᵢ.

    Raises:
        ValueError: bad shapes, dtypes, labels, C or weights; NaN or infinite input; only one class.
        SolverError: some quadratic program did not converge; in the backward pass, b is not unique.
    """
    _check_options(tolerance, max_iterations, on_failure)
    check_size("smoothing", smoothing)
    if init is not None:
        check_kind("init", init, LinearSVM, "a LinearSVM")
    check_signs(features, labels)
    price, weights = positive_scalar("C", C, features), point_weights(sample_weights, features)
    _, (x, y, price, weights) = align(
        ("features", features, 2), ("labels", labels, 1), ("C", price, 0), ("sample_weights", weights, 1)
    )
    x, y, bound = x.double(), y.double(), price.double().unsqueeze(-1) * weights.double()

    # The boundary does not care where the origin is.
    origin = x.detach().mean(-2, keepdim=True)
    length = _longest(x - origin)
    scaled, prices = (x - origin) / length.unsqueeze(-1), bound * length.square()
    unit, reward = _units(scaled, prices)

    # With a smoothed derivative the weights must be unknowns: they are more than a function of smoothed multipliers.
    solve = linear_by_primal if x.shape[-2] > x.shape[-1] or smoothing > 0 else linear_by_dual
    w, b, lam, program = solve(
        scaled,
        y,
        prices / unit,
        reward,
        None if init is None else init.program,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
        smoothing=smoothing,
    )
    weights, dual = w * unit / length, lam * unit / length.square()
    # Where the reward is less than 1 / unit, the class with the smaller sum of prices is at them all. The other alone
    # sets b, and its yᵢ (wᵀxᵢ + b) on the margin is unit · reward so far, and has to be 1.
    unit, larger = unit.squeeze(-1), (prices * y).detach().sum(-1).sign()
    bias = unit * b + larger * (1 - unit * reward) - (weights * origin.squeeze(-2)).sum(-1)
    weights, bias, dual, residual = (t.to(features.dtype) for t in (weights, bias, dual, program.residual))
    return LinearSVM(weights, bias, dual, program.converged, program.iterations, residual, program)


def _check_options(tolerance: object, max_iterations: object, on_failure: object) -> None:
    check_size("tolerance", tolerance)
    check_count("max_iterations", max_iterations)
    check_option("on_failure", on_failure, ("raise", "nan"))


def _longest(x: Tensor) -> Tensor:
    """The length of the longest feature, ``(*batch, 1)``, held constant: it is but a unit. 1 if all are 0."""
    length = x.detach().norm(dim=-1).amax(-1, keepdim=True)
    return or_one(length)


def _units(x: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
    """The unit of the multipliers ``(*batch, 1)``, the largest price where that is less than 1, and the reward of a
    wish that is fulfilled, ``(*batch,)``; both held constant.

    In these units a wish earns 1 / unit. It is as good to give it less if that makes as many prices bind as possible:
    multipliers up to 1 cost no more than 2 Σⱼ |xᵢᵀxⱼ| each in the quadratic term. Earning more than that changes none
    of them, and as C → 0 it would drown what decides between them.
    """
    unit = prices.detach().amax(-1, keepdim=True).clamp_max(1)
    unit = or_one(unit)
    enough = 1 + 2 * (x @ x.mT).detach().abs().sum(-1).amax(-1)
    return unit, torch.minimum(1 / unit.squeeze(-1), enough)
