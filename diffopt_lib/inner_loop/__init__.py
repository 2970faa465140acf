"""Optimizers that run inside a model, and what the weights they reach owe to their settings.

Chapter: book/2_differentiable/14_inner_loops.
"""

from .layer import inner_loop
from .weights import FastWeights, Predict

__all__ = ["FastWeights", "Predict", "inner_loop"]
