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

and b is the multiplier of the equality. The primal (1) is strictly convex in W, so W is unique. The kernel need not be
positive definite for that, nor for the derivative: with more examples than dimensions, or an example that occurs twice,
λ may not be unique, but what λ may move by does not move W(λ), and the derivative of W needs no more than that.
Customarily the identity is added to the kernel here; that solves another problem, and nothing here needs it.

Source: Crammer & Singer 2001; Lee et al. 2019 (MetaOptNet). Chapter: book/2_differentiable/08_svms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..validate import check_option
from .labelled import align, check_classes, check_signs, one_hot, point_weights, positive_scalar
from .qp import QPSolution, solve_qp
from .ridge import LinearHead
from .svm_path import Machine, approximate

OnFailure = Literal["raise", "nan"]
TOLERANCE = 1e-11  # on the dual's KKT residual, which is measured relative to C


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
        program: the solution of (2) in its own units, for another call to start from.
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
        program: the solution of (4) in its own units, for another call to start from.
    """

    weights: Tensor
    bias: Tensor
    dual: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    program: QPSolution

    def decision(self, query: Tensor) -> Tensor:
        """wᵀx + b for query points ``(*batch, m, d)``: ``(*batch, m)``, positive for the class +1."""
        return (query @ self.weights.unsqueeze(-1)).squeeze(-1) + self.bias.unsqueeze(-1)


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

    The quadratic program (2) has n (n_classes − 1) variables, whatever d. Where n > d its matrix is singular, and its
    solution is found by :mod:`.svm_path` first, in (n_classes − 1) d variables. The arithmetic is in float64.

    The derivative is exact as long as no example changes between being no support vector, on the margin, and inside it;
    at such a change W has a kink. There, and between examples that coincide, one of the one-sided derivatives, or an
    average of them, is returned.

    Args:
        features: support features Φ, ``(*batch, n, d)``.
        labels: classes 0 … n_classes − 1, int64, ``(*batch, n)``. A class may be absent.
        n_classes: number of classes.
        C: price of a missed margin, > 0, a number or a tensor ``(*batch,)``, which gets its gradient.
        tolerance, max_iterations: of :func:`.solve_qp`, whose residual is relative to C times the largest ‖φ‖². Beyond
            10⁴ rounding may keep it above the default, and the call raises: then either make features that are far from
            0 compared with their differences shorter, by taking out their mean, or raise the tolerance.
        on_failure: ``"raise"``, or ``"nan"`` to mark tasks that did not converge, and their gradients, NaN.
        init: the solution of a similar task of the same shape.

    Raises:
        ValueError: bad shapes, dtypes, labels or C; NaN or infinite input.
        SolverError: some quadratic program did not converge.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_classes(features, labels, n_classes)
    price = positive_scalar("C", C, features)
    batch, (phi, labels, price) = align(("features", features, 2), ("labels", labels, 1), ("C", price, 0))
    phi, price, n = phi.double(), price.double(), labels.shape[-1]
    wishes = _wishes(labels, n_classes, phi)  # (*batch, n (n_classes − 1), n_classes)

    # Units: features of length at most 1, and multipliers in units of the price where that is small.
    kernel = phi @ phi.mT
    length = _largest_diagonal(kernel)
    kernel, price = kernel / length[..., None, None], price * length
    unit = _unit(price)

    Q = (wishes @ wishes.mT) * _repeat(_repeat(kernel, n_classes - 1, -1), n_classes - 1, -2)
    reward = _reward(kernel, unit)
    p = -reward.unsqueeze(-1) * torch.ones_like(Q[..., 0])
    G = torch.cat([-_identity(p.shape[-1], p), _repeat(_identity(n, p), n_classes - 1, -1)])
    bound = (price / unit).unsqueeze(-1)
    h = torch.cat([_repeat(0 * bound, p.shape[-1], -1), _repeat(bound, n, -1)], dim=-1)
    start = None if init is None else init.program
    before: int | Tensor = 0
    if start is None and n > phi.shape[-1]:
        prices = _repeat((price / unit).unsqueeze(-1), n, -1)
        machine = approximate(
            phi / length.sqrt()[..., None, None],
            labels,
            n_classes,
            prices,
            reward,
            tolerance=tolerance / 10,
            max_iterations=max_iterations,
        )
        start, before = _start_of_head(machine, _others(labels, n_classes), h), machine.iterations
    program = solve_qp(
        Q, p, G=G, h=h, tolerance=tolerance, max_iterations=max_iterations, on_failure=on_failure, init=start
    )

    lam = program.y * (unit / length).unsqueeze(-1)
    dual = (lam.unsqueeze(-1) * wishes).reshape(*batch, n, n_classes - 1, n_classes).sum(-2)
    weights = (dual.mT @ phi).to(features.dtype)
    bias = torch.zeros_like(weights[..., 0])
    status = program.converged, program.iterations + before, program.residual.to(features.dtype)
    return SVMHead(weights, bias, dual.to(features.dtype), *status, program)


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

    Columns in very different units had better be standardised: a kernel whose small eigenvalues drown in the rounding
    of the large ones may keep the solver from its tolerance, or a derivative from being determined, and then it raises.

    Args:
        features: points xᵢ in rows, ``(*batch, n, d)``.
        labels: −1 or +1, of the dtype of the features, ``(*batch, n)``; both must occur.
        C: price of a missed margin, > 0, a number or a tensor ``(*batch,)``.
        sample_weights: factors ≥ 0 of C for each point, ``(*batch, n)``. A point with weight 0 is left out.
        tolerance, max_iterations: as in :func:`svm_head`.
        on_failure: ``"raise"``, or ``"nan"`` to mark data sets that did not converge, and their gradients, NaN.
        init: the solution for similar data of the same shape.
        smoothing: μ > 0 gives the derivative of a point on the central path of (4) instead: see :func:`.solve_qp`. Its
            units are those of the solver, in which the farthest point from the mean of all is at distance 1, and
            multipliers, if all their bounds are then less than 1, are relative to the largest.

    Raises:
        ValueError: bad shapes, dtypes, labels, C or weights; NaN or infinite input; only one class.
        SolverError: some quadratic program did not converge; in the backward pass, b is not unique.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_signs(features, labels)
    price, weights = positive_scalar("C", C, features), point_weights(sample_weights, features)
    _, (x, y, price, weights) = align(
        ("features", features, 2), ("labels", labels, 1), ("C", price, 0), ("sample_weights", weights, 1)
    )
    x, y, bound = x.double(), y.double(), price.double().unsqueeze(-1) * weights.double()

    # The boundary does not care where the origin is; the units are those of svm_head.
    origin = x.detach().mean(-2, keepdim=True)
    signed = y.unsqueeze(-1) * (x - origin)
    kernel = signed @ signed.mT
    length = _largest_diagonal(kernel)
    kernel, bound = kernel / length[..., None, None], bound * length.unsqueeze(-1)
    unit = _unit(bound.amax(-1))
    bound, reward = bound / unit.unsqueeze(-1), _reward(kernel, unit)

    n, start = y.shape[-1], None if init is None else init.program
    before: int | Tensor = 0
    if start is None and n > x.shape[-1]:
        classes = (y > 0).long()
        machine = approximate(
            (x - origin) / length.sqrt()[..., None, None],
            classes,
            2,
            bound / 2,
            reward,
            bias=True,
            tolerance=tolerance / 10,
            max_iterations=max_iterations,
        )
        start, before = _start_of_two(machine, _others(classes, 2), bound), machine.iterations
    program = solve_qp(
        kernel,
        -reward.unsqueeze(-1) * torch.ones_like(y),
        y.unsqueeze(-2),
        torch.zeros_like(y[..., :1]),
        torch.cat([-_identity(n, y), _identity(n, y)]),
        torch.cat([0 * bound, bound], dim=-1),
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
        init=start,
        smoothing=smoothing,
    )

    dual = program.y * (unit / length).unsqueeze(-1)
    weights = (dual.unsqueeze(-2) @ signed).squeeze(-2)
    # Where the reward is less than 1 / unit, the class with the smaller sum of bounds is at them all. The other alone
    # sets b, and its yᵢ (wᵀxᵢ + b) on the margin is unit · reward so far, and has to be 1.
    larger = (bound * y).detach().sum(-1).sign()
    bias = unit * program.equality_dual.squeeze(-1) + larger * (1 - unit * reward)
    bias = bias - (weights * origin.squeeze(-2)).sum(-1)
    status = program.converged, program.iterations + before, program.residual.to(features.dtype)
    weights, bias, dual = (t.to(features.dtype) for t in (weights, bias, dual))
    return LinearSVM(weights, bias, dual, *status, program)


def _start_of_head(machine: Machine, others: Tensor, h: Tensor) -> QPSolution:
    """The solution of (2) that belongs to a machine."""
    lam, s = machine.of(others)
    used = torch.cat([-lam.flatten(-2), lam.sum(-1)], dim=-1)
    prices = torch.cat([s.flatten(-2), machine.xi.squeeze(-1)], dim=-1)
    return _start(lam.flatten(-2), lam[..., 0, :0], prices, h - used)


def _start_of_two(machine: Machine, others: Tensor, bound: Tensor) -> QPSolution:
    """The solution of (4) that belongs to a machine with the classes 0 and 1, half the prices, and w = w₁ − w₀."""
    lam, s = (t.squeeze(-1) for t in machine.of(others))
    lam = 2 * lam
    bias = machine.weights[..., 1, -1:] - machine.weights[..., 0, -1:]
    prices = torch.cat([s, machine.xi.squeeze(-1)], dim=-1)
    return _start(lam, bias, prices, torch.cat([lam, bound - lam], dim=-1))


def _start(lam: Tensor, equality_dual: Tensor, inequality_dual: Tensor, slack: Tensor) -> QPSolution:
    """A point for :func:`.solve_qp` to start from: it looks at no more than these."""
    unknown = torch.full_like(lam[..., 0], torch.nan)
    return QPSolution(lam, equality_dual, inequality_dual, slack.clamp_min(0), *[unknown] * 4)


def _others(labels: Tensor, n_classes: int) -> Tensor:
    """The classes that are not the example's own, in turn, ``(*batch, n, n_classes − 1)``."""
    k = torch.arange(n_classes - 1, device=labels.device)
    return k + (k >= labels.unsqueeze(-1)).long()


