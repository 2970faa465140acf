"""Differentiable unrolled optimizers: y_K(x), the K-th iterate, as a function of everything that went into it.

An optimizer is a recursion s_{k+1} = Φ(s_k, x), where the state s holds the iterate y_k and whatever the optimizer
remembers. Differentiating through it is the chain rule along the recursion,

    D_x s_{k+1} = D_s Φ · D_x s_k + D_x Φ,                                                         (1)

exact for the iterate that was reached, converged or not. Reverse mode must keep all K states: memory grows like K.
Two remedies: *truncation* differentiates the last steps only and forgets the rest (biased, by as much as those steps
still contract); *checkpointing* keeps √K states and recomputes the steps between them (exact, memory √K, one more
forward pass).

Sources: Maclaurin et al. 2015 (unrolling); Shaban et al. 2019, §3 (truncation); Chen et al. 2016, §4.1 (√K memory).
Chapter: book/1_optimization/03_derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .autograd.closure import Substitute, make_explicit, pull_back
from .autograd.precision import full_precision, without_autocast
from .batch.function import start_batch
from .validate import check_count, check_option, check_problem, check_size

State = tuple[Tensor, ...]


class Optimizer(Protocol):
    """One update rule. The state is a tuple of tensors of the shape of y."""

    def init(self, y: Tensor) -> State: ...

    def update(self, k: int, g: Tensor, state: State) -> tuple[Tensor, State]:
        """From the gradient g at the k-th iterate (k = 0, 1, …): the step y_{k+1} − y_k, and the new state."""
        ...


@dataclass(frozen=True)
class SGD:
    """m ← μ m + g;  y ← y − α m, with learning rate α and momentum μ (0 for plain gradient descent).

    ``lr`` and ``momentum`` may be tensors that require a gradient.
    """

    lr: float | Tensor
    momentum: float | Tensor = 0.0

    def __post_init__(self) -> None:
        _check_rate("lr", self.lr)
        _check_rate("momentum", self.momentum)

    def init(self, y: Tensor) -> State:
        return (torch.zeros_like(y),)

    def update(self, k: int, g: Tensor, state: State) -> tuple[Tensor, State]:
        (m,) = state
        m = self.momentum * m + g
        return -self.lr * m, (m,)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1). ``lr`` and the betas may be tensors that require a gradient.

        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   y ← y − α m̂ / (√v̂ + ε)

    with the bias-corrected m̂ = m / (1 − β₁ᵏ⁺¹), v̂ = v / (1 − β₂ᵏ⁺¹).
    """

    lr: float | Tensor = 1e-3
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_rate("lr", self.lr)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers or tensors, got {self.betas!r}")
        for i, beta in enumerate(self.betas):
            _check_rate(f"betas[{i}]", beta)
        check_size("eps", self.eps)

    def init(self, y: Tensor) -> State:
        return torch.zeros_like(y), torch.zeros_like(y)

    def update(self, k: int, g: Tensor, state: State) -> tuple[Tensor, State]:
        m, v = state
        beta1, beta2 = self.betas
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g.square()
        m_hat = m / (1 - beta1 ** (k + 1))
        v_hat = v / (1 - beta2 ** (k + 1))
        return -self.lr * m_hat / (_safe_sqrt(v_hat) + self.eps), (m, v)


def _safe_sqrt(v: Tensor) -> Tensor:
    """√v with derivative 0 at v = 0. There g = 0 and m̂ = 0, so the factor in front of that derivative vanishes too:
    the derivative of the step is exact, where ∞ · 0 would have made it NaN."""
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1).sqrt(), 0)


@full_precision
def unroll(
    f: Callable[..., Tensor],
    y0: Tensor,
    *x: Tensor,
    optimizer: Optimizer,
    steps: int,
    truncate: int | None = None,
    checkpoint: bool = False,
) -> Tensor:
    """The iterate y_K after K = ``steps`` updates on f(·; x), with its derivative, eq. (1) of this module.

    Gradients reach y0, x, the tensors that f closes over, and the tensors in the optimizer (its learning rate).

    Args:
        f: objective, ``f(y, *x)`` of shape ``(*batch,)``; element b may depend on y through y[b] only. Evaluated with
            ``torch.autocast`` off, as for :func:`diffopt_lib.argmin`; run the backward pass outside autocast, as torch
            asks, since it goes through the operations of f one by one.
        y0: initial iterate, ``(*batch, n)``. If x has batch dimensions that y0 lacks, y0 is expanded.
        x: context tensors, batched or shared.
        optimizer: :class:`SGD` or :class:`Adam`, or anything with the same two methods.
        steps: number of updates, K ≥ 0.
        truncate: differentiate only the last ``truncate`` updates. The gradient with respect to y0 is then zero for
            ``truncate < steps``.
        checkpoint: keep about √K states and recompute the others in the backward pass. Same result, less memory.

    Returns:
        y_K, ``(*batch, n)``.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, a negative number of steps, an optimizer that is none.
    """
    check_problem(f, y0, x)
    check_optimizer(optimizer)
    for name, number in (("steps", steps), ("truncate", 0 if truncate is None else truncate)):
        check_count(name, number)
    check_option("checkpoint", checkpoint, (True, False))
    f, hidden, value = make_explicit(f, y0, *x)
    x = (*x, *hidden)
    y0 = start_batch(f, y0, x, value)

    start = (y0, *optimizer.init(y0))
    return run_differentiably(f, optimizer, start, x, steps, truncate=truncate, checkpoint=checkpoint)[0]


