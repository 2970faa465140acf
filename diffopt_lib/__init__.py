"""Differentiable and amortized optimization in PyTorch.

    y*(x) ∈ argmin_{y ∈ C(x)} f(y; x)

Solve it, differentiate it (∂y*/∂x, a layer in a network), amortize it (learn ŷ_θ(x) ≈ y*(x)).
"""

from .implicit import implicit
from .inner_loop import inner_loop
from .minimize import argmin
from .solution import Solution, SolverError
from .unroll import SGD, Adam, unroll

__version__ = "0.1.0"

__all__ = ["SGD", "Adam", "Solution", "SolverError", "argmin", "implicit", "inner_loop", "unroll"]