def _wishes(labels: Tensor, n_classes: int, like: Tensor) -> Tensor:
    """e_{yᵢ} − e_k for every example and every other class in turn, ``(*batch, n (n_classes − 1), n_classes)``."""
    others = one_hot(_others(labels, n_classes), n_classes, like)
    difference = one_hot(labels, n_classes, like).unsqueeze(-2) - others
    return difference.flatten(-3, -2)


def _unit(bound: Tensor) -> Tensor:
    """The unit of the multipliers, ``(*batch,)``, held constant: their bound where that is less than 1."""
    unit = bound.detach().clamp_max(1)
    return torch.where(unit > 0, unit, 1)


def _reward(kernel: Tensor, unit: Tensor) -> Tensor:
    """What a multiplier earns, 1 / unit, or what makes as many of their bounds bind as possible, ``(*batch,)``.

    Multipliers up to 1 cost no more than 2 Σⱼ |kernelᵢⱼ| each in the quadratic term. Earning more than that changes
    none of them, and as C → 0 it would drown what decides between them.
    """
    enough = 1 + 2 * kernel.detach().abs().sum(-1).amax(-1)
    return torch.minimum(1 / unit, enough)


def _largest_diagonal(kernel: Tensor) -> Tensor:
    """The largest squared length of the features, ``(*batch,)``, held constant: it is but a unit of the solver."""
    length = kernel.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    return torch.where(length > 0, length, 1)


def _identity(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def _repeat(t: Tensor, times: int, dim: int) -> Tensor:
    """Every entry along the dimension repeated ``times`` times: a, a, b, b."""
    return t.repeat_interleave(times, dim)
