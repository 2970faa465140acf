"""The implicit function theorem, written once and used by every layer.

If R(z*, θ) = 0 and D_z R is nonsingular there, then near θ the root is a differentiable function z*(θ), and
differentiating R(z*(θ), θ) = 0 gives its derivative without a word about how z* was found:

    D_θ z* = −(D_z R)⁻¹ D_θ R                                                                     (1)

Backpropagation never forms (1). It gets a cotangent g = ∂ℓ/∂z* and wants gᵀ D_θ z*, so it solves one linear system
for the adjoint w, and pulls w back through R:

    (D_z R)ᵀ w = −g,        ∂ℓ/∂θ = (D_θ R)ᵀ w                                                     (2)

Forward mode pushes a tangent θ̇ instead:  D_z R ż = −D_θ R θ̇.                                     (3)

Both (2) and (3) define w and ż as roots of residuals which are themselves functions of z* and θ. Attaching the same
theorem to those roots gives second derivatives, and so on to any order.

Source: U. Dini 1877; for its use on layers, Amos & Kolter, OptNet, 2017, eq. 7, and Blondel et al. 2022, eq. 2.
Chapter: book/1_optimization/03_derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vjp

from .autograd.closure import make_explicit, pull_back, vary
from .autograd.forward_mode import forward_rule
from .autograd.opaque import add_batch_dim, opaque_function
from .autograd.precision import full_precision, without_autocast
from .linear import LinearOperator, LinearSolve, dense_solve
from .validate import check_callable, check_floating, check_same_kind

Residual = Callable[..., Tensor]


@full_precision
def implicit(residual: Residual, z: Tensor, *theta: Tensor, solve: LinearSolve | None = None) -> Tensor:
    """Return z with the derivative that the equation residual(z, *theta) = 0 gives it, eq. (1) of this module.

    First and higher derivatives, reverse and forward mode, ``torch.func.vmap`` and ``jacrev`` work. Tensors that
    ``residual`` closes over get their gradient as well. The graph that computed z, if any, is left behind: z counts
    as a number that solves the equation. Where it does not quite, the derivative is off by about as much.

    Args:
        residual: ``residual(z, *theta)`` of shape ``(*batch, n)``; element b of it may depend on z through z[b] only.
        z: a root for every element, ``(*batch, n)``.
        theta: any number of tensors of any shapes, batched or shared. A shared one gets the sum over the batch.
        solve: ``solve(operator, b)`` returns A⁻¹ b for the :class:`LinearOperator` A = (D_z R)ᵀ in reverse mode, and
            for D_z R (``operator.transposed`` tells) in forward mode and second derivatives. The default
            ``dense_solve`` builds A with ``torch.func``; ``cg`` and ``gmres`` of ``diffopt_lib.linear`` never do.

    Raises:
        ValueError: z is not floating point, or the residual has another shape or dtype than z.
        SolverError: when the derivative is computed, if D_z R is singular or too ill-conditioned for its dtype.
            ``solve=least_norm_solve`` gives the least-norm solution instead, with a warning.
    """
    check_callable("residual", residual)
    if solve is not None:
        check_callable("solve", solve)
    check_floating("z", z)
    check_same_kind("z", z, ((f"theta[{i}]", t) for i, t in enumerate(theta)))
    explicit, hidden, value = make_explicit(residual, z, *theta)
    if value.shape != z.shape or value.dtype != z.dtype:
        raise ValueError(
            f"residual must have the shape and dtype of z, {tuple(z.shape)} {z.dtype}, "
            f"got {tuple(value.shape)} {value.dtype}"
        )
    return attach(explicit, solve or dense_solve, z, *theta, *hidden)


def attach(residual: Residual, solve: LinearSolve, z: Tensor, *theta: Tensor) -> Tensor:
    """:func:`implicit` for residuals of ours, which close over nothing: no checks, and the solver is known."""
    return _Implicit.apply(residual, solve, z, *theta)


class _Implicit(torch.autograd.Function):
    """The identity in z, with the derivative of z*(θ)."""

    @staticmethod
    def forward(residual, solve, z, *theta):
        return z.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.residual, ctx.solve, _, *theta = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, *theta)
        ctx.save_for_forward(output, *theta)

    @staticmethod
    @without_autocast
    def backward(ctx, g):
        z, *theta = ctx.saved_tensors
        if g is None:  # z is in the graph of what is differentiated, which does not depend on it to first order
            return None, None, None, *(None for _ in theta)
        w = _adjoint(ctx.residual, ctx.solve, z, g, theta)
        free = [1 + i for i, t in enumerate(theta) if t.is_floating_point() and ctx.needs_input_grad[3 + i]]
        return None, None, *pull_back(ctx.residual, (z, *theta), free, w)

    @staticmethod
    @without_autocast
    def jvp(ctx, _residual, _solve, _z, *theta_dot):
        with forward_rule(ctx) as (z, *theta):
            return _tangent(ctx.residual, ctx.solve, z, theta, theta_dot)

    @staticmethod
    def vmap(info, in_dims, residual, solve, z, *theta):
        residual, tensors = add_batch_dim(residual, info.batch_size, in_dims[2:], (z, *theta))
        return attach(residual, solve, *tensors), 0


def _adjoint(residual: Residual, solve: LinearSolve, z: Tensor, g: Tensor, theta: Sequence[Tensor]) -> Tensor:
    """w with (D_z R)ᵀ w = −g, eq. (2), itself differentiable in g, z and θ."""

    def product(w, z, *theta):
        _, pull = vjp(lambda z: residual(z, *theta), z)
        return pull(w)[0]

    return _linear_root(product, _transpose(solve), -g, z, *theta)


def _tangent(residual: Residual, solve: LinearSolve, z: Tensor, theta: Sequence[Tensor], theta_dot: Sequence) -> Tensor:
    """ż with D_z R ż = −D_θ R θ̇, eq. (3), itself differentiable in θ̇, z and θ."""

    def product(z_dot, z, *theta):
        return _push_forward(lambda z: residual(z, *theta), (z,), (z_dot,))

    moving = [i for i, dot in enumerate(theta_dot) if dot is not None]
    of_theta = vary(lambda *theta: residual(z, *theta), theta, moving)
    rhs = -_push_forward(of_theta, tuple(theta[i] for i in moving), tuple(theta_dot[i] for i in moving))
    return _linear_root(product, solve, rhs, z, *theta)


def _push_forward(f: Residual, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """D f · tangents as the transpose of a transpose: torch's own forward mode can't be used inside forward mode."""
    value, pull = vjp(f, *primals)
    _, push = vjp(pull, torch.zeros_like(value))
    return push(tangents)[0]


def _linear_root(product: Residual, solve: LinearSolve, rhs: Tensor, *parameters: Tensor) -> Tensor:
    """x with product(x, *parameters) = rhs, where the product is linear in x; differentiable in rhs and parameters."""

    def equation(x, rhs, *parameters):
        return product(x, *parameters) - rhs

    def root(equation, zero, rhs, *parameters):
        def matvec(v):
            return equation(v, zero, *parameters)

        def rmatvec(u):
            _, pull = vjp(matvec, zero)
            return pull(u)[0]

        return (solve(LinearOperator(matvec, rmatvec, parameters=parameters), rhs),)

    (x,) = opaque_function(root, equation, torch.zeros_like(rhs), rhs, *parameters)
    return attach(equation, _inner(solve), x, rhs, *parameters)


def _inner(solve: LinearSolve) -> LinearSolve:
    """The same solver for the equation of a linear root, whose parameters are (x, rhs) and then those it knows."""

    def solve_inner(operator: LinearOperator, b: Tensor) -> Tensor:
        return solve(replace(operator, parameters=operator.parameters[2:]), b)

    return solve_inner


def _transpose(solve: LinearSolve) -> LinearSolve:
    """The same solver for an equation whose matrix is the transpose of the one the caller knows."""

    def solve_transposed(operator: LinearOperator, b: Tensor) -> Tensor:
        return solve(replace(operator, transposed=not operator.transposed), b)

    return solve_transposed
