"""What a method is to the benchmarks: a name, the package it needs, and how it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffopt_lib.experiments.provenance import version

Pull = Callable[[Tensor], list[Tensor]]
Forward = Callable[[], tuple[Tensor, Pull]]


@dataclass(frozen=True)
class Method:
    """A way to solve and differentiate a batch of problems.

    Attributes:
        name: shown in tables.
        package: the distribution whose version counts.
        module: must import, or the method is missing.
        prepare: ``prepare(problem)`` does what need not be repeated for other numbers of the same shape, and returns
            the forward pass: a function without arguments that gives the solution, and the backward pass, a function
            from a cotangent to the gradients of all parameters in the problem's order.
        limits: ``limits(problem)`` says why the method can't take the problem, or None.
    """

    name: str
    package: str
    module: str
    prepare: Callable[[Any], Forward]
    limits: Callable[[Any], str | None] = lambda problem: None

    def missing(self) -> str | None:
        """Why the method can't be run here, or None."""
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} can't be imported: {error}"
        return None

    def versions(self) -> dict[str, str | None]:
        return {self.package: version(self.package)}


def by_autograd(parameters: list[Tensor], solve: Callable[..., Tensor]) -> Forward:
    """The forward pass of a method that is an operation of torch."""
    inputs = [parameter.detach().clone().requires_grad_() for parameter in parameters]

    def forward() -> tuple[Tensor, Pull]:
        y = solve(*inputs)
        return y, lambda cotangent: list(torch.autograd.grad(y, inputs, cotangent))

    return forward