def run_differentiably(
    f: Callable[..., Tensor],
    optimizer: Optimizer,
    state: State,
    x: Sequence[Tensor],
    steps: int,
    *,
    first: int = 0,
    truncate: int | None = None,
    checkpoint: bool = False,
) -> State:
    """:func:`unroll` from any state (y, *memory) of the optimizer, of which update number ``first`` is next.

    No checks, and f closes over nothing that needs a gradient. Gives the whole state after ``steps`` updates.
    """
    last = first + steps
    kept = steps if truncate is None else min(truncate, steps)
    if kept < steps:
        with torch.no_grad():
            state = run(f, optimizer, first, last - kept, state, x)
        state = tuple(s.detach() for s in state)
    if checkpoint:
        return _run_checkpointed(f, optimizer, last - kept, last, state, x)
    return run(f, optimizer, last - kept, last, state, x)


def _run_checkpointed(
    f: Callable[..., Tensor], optimizer: Optimizer, first: int, last: int, state: State, x: Sequence[Tensor]
) -> State:
    """:func:`run`, with a graph of about √(last − first) states between which the updates are computed again."""
    hyperparameters = tensors_of(optimizer, state[0])
    length = max(1, math.isqrt(last - first))
    a, b = len(state), len(state) + len(x)
    for begin in range(first, last, length):
        end = min(begin + length, last)

        def segment(*tensors: Tensor, begin: int = begin, end: int = end) -> State:
            with Substitute(hyperparameters, tensors[b:]):
                return run(f, optimizer, begin, end, tensors[:a], tensors[a:b])

        state = checkpointed(_SameDraws(segment), *state, *x, *hyperparameters)
    return state


def tensors_of(optimizer: Optimizer, y: Tensor) -> list[Tensor]:
    """The tensors in an optimizer that some derivative or transform follows: a learning rate that is learned, say."""
    return make_explicit(lambda y: optimizer.update(0, y, optimizer.init(y))[0], y).hidden


def check_optimizer(optimizer: object) -> None:
    """An object (not a class, nor a name) with the two methods of :class:`Optimizer`."""
    methods = (getattr(optimizer, name, None) for name in ("init", "update"))
    if isinstance(optimizer, type) or not all(map(callable, methods)):
        shown = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
        raise ValueError(
            f"optimizer must be SGD(lr) or Adam(lr), or another object with methods init and update, got {shown}"
        )


def _check_rate(name: str, value: object) -> None:
    """A number or a floating-point tensor."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        check_size(name, value)


def run(
    f: Callable[..., Tensor], optimizer: Optimizer, first: int, last: int, state: State, x: Sequence[Tensor]
) -> State:
    """The state after updates number first, …, last − 1, as torch's own graph has it."""
    y, memory = state[0], state[1:]
    for k in range(first, last):
        g = torch.func.grad(lambda y: f(y, *x).sum())(y)
        step, memory = optimizer.update(k, g, memory)
        y = y + step
    return (y, *memory)


def checkpointed(segment: Callable[..., State], *tensors: Tensor) -> State:
    """``segment(*tensors)``, which closes over nothing, recomputed in the backward pass instead of remembered."""
    return _Checkpoint.apply(segment, *tensors)


class _Checkpoint(torch.autograd.Function):
    """segment(*tensors), of which the graph remembers only the tensors that went in."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(segment, *tensors):
        return segment(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.segment, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @without_autocast
    def backward(ctx, *cotangents):
        tensors = ctx.saved_tensors
        free = [i for i, t in enumerate(tensors) if t.is_floating_point() and ctx.needs_input_grad[1 + i]]
        return None, *pull_back(ctx.segment, tensors, free, cotangents)


class _SameDraws:
    """A segment that draws the same random numbers when it is computed again: those of a dropout layer, say."""

    def __init__(self, segment: Callable[..., State]):
        self.segment = segment
        self.before: list[Tensor] | None = None

    def __call__(self, *tensors: Tensor) -> State:
        if self.before is None:
            self.before = _random_state()
            out = self.segment(*tensors)
            if all(map(torch.equal, self.before, _random_state())):
                self.before = []  # it draws nothing
            return out
        if not self.before:
            return self.segment(*tensors)
        with torch.random.fork_rng():
            torch.set_rng_state(self.before[0])
            for device, state in enumerate(self.before[1:]):
                torch.cuda.set_rng_state(state, device)
            return self.segment(*tensors)


def _random_state() -> list[Tensor]:
    """Of torch's generators: the CPU's, then every CUDA device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]
