"""The cross-entropy method, and the differentiable one (Amos & Yarats 2020).

To minimise f, draw samples y_i ~ N(μ, σ²), weigh the best of them, and fit μ and σ to these:

    w = top-k of (−f(y_i)),     μ' = Σ w_i y_i / k,     σ'² = Σ w_i (y_i − μ')² / k                        (1)

With hard top-k, w is the indicator of the k elites and says nothing about how f chose them. The soft one,

    w = argmax_w  sᵀw + τ H_b(w)   s.t.  0 ≤ w ≤ 1,  Σ w_i = k,       s_i = −(f(y_i) − mean f) / (std f + ε)      (2)

is a layer (:func:`diffopt_lib.layers.soft_top_k`), so that μ after all iterations is a differentiable function of
everything that f depends on, and of the first μ and σ. As τ → 0 it becomes the classical method. The values are
standardised, or else τ would mean something different for every f and at every iteration; the published code's ``temp``
is 1/τ. Its ε is 10⁻⁶; here that is 10⁻⁶ of std f in the first iteration where that is below 1, or else an f in large
units, whose values are small, would have no elites.

Chapter: book/2_differentiable/11_cem. Source: Amos & Yarats, The differentiable cross-entropy method, 2020, alg. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..autograd.closure import make_explicit
from ..autograd.opaque import opaque
from ..autograd.precision import full_precision
from ..batch.products import largest
from ..solution import SOLVED, STUCK, UNDEFINED, OnFailure, mark_failures, raise_failed
from ..unroll import checkpointed
from ..validate import (
    check_callable,
    check_count,
    check_finite,
    check_floating,
    check_kind,
    check_option,
    check_positive,
    check_same_kind,
    check_size,
    per_problem,
    values_visible,
)
from .arguments import check_order, read_bound
from .cross_entropy import Step
from .polish import polish

CEMGradient = Literal["unroll", "checkpoint", "truncated", "implicit"]


@dataclass(frozen=True)
class CEMSolution:
    """What the cross-entropy method found for every element of a batch.

    Attributes:
        y: the final mean, ``(*batch, n)``, with its gradient; the polished one where ``gradient="implicit"``.
        mean, std: of the last distribution, ``(*batch, n)``.
        converged: whether y is finite and, if a tolerance was given, σ reached it, ``(*batch,)``.
        iterations: spent on each element.
        residual: its largest σ.
        status: ``(*batch,)``, int64: 1 solved, 4 σ did not reach the tolerance, 5 f was not finite.
    """

    y: Tensor
    mean: Tensor
    std: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor


@full_precision
def cem(
    f: Callable[[Tensor], Tensor],
    mean: Tensor,
    std: Tensor,
    *,
    samples: int = 100,
    elites: int = 10,
    iterations: int = 10,
    tau: float | Tensor = 1.0,
    lower: float | Tensor | None = None,
    upper: float | Tensor | None = None,
    generator: torch.Generator | None = None,
    normalize: bool = True,
    momentum: float = 0.0,
    min_std: float | None = None,
    tolerance: float | None = None,
    gradient: CEMGradient = "unroll",
    truncate: int = 1,
    on_failure: OnFailure = "raise",
) -> CEMSolution:
    """Minimise f by repeating (1) of this module; differentiable in mean, std, bounds, τ, and all that f closes over.

    Args:
        f: ``f(y)`` of shape ``(*batch,)`` for y ``(*batch, n)``, as for :func:`diffopt_lib.argmin`. It is called on all
            samples at once through ``torch.func.vmap``.
        mean, std: of the first distribution, ``(*batch, n)``; σ > 0. A mean outside of the bounds is moved to them.
        samples, elites, iterations: how many; 1 ≤ elites ≤ samples.
        tau: the temperature τ of (2); 0 for hard elites, whose gradient knows only how the samples depend on μ and σ.
        lower, upper: samples are moved between these bounds, numbers or tensors ``(*batch, n)``. Infinite or ±1e20 is
            no bound.
        generator: of the samples. The same seed gives the same result, whatever the gradient mode.
        normalize: standardise the values, as in (2); without it τ is in the units of f.
        momentum: μ ← momentum · μ + (1 − momentum) · μ', and so for σ.
        min_std: σ does not fall below it; 10⁻⁶ by default, or 10⁻⁶ of the first σ where that is below 1.
        tolerance: an element stops when its largest σ is at most this. None for all iterations.
        gradient: ``"unroll"``: through all iterations; memory grows with their number times that of f on all samples.
            ``"checkpoint"``: the same gradient with the memory of √iterations, for one more pass. ``"truncated"``:
            through the last ``truncate`` iterations only, biased. ``"implicit"``: that of argmin f at the mean after
            Newton's method has polished it, coordinates at their bounds held: it does not depend on mean or std.
            With 500 samples of 20 numbers and 10, 25, 50 iterations a forward and a backward pass for 8 elements took
            52, 131, 263 MB; 19, 29, 40 MB with checkpoints; 4.6 MB truncated to one iteration; 2.6 MB implicitly.
        truncate: how many iterations that is, at least 1.
        on_failure: as for :func:`diffopt_lib.argmin`.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, unknown options.
        SolverError: f was not finite at some samples; σ did not reach the tolerance; or, for ``"implicit"``, the mean
            is not near a point where ∇f = 0, so that it is no argmin of f to first order.
    """
    check_option("gradient", gradient, get_args(CEMGradient))
    check_option("on_failure", on_failure, get_args(OnFailure))
    check_kind("generator", generator, (torch.Generator, type(None)), "a torch.Generator or None")
    _check(mean, std, samples, elites, iterations, momentum)
    check_callable("f", f)
    check_count("truncate", truncate, 1)
    if tolerance is not None:
        check_size("tolerance", tolerance)
    if min_std is not None:
        check_size("min_std", min_std)
    low, high = _bounds(lower, upper, mean)
    tau = per_problem("tau", tau, mean, "mean")
    explicit, hidden, value = make_explicit(f, mean)
    batch = torch.broadcast_shapes(value.shape, mean.shape[:-1], std.shape[:-1], low.shape[:-1], high.shape[:-1])
    mean, std = (v.expand(*batch, mean.shape[-1]) for v in (mean, std))
    _check_values(f, mean, value)
    mean = torch.maximum(torch.minimum(mean, high), low)
    floor = 1e-6 * std.clamp_max(1) if min_std is None else torch.full_like(std, min_std)
    step = Step(explicit, samples, elites, normalize, momentum, tolerance or 0.0, _is_zero(tau))
    seeds = _seeds(iterations, generator, mean.detach())

    start = (mean, std)
    mean, std, spent = _iterate(step, seeds, start, (low, high, floor, tau, *hidden), gradient, truncate)
    y = polish(f, start, mean, std, low, high, on_failure) if gradient == "implicit" else mean
    finite = torch.isfinite(y.detach()).all(-1)
    reached = (std.detach() <= (math.inf if tolerance is None else floor.clamp_min(tolerance))).all(-1)
    status = torch.where(finite, torch.where(reached, SOLVED, STUCK), UNDEFINED)
    if on_failure == "raise":
        opaque(_raise_failed, status)
    converged = status == SOLVED
    y = mark_failures(y, converged, on_failure)
    return CEMSolution(y, mean, std, converged, spent.detach().long(), largest(std.detach()), status)


def _iterate(
    step: Step,
    seeds: list[int],
    start: tuple[Tensor, Tensor],
    parameters: tuple[Tensor, ...],
    gradient: CEMGradient,
    truncate: int,
) -> tuple[Tensor, ...]:
    """μ, σ and the number of iterations, of which as many are in the graph as ``gradient`` says."""
    kept = {"truncated": min(truncate, len(seeds)), "implicit": 0}.get(gradient, len(seeds))
    first, last = seeds[: len(seeds) - kept], seeds[len(seeds) - kept :]
    zero = torch.zeros_like(start[0][..., 0])
    state: tuple[Tensor, ...] = (*start, zero, zero + math.inf)
    with torch.no_grad():
        state = step.repeat(first, state, parameters)
    if first:
        state = tuple(v.detach() for v in state)
    return _differentiably(step, last, state, parameters, gradient == "checkpoint")[:3]


def _differentiably(
    step: Step, seeds: list[int], state: tuple[Tensor, ...], parameters: tuple[Tensor, ...], checkpoint: bool
) -> tuple[Tensor, ...]:
    """The iterations, all in the graph, or in stretches of which it remembers the ends."""
    if not checkpoint:
        return step.repeat(seeds, state, parameters)
    length, a = max(1, math.isqrt(len(seeds))), len(state)
    for first in range(0, len(seeds), length):
        stretch = seeds[first : first + length]

        def segment(*tensors: Tensor, stretch: list[int] = stretch) -> tuple[Tensor, ...]:
            return step.repeat(stretch, tensors[:a], tensors[a:])

        state = checkpointed(segment, *state, *parameters)
    return state


def _seeds(iterations: int, generator: torch.Generator | None, like: Tensor) -> list[int]:
    """A seed for each iteration, so that any can be repeated."""
    seeds: list[int] = []

    def draw(like: Tensor) -> tuple[Tensor]:  # inside of ``vmap`` torch forbids this anywhere else
        device = "cpu" if generator is None else generator.device
        seeds.extend(torch.randint(2**62, (iterations,), generator=generator, device=device).tolist())
        return (like,)

    opaque(draw, like)
    return seeds


def _raise_failed(status: Tensor) -> tuple[Tensor]:
    raise_failed(
        status,
        {
            UNDEFINED: "f is not finite at some of the samples.",
            STUCK: "the standard deviation did not fall to the tolerance; give more iterations.",
        },
    )
    return (status,)


def _is_zero(tau: Tensor) -> bool:
    """Whether elites are hard; any other τ must be positive."""
    if tau.ndim == 0 and values_visible(tau) and tau == 0:
        return True
    check_positive("tau", tau)
    return False


def _bounds(lower: float | Tensor | None, upper: float | Tensor | None, mean: Tensor) -> list[Tensor]:
    """Both bounds as ``(*batch, n)``."""
    bounds = []
    for name, value, default in (("lower", lower, -math.inf), ("upper", upper, math.inf)):
        bound = read_bound(name, value, default, mean, "mean")
        if bound.ndim and bound.shape[-1] not in (1, mean.shape[-1]):
            raise ValueError(
                f"{name} must be a number or end in the shape ({mean.shape[-1]},), got {tuple(bound.shape)}"
            )
        bounds.append(bound.expand(*bound.shape[:-1], mean.shape[-1]))
    check_order("lower", bounds[0], "upper", bounds[1])
    return bounds


@torch.no_grad()
def _check_values(f: Callable[[Tensor], Tensor], mean: Tensor, value: Tensor) -> None:
    """That f has a value for every element: one that adds up the batch would tie its elements together."""
    batch = mean.shape[:-1]
    if value.shape != batch and (value := f(mean.detach())).shape != batch:
        raise ValueError(
            f"f(y) must have the batch shape of y, got {tuple(value.shape)} for y {tuple(mean.shape)} with the batch "
            "of all arguments"
        )


def _check(mean: Tensor, std: Tensor, samples: int, elites: int, iterations: int, momentum: float) -> None:
    for name, v in (("mean", mean), ("std", std)):
        check_floating(name, v)
        if v.ndim == 0 or v.shape[-1] == 0:
            raise ValueError(f"{name} must have shape (*batch, n) with n ≥ 1, got {tuple(v.shape)}")
        check_finite(name, v)
    check_same_kind("mean", mean, [("std", std)])
    check_positive("std", std)
    for name, count in (("samples", samples), ("elites", elites), ("iterations", iterations)):
        check_count(name, count, 1)
    if elites > samples:
        raise ValueError(f"elites must be between 1 and samples = {samples}, got {elites}")
    check_size("momentum", momentum)
    if momentum >= 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
