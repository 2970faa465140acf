"""What the benchmarks call a problem, a case and a method."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from diffopt_lib.experiments.harness.provenance import version

Pull = Callable[[Tensor], list[Tensor]]
Forward = Callable[[], tuple[Tensor, Pull]]


class Problem(Protocol):
    """A batch of problems with known solutions."""

    @property
    def parameters(self) -> list[Tensor]: ...

    @property
    def y_shape(self) -> torch.Size: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Problem: ...

    def accuracy(self, y: Tensor, gradients: list[Tensor], cotangent: Tensor) -> dict[str, float | str | None]:
        """How far a solution and the gradients of all parameters are off."""


@dataclass(frozen=True)
class Tensors:
    """A problem whose fields are tensors, and what is the same on every device."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: v.to(device, dtype) for name, v in values.items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class Case:
    """One batch of problems to measure: the table it belongs to, the arguments of the generator, and the precision."""

    table: str
    sizes: dict[str, Any]
    dtype: torch.dtype


@dataclass(frozen=True)
class Method:
    """A way to solve and differentiate a batch of problems.

    Attributes:
        name: shown in tables.
        package: the distribution whose version counts.
        module: must import, or the method is missing.
        prepare: ``prepare(problem)`` does what need not be repeated for other numbers of the same shape, and returns
            the forward pass: a function without arguments that gives the solution, and the backward pass, a function
            from a cotangent to the gradients of all parameters in the problem's order. ``benchmarks.robustness`` has no
            backward pass and wants an ``Answer`` instead.
        limits: ``limits(problem)`` says why the method can't take the problem, or None.
        layer: which of a benchmark's layers it computes, if there are several: it gets the cases whose sizes name it.
        in_torch: all that it computes with are torch's tensors, so that its memory can be measured.
    """

    name: str
    package: str
    module: str
    prepare: Callable[[Any], Callable[[], Any]]
    limits: Callable[[Any], str | None] = lambda problem: None
    layer: str | None = None
    in_torch: bool = False

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


def double_only(problem: Problem) -> str | None:
    """Methods that refuse or convert float32."""
    return None if problem.parameters[0].dtype == torch.float64 else "float64 only"


def cpu_only(problem: Problem) -> str | None:
    """Those that compute on the CPU whatever the device, or do not compute elsewhere."""
    return None if problem.parameters[0].device.type == "cpu" else "CPU only"


def cpu_and_double_only(problem: Problem) -> str | None:
    """Both."""
    return double_only(problem) or cpu_only(problem)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """As float64, on the CPU."""
    return tensor.detach().double().cpu().numpy()


def largest(*errors: np.ndarray | float) -> float:
    """The largest absolute value of all entries, infinite if one of them is not a number; 0 if there are none."""
    flat = np.concatenate([np.ravel(error) for error in errors])
    return float(np.abs(np.nan_to_num(flat, nan=np.inf)).max(initial=0))


def checked(batch: int, count: int) -> list[int]:
    """``count`` elements of a batch, spread over it, or all of them."""
    return sorted(set(np.linspace(0, batch - 1, min(count, batch)).round().astype(int).tolist()))


def rounded(error: float) -> float | None:
    """To two digits: an error has no more. None if it is not finite, which JSON can't say."""
    return float(f"{error:.2g}") if np.isfinite(error) else None
