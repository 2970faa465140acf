"""Optimisation problems as layers: each solves a family y*(x) = argmin_{y ∈ C(x)} f(y; x) and can be differentiated."""

from .activations import relu, sigmoid, softargmax
from .qp import QPSolution, solve_qp

__all__ = ["QPSolution", "relu", "sigmoid", "softargmax", "solve_qp"]
