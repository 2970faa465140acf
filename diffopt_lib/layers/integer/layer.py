"""Integer programs as a layer (CombOptNet, Paulus et al. 2021).

    y* = argmin_y  cᵀy   s.t.   Ay ≤ b,   lower ≤ y ≤ upper,   y ∈ Zⁿ                               (1)

y* is piecewise constant in c, A and b, so its derivative is zero or does not exist, and says nothing about where the
next solution lies. What is passed back instead is a surrogate: a rule that turns the loss's wish, ∂ℓ/∂y, into a
direction for c, A and b in which that wish comes nearer. Three are in :mod:`.integer.derivative`, with their equations;
how (1) is solved is in :mod:`.integer.solver`.

Chapter: book/2_differentiable/15_integer_programs. Source: Paulus, Rolínek, Musil, Amos & Martius, CombOptNet, 2021;
Vlastelica et al., Differentiation of blackbox combinatorial solvers, 2020; Sahoo et al., Backpropagation through
combinatorial algorithms: identity with projection works, 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.products import dot
from ...batch.shapes import align
from ...solution import SOLVED, mark_failures
from ...validate import (
    as_tensor,
    check_count,
    check_finite,
    check_floating,
    check_option,
    check_same_kind,
    check_size,
    values_visible,
)
from . import derivative, solver
from .program import TOLERANCE

IntegerGradient = Literal["comboptnet", "blackbox", "identity"]
NAMES = ("c", "A", "b", "lower", "upper")


@dataclass(frozen=True)
class IntegerSolution:
    """The solution of a batch of integer programs.

    Attributes:
        y: minimiser, ``(*batch, n)``, integers in the dtype of c. Carries the surrogate gradient.
        value: cᵀy, ``(*batch,)``. Carries its own derivative, which is exact where y is unique: y in c, 0 in A and b.
        converged: whether y is feasible and no other point is better, ``(*batch,)``.
        iterations: nodes of the branch and bound, 0 where there was none: where the points were enumerated, or the
            linear relaxation has a whole solution; ``(*batch,)``.
        residual: the largest violation of a constraint, relative to |b| + Σ|aⱼ yⱼ|, ``(*batch,)``.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not solved within the limit.
    """

    y: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor


@full_precision
def solve_integer(
    c: Tensor,
    A: Tensor | None,
    b: Tensor | None,
    lower: float | Tensor,
    upper: float | Tensor,
    *,
    gradient: IntegerGradient = "comboptnet",
    tau: float = 0.5,
    lambd: float = 10.0,
    on_failure: Literal["raise", "nan", "closest"] = "raise",
    enumerate_up_to: int = 2**14,
    max_nodes: int = 1_000_000,
) -> IntegerSolution:
    """Solve eq. (1) for every element of a batch, and give the solution a surrogate gradient.

    A constraint holds if it is violated by no more than 10⁻¹² (10⁻⁶ in float32) of what is added up in it. If several
    points are optimal, or HiGHS finds them equal to 10⁻⁹ of Σ|cⱼ yⱼ|, one of them is returned.

    Args:
        c: costs, ``(*batch, n)``, float32 or float64, minimised: for prices to earn, pass their negative.
        A, b: constraints, ``(*batch, m, n)`` and ``(*batch, m)``; None, or no rows, for none. An equality is two rows,
            a and −a. A b of 10²⁰ or more, or +∞, is no constraint. Batch dimensions broadcast.
        lower, upper: bounds of y, numbers or tensors ``(*batch, n)``, rounded inwards; ±∞ or ±10²⁰ for none. They get
            no gradient: a bound that is to be learned is a row of A.
        gradient: ``"comboptnet"`` for c, A and b, eqs. (2) and (3) of :mod:`.integer.derivative`; ``"blackbox"``, which
            solves once more in the backward pass, and ``"identity"``, both for c alone. Its derivative in turn is that
            of these formulas with y held; forward mode has none.
        tau: the temperature τ ≥ 0 of (3), in units of distance in y; 0 for the nearest constraint alone.
        lambd: λ > 0 of the blackbox rule, in units of c per ∂ℓ/∂y: how far it moves the costs.
        on_failure: ``"raise"``; ``"nan"`` marks y, and every gradient through it, NaN where there is no solution;
            ``"closest"`` gives infeasible elements the integer point of the box with the least sum of distances to
            violated constraints, from which (3) leads back (``converged`` is False there), and raises for the rest.
        enumerate_up_to: a box with at most so many integer points (the widest of the batch) is searched point by point
            in torch, on the device of c; a larger one by HiGHS on the CPU, with as many threads as torch has there:
            first a batch's linear relaxations, then a search for each element whose relaxation is not whole.
        max_nodes: of each branch and bound.

    Raises:
        ValueError: bad shapes, dtypes, options, NaN or infinite input; bounds that require a gradient; an A or b that
            requires one from a rule that has none for it.
        SolverError: elements that are infeasible, unbounded, or not solved within the limit, told apart.
    """
    _check_options(gradient, tau, lambd, on_failure, enumerate_up_to, max_nodes)
    arguments = _complete(c, A, b, lower, upper)
    _check(arguments, gradient)
    batch, data = align(
        *((name, t.double(), d) for name, t, d in zip(NAMES, arguments, solver.EVENT_DIMS, strict=True))
    )
    data[0] = data[0].expand(*batch, -1)
    data[3:] = solver.round_inwards(data[3], data[4], c.dtype)

    solve = partial(
        solver.solve, dtype=c.dtype, enumerate_up_to=enumerate_up_to, max_nodes=max_nodes, on_failure=on_failure
    )
    y, status, nodes, residual = opaque(solve, *data)
    rules: dict[str, derivative.Rule] = {
        "comboptnet": partial(derivative.comboptnet, tau=tau, tolerance=TOLERANCE[c.dtype]),
        "blackbox": partial(derivative.blackbox, solve=solve, lambd=lambd),
        "identity": derivative.identity,
    }
    y = derivative.attach(rules[gradient], y, *data)
    y = mark_failures(y, status == SOLVED, "nan" if on_failure == "nan" else "raise")
    value = dot(data[0], y.detach())
    return IntegerSolution(y.to(c.dtype), value.to(c.dtype), status == SOLVED, nodes, residual.to(c.dtype), status)


def _complete(
    c: Tensor, A: Tensor | None, b: Tensor | None, lower: float | Tensor, upper: float | Tensor
) -> tuple[Tensor, ...]:
    """The five arguments as tensors like c, with bounds ``(*batch, n)`` and no rows where A and b are absent."""
    check_floating("c", c)
    if c.ndim == 0 or c.shape[-1] == 0:
        raise ValueError(f"c must have shape (*batch, n) with n ≥ 1, got {tuple(c.shape)}")
    if (A is None) != (b is None):
        raise ValueError("A and b must be given together")
    A = c.new_zeros(0, c.shape[-1]) if A is None else A
    b = c.new_zeros(0) if b is None else b
    bounds = (as_tensor(name, bound, c, "c") for name, bound in (("lower", lower), ("upper", upper)))
    return c, A, b, *(t.expand(c.shape[-1:]) if t.ndim == 0 else t for t in bounds)


def _check(arguments: tuple[Tensor, ...], gradient: str) -> None:
    c, A, b, lower, upper = arguments
    n = c.shape[-1]
    for name, t, dims in zip(NAMES, arguments, solver.EVENT_DIMS, strict=True):
        check_floating(name, t)
        if t.ndim < dims:
            raise ValueError(f"{name} must have at least {dims} dimensions, got shape {tuple(t.shape)}")
    check_same_kind("c", c, zip(NAMES, arguments, strict=True))
    expected = {"A": (b.shape[-1], n), "lower": (n,), "upper": (n,)}
    for name, t in (("A", A), ("lower", lower), ("upper", upper)):
        if tuple(t.shape[-len(expected[name]) :]) != expected[name]:
            raise ValueError(f"{name} must end in the shape {expected[name]}, got {tuple(t.shape)}")
    check_finite("c", c)
    check_finite("A", A)
    for name, t, never in (("b", b, -torch.inf), ("lower", lower, torch.inf), ("upper", upper, -torch.inf)):
        if values_visible(t) and (torch.isnan(t) | (t == never)).any():
            raise ValueError(f"{name} must not be NaN or {never}")
    for name, t in (("lower", lower), ("upper", upper)):
        if t.requires_grad:
            raise ValueError(f"{name} requires a gradient but gets none; make it a row of A, or detach it")
    for name, t in (("A", A), ("b", b)):
        if t.requires_grad and gradient != "comboptnet":
            raise ValueError(f'{name} requires a gradient, which gradient="{gradient}" has for c alone; detach it')


def _check_options(
    gradient: str, tau: float, lambd: float, on_failure: str, enumerate_up_to: int, max_nodes: int
) -> None:
    check_option("gradient", gradient, get_args(IntegerGradient))
    check_option("on_failure", on_failure, ("raise", "nan", "closest"))
    check_size("tau", tau)
    check_size("lambd", lambd)
    if lambd == 0 or not math.isfinite(lambd):
        raise ValueError(f"lambd must be positive and finite, got {lambd}")
    check_count("enumerate_up_to", enumerate_up_to)
    check_count("max_nodes", max_nodes, 1)
