"""Inner loops: the weights after some steps of gradient descent, and their derivative in start and learning rate.

The other packages take one task at a time, as their documentation shows it; ours takes the batch. The row "torch" is a
network written out by hand, for the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .inner_problems import InnerLoop, by_formulas, network, random_inner_loop, split
from .method import Case, Forward, Method, by_autograd

COLUMNS = ("tasks", "steps")
TABLE = [(1, 5), (1, 50), (25, 1), (25, 5)]
QUICK = [(2, 2)]


def ours(problem: InnerLoop, **options: Any) -> Forward:
    from diffopt_lib import SGD, inner_loop

    module = network().to(problem.start)
    names = [name for name, _ in module.named_parameters()]

    def solve(start: Tensor, rate: Tensor) -> Tensor:
        fast = inner_loop(
            module,
            lambda predict, data: (predict(data[0]) - data[1]).square().mean(),
            (problem.x, problem.targets),
            SGD(rate),
            problem.steps,
            batch_dims=1,
            start=dict(zip(names, split(start), strict=True)),
            **options,
        )
        return torch.cat([w.flatten(1) for w in fast.values()], 1)

    return by_autograd(problem.parameters, solve)


def checkpointed(problem: InnerLoop) -> Forward:
    return ours(problem, gradient="checkpoint")


def by_hand(problem: InnerLoop) -> Forward:
    return by_autograd(problem.parameters, lambda start, rate: by_formulas(start, rate, problem))


def higher(problem: InnerLoop) -> Forward:
    import higher as package

    module = network().to(problem.start)
    plain = torch.optim.SGD(module.parameters(), lr=0.01)

    def task(start: Tensor, rate: Tensor, x: Tensor, targets: Tensor) -> Tensor:
        functional = package.monkeypatch(module, copy_initial_weights=False)
        functional.update_params(split(start))
        optimizer = package.get_diff_optim(plain, module.parameters(), fmodel=functional, override={"lr": [rate]})
        for _ in range(problem.steps):
            optimizer.step((functional(x) - targets).square().mean())
        return torch.cat([w.flatten() for w in functional.parameters()])

    def solve(start: Tensor, rate: Tensor) -> Tensor:
        return torch.stack([task(start, rate, *data) for data in zip(problem.x, problem.targets, strict=True)])

    return by_autograd(problem.parameters, solve)


def torchopt(problem: InnerLoop) -> Forward:
    import torchopt as package
    from torch.func import functional_call

    module = network().to(problem.start)
    names = [name for name, _ in module.named_parameters()]

    def task(start: Tensor, rate: Tensor, x: Tensor, targets: Tensor) -> Tensor:
        optimizer = package.FuncOptimizer(package.sgd(lr=lambda count: rate))
        weights = tuple(split(start))
        for _ in range(problem.steps):
            predicted = functional_call(module, dict(zip(names, weights, strict=True)), (x,))
            weights = optimizer.step((predicted - targets).square().mean(), weights)
        return torch.cat([w.flatten() for w in weights])

    def solve(start: Tensor, rate: Tensor) -> Tensor:
        return torch.stack([task(start, rate, *data) for data in zip(problem.x, problem.targets, strict=True)])

    return by_autograd(problem.parameters, solve)


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.inner_loop", ours, in_torch=True),
    Method("ours, checkpoints", "diffopt_lib", "diffopt_lib.inner_loop", checkpointed, in_torch=True),
    Method("higher", "higher", "higher", higher, in_torch=True),
    Method("torchopt", "torchopt", "torchopt", torchopt, in_torch=True),
    Method("torch", "torch", "torch", by_hand, in_torch=True),
]


def cases(quick: bool) -> list[Case]:
    """Few and many steps, one task and 25."""
    tables = [("quick", QUICK)] if quick else [("table", TABLE)]
    return [
        Case(table, dict(zip(COLUMNS, sizes, strict=True)), torch.float64) for table, rows in tables for sizes in rows
    ]


def problem(tasks: int, steps: int) -> InnerLoop:
    return random_inner_loop(tasks, steps)


def targets(device: str) -> list[dict[str, Any]]:
    """A batch of 25 tasks should take the others at least three times as long as ours."""
    return [
        {"method": method, "sizes": dict(zip(COLUMNS, sizes, strict=True)), "ratio": 3}
        for method in ("higher", "torchopt")
        for sizes in TABLE[2:]
    ]
