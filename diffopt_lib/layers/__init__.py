"""Optimisation problems as layers: each solves a family y*(x) = argmin_{y ∈ C(x)} f(y; x) and can be differentiated."""

from .activations import relu, sigmoid, softargmax

__all__ = ["relu", "sigmoid", "softargmax"]
