"""Optimisation problems as layers: each solves a family y*(x) = argmin_{y ∈ C(x)} f(y; x) and can be differentiated."""

from .activations import relu, sigmoid, softargmax
from .cone import ConeSolution, solve_cone
from .cones import Cones
from .cvxpy_layer import from_cvxpy
from .qp import QPSolution, solve_qp

__all__ = [
    "ConeSolution",
    "Cones",
    "QPSolution",
    "from_cvxpy",
    "relu",
    "sigmoid",
    "softargmax",
    "solve_cone",
    "solve_qp",
]
