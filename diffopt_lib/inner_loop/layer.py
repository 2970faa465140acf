"""Training inside of training: the weights that an inner optimizer reaches, as a function of its settings.

An inner loop starts a module at weights w₀ and takes K steps of an optimizer on

    f(w) = loss(w, data) + ½ decay ‖w‖² + ½ prox ‖w − w₀‖²                                           (1)

An outer objective looks at the weights w_K that come out, and wants its derivative with respect to what went in: w₀
(MAML), the learning rates, the decay, the prox, weights of the examples in ``data``. These are *hyper-gradients*. Four
ways to them:

- ``"unroll"``: the chain rule along the K steps (:mod:`diffopt_lib.unroll`). Exact for w_K. Memory grows like K.
- ``"checkpoint"``: the same numbers from √K stored states, with a second forward pass.
- ``"truncated"``: the chain rule along the last ``truncate`` steps. Biased, by what the forgotten steps still matter.
- ``"implicit"``: of the minimum that the loop has run into, not of the steps (:mod:`.derivative`). Memory
  does not depend on K. There is no derivative with respect to the learning rate, and w₀ matters through the
  prox only (iMAML). It is refused where the loop has not arrived.

Sources: Maclaurin et al. 2015; Franceschi et al. 2017; Finn et al. 2017, eq. 1; Shaban et al. 2019, §3; Rajeswaran et
al. 2019, eqs. 3 and 6; Grefenstette et al. 2019 (the generalized loop).
Chapter: book/2_differentiable/14_inner_loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..autograd.closure import make_explicit
from ..autograd.opaque import opaque
from ..autograd.precision import full_precision
from ..linear import LinearSolve, cg
from ..solution import RUNNING, SOLVED, STUCK, OnFailure, mark_failures, raise_failed
from ..unroll import Optimizer, State, run_differentiably
from .arguments import Derivative, check_data, check_options, check_start, check_step, trainable
from .derivative import Recorded, minimum
from .optimizers import arrange, coefficient
from .weights import FastWeights, Layout, Predict, on_tasks

Hyper = float | Tensor | Mapping[str, float | Tensor]


@full_precision
def inner_loop(
    module: nn.Module,
    loss: Callable[[Predict, Any], Tensor],
    data: Any,
    optimizer: Optimizer | Mapping[str, Optimizer],
    steps: int,
    *,
    gradient: Derivative = "unroll",
    truncate: int | None = None,
    prox: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    batch_dims: int = 0,
    start: Mapping[str, Tensor] | None = None,
    tolerance: float | None = None,
    solve: LinearSolve | None = None,
    on_failure: OnFailure = "raise",
) -> FastWeights:
    """The weights w_K after ``steps`` updates on eq. (1) of this module, with their hyper-gradients.

    ``fast = inner_loop(module, loss, data, SGD(0.1), 5)`` maps names to weights, for ``torch.func.functional_call``;
    ``fast.evaluate(loss, other_data)`` is the loss with them. The module itself stays as it is, parameters and buffers.
    Gradients reach the module's parameters, the tensors in ``optimizer``, ``weight_decay``, ``prox``, ``data`` and
    ``start``, and whatever ``loss`` closes over, at any order.

    What is adapted: parameters that require a gradient; if ``optimizer`` is a mapping, those it names. The others stand
    where they stand, and get their gradient if they require one.

    Args:
        module: any module. Buffers are read; what a module in training mode writes into them is lost. Batch
            normalisation uses the statistics of the task's own batch, or in evaluation mode the running ones; dropout
            draws anew in every step.
        loss: ``loss(predict, data)`` is a scalar, for one task; ``predict(...)`` calls the module with the current
            weights, and ``predict.weights`` has them by name. Twice differentiable, by operations that ``torch.func``
            knows; evaluated with autocast off.
        data: whatever ``loss`` wants: a tensor, or tuples, lists and dicts of tensors and other things.
        optimizer: :class:`diffopt_lib.SGD`, :class:`diffopt_lib.Adam` or anything with their methods, for the vector
            ``(*batch, n)`` of all weights. Or a mapping from parts of the module to optimizers, each for the vector of
            its part: ``{"body": SGD(0.01), "body.0.bias": SGD(0.1)}``; the longest key that a parameter's name begins
            with counts, and ``""`` fits all. Learning rates are numbers, or tensors that broadcast against the vector:
            shape ``()``, ``(n,)`` for one of each weight, ``(*batch, 1)`` for one of each task.
        steps: number of updates, K ≥ 0.
        gradient: ``"unroll"``, ``"checkpoint"``, ``"truncated"`` or ``"implicit"``, as above. ``"implicit"`` raises
            ``ValueError`` if the optimizer has a tensor that requires a gradient, which a minimum does not have.
        truncate: of ``"truncated"``: how many steps, counted from the last, are differentiated.
        prox, weight_decay: numbers ≥ 0, tensors ``()`` or ``(*batch,)``, or mappings from parts to these. The decay
            is a term of the objective, so Adam sees it in its gradient (it is not AdamW's).
        batch_dims: of a batch of tasks: how many leading dimensions of every tensor in ``data`` number the tasks.
            They lead in every weight that comes out. Tasks do not interact; what they share stays outside ``data``.
        start: weights to start from instead of the module's, by name, shared or one set for each task. A result of this
            function goes on where it ended, with the optimizer's memory, step count and centre of the prox.
        tolerance: of ``"implicit"``: the largest relative gradient, :mod:`diffopt_lib.inner_loop.derivative`, at which
            w_K counts as a minimum. Default 1e-6 in float64 and 1e-4 in float32. The derivative is off by about as
            much, times the condition number of the Hessian.
        solve: of ``"implicit"``: a solver of :mod:`diffopt_lib.linear` for the Hessian. The default is ``cg``, which
            raises :class:`diffopt_lib.SolverError` where the Hessian is not positive definite: a larger ``prox`` makes
            it so. iMAML's few steps are ``partial(cg, max_iterations=5, on_failure="return")``. What each system took
            is in ``fast.systems``.
        on_failure: where the weights are not finite, or ``"implicit"`` has not arrived: ``"raise"``; ``"nan"`` makes
            these tasks NaN, gradients too; ``"return"`` gives what there is.

    Raises:
        ValueError: arguments that do not fit together, NaN or infinite data or weights, a loss that is no scalar, or
            asks for no weights.
        SolverError: the weights or the loss are not finite, or ``"implicit"`` has not arrived.
    """
    check_options(module, loss, steps, gradient, truncate, batch_dims, tolerance, solve, on_failure)
    batch = check_data(data, batch_dims)
    parameters = trainable(module)
    shapes = {name: p.shape for name, p in parameters.items()}
    layout, optimizer = arrange(shapes, optimizer, next(iter(parameters.values())))
    state, centre, first = _begin(parameters, layout, optimizer, start, batch)

    objective = _objective(on_tasks(module, _scalar(loss), data, batch), layout, prox, weight_decay, state[0])
    f, hidden, value = make_explicit(objective, state[0], centre)
    x = (centre, *hidden)
    residual, systems = None, Recorded(solve or cg)
    if gradient == "implicit":
        state, residual = minimum(f, optimizer, state, x, steps, first, systems)
    else:
        checkpoint = gradient == "checkpoint"
        state = run_differentiably(f, optimizer, state, x, steps, first=first, truncate=truncate, checkpoint=checkpoint)
    y, *memory = state
    judge = partial(_judge, on_failure, tolerance)
    (arrived,) = opaque(judge, y, value, y.new_zeros(batch) if residual is None else residual)
    weights = layout.split(mark_failures(y, arrived, on_failure))
    return FastWeights(weights, module, batch, tuple(memory), first + steps, centre, residual, systems.systems)


def _objective(
    task_loss: Callable[[Mapping[str, Tensor]], Tensor], layout: Layout, prox: Hyper, weight_decay: Hyper, like: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Eq. (1) of w and w₀ ``(*batch, n)``."""
    pull = coefficient("prox", prox, layout, like)
    decay = coefficient("weight_decay", weight_decay, layout, like)

    def objective(w: Tensor, centre: Tensor) -> Tensor:
        value = task_loss(layout.split(w))
        if isinstance(decay, Tensor) or decay:
            value = value + (decay * w.square()).sum(-1) / 2
        if isinstance(pull, Tensor) or pull:
            value = value + (pull * (w - centre).square()).sum(-1) / 2
        return value

    return objective


def _begin(
    parameters: Mapping[str, Tensor],
    layout: Layout,
    optimizer: Optimizer,
    start: Mapping[str, Tensor] | None,
    batch: torch.Size,
) -> tuple[State, Tensor, int]:
    """The optimizer's state (y, *memory), the centre of the prox, and the number of the next update."""
    if start is None:
        start = parameters
    else:
        check_start(start, parameters, layout.shapes, batch)
    y = layout.join(start, batch)
    memory = optimizer.init(y)
    check_step(optimizer, y, memory)
    if not isinstance(start, FastWeights):
        return (y, *memory), y, 0
    if [m.shape for m in start.state] != [m.shape for m in memory]:
        raise ValueError("start must come from an inner loop with an optimizer of the same kind, and the same tasks")
    return (y, *start.state), start.centre, start.steps


def _scalar(loss: Callable[[Predict, Any], Tensor]) -> Callable[[Predict, Any], Tensor]:
    """The loss, if it is one number for one task, and asks for the weights."""

    def checked(predict: Predict, data: Any) -> Tensor:
        value = loss(predict, data)
        if not isinstance(value, Tensor) or value.ndim > 0 or not value.is_floating_point():
            shown = f"shape {tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return a floating-point tensor that is one number for each task, got {shown}")
        if not predict.asked:
            raise ValueError(
                "loss(predict, data) must call predict, or read predict.weights: without them it does not depend on "
                "the weights. The module itself keeps those that it has"
            )
        return value

    return checked


def _judge(on_failure: OnFailure, tolerance: float | None, y: Tensor, value: Tensor, residual: Tensor) -> tuple[Tensor]:
    """Which tasks have arrived, ``(*batch,)``."""
    if tolerance is None:
        tolerance = 1e-6 if y.dtype == torch.float64 else 1e-4
    finite = torch.isfinite(y).all(-1) & torch.isfinite(value)
    status = torch.where(finite, torch.where(residual <= tolerance, SOLVED, RUNNING), STUCK)

    def not_there(failed: Tensor) -> str:
        return (
            f"the gradient left after the last step is {residual[failed].max().item():.1e} of its scale, more than the "
            f'tolerance {tolerance:g}, and gradient="implicit" is of a minimum: take more steps, a larger prox, or '
            'gradient="unroll".'
        )

    not_finite = "the weights or the loss are not finite: the loss is NaN at the start, or the steps are too long."
    if on_failure == "raise":
        raise_failed(status, {STUCK: not_finite, RUNNING: not_there})
    return (status == SOLVED,)
