"""Integer programs whose costs were predicted: forward, and backward by blackbox differentiation, λ = 10.

Shortest paths on a 5 × 5 grid, with costs of degree 4 and noise 0.5, and knapsacks of ten items: all 1,000
samples, and a batch of 32. PyEPO solves one sample after the other with a model that is built once; its solver here is
OR-Tools, GLOP for paths, which have whole vertices, and SCIP for knapsacks.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .integer_problems import CAPACITY, LAMBDA, Program, problem
from .method import Case, Forward, Method, by_autograd, cpu_only

BATCHES = (32, 1000)
PROGRAMS = ("shortest path", "knapsack")


def ours(program: Program, enumerate_up_to: int = 2**14) -> Forward:
    from diffopt_lib.layers import solve_integer

    options: dict[str, Any] = {"gradient": "blackbox", "lambd": LAMBDA, "enumerate_up_to": enumerate_up_to}
    return by_autograd([program.c], lambda c: solve_integer(c, program.A, program.b, 0, 1, **options).y)


def pyepo(program: Program) -> Forward:
    from pyepo.func import blackboxOpt
    from pyepo.model.ort import knapsackModel, shortestPathModel

    if program.side:
        layer = blackboxOpt(shortestPathModel((program.side, program.side)), lambd=LAMBDA)
        return by_autograd([program.c], layer)
    model = knapsackModel(program.A.numpy(), [CAPACITY])
    layer = blackboxOpt(model, lambd=LAMBDA)

    def solve(c: Tensor) -> Tensor:
        return layer(-c)  # it maximises

    return by_autograd([program.c], solve)


def few_knapsacks(program: Program) -> str | None:
    """What can be enumerated need not be searched a thousand times over."""
    many = not program.side and len(program.c) > 100
    return cpu_only(program) or ("left out: takes too long" if many else None)


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.layers", ours),
    Method("ours, HiGHS", "diffopt_lib", "diffopt_lib.layers", partial(ours, enumerate_up_to=0), few_knapsacks),
    Method("PyEPO", "pyepo", "pyepo", pyepo, cpu_only),
]


def cases(quick: bool) -> list[Case]:
    """Both programs, in float64."""
    batches = (4,) if quick else BATCHES
    return [
        Case("quick" if quick else "table", {"program": program, "batch": batch}, torch.float64)
        for program in PROGRAMS
        for batch in batches
    ]


def targets(device: str) -> list[dict[str, Any]]:
    """How many times as long as ours a method should take, at least: where points can be enumerated."""
    return [{"method": "PyEPO", "sizes": {"program": "knapsack", "batch": 1000}, "ratio": 10}]


__all__ = ["METHODS", "cases", "problem", "targets"]
